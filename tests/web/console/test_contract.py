"""The console as its contract tells it to a program that knows nothing else: routes, answers, names of fields."""

import re

import pytest
from flask.testing import FlaskClient

from millrace.models import Hook, Script, Subscription
from millrace.services import Services
from tests.web.console.conftest import FRAGMENT, csrf_token, post
from tests.web.console.test_scripts import created, form


@pytest.mark.parametrize(("path", "beginning"), [
    ("/scripts", '<section id="list"'), ("/scripts/new", "<div"), ("{}", "<div"), ("{}/edit", "<div"),
    ("{}/executions", '<tr id="execution-'),
])
def test_a_route_answers_with_a_page_and_htmx_with_its_fragment(
    browser: FlaskClient, path: str, beginning: str
) -> None:
    address = created(browser)
    post(browser, f"{address}/execute", fragment=True)
    page = browser.get(path.format(address))
    assert page.status_code == 200 and page.text.lstrip().startswith("<!doctype html>")
    part = browser.get(path.format(address), headers=FRAGMENT)
    assert part.status_code == 200 and part.text.lstrip().startswith(beginning)
    assert "<html" not in part.text


@pytest.mark.parametrize("fragment", [False, True])
def test_creating_and_updating_lead_to_the_scripts_own_page(browser: FlaskClient, fragment: bool) -> None:
    answer = post(browser, "/scripts", fragment, **form())
    address = answer.headers["HX-Redirect" if fragment else "Location"]
    assert re.fullmatch(r"/scripts/[0-9a-f-]{36}", address)
    headers = {"X-CSRF-Token": csrf_token(browser), **(FRAGMENT if fragment else {})}
    again = browser.put(address, data=form(Description="Other words"), headers=headers)
    assert again.headers["HX-Redirect" if fragment else "Location"] == address
    assert (answer.status_code, again.status_code) == ((204, 204) if fragment else (303, 303))


def test_executing_adds_a_row_and_deleting_takes_one_away(browser: FlaskClient) -> None:
    address = created(browser)
    row = post(browser, f"{address}/execute", fragment=True)
    assert row.status_code == 200 and row.text.lstrip().startswith('<tr id="execution-')
    gone = browser.delete(address, headers={"X-CSRF-Token": csrf_token(browser), **FRAGMENT})
    assert (gone.status_code, gone.text, browser.get(address).status_code) == (200, "", 404)


@pytest.mark.parametrize("suffix", ["", "[]"])
def test_lists_come_by_their_name_with_and_without_brackets(
    browser: FlaskClient, services: Services, suffix: str
) -> None:
    created(browser, Name="By request", Type="http", HTTPPath="/a", **{f"HTTPMethods{suffix}": ["GET", "PATCH"]})
    created(browser, Name="By event", Type="event", **{f"EventTypes{suffix}": ["user.created", "order.updated"]})
    with services.database.connection_context():
        assert Hook.get().methods == ["GET", "PATCH"]
        assert {each.pattern for each in Subscription.select()} == {"user.created", "order.updated"}


def test_manual_is_another_word_for_oneoff(browser: FlaskClient, services: Services) -> None:
    created(browser, Type="manual")
    with services.database.connection_context():
        assert Script.get().type == "oneoff"


@pytest.mark.parametrize(("method", "status"), [("PUT", 303), ("DELETE", 303), ("PATCH", 400)])
def test_a_header_overrides_the_method_as_the_field_does(browser: FlaskClient, method: str, status: int) -> None:
    address = created(browser)
    headers = {"X-CSRF-Token": csrf_token(browser), "X-HTTP-Method-Override": method}
    assert browser.post(address, data={"Name": "Another name"}, headers=headers).status_code == status
    assert ("Another name" in browser.get("/scripts").text) == (method == "PUT")
    assert browser.get(address).status_code == (404 if method == "DELETE" else 200)


@pytest.mark.parametrize("status", ["draft", "paused", "disabled", "archived"])
def test_only_an_active_script_executes(browser: FlaskClient, status: str) -> None:
    address = created(browser, Status="draft" if status == "draft" else "active")
    for each in {"paused": ["paused"], "disabled": ["disabled"], "archived": ["disabled", "archived"]}.get(status, []):
        assert post(browser, address, _method="PUT", Status=each).status_code == 303
    answer = post(browser, f"{address}/execute")
    assert answer.status_code == 409 and status in answer.text
