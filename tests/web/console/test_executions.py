"""The lists of executions, and starting one by hand."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from millrace.models import Run, Script, Workspace
from millrace.models.run import CANCELLED, FAILED, TIMED_OUT
from millrace.runs import Ending
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.console.conftest import FRAGMENT, csrf_token, post
from web import wire
from web.console import executions

HOSTILE = "<script>alert(1)</script>"
JSON = {"Accept": "application/json"}


def execute(script: Script) -> str:
    return f"/scripts/{script.uuid}/execute"


def listing(script: Script) -> str:
    return f"/scripts/{script.uuid}/executions"


def rows_of(text: str) -> list[str]:
    """The ids of the executions that a page or a fragment has rows for, in order."""
    return re.findall(r'<tr id="execution-([0-9a-f-]{36})"', text)


def toast_of(answer: TestResponse) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.headers["HX-Trigger"])["toast"]
    return found


def as_json(browser: FlaskClient, path: str, **fields: Any) -> TestResponse:
    """Send a form and ask for JSON."""
    return browser.post(path, data=fields, headers={"X-CSRF-Token": csrf_token(browser), **JSON})


def ends(status: str, **fields: Any) -> factories.Handler:
    """A handler after which every run ends so."""
    return lambda _run, _payload: Ending(status=status, duration_ms=7, **fields)


# Starting one


def test_execute_answers_htmx_with_exactly_one_row_and_a_toast(
    browser: FlaskClient, hello: Script, services: Services
) -> None:
    answer = post(browser, execute(hello), fragment=True, Input='{"n": 1}')
    run = Run.get()
    assert answer.status_code == 200
    assert answer.text.count("<tr") == answer.text.count("</tr>") == 1
    assert answer.text.strip().startswith("<tr") and answer.text.strip().endswith("</tr>")
    assert rows_of(answer.text) == [run.id]
    assert toast_of(answer) == {"text": "Execution started", "kind": "success"}


def test_execute_starts_it_by_hand_for_the_user_who_asked(
    browser_as: Callable[[str], FlaskClient], hello: Script
) -> None:
    browser = browser_as("developer")
    answer = post(browser, execute(hello), Input='{"n": [1, "\u2603"]}')
    run = Run.get()
    assert answer.status_code == 303
    assert answer.location == f"/scripts/{hello.uuid}/executions/{run.id}"
    assert json.loads(run.payload) == {"n": [1, "\u2603"]}
    assert (run.trigger, run.mode, run.caller_ip) == ("manual", "async", "127.0.0.1")
    assert run.user_id is not None
    page = browser.get(answer.location).text
    assert "Execution started" in page
    assert re.search(r"<dt>Started by</dt><dd>developer-", page)


def test_an_empty_input_is_an_empty_object(browser: FlaskClient, hello: Script) -> None:
    post(browser, execute(hello), Input="  \n")
    assert Run.get().payload == "{}"


def test_a_script_may_be_named_by_its_slug(browser: FlaskClient, hello: Script) -> None:
    assert post(browser, f"/scripts/{hello.slug}/execute").status_code == 303


def test_a_json_client_gets_202_with_the_id(browser: FlaskClient, hello: Script) -> None:
    answer = as_json(browser, execute(hello), Input="{}")
    assert answer.status_code == 202
    assert answer.json == {"execution_id": Run.get().id, "status": "pending"}


def test_sync_waits_and_gives_a_json_client_the_result(browser: FlaskClient, hello: Script, services: Services) -> None:
    with factories.worker(services):
        answer = as_json(browser, execute(hello), Input='{"big": 12345678901234567890.0}', Mode="sync")
    assert answer.status_code == 200
    assert answer.json == {
        "execution_id": Run.get().id, "status": "completed", "duration_ms": 3, "result": {"big": 1.2345678901234567e19},
    }  # fmt: skip


def test_sync_gives_htmx_the_row_of_what_has_completed(
    browser: FlaskClient, hello: Script, services: Services
) -> None:
    with factories.worker(services):
        answer = post(browser, execute(hello), fragment=True, Mode="sync")
    assert answer.text.count("<tr") == 1
    assert 'class="completed"' in answer.text
    assert toast_of(answer)["text"] == "Execution completed"


@pytest.mark.parametrize(
    ("ending", "status", "word"),
    [
        (ends(FAILED, error=f"boom {HOSTILE}", error_code="SCRIPT_ERROR"), 500, "boom"),
        (ends(TIMED_OUT, error="It ran longer than its limit of 30 s.", error_code="TIMEOUT"), 504, "limit of 30 s"),
        (ends(CANCELLED, error="Somebody cancelled it.", error_code="CANCELLED"), 409, "Somebody"),
    ],
)
def test_what_goes_wrong_while_one_waits_is_told_with_the_id_in_every_shape(
    browser: FlaskClient, hello: Script, services: Services, ending: factories.Handler, status: int, word: str
) -> None:
    with factories.worker(services, ending):
        page = post(browser, execute(hello), Mode="sync")
        fragment = post(browser, execute(hello), fragment=True, Mode="sync")
        data = as_json(browser, execute(hello), Mode="sync")
    ids = [run.id for run in Run.select().order_by(Run.created_at, Run.id)]
    assert (page.status_code, fragment.status_code, data.status_code) == (status, status, status)
    assert ids[0] in page.text and word in page.text
    assert f'href="/scripts/{hello.uuid}/executions/{ids[0]}"' in page.text
    assert HOSTILE not in page.text
    told = toast_of(fragment)
    assert told["kind"] == "error" and ids[1] in told["text"] and word in told["text"]
    assert fragment.headers["HX-Reswap"] == "none"
    assert data.json is not None
    assert data.json["error"]["execution_id"] == ids[2]
    assert word in data.json["error"]["message"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for an end."""
    monkeypatch.setattr(executions, "QUEUE_PATIENCE_S", -30)  # as long as a script's usual time limit


def test_what_has_not_ended_in_time_goes_on_and_says_so(browser: FlaskClient, hello: Script, impatient: None) -> None:
    assert as_json(browser, execute(hello), Mode="sync").status_code == 202
    fragment = post(browser, execute(hello), fragment=True, Mode="sync")
    assert fragment.status_code == 200
    assert "goes on" in toast_of(fragment)["text"]
    assert post(browser, execute(hello), Mode="sync").status_code == 303


def test_input_that_is_no_json_is_400_with_inline_words_and_starts_nothing(
    browser: FlaskClient, hello: Script
) -> None:
    headers = {"X-CSRF-Token": csrf_token(browser)}
    deep = b"[" * 200 + b"]" * 200
    for text in (b"{", b"nothing", b"NaN", b"[1e999]", deep, b'{"a": 1} x', b"\xff", b'"\xed\xa0\x80'):
        page = browser.post(execute(hello), data={"Input": text}, headers=headers)
        assert page.status_code == 400
        assert 'id="Input-error"' in page.text
    fragment = post(browser, execute(hello), fragment=True, Input="{")
    assert fragment.status_code == 400
    assert fragment.text.startswith("The input is not JSON: ")
    assert fragment.headers["HX-Retarget"] == f"#execute-error-{hello.uuid}"
    data = as_json(browser, execute(hello), Input="{")
    assert (data.status_code, data.is_json) == (400, True)
    assert Run.select().count() == 0


def test_the_typed_input_stays_on_the_page_that_refuses_it(browser: FlaskClient, hello: Script) -> None:
    page = post(browser, execute(hello), Input=f"{{{HOSTILE}", Mode="sync")
    assert "{&lt;script&gt;alert(1)&lt;/script&gt;</textarea>" in page.text
    assert '<input type="hidden" name="Mode" value="sync">' in page.text
    assert HOSTILE not in page.text


def test_a_mode_that_does_not_exist_is_400(browser: FlaskClient, hello: Script) -> None:
    assert post(browser, execute(hello), Mode="later").status_code == 400
    assert Run.select().count() == 0


def test_a_script_that_is_not_active_is_409_in_words(browser: FlaskClient, hello: Script) -> None:
    Script.update(status="paused").execute()
    assert post(browser, execute(hello)).status_code == 409
    fragment = post(browser, execute(hello), fragment=True)
    assert fragment.status_code == 409
    assert "only an active script can run" in toast_of(fragment)["text"]
    data = as_json(browser, execute(hello), Mode="sync")
    assert data.status_code == 409 and data.json is not None and data.json["error"]["code"] == "CONFLICT"


def test_a_workspace_that_is_not_ready_is_503(browser: FlaskClient, hello: Script) -> None:
    Workspace.update(status="suspended").where(Workspace.id == "alice").execute()
    assert as_json(browser, execute(hello)).status_code == 503


def test_a_used_up_quota_is_429_and_says_when_to_come_again(browser: FlaskClient, hello: Script) -> None:
    Workspace.update(limits={"runs_per_day": 1}).where(Workspace.id == "alice").execute()
    assert as_json(browser, execute(hello)).status_code == 202
    refused = as_json(browser, execute(hello))
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert toast_of(post(browser, execute(hello), fragment=True))["kind"] == "error"


def test_when_all_seats_are_taken_sync_is_429_and_starts_nothing(
    browser: FlaskClient, hello: Script, app: Flask, alice: Tenant
) -> None:
    with app.app_context():
        seats = wire.process().waiting
    for _ in range(seats.each):
        seats.take(alice.id)
    assert as_json(browser, execute(hello), Mode="sync").status_code == 429
    fragment = post(browser, execute(hello), fragment=True, Mode="sync")
    assert fragment.status_code == 429 and toast_of(fragment)["kind"] == "error"
    assert Run.select().count() == 0
    seats.leave(alice.id)


def test_a_viewer_may_look_and_start_nothing(
    browser_as: Callable[[str], FlaskClient], hello: Script, services: Services
) -> None:
    factories.finished(services, hello, FAILED, error="boom")
    viewer = browser_as("viewer")
    assert post(viewer, execute(hello)).status_code == 403
    page = viewer.get(listing(hello))
    assert page.status_code == 200
    assert "boom" in page.text
    for verb in ("retry", "replay", "cancel", "execute"):
        assert f'/{verb}"' not in page.text
    assert Run.select().count() == 1


def test_a_form_of_somebody_else_starts_nothing(browser: FlaskClient, hello: Script) -> None:
    assert browser.post(execute(hello), data={"Input": "{}"}).status_code == 403
    assert Run.select().count() == 0


def test_another_workspaces_script_is_404(foreign_browser: FlaskClient, hello: Script) -> None:
    assert post(foreign_browser, execute(hello)).status_code == 404
    assert foreign_browser.get(listing(hello)).status_code == 404
    assert foreign_browser.get("/executions", query_string={"script": hello.uuid}).status_code == 404
    assert Run.select().count() == 0


# Lists


def test_a_script_page_has_a_whole_page_and_rows_for_htmx(
    browser: FlaskClient, hello: Script, services: Services
) -> None:
    ids = [factories.run(services, hello).id for _ in range(3)]
    page = browser.get(listing(hello))
    assert page.text.count("<html") == 1
    assert 'aria-live="polite"' in page.text
    assert rows_of(page.text) == ids[::-1]
    fragment = browser.get(listing(hello), headers=FRAGMENT)
    assert rows_of(fragment.text) == ids[::-1]
    assert re.sub(r"(?s)<tr.*?</tr>", "", fragment.text).strip() == ""


def test_a_failed_row_is_red_and_has_its_stack_and_a_retry(
    browser: FlaskClient, hello: Script, services: Services
) -> None:
    run = factories.finished(
        services, hello, FAILED, error=f"boom {HOSTILE}", error_code="SCRIPT_ERROR", error_stack=f"at {HOSTILE}:3"
    )
    text = browser.get(listing(hello), headers=FRAGMENT).text
    assert f'<tr id="execution-{run.id}" class="failed">' in text
    assert "SCRIPT_ERROR" in text and "at &lt;script&gt;alert(1)&lt;/script&gt;:3" in text
    assert HOSTILE not in text
    assert f"/executions/{run.id}/retry" in text and f"/executions/{run.id}/replay" in text
    assert "/cancel" not in text


def test_an_open_row_can_be_cancelled_and_a_good_one_replayed(
    browser: FlaskClient, hello: Script, services: Services
) -> None:
    good = factories.finished(services, hello)
    waiting = factories.run(services, hello)
    text = browser.get(listing(hello), headers=FRAGMENT).text
    assert f"{waiting.id}/cancel" in text and f"{waiting.id}/retry" not in text and f"{waiting.id}/replay" not in text
    assert f"{good.id}/replay" in text and f"{good.id}/retry" not in text and f"{good.id}/cancel" not in text


def test_the_poll_gives_the_newest_twenty_and_nothing_while_they_are_known(
    browser: FlaskClient, hello: Script, services: Services
) -> None:
    ids = [factories.run(services, hello).id for _ in range(22)]
    first = browser.get(f"{listing(hello)}?poll=1", headers=FRAGMENT)
    assert rows_of(first.text) == ids[:1:-1]
    address = re.search(r'hx-get="([^"]+)"', first.text)
    assert address is not None
    following = address[1].replace("&amp;", "&")
    assert browser.get(following, headers=FRAGMENT).status_code == 204
    factories.claim(services, Run.get_by_id(ids[-1]))
    second = browser.get(following, headers=FRAGMENT)
    assert second.status_code == 200
    assert 'class="running"' in second.text
    # In order, so that HTMX finds rows first and then the words for those who listen.
    assert second.text.index("</tbody>") < second.text.index('hx-swap-oob="true"')


def test_the_poll_keeps_open_what_a_person_opened(browser: FlaskClient, hello: Script, services: Services) -> None:
    run = factories.finished(services, hello, FAILED, error="boom")
    text = browser.get(f"{listing(hello)}?poll=1", headers=FRAGMENT).text
    assert f'<details class="more trouble" id="trouble-{run.id}" hx-preserve>' in text


def test_recent_gives_the_last_of_one_script(services: Services, hello: Script, alice: Tenant) -> None:
    other = factories.script(services, alice, "other")
    ids = [factories.run(services, hello).id for _ in range(3)]
    factories.run(services, other)
    assert [run.id for run in executions.recent(hello, 2)] == ids[:0:-1]


def test_the_scripts_own_page_shows_its_last_executions(
    browser: FlaskClient, hello: Script, services: Services
) -> None:
    run = factories.run(services, hello)
    page = browser.get(f"/scripts/{hello.uuid}")
    assert rows_of(page.text) == [run.id]
    assert f'hx-get="{listing(hello)}?poll=1&amp;seen=' in page.text


def test_pages_lead_through_everything_once(browser: FlaskClient, hello: Script, services: Services) -> None:
    ids = [factories.run(services, hello).id for _ in range(45)]
    address: str | None = f"{listing(hello)}?status=pending"
    seen: list[str] = []
    while address:
        page = browser.get(address)
        seen += rows_of(page.text)
        found = re.search(r'rel="next" href="([^"]+)"', page.text)
        address = found[1].replace("&amp;", "&") if found else None
    assert seen == ids[::-1]


def test_the_workspaces_executions_are_those_of_its_scripts_alone(
    browser: FlaskClient, services: Services, hello: Script, alice: Tenant, bob: Tenant
) -> None:
    other = factories.script(services, alice, "other", unique_name=False)
    Script.update(display_name=HOSTILE).where(Script.uuid == other.uuid).execute()
    ours = [factories.run(services, hello).id, factories.run(services, other).id]
    factories.run(services, factories.script(services, bob))
    page = browser.get("/executions")
    assert rows_of(page.text) == ours[::-1]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;</a>" in page.text and HOSTILE not in page.text
    assert rows_of(browser.get("/executions", query_string={"script": "other"}).text) == [ours[1]]
    assert rows_of(browser.get("/executions", query_string={"script": hello.uuid}).text) == [ours[0]]


def test_filters_leave_what_they_name(browser: FlaskClient, hello: Script, services: Services) -> None:
    failed = factories.finished(services, hello, FAILED, error="boom")
    late = factories.finished(services, hello, TIMED_OUT, error="late")
    timed = factories.finish(services, factories.claim(services, factories.run(services, hello, trigger="schedule")))
    waiting = factories.run(services, hello, trigger="batch")
    Run.update(created_at=1_000_000_000_000).where(Run.id == failed.id).execute()  # 2001-09-09T01:46:40Z

    def found(**query: str) -> list[str]:
        return rows_of(browser.get(listing(hello), query_string=query).text)

    assert found(status="failed") == [failed.id]
    assert found(status="timeout") == [late.id]
    assert found(status="completed") == [timed.id]
    assert found(status="pending") == [waiting.id]
    assert found(trigger="cron") == [timed.id]
    assert found(trigger="api") == [waiting.id]
    assert found(until="2001-09-09T01:46:41") == [failed.id]
    assert found(since="2001-09-09T01:46:41") == [waiting.id, timed.id, late.id]
    assert found(since="2001-09-09T06:46:41+05:00", status="timeout") == [late.id]
    assert found(status="running") == []


def test_a_filter_is_kept_by_polls_and_pages(browser: FlaskClient, hello: Script, services: Services) -> None:
    for _ in range(21):
        factories.run(services, hello)
    page = browser.get("/executions", query_string={"status": "pending", "script": "hello"}).text
    for address in (re.search(r'hx-get="([^"]+)"', page), re.search(r'rel="next" href="([^"]+)"', page)):
        assert address is not None
        assert "script=hello" in address[1] and "status=pending" in address[1]
    assert '<option value="pending" selected>' in page


def test_an_empty_list_invites_or_offers_to_clear_the_filters(browser: FlaskClient, hello: Script) -> None:
    assert "No executions yet" in browser.get("/executions").text
    assert "Clear filters" in browser.get("/executions?status=failed").text
    assert "No executions yet" in browser.get(listing(hello)).text
    assert "Clear filters" in browser.get(f"{listing(hello)}?trigger=http").text


def test_a_filter_that_means_nothing_is_400(browser: FlaskClient, hello: Script) -> None:
    wrong = [("status", "succeeded"), ("status", HOSTILE), ("trigger", "schedule"), ("since", "yesterday"),
             ("until", "9" * 90), ("cursor", "x"), ("cursor", HOSTILE)]  # fmt: skip
    for name, value in wrong:
        for path, headers in (("/executions", {}), (listing(hello), FRAGMENT)):
            answer = browser.get(path, query_string={name: value}, headers=headers)
            assert answer.status_code == 400, (name, value)
            assert HOSTILE not in answer.text


def test_a_script_that_is_not_there_is_said_beside_the_filter(browser: FlaskClient, hello: Script) -> None:
    answer = browser.get("/executions", query_string={"script": HOSTILE})
    assert answer.status_code == 404
    assert 'id="script-error"' in answer.text
    assert HOSTILE not in answer.text
    assert browser.get("/executions", query_string={"script": "none"}, headers=FRAGMENT).status_code == 404


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.dictionaries(st.sampled_from([*executions.FILTERS, "cursor", "poll", "seen"]), st.text(max_size=40)))
def test_no_query_breaks_a_list(browser: FlaskClient, hello: Script, query: dict[str, str]) -> None:
    for path in ("/executions", listing(hello)):
        assert browser.get(path, query_string=query).status_code in (200, 400, 404)


def test_a_client_may_send_the_input_as_json(browser: FlaskClient, services: Services, hello: Script) -> None:
    headers = {"X-CSRF-Token": csrf_token(browser), "Accept": "application/json"}
    answer = browser.post(f"/scripts/{hello.uuid}/execute", json={"name": "Ada"}, headers=headers)
    assert answer.status_code == 202 and answer.json is not None
    with services.database.connection_context():
        assert Run.get_by_id(answer.json["execution_id"]).payload == '{"name":"Ada"}'


@pytest.mark.parametrize("kind", ["text/plain", "application/xml"])
def test_an_input_of_another_kind_is_415_and_never_lost(
    browser: FlaskClient, services: Services, hello: Script, kind: str
) -> None:
    headers = {"X-CSRF-Token": csrf_token(browser)}
    answer = browser.post(f"/scripts/{hello.uuid}/execute", data="name=Ada", content_type=kind, headers=headers)
    assert answer.status_code == 415
    with services.database.connection_context():
        assert Run.select().count() == 0
