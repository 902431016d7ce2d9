import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

from flask import Flask


class _Links(HTMLParser):
    """Every address that a page names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [value for name, value in attrs if name in ("src", "href", "action", "srcset") and value]
        self.inline += tag == "style" or (tag == "script" and "src" not in given) or "style" in given


def test_the_page_loads_only_what_is_served_here(app: Flask) -> None:
    client = app.test_client()
    page = client.get("/docs")
    assert page.status_code == 200
    links = _Links()
    links.feed(page.text)
    assert len(links.found) >= 4
    assert links.inline == 0
    for address in links.found:
        assert not urlsplit(address).netloc
        served = client.get(address)
        assert served.status_code == 200, address
        if address.endswith(".css"):
            outside = [url for url in re.findall(r"url\(['\"]?([^)'\"]+)", served.text) if not url.startswith("data:")]
            assert outside == []
            assert "@import" not in served.text
    assert "validatorUrl: null" in client.get("/docs/start.js").text


def test_the_browser_is_told_to_load_nothing_from_elsewhere(app: Flask) -> None:
    policy = dict(
        part.strip().split(" ", 1)
        for part in app.test_client().get("/docs").headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert not any("http" in sources or "*" in sources for sources in policy.values())
    assert not any("unsafe" in sources for sources in policy.values())


def test_only_the_files_that_the_page_needs_are_served(app: Flask) -> None:
    client = app.test_client()
    for name in ("package.json", "index.html", "..%2fpackage.json", "swagger-ui.css.map", ".."):
        assert client.get(f"/docs/{name}").status_code == 404, name
