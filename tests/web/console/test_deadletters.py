"""Pages about dead letters: the list, sending one again, or all that are shown."""

import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from millrace import runs, scripts
from millrace.models import DeadLetter, Run, Script
from millrace.models.run import FAILED
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.console.conftest import FRAGMENT, post
from web.console import pages

HOSTILE = "<script>alert(1)</script>"
RETRY = {"count": 1, "delay_seconds": 0, "jitter": False}


@pytest.fixture
def hello(services: Services, alice: Tenant) -> Script:
    return factories.script(services, alice, retry=RETRY)


def given_up(services: Services, script: Script, error: str = "Error: broken", payload: object = None) -> DeadLetter:
    """A run that has failed as often as its script's policy lets it."""
    run = factories.run(services, script, payload)
    for attempt in (1, 2):
        ending = {"error": error, "error_code": "SCRIPT_ERROR", "error_stack": f"{error}\n    at handler (index.js:1)"}
        factories.finish(services, factories.claim(services, run, attempt), FAILED, attempt=attempt, **ending)
        runs.release_due(services)
    return DeadLetter.get(DeadLetter.run == run.id)


def toast_of(header: str) -> str:
    text: str = json.loads(header)["toast"]["text"]
    return text


def test_dead_letters_say_what_failed_and_why(browser: FlaskClient, services: Services, hello: Script) -> None:
    letter = given_up(services, hello)
    whole, part = browser.get("/dead-letters"), browser.get("/dead-letters", headers=FRAGMENT)
    assert "<html" in whole.text
    assert "<html" not in part.text
    for text in (whole.text, part.text):
        assert letter.reason in text
        assert "Error: broken" in text
        assert "at handler (index.js:1)" in text
        assert f'href="/scripts/{hello.uuid}/executions/{letter.run_id}"' in text
        assert f'href="/scripts/{hello.uuid}"' in text
        assert f'action="/dead-letters/{letter.id}/redrive"' in text


def test_a_list_without_any_says_so(browser: FlaskClient) -> None:
    assert "No dead letters" in browser.get("/dead-letters").text
    assert "There is none" in browser.get("/dead-letters?state=redriven").text
    assert "There is none" in browser.get("/dead-letters?state=all").text


def test_htmx_takes_a_redriven_one_away_and_a_toast_names_the_execution(
    browser: FlaskClient, services: Services, hello: Script
) -> None:
    letter = given_up(services, hello, payload={"n": 7})
    answer = post(browser, f"/dead-letters/{letter.id}/redrive", fragment=True)
    assert (answer.status_code, answer.text) == (200, "")
    again = DeadLetter.get_by_id(letter.id).redriven_run_id
    assert toast_of(answer.headers["HX-Trigger"]) == f"Sent again, as execution {again}."
    assert Run.get_by_id(again).payload == '{"n":7}'
    assert str(letter.id) not in browser.get("/dead-letters").text
    for state in ("redriven", "all"):
        text = browser.get(f"/dead-letters?state={state}").text
        assert f"/executions/{again}" in text
        assert f"/dead-letters/{letter.id}/redrive" not in text


def test_a_plain_form_redrives_as_well_and_only_once(browser: FlaskClient, services: Services, hello: Script) -> None:
    letter = given_up(services, hello)
    answer = post(browser, f"/dead-letters/{letter.id}/redrive")
    assert (answer.status_code, answer.location) == (303, "/dead-letters")
    again = DeadLetter.get_by_id(letter.id).redriven_run_id
    assert f"Sent again, as execution {again}." in browser.get("/dead-letters").text
    assert post(browser, f"/dead-letters/{letter.id}/redrive").status_code == 409
    refused = post(browser, f"/dead-letters/{letter.id}/redrive", fragment=True)
    assert (refused.status_code, refused.headers["HX-Reswap"]) == (409, "none")
    assert "sent again before" in toast_of(refused.headers["HX-Trigger"])
    assert Run.select().count() == 2


def test_all_that_are_shown_are_sent_again_the_oldest_first(
    browser: FlaskClient, services: Services, hello: Script
) -> None:
    letters = [given_up(services, hello, payload={"n": number}) for number in range(3)]
    for number, letter in enumerate(letters):
        DeadLetter.update(created_at=letter.created_at + number).where(DeadLetter.id == letter.id).execute()
    page = browser.get("/dead-letters").text
    shown = [part.partition('"')[0] for part in page.split('name="letter" value="')[1:]]
    assert shown == [letter.id for letter in reversed(letters)]
    answer = post(browser, "/dead-letters/redrive", letter=shown)
    assert (answer.status_code, answer.location) == (303, "/dead-letters")
    assert "3 executions were started." in browser.get("/dead-letters").text
    started = Run.select().where(Run.replay_of.is_null(False)).order_by(Run.created_at, Run.id)
    assert [run.payload for run in started] == ['{"n":0}', '{"n":1}', '{"n":2}']


def test_one_that_can_not_be_sent_again_holds_up_no_other(
    browser: FlaskClient, services: Services, alice: Tenant, hello: Script
) -> None:
    fine = given_up(services, hello)
    other = factories.script(services, alice, "other", retry=RETRY)
    stuck = given_up(services, other)
    scripts.change_status(services, other, "paused", "test")
    assert post(browser, "/dead-letters/redrive", letter=[fine.id, stuck.id]).status_code == 303
    page = browser.get("/dead-letters").text
    assert "1 execution was started." in page
    assert "1 dead letter was not sent again: " in page
    assert str(stuck.id) in page
    assert str(fine.id) not in page
    # And when none could be, nothing pretends otherwise.
    assert post(browser, "/dead-letters/redrive", letter=[stuck.id]).status_code == 409


def test_what_is_no_choice_is_refused(browser: FlaskClient, services: Services, hello: Script) -> None:
    letter = given_up(services, hello)
    assert post(browser, "/dead-letters/redrive").status_code == 400
    assert post(browser, "/dead-letters/redrive", letter=[letter.id] * (pages.PAGE_SIZE + 1)).status_code == 400
    for bad in ("nothing", "", "x" * 5000, HOSTILE, "\x00"):
        assert post(browser, "/dead-letters/redrive", letter=[letter.id, bad]).status_code == 404
    assert Run.select().count() == 1


def test_who_may_not_execute_sees_no_buttons_and_redrives_nothing(
    browser_as: Callable[[str], FlaskClient], services: Services, hello: Script
) -> None:
    letter = given_up(services, hello)
    viewer = browser_as("viewer")
    page = viewer.get("/dead-letters")
    assert page.status_code == 200
    assert letter.reason in page.text
    assert "/redrive" not in page.text
    assert post(viewer, f"/dead-letters/{letter.id}/redrive").status_code == 403
    assert post(viewer, "/dead-letters/redrive", letter=letter.id).status_code == 403
    assert Run.select().count() == 1


def test_a_stranger_sees_none_and_redrives_none(
    foreign_browser: FlaskClient, services: Services, hello: Script
) -> None:
    letter = given_up(services, hello)
    assert "No dead letters" in foreign_browser.get("/dead-letters?state=open").text
    assert str(letter.id) not in foreign_browser.get("/dead-letters?state=all").text
    assert post(foreign_browser, f"/dead-letters/{letter.id}/redrive").status_code == 404
    assert post(foreign_browser, "/dead-letters/redrive", letter=letter.id).status_code == 404
    assert Run.select().count() == 1


def test_dead_letters_come_in_pages_of_their_state(
    browser: FlaskClient, services: Services, hello: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_SIZE", 2)
    ids = {given_up(services, hello).id for _ in range(5)}
    seen: list[str] = []
    link: str | None = "/dead-letters?state=all"
    while link is not None:
        text = browser.get(link).text
        seen += [each for each in ids if f'id="letter-{each}"' in text]
        _, marked, rest = text.partition('rel="next" href="')
        link = rest.partition('"')[0].replace("&amp;", "&") if marked else None
    assert sorted(seen) == sorted(ids)


def test_hostile_addresses_are_no_500(browser: FlaskClient) -> None:
    for bad in ("x" * 4000, HOSTILE, "\x00", "'"):
        text = quote(bad, safe="")
        assert browser.get(f"/dead-letters?state={text}").status_code == 200
        assert browser.get(f"/dead-letters?cursor={text}").status_code == 400
        assert post(browser, f"/dead-letters/{text}/redrive").status_code == 404


def test_what_a_script_says_is_shown_as_text(browser: FlaskClient, services: Services, hello: Script) -> None:
    given_up(services, hello, HOSTILE)
    scripts.update(services, hello, scripts.Change(columns={"display_name": HOSTILE}))
    text = browser.get("/dead-letters").text
    assert HOSTILE not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3
