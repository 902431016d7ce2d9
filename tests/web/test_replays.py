"""Retry policies, attempts, replays, dead letters, and what an async execution may ask for."""

from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

from millrace import logs, runs
from millrace.models import Run, Script
from millrace.models.run import FAILED
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.conftest import Client, error_of

RETRY = {"count": 1, "delay_seconds": 0, "jitter": False}


@pytest.fixture
def hello(services: Services, alice: Tenant) -> Script:
    return factories.script(services, alice, retry=RETRY)


def failed(services: Services, run: Run, attempt: int, text: str) -> Run:
    """One try that logs a line and fails."""
    factories.claim(services, run, attempt)
    part = logs.part_of(run.id, Run.get_by_id(run.id).tries)
    record = logs.format_record(1_700_000_000_000, "INFO", text).encode()
    key = logs.put_whole(services, run.workspace_id, run.id, record, part)
    return factories.finish(services, run, FAILED, attempt=attempt, error=f"Error: {text}", error_code="SCRIPT_ERROR",
                            log_key=key)  # fmt: skip


def given_up(services: Services, script: Script, payload: Any = None) -> Run:
    """A run that has failed as often as its script's policy lets it."""
    run = failed(services, factories.run(services, script, payload), 1, "first")
    runs.release_due(services)
    return failed(services, run, 2, "second")


def test_a_policy_is_stored_whole_and_shown(client: Client, services: Services) -> None:
    made = client.post("/scripts", json=factories.body("tries", retry={"count": 3, "on": ["timed_out", "AxiosError"]}))
    expected = {"count": 3, "delay_seconds": 2, "factor": 2, "max_delay_seconds": 600, "jitter": True,
                "on": ["timed_out", "AxiosError"]}  # fmt: skip
    assert (made.status_code, made.json["retry"]) == (201, expected)  # type: ignore[index]
    assert client.put("/scripts/tries", json={"memory_mb": 512}).json["retry"] == expected  # type: ignore[index]
    assert client.put("/scripts/tries", json={"retry": None}).json["retry"] is None  # type: ignore[index]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retry", {}), ("retry", {"count": 0}), ("retry", {"count": 21}), ("retry", {"count": "1"}),
        ("retry", {"count": 1, "on": []}), ("retry", {"count": 1, "on": [5]}), ("retry", {"count": 1, "jitter": "no"}),
        ("retry", {"count": 1, "more": 1}), ("retry", []), ("retry", {"count": 1, "delay_seconds": -1}),
        ("concurrency", {"key": ""}), ("concurrency", {"key": "a..b"}), ("concurrency", {"key": "a", "limit": 0}),
        ("concurrency", {"limit": 1}), ("concurrency", "a"), ("concurrency", {"key": "a\u0000"}),
    ],
)  # fmt: skip
def test_a_policy_that_breaks_a_rule_is_400_and_makes_nothing(
    client: Client, field: str, value: Any
) -> None:
    error = error_of(client.post("/scripts", json=factories.body("tries", **{field: value})), 400, "VALIDATION_FAILED")
    assert all(each["field"].startswith(field) for each in error["details"])
    assert Script.select().count() == 0


def test_each_attempt_has_its_record_and_its_log(client: Client, services: Services, hello: Script) -> None:
    run = given_up(services, hello)
    attempts = client.get(f"/scripts/hello/runs/{run.id}/attempts").json["attempts"]  # type: ignore[index]
    assert [(each["number"], each["status"], each["error"]) for each in attempts] == [
        (1, "failed", "Error: first"), (2, "failed", "Error: second")
    ]  # fmt: skip
    keys = [each["log_url"].split("?")[0] for each in attempts]
    assert keys[0].endswith(f"/logs/alice/{run.id}.log") and keys[1].endswith(f"/{run.id}/try-2.log")
    records = [record.text for record in logs.tail(services, run.id, 1) if record is not None]
    assert records == ["first", "second"]
    shown = client.get(f"/scripts/hello/runs/{run.id}").json
    assert shown is not None
    assert (shown["attempt"], shown["logs_s3_key"]) == (2, f"logs/alice/{run.id}/try-2.log")


def test_a_run_that_waits_for_its_next_try_shows_what_it_has_behind_it(
    client: Client, services: Services, alice: Tenant
) -> None:
    script = factories.script(services, alice, "slow", retry={"count": 1, "delay_seconds": 3600, "jitter": False})
    run = failed(services, factories.run(services, script), 1, "first")
    shown = client.get(f"/scripts/slow/runs/{run.id}").json
    assert shown is not None
    assert (shown["status"], shown["error"], shown["completed_at"]) == ("pending", None, None)
    assert "it is tried again then" in shown["waiting_reason"]
    attempts = client.get(f"/scripts/slow/runs/{run.id}/attempts").json["attempts"]  # type: ignore[index]
    assert [each["number"] for each in attempts] == [1]


def test_a_run_is_replayed_with_its_input(client: Client, services: Services, hello: Script) -> None:
    run = factories.run(services, hello, {"n": 1})
    error_of(client.post(f"/scripts/hello/runs/{run.id}/replay"), 409, "CONFLICT")
    factories.finish(services, factories.claim(services, run))
    client.put("/scripts/hello", json=factories.upload("exports.handler = () => 2\n"))
    for query, version in (("", 2), ("?version=same", 1), ("?version=current", 2)):
        answer = client.post(f"/scripts/hello/runs/{run.id}/replay{query}")
        assert answer.status_code == 202
        again = client.get(f"/scripts/hello/runs/{answer.json['run_id']}").json  # type: ignore[index]
        assert again is not None
        assert (again["replay_of"], again["script_version"], again["status"]) == (run.id, version, "pending")
    error_of(client.post(f"/scripts/hello/runs/{run.id}/replay?version=1"), 400, "VALIDATION_FAILED")


def test_many_runs_are_replayed_by_filter(client: Client, services: Services, hello: Script) -> None:
    ended = [given_up(services, hello, {"n": number}) for number in range(3)]
    factories.finished(services, hello)
    answer = client.post("/runs/replay", json={"script_id": "hello", "status": "failed", "limit": 2})
    assert answer.status_code == 202
    again = [Run.get_by_id(each) for each in answer.json["run_ids"]]  # type: ignore[index]
    assert [each.replay_of for each in again] == [each.id for each in ended[:2]]
    since = datetime.now(UTC).isoformat()
    assert client.post("/runs/replay", json={"since": since}).json == {"run_ids": [], "stopped": None}
    for body in ({"status": "pending"}, {"limit": 0}, {"limit": 1001}, {"x": 1}, []):
        error_of(client.post("/runs/replay", json=body), 400, "VALIDATION_FAILED")
    error_of(client.post("/runs/replay", json={"script_id": "nobody"}), 404, "NOT_FOUND")


def test_a_dead_letter_is_listed_and_sent_again_once(
    client: Client, services: Services, hello: Script
) -> None:
    run = given_up(services, hello, {"n": 7})
    (letter,) = client.get("/dead-letters?state=open").json["dead_letters"]  # type: ignore[index]
    assert (letter["run_id"], letter["script_id"], letter["error"]) == (run.id, "hello", "Error: second")
    assert letter["reason"] == "It failed 2 times."
    answer = client.post(f"/dead-letters/{letter['id']}/redrive")
    assert answer.status_code == 202
    assert Run.get_by_id(answer.json["run_id"]).payload == '{"n":7}'  # type: ignore[index]
    error_of(client.post(f"/dead-letters/{letter['id']}/redrive"), 409, "CONFLICT")
    assert client.get("/dead-letters?state=open").json["dead_letters"] == []  # type: ignore[index]
    (letter,) = client.get("/dead-letters?state=redriven").json["dead_letters"]  # type: ignore[index]
    assert letter["redriven_run_id"] == answer.json["run_id"]  # type: ignore[index]


def test_an_inactive_script_keeps_its_dead_letter(
    client: Client, services: Services, hello: Script
) -> None:
    given_up(services, hello)
    client.put("/scripts/hello", json={"status": "inactive"})
    (letter,) = client.get("/dead-letters").json["dead_letters"]  # type: ignore[index]
    error_of(client.post(f"/dead-letters/{letter['id']}/redrive"), 422, "BUSINESS_RULE_VIOLATION")
    assert len(client.get("/dead-letters?state=open").json["dead_letters"]) == 1  # type: ignore[index]


def test_dead_letters_come_in_pages(client: Client, services: Services, hello: Script) -> None:
    ended = [given_up(services, hello).id for _ in range(5)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = client.get(f"/dead-letters?page_size=2{cursor}").json
        assert page is not None
        seen += [each["run_id"] for each in page["dead_letters"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert sorted(seen) == sorted(ended)


def test_what_is_anothers_is_not_there(
    client: Client, stranger: Client, services: Services, hello: Script
) -> None:
    run = given_up(services, hello)
    (letter,) = client.get("/dead-letters").json["dead_letters"]  # type: ignore[index]
    assert stranger.get("/dead-letters").json == {"dead_letters": [], "next_cursor": None}
    for method, path in (
        ("post", f"/dead-letters/{letter['id']}/redrive"), ("post", f"/scripts/hello/runs/{run.id}/replay"),
        ("get", f"/scripts/hello/runs/{run.id}/attempts"), ("post", "/dead-letters/nothing/redrive"),
        ("post", "/dead-letters/%00/redrive"), ("post", f"/dead-letters/{'x' * 5000}/redrive"),
    ):  # fmt: skip
        error_of(getattr(stranger, method)(path), 404, "NOT_FOUND")
    assert stranger.post("/runs/replay", json={}).json == {"run_ids": [], "stopped": None}
    error_of(stranger.post("/runs/replay", json={"script_id": "hello"}), 404, "NOT_FOUND")


# An async execution


def execute(client: FlaskClient, **fields: Any) -> Any:
    return client.post("/scripts/hello/execute", json={"mode": "async", "trigger_type": "http", **fields})


def test_a_burst_of_calls_with_one_key_is_one_run(client: Client, hello: Script) -> None:
    answers = [execute(client, payload={"n": n}, debounce={"key": "k", "seconds": 60}) for n in range(3)]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json["run_id"] for answer in answers}) == 1
    assert Run.get().payload == '{"n":2}'
    assert "not before" in client.get("/runs").json["runs"][0]["waiting_reason"]  # type: ignore[index]
    other = execute(client, debounce={"key": "other", "seconds": 60})
    assert other.json["run_id"] != answers[0].json["run_id"]


def test_a_run_that_may_not_start_late_ends_by_itself(client: Client, services: Services, hello: Script) -> None:
    run_id = execute(client, expires_after=1, run_at="2020-01-01T00:00:00Z").json["run_id"]
    Run.update(expires_at=1).execute()
    runs.expire(services)
    shown = client.get(f"/scripts/hello/runs/{run_id}").json
    assert shown is not None
    assert (shown["status"], shown["error_code"]) == ("cancelled", "EXPIRED")


def test_a_run_that_waits_says_why_and_where(client: Client, services: Services, alice: Tenant) -> None:
    factories.script(services, alice, "hello", max_concurrent_runs=1)
    ids = [execute(client, priority=priority).json["run_id"] for priority in (0, 0, 100)]
    shown = [client.get(f"/scripts/hello/runs/{each}").json for each in ids]
    assert [(each["waiting_place"], each["waiting_reason"]) for each in shown] == [  # type: ignore[index]
        (None, "waits for a free worker"), (2, "1 of 1 running for this script"), (1, "1 of 1 running for this script"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": 1.5}, {"priority": 86_401}, {"priority": "1"}, {"expires_after": 0}, {"expires_after": None},
        {"debounce": {}}, {"debounce": {"key": "k"}}, {"debounce": {"key": "", "seconds": 1}}, {"debounce": "k"},
        {"debounce": {"key": "k", "seconds": 3601}}, {"debounce": {"key": "k", "seconds": 1}, "delay_seconds": 1},
        {"mode": "sync", "priority": 1}, {"mode": "sync", "expires_after": 1},
        {"mode": "sync", "debounce": {"key": "k", "seconds": 1}},
    ],
)  # fmt: skip
def test_a_wish_that_breaks_a_rule_is_400_and_runs_nothing(
    client: Client, hello: Script, fields: dict[str, Any]
) -> None:
    error_of(execute(client, **fields), 400, "VALIDATION_FAILED")
    assert Run.select().count() == 0
