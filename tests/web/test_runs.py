import json
import threading
import time
from contextlib import nullcontext
from typing import Any

import httpx
import pytest

from millrace import artifacts, logs, runs
from millrace.models import Run, Script, Workspace
from millrace.models.run import FAILED, RUNNING, TIMED_OUT
from millrace.objects import S3Objects
from millrace.runs import Ending
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.conftest import Client, error_of, fields_of
from web.scripting import runs as views

EXECUTE = "/scripts/hello/execute"
SYNC = {"mode": "sync", "trigger_type": "manual"}
ASYNC = {"mode": "async", "trigger_type": "manual"}
FIELDS = {
    "id", "script_id", "script_uuid", "workspace_id", "trigger_type", "execution_mode", "status", "script_version",
    "started_at", "completed_at", "duration_ms", "error", "result_summary", "logs_s3_key", "output_s3_key", "caller_ip",
    "created_at",
}  # fmt: skip
EXTENSIONS = {"error_code", "error_stack", "waiting_reason", "waiting_place", "attempt", "replay_of", "usage",
              "batch_id", "batch_index"}


def test_async_answers_202_once_the_run_is_stored(client: Client, hello: Script) -> None:
    response = client.post(EXECUTE, json={**ASYNC, "payload": {"batchSize": 50}, "caller_ip": "192.0.2.1"})
    assert response.status_code == 202
    assert response.json is not None
    run = Run.get_by_id(response.json["run_id"])
    assert response.json == {"run_id": run.id, "status": "pending"}
    assert (run.payload, run.caller_ip, run.mode, run.trigger) == ('{"batchSize":50}', "192.0.2.1", "async", "manual")


def test_sync_answers_200_with_the_result(client: Client, hello: Script, services: Services) -> None:
    with factories.worker(services):
        response = client.post(EXECUTE, json={**SYNC, "payload": {"name": "SmartSuite"}})
    assert response.status_code == 200
    assert response.json is not None
    assert response.json == {
        "run_id": response.json["run_id"], "status": "completed", "result": {"name": "SmartSuite"}, "duration": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    "result",
    ["null", "0", "false", '""', "[]", '"\\ud800"', "1e400", "12345678901234567890123", '{"b":1,"a":{"c":[null]}}',
     '{"big":"' + "x" * 100_000 + '"}'],
)  # fmt: skip
def test_a_result_passes_through_as_the_handler_made_it(
    client: Client, hello: Script, services: Services, result: str
) -> None:
    def handler(_run: Run, _payload: str) -> Ending:
        return Ending(status="succeeded", duration_ms=1, result=result)

    with factories.worker(services, handler):
        response = client.post(EXECUTE, json=SYNC)
    assert response.status_code == 200
    assert f'"result": {result}}}' in response.text


def test_a_result_that_the_store_has_lost_is_no_null(client: Client, hello: Script, services: Services) -> None:
    def handler(run: Run, _payload: str) -> Ending:
        return Ending(status="succeeded", duration_ms=1, result=json.dumps("x" * 100_000))

    with pytest.MonkeyPatch.context() as patch, factories.worker(services, handler):
        patch.setattr(services.objects, "get", lambda _key: None)
        error_of(client.post(EXECUTE, json=SYNC), 503, "UNAVAILABLE")


@pytest.mark.parametrize(("status", "word"), [(FAILED, "failed"), (TIMED_OUT, "timed_out")])
def test_a_script_that_fails_is_a_200_with_an_error(
    client: Client, hello: Script, services: Services, status: str, word: str
) -> None:
    def handler(_run: Run, _payload: str) -> Ending:
        return Ending(status=status, duration_ms=7, error="Error: no", error_code="HANDLER_ERROR", error_stack="at x")

    with factories.worker(services, handler):
        response = client.post(EXECUTE, json=SYNC)
    assert response.status_code == 200
    assert response.json is not None
    run_id = response.json["run_id"]
    assert response.json == {"run_id": run_id, "status": word, "duration": 7, "error": "Error: no"}
    shown = client.get(f"/scripts/hello/runs/{run_id}").json
    assert shown is not None
    assert (shown["error"], shown["error_code"], shown["error_stack"]) == ("Error: no", "HANDLER_ERROR", "at x")


def test_a_sync_run_that_is_not_over_in_time_answers_202_and_goes_on(
    client: Client, hello: Script, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "QUEUE_PATIENCE_S", -29.8)  # of the 30 s of the script's own limit
    response = client.post(EXECUTE, json=SYNC)
    assert response.status_code == 202
    assert response.json is not None
    run = Run.get_by_id(response.json["run_id"])
    assert response.json == {"run_id": run.id, "status": "pending"}
    factories.finish(services, factories.claim(services, run))
    assert client.get(f"/scripts/hello/runs/{run.id}").json["status"] == "completed"  # type: ignore[index]


def test_a_sync_wait_holds_no_database_connection(
    client: Client, hello: Script, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []

    class Listener:
        def get(self, timeout: float) -> None:
            held.append(not services.database.is_closed())
            with services.database.connection_context():
                factories.finish(services, factories.claim(services, Run.get()))

    monkeypatch.setattr(services.bus, "listen", lambda *_topics: nullcontext(Listener()))
    assert client.post(EXECUTE, json=SYNC).status_code == 200
    assert held == [False]


def test_a_run_deleted_while_somebody_waits_for_it_is_404(client: Client, hello: Script, services: Services) -> None:
    def handler(_run: Run, _payload: str) -> Ending:
        Script.delete().where(Script.uuid == hello.uuid).execute()
        return Ending(status="succeeded", duration_ms=1, result="1")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "finish", lambda *_args, **_kwargs: False)
        with factories.worker(services, handler):
            error_of(client.post(EXECUTE, json=SYNC), 404, "NOT_FOUND")


@pytest.mark.parametrize("word", ["http", "scheduled", "manual"])
def test_the_trigger_that_a_caller_names_is_recorded(client: Client, hello: Script, word: str) -> None:
    run_id = client.post(EXECUTE, json={"mode": "async", "trigger_type": word}).json["run_id"]  # type: ignore[index]
    assert client.get(f"/scripts/hello/runs/{run_id}").json["trigger_type"] == word  # type: ignore[index]


def test_the_connections_address_stands_for_a_missing_caller_ip(client: Client, hello: Script) -> None:
    run_id = client.post(EXECUTE, json=ASYNC).json["run_id"]  # type: ignore[index]
    assert client.get(f"/scripts/hello/runs/{run_id}").json["caller_ip"] == "127.0.0.1"  # type: ignore[index]


_BROKEN: list[tuple[str, Any]] = [
    ("mode", "later"), ("mode", None), ("mode", ["sync"]), ("trigger_type", "event"), ("trigger_type", "api"),
    ("trigger_type", 5), ("payload", []), ("payload", "x"), ("payload", None), ("payload", 5),
    ("caller_ip", "localhost"), ("caller_ip", ""), ("caller_ip", "1.2.3"), ("caller_ip", "fe80::1%eth0"),
    ("caller_ip", 5), ("delay_seconds", -1), ("delay_seconds", "5"), ("delay_seconds", 10**9),
    ("run_at", "tomorrow"), ("run_at", "2030-01-01T00:00:00"), ("run_at", 5), ("run_at", "9999-12-31T00:00:00Z"),
    ("priority", "1"), ("callback_url", "https://x"), ("debounce", 1),
]  # fmt: skip


def test_a_bad_field_is_400_named_and_runs_nothing(client: Client, hello: Script) -> None:
    for field, value in _BROKEN:
        response = client.post(EXECUTE, json={**ASYNC, field: value})
        assert fields_of(error_of(response, 400, "VALIDATION_FAILED")) == {field}, value
    assert not Run.select().exists()


@pytest.mark.parametrize("missing", ["mode", "trigger_type"])
def test_mode_and_trigger_are_required(client: Client, hello: Script, missing: str) -> None:
    given = {name: value for name, value in ASYNC.items() if name != missing}
    assert fields_of(error_of(client.post(EXECUTE, json=given), 400, "VALIDATION_FAILED")) == {missing}


@pytest.mark.parametrize("later", [{"delay_seconds": 5}, {"run_at": "2030-01-01T00:00:00Z"}])
def test_only_an_async_execution_can_start_later(client: Client, hello: Script, later: dict[str, Any]) -> None:
    error = error_of(client.post(EXECUTE, json={**SYNC, **later}), 400, "VALIDATION_FAILED")
    assert fields_of(error) == set(later)


def test_a_delayed_run_waits_with_a_reason(client: Client, hello: Script, services: Services) -> None:
    run_id = client.post(EXECUTE, json={**ASYNC, "delay_seconds": 3600}).json["run_id"]  # type: ignore[index]
    run = Run.get_by_id(run_id)
    assert run.available_at - run.created_at == pytest.approx(3_600_000, abs=2000)
    assert run.sent_at is None
    assert "not before" in client.get(f"/scripts/hello/runs/{run_id}").json["waiting_reason"]  # type: ignore[index]


def test_run_at_is_taken_with_its_zone_and_the_past_means_now(client: Client, hello: Script) -> None:
    later = client.post(EXECUTE, json={**ASYNC, "run_at": "2027-01-01T02:00:00+02:00"}).json
    assert Run.get_by_id(later["run_id"]).available_at == 1_798_761_600_000  # type: ignore[index]
    for moment in ("2020-01-01T00:00:00Z", "0001-01-01T00:00:00+23:00"):
        past = client.post(EXECUTE, json={**ASYNC, "run_at": moment}).json
        assert Run.get_by_id(past["run_id"]).sent_at is not None  # type: ignore[index]


def test_a_script_that_is_not_active_is_422(client: Client, hello: Script) -> None:
    client.put("/scripts/hello", json={"status": "inactive"})
    error_of(client.post(EXECUTE, json=ASYNC), 422, "BUSINESS_RULE_VIOLATION")
    assert not Run.select().exists()


def test_a_suspended_workspace_is_503(client: Client, hello: Script, alice: Tenant) -> None:
    Workspace.update(status="suspended").where(Workspace.id == alice.id).execute()
    response = client.post(EXECUTE, json=ASYNC)
    error_of(response, 503, "WORKSPACE_NOT_READY")
    assert "Retry-After" in response.headers


def test_the_same_idempotency_key_and_body_is_the_same_run(client: Client, hello: Script) -> None:
    key = {"Idempotency-Key": "order-17"}
    first = client.post(EXECUTE, json={**ASYNC, "payload": {"a": 1, "b": 2}}, headers=key)
    again = client.post(EXECUTE, json={"payload": {"b": 2, "a": 1}, **ASYNC}, headers=key)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (again.status_code, again.json) == (202, first.json)
    assert Run.select().count() == 1


def test_a_repeated_sync_request_gets_the_result_of_the_first(
    client: Client, hello: Script, services: Services
) -> None:
    key = {"Idempotency-Key": "k"}
    with factories.worker(services):
        first = client.post(EXECUTE, json={**SYNC, "payload": {"n": 1}}, headers=key)
        again = client.post(EXECUTE, json={**SYNC, "payload": {"n": 1}}, headers=key)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (again.status_code, again.json) == (200, first.json)


def test_an_idempotency_key_with_another_body_is_409(client: Client, hello: Script) -> None:
    key = {"Idempotency-Key": "k"}
    client.post(EXECUTE, json=ASYNC, headers=key)
    error_of(client.post(EXECUTE, json={**ASYNC, "payload": {"n": 2}}, headers=key), 409, "CONFLICT")
    assert Run.select().count() == 1


def test_idempotency_keys_belong_to_one_script(
    client: Client, hello: Script, services: Services, alice: Tenant
) -> None:
    factories.script(services, alice, "other")
    key = {"Idempotency-Key": "k"}
    one = client.post(EXECUTE, json=ASYNC, headers=key).json
    two = client.post("/scripts/other/execute", json=ASYNC, headers=key).json
    assert one != two


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\u00fc", "a\tb"])
def test_an_idempotency_key_is_visible_ascii_of_255_at_most(client: Client, hello: Script, key: str) -> None:
    response = client.post(EXECUTE, json=ASYNC, headers={"Idempotency-Key": key})
    assert fields_of(error_of(response, 400, "VALIDATION_FAILED")) == {"Idempotency-Key"}


def test_a_run_shows_every_field(client: Client, hello: Script, services: Services, alice: Tenant) -> None:
    run = factories.finished(
        services, hello, result='{"x":1}', summary={"keys": ["x"]}, usage={"cpu_ms": 4}, log_key="logs/alice/x.log"
    )
    shown = client.get(f"/scripts/hello/runs/{run.id}").json
    assert shown is not None
    assert set(shown) == FIELDS | EXTENSIONS
    assert shown == {
        "id": run.id, "script_id": "hello", "script_uuid": hello.uuid, "workspace_id": alice.id,
        "trigger_type": "manual", "execution_mode": "async", "status": "completed", "script_version": 1,
        "caller_ip": "", "created_at": logs.timestamp(run.created_at), "started_at": logs.timestamp(run.started_at),
        "completed_at": logs.timestamp(run.completed_at), "duration_ms": 5, "error": None, "error_code": None,
        "error_stack": None, "result_summary": {"keys": ["x"]}, "logs_s3_key": "logs/alice/x.log",
        "output_s3_key": None, "waiting_reason": None, "waiting_place": None, "attempt": 1, "replay_of": None,
        "usage": {"cpu_ms": 4}, "batch_id": None, "batch_index": None,
    }  # fmt: skip
    assert client.get("/scripts/hello/runs").json == {"runs": [shown], "next_cursor": None}
    assert client.get("/runs").json == {"runs": [shown], "next_cursor": None}


def test_a_large_result_shows_where_it_is(client: Client, hello: Script, services: Services, alice: Tenant) -> None:
    run = factories.finished(services, hello, result='"' + "x" * 100_000 + '"')
    key = client.get(f"/scripts/hello/runs/{run.id}").json["output_s3_key"]  # type: ignore[index]
    assert key == f"results/{alice.id}/{run.id}/result.json"


@pytest.mark.parametrize("run_id", ["x", "%00", "A" * 36, "01a20392-c8f7-7f55-900f-0272aa5b00b3", "..", "%F0%28"])
def test_a_run_that_is_not_there_is_404(client: Client, hello: Script, run_id: str) -> None:
    for path in ("", "/logs", "/artifacts", "/logs/stream"):
        error_of(client.get(f"/scripts/hello/runs/{run_id}{path}"), 404, "NOT_FOUND")
    error_of(client.post(f"/scripts/hello/runs/{run_id}/cancel"), 404, "NOT_FOUND")


def test_a_run_of_another_script_is_404(client: Client, hello: Script, services: Services, alice: Tenant) -> None:
    run = factories.run(services, factories.script(services, alice, "other"))
    error_of(client.get(f"/scripts/hello/runs/{run.id}"), 404, "NOT_FOUND")


def test_runs_page_through_everything_once_newest_first(client: Client, hello: Script, services: Services) -> None:
    made = [factories.run(services, hello).id for _ in range(5)]
    for path in ("/scripts/hello/runs", "/runs"):
        seen: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            page = client.get(path, query_string={"page_size": 2, **({"cursor": cursor} if cursor else {})}).json
            assert page is not None
            seen += [each["id"] for each in page["runs"]]
            cursor = page["next_cursor"]
        assert seen == made[::-1]


def test_runs_that_come_meanwhile_do_not_disturb_paging(client: Client, hello: Script, services: Services) -> None:
    made = [factories.run(services, hello).id for _ in range(4)]
    first = client.get("/runs?page_size=2").json
    assert first is not None
    factories.run(services, hello)
    second = client.get(f"/runs?page_size=2&cursor={first['next_cursor']}").json
    assert second is not None
    assert [each["id"] for each in first["runs"] + second["runs"]] == made[::-1]


def test_the_workspaces_runs_can_be_filtered(client: Client, hello: Script, services: Services, alice: Tenant) -> None:
    other = factories.script(services, alice, "other")
    done = factories.finished(services, hello)
    failed = factories.finished(services, other, FAILED, error="no")
    hooked = factories.run(services, hello, trigger="http")
    api = factories.run(services, hello, trigger="api")
    scheduled = factories.run(services, other, trigger="schedule", due_at=5)
    old = factories.run(services, other, trigger="batch")
    Run.update(created_at=1_000_000_000_000).where(Run.id == old.id).execute()

    def found(**query: str) -> list[str]:
        page = client.get("/runs", query_string=query).json
        assert page is not None
        return [each["id"] for each in page["runs"]]

    assert found(script_id="hello") == [api.id, hooked.id, done.id]
    assert found(status="completed") == [done.id]
    assert found(status="failed") == [failed.id]
    assert found(status="running") == []
    assert found(status="pending") == [scheduled.id, api.id, hooked.id, old.id]
    assert found(trigger_type="http") == [api.id, hooked.id]
    assert found(trigger_type="scheduled") == [scheduled.id]
    assert found(until="2010-01-01T00:00:00Z") == [old.id]
    assert len(found(since="2010-01-01T00:00:00Z")) == 5
    assert found(script_id="other", trigger_type="batch", status="pending") == [old.id]


@pytest.mark.parametrize(
    ("name", "value"),
    [("status", "queued"), ("status", ""), ("trigger_type", "api"), ("since", "yesterday"), ("until", "2020-01-01"),
     ("since", "2020-01-01T00:00:00"), ("cursor", "xyz"), ("cursor", ""), ("cursor", "\0"), ("script_id", "\0"),
     ("page_size", "1000"),
     ("mode", "sync")],
)  # fmt: skip
def test_a_bad_filter_is_400(client: Client, name: str, value: str) -> None:
    error = error_of(client.get("/runs", query_string={name: value}), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {name}


@pytest.mark.parametrize("name", ["no-such", "X" * 63, "%F0%28"])
def test_a_filter_for_a_script_that_is_not_there_is_404(client: Client, name: str) -> None:
    error_of(client.get(f"/runs?script_id={name}"), 404, "NOT_FOUND")


def test_waiting_runs_say_what_they_wait_for(client: Client, services: Services, app: Any, alice: Tenant) -> None:
    script = factories.script(services, alice, max_concurrent_runs=1)
    first, second = factories.run(services, script), factories.run(services, script)
    page = client.get("/runs").json
    assert page is not None
    reasons = {each["id"]: each["waiting_reason"] for each in page["runs"]}
    assert reasons[first.id] == "waits for a free worker"
    assert reasons[second.id] == client.get(f"/scripts/hello/runs/{second.id}").json["waiting_reason"]  # type: ignore[index]
    assert "1 of 1" in reasons[second.id]


def test_cancelling_a_waiting_run_ends_it(client: Client, hello: Script, services: Services) -> None:
    run = factories.run(services, hello)
    response = client.post(f"/scripts/hello/runs/{run.id}/cancel")
    assert response.status_code == 202
    assert response.json == {"run_id": run.id, "status": "cancelled"}
    error_of(client.post(f"/scripts/hello/runs/{run.id}/cancel"), 409, "CONFLICT")


def test_cancelling_a_running_run_asks_its_worker(client: Client, hello: Script, services: Services) -> None:
    run = factories.claim(services, factories.run(services, hello))
    response = client.post(f"/scripts/hello/runs/{run.id}/cancel")
    assert (response.status_code, response.json) == (202, {"run_id": run.id, "status": "running"})
    assert Run.get_by_id(run.id).cancel_requested_at is not None


def test_a_sync_caller_hears_of_a_cancellation(client: Client, hello: Script, services: Services) -> None:
    def cancel() -> None:
        with services.database.connection_context():
            deadline = time.monotonic() + 10
            while (run := Run.get_or_none()) is None:
                assert time.monotonic() < deadline
            runs.cancel(services, run)

    thread = threading.Thread(target=cancel)
    thread.start()
    response = client.post(EXECUTE, json=SYNC)
    thread.join()
    assert response.status_code == 200
    assert response.json is not None
    assert response.json["status"] == "cancelled"
    assert response.json["error"]


def test_a_log_is_downloaded_from_a_url_that_is_good_for_15_minutes(
    client: Client, hello: Script, services: Services, alice: Tenant
) -> None:
    run = factories.claim(services, factories.run(services, hello))
    key = logs.put_whole(services, alice.id, run.id, b"the log\n")
    factories.finish(services, run, log_key=key)
    response = client.get(f"/scripts/hello/runs/{run.id}/logs")
    assert response.status_code == 200
    assert response.json is not None
    assert set(response.json) == {"url"}
    assert "X-Amz-Expires=900" in response.json["url"]
    downloaded = httpx.get(response.json["url"])
    assert (downloaded.status_code, downloaded.content) == (200, b"the log\n")


def test_what_a_timeout_left_in_chunks_is_joined_on_demand(client: Client, hello: Script, services: Services) -> None:
    run = factories.claim(services, factories.run(services, hello))
    factories.log(services, run, "one", number=0)
    factories.log(services, run, "two", number=1)
    factories.finish(services, run, TIMED_OUT, error="too slow", log_chunks=2)
    url = client.get(f"/scripts/hello/runs/{run.id}/logs").json["url"]  # type: ignore[index]
    text = httpx.get(url).text
    assert text.index("one") < text.index("two")
    key = client.get(f"/scripts/hello/runs/{run.id}").json["logs_s3_key"]  # type: ignore[index]
    assert key == f"logs/{run.workspace_id}/{run.id}.log"


def test_a_run_without_a_log_is_404(client: Client, hello: Script, services: Services) -> None:
    for run in (factories.run(services, hello), factories.finished(services, hello)):
        error_of(client.get(f"/scripts/hello/runs/{run.id}/logs"), 404, "NOT_FOUND")


def test_a_store_that_fails_while_joining_is_500_in_the_envelope(
    client: Client, hello: Script, services: Services, objects: S3Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = factories.finished(services, hello, TIMED_OUT, error="too slow", log_chunks=1)
    monkeypatch.setattr(services.objects, "access_key", "wrong")
    monkeypatch.setattr(services.objects, "_connected", None)
    response = client.get(f"/scripts/hello/runs/{run.id}/logs")
    error = error_of(response, 500, "INTERNAL")
    assert response.headers["X-Request-Id"] in error["message"]


def test_artifacts_are_listed_with_urls(client: Client, hello: Script, services: Services) -> None:
    run = factories.claim(services, factories.run(services, hello))
    assert client.get(f"/scripts/hello/runs/{run.id}/artifacts").json == {"artifacts": []}
    artifacts.store(services, run, 1, "report.csv", "text/csv", b"a,b\n")
    artifacts.store(services, run, 1, "a \u2603.bin", "application/octet-stream", b"\0\1")
    shown = client.get(f"/scripts/hello/runs/{run.id}/artifacts").json
    assert shown is not None
    assert [(each["name"], each["size"], each["content_type"]) for each in shown["artifacts"]] == [
        ("a \u2603.bin", 2, "application/octet-stream"), ("report.csv", 4, "text/csv"),
    ]  # fmt: skip
    downloaded = httpx.get(shown["artifacts"][1]["url"])
    assert downloaded.content == b"a,b\n"
    assert "report.csv" in downloaded.headers["Content-Disposition"]


def test_a_workspace_whose_waiting_seats_are_taken_is_429_and_runs_nothing(
    client: Client, hello: Script, services: Services, app: Any, alice: Tenant
) -> None:
    seats = app.extensions["millrace"].waiting
    for _ in range(seats.each):
        seats.take(alice.id)
    response = client.post(EXECUTE, json=SYNC)
    error_of(response, 429, "RATE_LIMITED")
    assert int(response.headers["Retry-After"]) >= 1
    assert not Run.select().exists()
    seats.leave(alice.id)
    with factories.worker(services):
        assert client.post(EXECUTE, json=SYNC).status_code == 200
    assert seats.taken == seats.each - 1


def test_two_requests_with_one_key_at_once_start_one_run(
    call_as: Any, alice: Tenant, hello: Script, services: Services
) -> None:
    answers: list[Any] = []
    barrier = threading.Barrier(4)

    def ask() -> None:
        client = call_as(alice)
        barrier.wait()
        answers.append(client.post(EXECUTE, json=ASYNC, headers={"Idempotency-Key": "k"}).json)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer["run_id"] for answer in answers}) == 1
    assert Run.select().count() == 1


def test_a_running_run_says_so(client: Client, hello: Script, services: Services) -> None:
    run = factories.claim(services, factories.run(services, hello))
    assert run.status == RUNNING
    shown = client.get(f"/scripts/hello/runs/{run.id}").json
    assert shown is not None
    assert shown["status"] == "running"
    assert shown["started_at"] is not None
    assert shown["completed_at"] is None


def test_the_whole_result_can_be_read_whatever_its_size(services: Services, client: Client, hello: Script) -> None:
    large = json.dumps(["x" * 1000] * 100)
    for text in ("null", '{"a":[1,2.50]}', large):
        run = factories.finished(services, hello, result=text)
        answer = client.get(f"/scripts/hello/runs/{run.id}/result")
        assert (answer.status_code, answer.mimetype, answer.text) == (200, "application/json", text)


def test_a_run_that_has_not_completed_has_no_result(services: Services, client: Client, hello: Script) -> None:
    for run in (factories.run(services, hello), factories.finished(services, hello, status="failed", error="no")):
        answer = client.get(f"/scripts/hello/runs/{run.id}/result")
        assert answer.status_code == 404
        assert run.id in answer.json["error"]["message"]
