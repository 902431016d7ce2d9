"""What holds for every page of the console."""

import re
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from millrace.roles import PERMISSIONS
from tests.web.console.conftest import FRAGMENT
from web.console import assets, identity

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "web" / "templates" / "console"
# Views that everybody may use who is signed in: they are about the user alone.
OWN = {
    "console_home._first", "console_profile", "console_workspaces", "console_scripts.overridden",
}  # fmt: skip


def guarded(app: Flask) -> dict[str, object]:
    """Every view that only who is signed in may use, by its endpoint."""
    guards = app.extensions["guards"]
    return {
        endpoint: view for endpoint, view in app.view_functions.items()
        if guards.get(endpoint.rpartition(".")[0]) is identity.signed_in
    }  # fmt: skip


def test_every_page_says_which_permission_it_needs(app: Flask) -> None:
    views = guarded(app)
    assert len(views) > 30
    for endpoint, view in views.items():
        if endpoint in OWN or endpoint.rpartition(".")[0] in OWN:
            continue
        assert getattr(view, "needs", None) in PERMISSIONS, endpoint


def test_every_page_leads_a_stranger_to_the_sign_in(app: Flask) -> None:
    stranger = app.test_client()
    views = guarded(app)
    for rule in app.url_map.iter_rules():
        if rule.endpoint not in views:
            continue
        path = re.sub(r"<int:[^>]+>", "1", rule.rule)
        path = re.sub(r"<[^>]+>", "x", path)
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"}):
            answer = stranger.open(path, method=method)
            assert answer.status_code == 303 and answer.headers["Location"].startswith("/login"), (method, path)
            answer = stranger.open(path, method=method, headers=FRAGMENT)
            assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/login"), (method, path)


def test_no_address_is_served_by_two_views(app: Flask) -> None:
    seen: dict[tuple[str, str], str] = {}
    for rule in app.url_map.iter_rules():
        shape = re.sub(r"<[^>]+>", "<>", rule.rule)
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
            assert seen.setdefault((method, shape), rule.endpoint) == rule.endpoint, (method, shape)


@pytest.mark.parametrize("template", sorted(each.name for each in TEMPLATES.glob("*.html")))
def test_no_template_has_a_script_of_its_own_or_looks_outside(template: str) -> None:
    text = (TEMPLATES / template).read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"\son[a-z]+=", text)
    assert not re.search(r"""(?:src|href|action)=["']https?://""", text)
    assert "|safe" not in text.replace(" ", "")


@pytest.mark.parametrize("template", sorted(each.name for each in TEMPLATES.glob("*.html")))
def test_every_form_carries_its_token(template: str) -> None:
    text = (TEMPLATES / template).read_text()
    for form in re.findall(r"<form\b.*?</form>", text, re.S):
        if re.search(r'method="post"', form):
            assert "csrf" in form, form[:200]


def test_what_pages_load_is_kept_by_the_browser_for_as_long_as_it_is_the_same(browser: FlaskClient) -> None:
    page = browser.get("/scripts").text
    style = re.search(r'href="(/assets/[^"]+console\.css)"', page)
    assert style is not None
    answer = browser.get(style[1])
    assert answer.status_code == 200 and "immutable" in answer.headers["Cache-Control"]
    stale = browser.get(re.sub(r"/assets/[^/]+/", "/assets/00000000/", style[1]))
    assert stale.status_code == 200 and "immutable" not in stale.headers["Cache-Control"]


@pytest.mark.parametrize("path", [
    "console/console.css", "console/console.js", "console/editor.js", "console/sdk.d.ts", "console/icons.svg",
    "console/mark.svg", "htmx/htmx.min.js", "inter/inter-latin-wght-normal.woff2",
    "inter/inter-cyrillic-wght-normal.woff2", "monaco/vs/loader.js", "monaco/vs/editor/editor.main.js",
])
def test_everything_that_pages_load_is_there(app: Flask, path: str) -> None:
    assert app.test_client().get(assets.url(path)).status_code == 200


@pytest.mark.parametrize("path", [
    "/assets/x/console/../../app.py", "/assets/x/console/%2e%2e/%2e%2e/app.py", "/assets/x/nothing/a.js",
    "/assets/x/console/nothing.css", "/assets/x/monaco/../package.json",
])
def test_nothing_else_is_served(app: Flask, path: str) -> None:
    assert app.test_client().get(path).status_code == 404


def test_every_icon_that_a_page_names_is_drawn() -> None:
    drawn = set(re.findall(r'<symbol id="([a-z]+)"', (ROOT / "web/static/console/icons.svg").read_text()))
    for template in TEMPLATES.glob("*.html"):
        named = re.findall(r'icon\("([a-z]+)"\)|empty\("([a-z]+)"', template.read_text())
        assert {name for pair in named for name in pair if name} <= drawn, template.name
