"""The audit trail as a page."""

import re
from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from millrace import audit
from millrace.models import Audit
from millrace.services import Services
from tests.factories import Tenant
from tests.web.console.conftest import FRAGMENT
from web.console import pages


def test_deeds_are_shown_newest_first_with_their_details(
    browser: FlaskClient, services: Services, alice: Tenant
) -> None:
    audit.record(services, alice.id, "alice@example.com", "first.deed", "one", {"reason": "<b>because</b>"})
    audit.record(services, alice.id, "bob's key", "second.deed", "<script>x")
    whole, part = browser.get("/audit"), browser.get("/audit", headers=FRAGMENT)
    assert "<html" in whole.text and "<html" not in part.text
    for page in (whole.text, part.text):
        assert page.index("second.deed") < page.index("first.deed")
        assert "alice@example.com" in page
        assert "&lt;script&gt;x" in page and "<script>x" not in page
        assert "because" in page and "<b>because" not in page


def test_the_trail_comes_in_pages_that_miss_and_double_nothing(
    browser: FlaskClient, services: Services, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_SIZE", 2)
    Audit.delete().execute()
    for number in range(5):
        audit.record(services, alice.id, "a", "deed", f"subject-{number}")
    address, seen = "/audit", []
    while address:
        page = browser.get(address).text
        seen += re.findall(r'<span class="long">(subject-\d)', page)
        following = re.search(r'rel="next" href="([^"]+)"', page)
        address = following[1] if following else ""
    assert seen == [f"subject-{number}" for number in (4, 3, 2, 1, 0)]


def test_a_cursor_of_another_workspace_is_refused(
    browser: FlaskClient, foreign_browser: FlaskClient, services: Services, alice: Tenant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(pages, "PAGE_SIZE", 1)
    for _ in range(3):
        audit.record(services, alice.id, "a", "deed", "x")
    following = re.search(r'rel="next" href="([^"]+)"', browser.get("/audit").text)
    assert following is not None
    assert foreign_browser.get(following[1]).status_code == 400
    assert browser.get("/audit?cursor=x").status_code == 400


def test_only_who_manages_the_workspace_sees_its_trail_and_no_others(
    browser_as: Callable[[str], FlaskClient], foreign_browser: FlaskClient, services: Services, alice: Tenant
) -> None:
    audit.record(services, alice.id, "alice@example.com", "secret.deed", "one")
    audit.record(services, None, "operator", "platform.deed", "two")
    for role in ("viewer", "developer"):
        assert browser_as(role).get("/audit").status_code == 403
    assert "secret.deed" not in foreign_browser.get("/audit").text
    assert "platform.deed" not in browser_as("org_admin").get("/audit").text


def test_an_empty_trail_says_so(browser: FlaskClient) -> None:
    Audit.delete().execute()
    assert "Nothing was recorded yet" in browser.get("/audit").text
