"""One execution: its page, its log, its files, and what may be done with it."""

import json
import re
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from flask.testing import FlaskClient

from millrace import artifacts, scripts
from millrace.errors import Unavailable
from millrace.models import Run, Script
from millrace.models.run import FAILED, TIMED_OUT
from millrace.retries import Policy
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.console.conftest import FRAGMENT, csrf_token, post
from tests.web.console.test_executions import HOSTILE, JSON, rows_of, toast_of
from tests.web.test_tails import events
from web.console import execution


def page_of(run: Run) -> str:
    return f"/scripts/{run.script_id}/executions/{run.id}"


@pytest.fixture
def running(services: Services, hello: Script) -> Run:
    """A run that has begun."""
    return factories.claim(services, factories.run(services, hello, {"text": HOSTILE}))


# The page


def test_a_page_shows_what_is_known_of_an_execution(
    browser: FlaskClient, services: Services, hello: Script, running: Run
) -> None:
    refused = [{"host": HOSTILE, "port": 80, "reason": "private", "kind": "address"}]
    usage = {"cpu_ms": 12.5, "peak_memory_bytes": 3 * 1024 * 1024, "jail": "warm", "refused_connections": refused}
    factories.finish(services, running, result='{"answer": 42}', usage=usage)
    text = browser.get(page_of(running)).text
    for expected in (running.id, "completed", "12 ms", "3.0 MB", "test-worker", "&#34;answer&#34;: 42", "private"):
        assert expected in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert HOSTILE not in text
    assert f'href="/scripts/{hello.uuid}/versions/1"' in text
    assert "hx-get" not in text  # it is over, so nothing is asked again


def test_an_open_one_refreshes_itself_until_it_is_over(browser: FlaskClient, services: Services, running: Run) -> None:
    text = browser.get(page_of(running)).text
    address = re.search(r'hx-get="([^"]+)"', text)
    assert address is not None
    assert f'data-stream="{page_of(running)}/log/stream"' in text
    assert browser.get(address[1], headers=FRAGMENT).status_code == 204
    factories.finish(services, running, result='"done"')
    fragment = browser.get(address[1], headers=FRAGMENT)
    assert fragment.status_code == 200
    assert "completed" in fragment.text and "&#34;done&#34;" in fragment.text
    assert "hx-get" not in fragment.text and "<html" not in fragment.text
    assert "Status: completed" in fragment.text


def test_one_that_waits_says_why_and_at_which_place(browser: FlaskClient, services: Services, hello: Script) -> None:
    Script.update(max_concurrent_runs=1).execute()
    factories.claim(services, factories.run(services, hello))
    factories.run(services, hello)
    last = factories.run(services, hello)
    text = browser.get(page_of(last)).text
    assert "1 of 1 running for this script" in text
    assert "Place in the line: 2." in text


def test_one_that_failed_shows_code_message_and_stack_as_text(
    browser: FlaskClient, services: Services, running: Run
) -> None:
    factories.finish(
        services, running, FAILED, error=f"boom {HOSTILE}", error_code="SCRIPT_ERROR", error_stack=f"at {HOSTILE}"
    )
    text = browser.get(page_of(running)).text
    assert "SCRIPT_ERROR" in text and "at &lt;script&gt;" in text
    assert HOSTILE not in text


def test_causes_have_links(browser: FlaskClient, services: Services, hello: Script) -> None:
    run = factories.run(services, hello, trigger="event", event_id=services.new_id(), due_at=1_700_000_000_000,
                        delivery_id=HOSTILE)  # fmt: skip
    text = browser.get(page_of(run)).text
    assert f'href="/events/{run.event_id}"' in text
    assert '<time datetime="2023-11-14T22:13:20.000+00:00">' in text
    assert HOSTILE not in text


def test_earlier_attempts_are_listed_with_their_logs(browser: FlaskClient, services: Services, hello: Script) -> None:
    Script.update(retry=Policy(count=1).as_json()).execute()
    run = factories.claim(services, factories.run(services, hello))
    factories.log(services, run, "the first try")
    factories.finish(services, run, FAILED, error=f"first {HOSTILE}", error_code="SCRIPT_ERROR", log_chunks=1)
    text = browser.get(page_of(run)).text
    assert "Earlier attempts" in text and "first &lt;script&gt;" in text
    assert HOSTILE not in text
    answer = browser.get(f"{page_of(run)}/log?attempt=1")
    assert answer.status_code == 302
    assert "the first try" in httpx.get(answer.location).text
    assert browser.get(f"{page_of(run)}/log?attempt=7").status_code == 404


def test_a_huge_result_is_cut_and_comes_whole_by_its_link(
    browser: FlaskClient, services: Services, running: Run
) -> None:
    result = json.dumps({"items": ["x" * 1000 for _ in range(400)]})
    factories.finish(services, running, result=result)
    text = browser.get(page_of(running)).text
    assert len(text) < 2 * execution.SHOWN_JSON
    assert "This is the beginning of" in text
    whole = browser.get(f"{page_of(running)}/result")
    assert whole.json == json.loads(result)
    assert "attachment" in whole.headers["Content-Disposition"]


def test_a_huge_input_is_cut_and_comes_whole_by_its_link(
    browser: FlaskClient, services: Services, hello: Script
) -> None:
    payload = {"text": "y" * 1_500_000}
    run = factories.run(services, hello, payload)
    assert len(browser.get(page_of(run)).text) < 2 * execution.SHOWN_JSON
    assert browser.get(f"{page_of(run)}/input").json == payload


def test_a_result_that_is_nested_without_end_is_shown_as_it_is(
    browser: FlaskClient, services: Services, running: Run
) -> None:
    result = "[" * 5000 + "]" * 5000
    factories.finish(services, running, result=result)
    assert result in browser.get(page_of(running)).text


def test_there_is_no_result_before_the_end(browser: FlaskClient, running: Run) -> None:
    assert browser.get(f"{page_of(running)}/result").status_code == 404


def test_a_store_that_does_not_answer_takes_only_its_part_of_the_page(
    browser: FlaskClient, services: Services, running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.finish(services, running, result=json.dumps("z" * 100_000))

    def down(*_: Any, **__: Any) -> Any:
        raise Unavailable("The object store is away.")

    for name in ("get", "size", "stream", "list"):
        monkeypatch.setattr(services.objects, name, down)
    answer = browser.get(page_of(running))
    assert answer.status_code == 200
    assert "read from the object store now" in answer.text
    assert browser.get(f"{page_of(running)}/result").status_code == 503


def test_files_come_by_links(browser: FlaskClient, services: Services, running: Run) -> None:
    name = "a b&c.csv"
    artifacts.store(services, running, 1, name, "text/csv", b"1,2\n")
    factories.finish(services, running)
    assert "a b&amp;c.csv</a>" in browser.get(page_of(running)).text
    found = re.search(r'href="([^"]+/artifacts/[^"]+)"', browser.get(page_of(running)).text)
    assert found is not None
    answer = browser.get(found[1])
    assert answer.status_code == 302
    assert httpx.get(answer.location).content == b"1,2\n"
    assert browser.get(f"{page_of(running)}/artifacts/none").status_code == 404


def test_a_json_client_reads_an_execution(browser: FlaskClient, services: Services, running: Run) -> None:
    assert browser.get(page_of(running), headers=JSON).json == {
        "execution_id": running.id, "status": "running", "duration_ms": None,
    }  # fmt: skip
    factories.finish(services, running, result="[1, 2]")
    assert browser.get(page_of(running), headers=JSON).json == {
        "execution_id": running.id, "status": "completed", "duration_ms": 5, "result": [1, 2],
    }  # fmt: skip


# The log


def test_the_live_log_comes_as_events_and_ends(browser: FlaskClient, services: Services, running: Run) -> None:
    factories.log(services, running, "one", f"two {HOSTILE}")
    answer = browser.get(f"{page_of(running)}/log/stream", headers={"Last-Event-ID": "1"})
    assert answer.mimetype == "text/event-stream"
    stream = events(answer)
    assert next(stream)[2]["text"] == f"two {HOSTILE}"

    def end() -> None:
        with services.database.connection_context():
            factories.finish(services, running, TIMED_OUT, error="late", log_chunks=1)

    thread = threading.Thread(target=end)
    thread.start()
    assert list(stream) == [("end", None, {"status": "timeout"})]
    thread.join()


def test_a_last_event_id_that_is_none_is_400(browser: FlaskClient, running: Run) -> None:
    for value in ("x", "-1", "1.5", "\xb2", "9" * 30):
        answer = browser.get(f"{page_of(running)}/log/stream", headers={"Last-Event-ID": value})
        assert answer.status_code == 400, value


def test_a_stored_log_is_shown_as_text_and_can_be_downloaded(
    browser: FlaskClient, services: Services, running: Run
) -> None:
    factories.log(services, running, f"said {HOSTILE}")
    factories.finish(services, running, log_chunks=1)
    text = browser.get(page_of(running)).text
    assert "said &lt;script&gt;" in text and HOSTILE not in text
    answer = browser.get(f"{page_of(running)}/log")
    assert answer.status_code == 302
    assert HOSTILE in httpx.get(answer.location).text


def test_of_a_long_log_the_end_is_shown(
    browser: FlaskClient, services: Services, running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "SHOWN_LOG", 1000)
    factories.log(services, running, *(f"line {number:03d}" for number in range(100)))
    factories.finish(services, running, log_chunks=1)
    text = browser.get(page_of(running)).text
    assert "line 099" in text and "line 050" not in text
    assert "This is the end of a log of" in text
    shown = re.search(r'(?s)<pre class="log"[^>]*>(.*?)</pre>', text)
    assert shown is not None and shown[1].startswith("2023-11-14T")  # whole lines


def test_a_log_too_long_for_a_page_can_be_downloaded(
    browser: FlaskClient, services: Services, running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "READ_LOG", 10)
    factories.log(services, running, "a line that is longer than that")
    factories.finish(services, running, log_chunks=1)
    text = browser.get(page_of(running)).text
    assert "too much for a page" in text and "a line that" not in text
    assert f'href="{page_of(running)}/log"' in text


def test_a_run_without_a_log_says_so(browser: FlaskClient, services: Services, running: Run) -> None:
    factories.finish(services, running)
    assert "It wrote no log" in browser.get(page_of(running)).text
    assert browser.get(f"{page_of(running)}/log").status_code == 404


# What may be done


def test_retry_runs_the_same_version_and_replay_the_current_one(
    browser: FlaskClient, services: Services, hello: Script, running: Run
) -> None:
    factories.finish(services, running, FAILED, error="boom")
    scripts.update(services, Script.get_by_id(hello.uuid), scripts.Change(source=factories.SOURCE + b"// changed\n"))
    for verb, version in (("retry", 1), ("replay", 2)):
        answer = post(browser, f"{page_of(running)}/{verb}")
        assert answer.status_code == 303
        again = Run.get_by_id(answer.location.rsplit("/", 1)[1])
        assert (again.version, again.payload, again.replay_of) == (version, running.payload, running.id)
        assert again.trigger == "manual" and again.user_id is not None
        assert f'href="{page_of(running)}"' in browser.get(answer.location).text


@pytest.mark.parametrize("verb", ["retry", "replay"])
def test_again_answers_htmx_with_the_new_row_as_its_list_has_it(
    browser: FlaskClient, services: Services, running: Run, verb: str
) -> None:
    factories.finish(services, running, FAILED, error="boom")
    for query, columns in (("", 6), ("?all=1", 7)):
        answer = post(browser, f"{page_of(running)}/{verb}{query}", fragment=True)
        assert answer.text.count("<tr") == 1
        assert answer.text.count("<td") == columns
        assert rows_of(answer.text) != [running.id]
        assert toast_of(answer)["text"] == "Execution started"


@pytest.mark.parametrize("verb", ["retry", "replay"])
def test_what_goes_on_cannot_run_again(browser: FlaskClient, running: Run, verb: str) -> None:
    assert post(browser, f"{page_of(running)}/{verb}").status_code == 409
    fragment = post(browser, f"{page_of(running)}/{verb}", fragment=True)
    assert fragment.status_code == 409 and toast_of(fragment)["kind"] == "error"
    assert Run.select().count() == 1


def test_cancel_ends_what_waits_at_once(browser: FlaskClient, services: Services, hello: Script) -> None:
    run = factories.run(services, hello)
    answer = post(browser, f"{page_of(run)}/cancel", fragment=True)
    assert rows_of(answer.text) == [run.id]
    assert 'class="cancelled"' in answer.text
    assert toast_of(answer)["text"] == "Execution cancelled"
    assert post(browser, f"{page_of(run)}/cancel").status_code == 409


def test_cancel_asks_the_worker_of_what_runs_and_the_page_says_so(browser: FlaskClient, running: Run) -> None:
    answer = post(browser, f"{page_of(running)}/cancel")
    assert (answer.status_code, answer.location) == (303, page_of(running))
    assert Run.get_by_id(running.id).cancel_requested_at is not None
    assert "It is being cancelled." in browser.get(page_of(running)).text


def test_json_clients_get_json_of_every_verb(browser: FlaskClient, services: Services, running: Run) -> None:
    headers = {"X-CSRF-Token": csrf_token(browser), **JSON}
    cancelled = browser.post(f"{page_of(running)}/cancel", headers=headers)
    assert (cancelled.status_code, cancelled.json) == (202, {"execution_id": running.id, "status": "running"})
    factories.finish(services, running, FAILED, error="boom")
    again = browser.post(f"{page_of(running)}/retry", headers=headers)
    assert again.status_code == 202 and again.json is not None and again.json["status"] == "pending"


def test_a_viewer_sees_no_verbs_and_may_do_none(
    browser_as: Callable[[str], FlaskClient], services: Services, running: Run
) -> None:
    viewer = browser_as("viewer")
    for verb in ("cancel", "retry", "replay"):
        assert post(viewer, f"{page_of(running)}/{verb}").status_code == 403
    assert "/cancel" not in viewer.get(page_of(running)).text
    factories.finish(services, running, FAILED, error="boom")
    text = viewer.get(page_of(running)).text
    assert "/retry" not in text and "/replay" not in text
    assert Run.select().count() == 1


def test_another_workspaces_execution_is_not_there(foreign_browser: FlaskClient, running: Run) -> None:
    for path in ("", "/log", "/log/stream", "/result", "/input", "/artifacts/a"):
        assert foreign_browser.get(page_of(running) + path).status_code == 404
    for verb in ("cancel", "retry", "replay"):
        assert post(foreign_browser, f"{page_of(running)}/{verb}").status_code == 404
    assert Run.get_by_id(running.id).cancel_requested_at is None


def test_an_execution_of_another_script_is_not_there(
    browser: FlaskClient, services: Services, alice: Tenant, running: Run
) -> None:
    other = factories.script(services, alice, "other")
    assert browser.get(f"/scripts/{other.uuid}/executions/{running.id}").status_code == 404


def test_an_id_that_is_none_is_404(browser: FlaskClient, hello: Script) -> None:
    for run_id in ("x", "0" * 36, "%00", "..%2f..", "a" * 300):
        assert browser.get(f"/scripts/{hello.uuid}/executions/{run_id}").status_code == 404
