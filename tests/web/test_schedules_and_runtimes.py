from datetime import UTC, datetime
from typing import Any

import pytest

from millrace import logs, schedules
from millrace.models import Firing, Run, Runtime, Schedule, Script
from millrace.services import Services
from tests import factories
from tests.web.conftest import Client, error_of, fields_of


def test_a_schedule_shows_its_next_five_due_times(client: Client) -> None:
    client.post("/scripts", json=factories.body(schedule="cron(0 12 * * ? *)", time_zone="Asia/Tokyo"))
    shown = client.get("/scripts/hello/schedule").json
    assert shown is not None
    assert set(shown) == {"expression", "time_zone", "policy", "paused_at", "next", "firings"}
    assert shown["paused_at"] is None
    assert (shown["expression"], shown["time_zone"], shown["firings"]) == ("cron(0 12 * * ? *)", "Asia/Tokyo", [])
    times = [datetime.fromisoformat(each) for each in shown["next"]]
    assert len(times) == 5
    assert all(each.hour == 3 and each.minute == 0 and each > datetime.now(UTC) for each in times)
    assert times == sorted(set(times))


def test_a_schedule_shows_what_became_of_its_due_times(client: Client, services: Services) -> None:
    client.post("/scripts", json=factories.body(schedule="rate(1 minute)"))
    due_at = services.clock() - 30_000
    Schedule.update(next_fire_at=due_at, anchor_at=due_at - 60_000).execute()
    (fired,) = schedules.fire_due(services)
    (firing,) = client.get("/scripts/hello/schedule").json["firings"]  # type: ignore[index]
    assert firing["run_id"] == fired.run_id
    assert (firing["outcome"], firing["reason"]) == ("ran", None)
    assert 30_000 <= firing["late_ms"] < 60_000
    run = client.get(f"/scripts/hello/runs/{fired.run_id}").json
    assert run is not None
    assert (run["trigger_type"], run["execution_mode"]) == ("scheduled", "async")


def test_a_skipped_due_time_says_why(client: Client, services: Services) -> None:
    client.post("/scripts", json=factories.body(schedule="rate(1 minute)"))
    client.put("/scripts/hello", json={"status": "inactive"})
    due_at = services.clock() - 1000
    Schedule.update(next_fire_at=due_at, anchor_at=due_at - 60_000).execute()
    schedules.fire_due(services)
    (firing,) = client.get("/scripts/hello/schedule").json["firings"]  # type: ignore[index]
    assert (firing["outcome"], firing["run_id"]) == ("skipped", None)
    assert "paused" in firing["reason"]


def test_a_script_without_a_schedule_is_404_there(client: Client, hello: Script) -> None:
    error_of(client.get("/scripts/hello/schedule"), 404, "NOT_FOUND")


def test_a_time_zone_moves_the_schedule_that_is_there(client: Client) -> None:
    client.post("/scripts", json=factories.body(schedule="daily"))
    changed = client.put("/scripts/hello", json={"time_zone": "Asia/Tokyo"}).json
    assert changed is not None
    assert (changed["schedule"], changed["time_zone"]) == ("daily", "Asia/Tokyo")
    assert "T15:00" in client.get("/scripts/hello/schedule").json["next"][0]  # type: ignore[index]


# Policy


def test_a_policy_is_set_with_the_script_and_shown_with_it(client: Client) -> None:
    policy = {"overlap": "skip", "catch_up": "all", "catch_up_minutes": 90}
    made = client.post("/scripts", json=factories.body(schedule="daily", schedule_policy=policy)).json
    assert made is not None and made["schedule_policy"] == policy
    changed = client.put("/scripts/hello", json={"schedule_policy": {"overlap": "queue"}}).json
    assert changed is not None and changed["schedule_policy"] == {**policy, "overlap": "queue"}
    assert client.get("/scripts/hello").json == changed
    assert client.get("/scripts/hello/schedule").json["policy"] == changed["schedule_policy"]  # type: ignore[index]


def test_a_schedule_has_a_policy_unless_said(client: Client) -> None:
    made = client.post("/scripts", json=factories.body(schedule="daily")).json
    assert made is not None
    assert made["schedule_policy"] == {"overlap": "allow", "catch_up": "last", "catch_up_minutes": 1440}
    removed = client.put("/scripts/hello", json={"schedule": None}).json
    assert removed is not None and removed["schedule_policy"] is None


def test_a_policy_without_a_schedule_is_400(client: Client) -> None:
    policy = {"overlap": "skip"}
    for sent in ({"schedule_policy": policy}, {"schedule_policy": policy, "schedule": ""}):
        refused = error_of(client.post("/scripts", json=factories.body(**sent)), 400, "VALIDATION_FAILED")
        assert fields_of(refused) == {"schedule_policy"}
    client.post("/scripts", json=factories.body())
    refused = error_of(client.put("/scripts/hello", json={"schedule_policy": policy}), 400, "VALIDATION_FAILED")
    assert fields_of(refused) == {"schedule_policy"}


@pytest.mark.parametrize(("policy", "field"), [
    ({"overlap": "forbid"}, "schedule_policy.overlap"), ({"catch_up": 1}, "schedule_policy.catch_up"),
    ({"catch_up_minutes": 0}, "schedule_policy.catch_up_minutes"), ({"window": 5}, "schedule_policy.window"),
    ({"catch_up_minutes": 44_641}, "schedule_policy.catch_up_minutes"), ("skip", "schedule_policy"),
])
def test_a_wrong_policy_is_400_and_names_the_field(client: Client, policy: Any, field: str) -> None:
    answer = client.post("/scripts", json=factories.body(schedule="daily", schedule_policy=policy))
    assert fields_of(error_of(answer, 400, "VALIDATION_FAILED")) == {field}


def test_limit_says_how_many_due_times_are_shown(client: Client, services: Services) -> None:
    client.post("/scripts", json=factories.body(schedule="rate(1 minute)"))
    begin = services.clock() - 150 * 60_000 - 1_000
    Schedule.update(next_fire_at=begin + 60_000, anchor_at=begin).execute()
    schedules.fire_due(services)
    shown = {}
    for query, count in (("", 20), ("?limit=1", 1), ("?limit=100", 100)):
        shown[query] = client.get(f"/scripts/hello/schedule{query}").json["firings"]  # type: ignore[index]
        assert len(shown[query]) == count
    assert shown[""][0] == shown["?limit=1"][0] and shown[""][0]["outcome"] == "ran"
    for query in ("?limit=0", "?limit=101", "?limit=x"):
        error_of(client.get(f"/scripts/hello/schedule{query}"), 400, "VALIDATION_FAILED")


# Pause, resume and backfill


def test_every_due_time_can_be_listed_page_by_page(
    client: Client, services: Services, hello: Script, stranger: Client
) -> None:
    client.put("/scripts/hello", json={"schedule": "rate(1 minute)"})
    now = services.clock()
    for number in range(5):
        outcome = "ran" if number % 2 else "skipped"
        Firing.create(script=hello.uuid, due_at=now - number * 60_000, fired_at=now, outcome=outcome)
    client.put("/scripts/hello", json={"schedule": None})  # the records stay
    seen, cursor = [], ""
    while True:
        page = client.get(f"/scripts/hello/schedule/firings?page_size=2{cursor}").json
        assert page is not None and len(page["firings"]) <= 2
        seen += [each["due_at"] for each in page["firings"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [logs.timestamp(now - number * 60_000) for number in range(5)]
    ran = client.get("/scripts/hello/schedule/firings?outcome=ran").json
    assert ran is not None and [each["late_ms"] for each in ran["firings"]] == [60_000, 180_000]
    error_of(client.get("/scripts/hello/schedule/firings?outcome=late"), 400, "VALIDATION_FAILED")
    error_of(client.get("/scripts/hello/schedule/firings?cursor=x"), 400, "VALIDATION_FAILED")
    error_of(stranger.get("/scripts/hello/schedule/firings"), 404, "NOT_FOUND")


def test_pausing_and_resuming_answer_with_the_schedule(client: Client, services: Services) -> None:
    client.post("/scripts", json=factories.body(schedule="hourly"))
    before = services.clock()
    paused = client.post("/scripts/hello/schedule/pause")
    assert paused.status_code == 200 and paused.json is not None
    assert paused.json["next"] == [] and paused.json["paused_at"] >= logs.timestamp(before)
    assert client.get("/scripts/hello/schedule").json == paused.json
    resumed = client.post("/scripts/hello/schedule/resume")
    assert resumed.status_code == 200 and resumed.json is not None
    assert resumed.json["paused_at"] is None and len(resumed.json["next"]) == 5


def test_a_backfill_answers_with_the_runs_that_it_started(client: Client, services: Services) -> None:
    client.post("/scripts", json=factories.body(schedule="cron(0 12 * * ? *)"))
    wanted = {"from": "2026-01-01T12:00:00+00:00", "until": "2026-01-03T14:00:00+01:00"}
    answer = client.post("/scripts/hello/schedule/backfill", json=wanted)
    assert answer.status_code == 202 and answer.json is not None
    assert answer.json == {"runs": [run.id for run in Run.select().order_by(Run.due_at)], "count": 3}
    firings = client.get("/scripts/hello/schedule").json["firings"]  # type: ignore[index]
    assert [each["run_id"] for each in reversed(firings)] == answer.json["runs"]
    assert {(each["outcome"], each["reason"]) for each in firings} == {("ran", "backfilled")}
    assert firings[0]["due_at"] == "2026-01-03T12:00:00.000Z" and firings[0]["late_ms"] > 0
    assert client.post("/scripts/hello/schedule/backfill", json=wanted).json == {"runs": [], "count": 0}


@pytest.mark.parametrize(("since", "until", "field"), [
    ("2026-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "until"), ("2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z", "from"),
    ("2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "until"), ("2026-01-01", "2026-01-02T00:00:00Z", "from"),
    ("2026-01-01T00:00:00", "2026-01-02T00:00:00Z", "from"), ("0001-01-01T00:00:00+14:00", "2026-01-02T00:00:00Z", ""),
])
def test_a_stretch_that_breaks_a_rule_is_400_and_names_the_field(
    client: Client, since: str, until: str, field: str
) -> None:
    client.post("/scripts", json=factories.body(schedule="daily"))
    answer = client.post("/scripts/hello/schedule/backfill", json={"from": since, "until": until})
    assert fields_of(error_of(answer, 400, "VALIDATION_FAILED")) == {field or "until"}
    assert Run.select().count() == 0


def test_a_backfill_of_an_inactive_script_is_422(client: Client) -> None:
    client.post("/scripts", json=factories.body(schedule="daily"))
    client.put("/scripts/hello", json={"status": "inactive"})
    wanted = {"from": "2026-01-01T00:00:00Z", "until": "2026-01-03T00:00:00Z"}
    error_of(client.post("/scripts/hello/schedule/backfill", json=wanted), 422, "BUSINESS_RULE_VIOLATION")


def test_without_a_schedule_there_is_nothing_to_pause_resume_or_backfill(client: Client, hello: Script) -> None:
    wanted = {"from": "2026-01-01T00:00:00Z", "until": "2026-01-03T00:00:00Z"}
    for verb, body in (("pause", None), ("resume", None), ("backfill", wanted)):
        error_of(client.post(f"/scripts/hello/schedule/{verb}", json=body), 404, "NOT_FOUND")


# Runtimes


def test_runtimes_are_a_bare_list(client: Client) -> None:
    libraries = [{"name": "axios", "version": "1.7.9"}, {"name": "lodash", "version": "4.17.21"}]
    assert client.get("/runtimes").json == [{"name": "nodejs20", "version": "20.20.2", "libraries": libraries}]
    assert client.get("/runtimes/nodejs20/libraries").json == libraries


def test_libraries_of_an_unknown_runtime_are_404(client: Client) -> None:
    for name in ("python3.12", "%00", "x" * 500):
        error_of(client.get(f"/runtimes/{name}/libraries"), 404, "NOT_FOUND")


def test_without_a_worker_there_are_no_runtimes(client: Client) -> None:
    Runtime.delete().execute()
    assert client.get("/runtimes").json == []
