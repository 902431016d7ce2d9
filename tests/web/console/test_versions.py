"""Pages about versions: the list, a source, the difference of two, and going back."""

from collections.abc import Callable
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from millrace import scripts
from millrace.models import Script, User, Version
from millrace.services import Services
from tests.web.console.conftest import FRAGMENT, post
from web.console import pages, versions

HOSTILE = "<script>alert(1)</script>"
OLD = b"exports.handler = async () => {\n  return 1\n}\n"
NEW = b"exports.handler = async () => {\n  return 2\n}\n"


def address(script: Script, more: str = "") -> str:
    return f"/scripts/{script.uuid}/versions{more}"


def changed(services: Services, script: Script, source: bytes, **more: object) -> Script:
    change = scripts.Change(source=source, **more)  # type: ignore[arg-type]
    return scripts.update(services, Script.get_by_id(script.uuid), change)


def source_of(services: Services, script: Script) -> bytes:
    now = Script.get_by_id(script.uuid)
    return scripts.source(services, scripts.version(now, now.version))


@pytest.fixture
def third(services: Services, hello: Script) -> Script:
    """Alice's script in its third version."""
    changed(services, hello, OLD)
    return changed(services, hello, NEW)


def test_versions_are_listed_with_author_note_and_origin(
    browser: FlaskClient, services: Services, hello: Script
) -> None:
    named = User.create(email="ann@example.com", name="Ann", created_at=1)
    nameless = User.create(email="ben@example.com", created_at=1)
    changed(services, hello, OLD, created_by=named.id, note="Counts from one")
    changed(services, hello, NEW, created_by=nameless.id)
    last = scripts.rollback(services, Script.get_by_id(hello.uuid), 2, created_by=10**6)
    whole, part = browser.get(address(hello)), browser.get(address(hello), headers=FRAGMENT)
    assert "<html" in whole.text
    assert "<html" not in part.text
    for text in (whole.text, part.text):
        for shown in (">Ann<", "Counts from one", ">ben@example.com<", "Version 2 again", f"{len(OLD)} B",
                      scripts.version(last, 2).hash[:10], f'{address(hello)}/4/diff?against=3"', ">Version 1<"):
            assert shown in text
        assert f"{address(hello)}/1/diff" not in text
        assert text.count("/rollback") == 3
        assert text.index(">Version 4<") < text.index(">Version 3<") < text.index(">Version 1<")


def test_a_script_of_one_version_offers_no_comparison(browser: FlaskClient, hello: Script) -> None:
    text = browser.get(address(hello)).text
    assert ">Version 1<" in text
    assert "/compare" not in text
    assert "/rollback" not in text


def test_versions_come_in_pages(
    browser: FlaskClient, services: Services, hello: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2, 6):
        changed(services, hello, OLD + b"//" * number)
    monkeypatch.setattr(pages, "PAGE_SIZE", 2)
    seen: list[int] = []
    link: str | None = address(hello)
    while link is not None:
        text = browser.get(link).text
        seen += [number for number in (5, 4, 3, 2, 1) if f">Version {number}</a>" in text]
        _, marked, rest = text.partition('rel="next" href="')
        link = rest.partition('"')[0].replace("&amp;", "&") if marked else None
    assert seen == [5, 4, 3, 2, 1]


def test_a_version_shows_its_source_to_read(browser: FlaskClient, third: Script) -> None:
    page = browser.get(address(third, "/2"))
    assert page.status_code == 200
    assert "return 1" in page.text
    assert "return 2" not in page.text
    assert " readonly " in page.text
    assert address(third, "/2/rollback") in page.text
    assert address(third, "/3/rollback") not in browser.get(address(third, "/3")).text
    assert "<html" not in browser.get(address(third, "/2"), headers=FRAGMENT).text


def test_a_source_is_shown_as_text_to_its_first_empty_line(
    browser: FlaskClient, services: Services, hello: Script
) -> None:
    changed(services, hello, f"\n\n// </textarea>{HOSTILE}\n".encode() + OLD)
    text = browser.get(address(hello, "/2")).text
    assert HOSTILE not in text
    # HTML drops the first line break after the tag, so there is one more.
    assert ">\n\n\n// &lt;/textarea&gt;&lt;script&gt;" in text
    text = browser.get(address(hello, "/2/diff?against=1")).text
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_difference_is_coloured_line_by_line(browser: FlaskClient, third: Script) -> None:
    page = browser.get(address(third, "/3/diff?against=2"))
    assert page.status_code == 200
    for line in ('<span class="removed">-  return 1</span>', '<span class="added">+  return 2</span>',
                 '<span class="place">@@ -1,3 +1,3 @@</span>', '<span class="place">--- hello@2</span>',
                 '<span class=""> }</span>', "1 added, 1 removed"):
        assert line in page.text
    assert browser.get(address(third, "/3/diff")).text.count("return") == page.text.count("return")
    assert "<html" not in browser.get(address(third, "/3/diff?against=2"), headers=FRAGMENT).text
    assert '<span class="added">+  return 1</span>' in browser.get(address(third, "/2/diff?against=3")).text


def test_lines_of_a_source_that_look_like_heads_are_lines() -> None:
    text = "--- a@1\n+++ a@2\n@@ -1,2 +1 @@\n--- minus\n+++ plus\n\\ No newline at end of file\n"
    kinds = [kind for kind, _line in versions._coloured(text)]
    assert kinds == ["place", "place", "place", "removed", "added", "muted"]
    assert versions._coloured("") == []


def test_words_say_that_nothing_differs(browser: FlaskClient, services: Services, third: Script) -> None:
    scripts.rollback(services, third, 2)
    page = browser.get(address(third, "/4/diff?against=2"))
    assert page.status_code == 200
    assert "Nothing differs" in page.text
    assert 'class="diff"' not in page.text


def test_two_that_are_chosen_are_compared(browser: FlaskClient, third: Script) -> None:
    assert address(third, "/compare") in browser.get(address(third)).text
    answer = browser.get(address(third, "/compare?new=3&old=1"))
    assert (answer.status_code, answer.location) == (303, address(third, "/3/diff?against=1"))
    for query in ("", "new=3", "new=3&old=", "new=3&old=-1", "new=x&old=1", "new=%D9%A3&old=1", f"new=3&old={10**99}"):
        assert browser.get(address(third, f"/compare?{query}")).status_code == 400


def test_going_back_makes_a_new_version_and_says_which(
    browser: FlaskClient, services: Services, third: Script
) -> None:
    answer = post(browser, address(third, "/2/rollback"), current="3")
    assert (answer.status_code, answer.location) == (303, address(third))
    assert "Version 2 is back, as version 4." in browser.get(address(third)).text
    assert source_of(services, third) == OLD
    made = Version.get(Version.script == third.uuid, Version.number == 4)
    author = User.get_by_id(made.created_by)
    assert (made.restored_from, author.email.startswith("org_admin-")) == (2, True)
    answer = post(browser, address(third, "/3/rollback"), fragment=True)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (204, address(third))
    assert source_of(services, third) == NEW


def test_going_back_from_a_page_that_is_out_of_date_is_409(
    browser: FlaskClient, services: Services, third: Script
) -> None:
    changed(services, third, NEW + b"// more\n")
    answer = post(browser, address(third, "/2/rollback"), current="3")
    assert answer.status_code == 409
    assert "version 4" in answer.text
    assert post(browser, address(third, "/2/rollback"), fragment=True, current="3").status_code == 409
    assert post(browser, address(third, "/2/rollback"), current=HOSTILE).status_code == 409
    assert Version.select().count() == 4


def test_an_old_source_is_checked_by_todays_rules(browser: FlaskClient, services: Services, hello: Script) -> None:
    changed(services, hello, b"eval('1')\nexports.handler = async () => 1\n")
    changed(services, hello, NEW)
    answer = post(browser, address(hello, "/2/rollback"), current="3")
    assert answer.status_code == 400
    assert "Version 2 can" in answer.text
    assert "Line 1, column 1:" in answer.text
    assert ">Version 3<" in answer.text
    assert Script.get_by_id(hello.uuid).version == 3


def test_who_may_not_change_scripts_reads_but_does_not_go_back(
    browser_as: Callable[[str], FlaskClient], third: Script
) -> None:
    for role in ("viewer", "developer"):
        other = browser_as(role)
        for path in ("", "/2", "/3/diff?against=2"):
            page = other.get(address(third, path))
            assert page.status_code == 200
            assert "/rollback" not in page.text
        assert post(other, address(third, "/2/rollback"), current="3").status_code == 403
    assert Version.select().count() == 3


def test_another_workspaces_versions_are_not_there(foreign_browser: FlaskClient, third: Script) -> None:
    for script_id in (third.uuid, "hello"):
        for path in ("", "/1", "/2/diff?against=1", "/compare?new=2&old=1"):
            assert foreign_browser.get(f"/scripts/{script_id}/versions{path}").status_code == 404
        assert post(foreign_browser, f"/scripts/{script_id}/versions/1/rollback").status_code == 404
    assert Version.select().count() == 3


def test_hostile_addresses_are_no_500(browser: FlaskClient, third: Script) -> None:
    for bad in ("x" * 4000, HOSTILE, "\x00", "-1", "0", "99", "9" * 30, "1.5"):
        text = quote(bad, safe="")
        assert browser.get(address(third, f"/{text}")).status_code == 404
        assert browser.get(address(third, f"/{text}/diff?against=1")).status_code == 404
        assert browser.get(address(third, f"/2/diff?against={text}")).status_code in (400, 404)
        assert browser.get(address(third, f"?cursor={text}")).status_code == 400
        assert post(browser, address(third, f"/{text}/rollback")).status_code == 404
    assert browser.get(address(third, "/1/diff")).status_code == 404


def test_what_people_wrote_is_shown_as_text(browser: FlaskClient, services: Services, hello: Script) -> None:
    author = User.create(email="x@example.com", name=HOSTILE, created_at=1)
    changed(services, hello, OLD, created_by=author.id, note=HOSTILE)
    scripts.update(services, Script.get_by_id(hello.uuid), scripts.Change(columns={"display_name": HOSTILE}))
    for path in ("", "/2", "/2/diff?against=1"):
        text = browser.get(address(hello, path)).text
        assert HOSTILE not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
