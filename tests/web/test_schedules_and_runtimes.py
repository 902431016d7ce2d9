from datetime import UTC, datetime

from millrace import schedules
from millrace.models import Runtime, Schedule, Script
from millrace.services import Services
from tests import factories
from tests.web.conftest import Client, error_of


def test_a_schedule_shows_its_next_five_due_times(client: Client) -> None:
    client.post("/scripts", json=factories.body(schedule="cron(0 12 * * ? *)", time_zone="Asia/Tokyo"))
    shown = client.get("/scripts/hello/schedule").json
    assert shown is not None
    assert set(shown) == {"expression", "time_zone", "next", "firings"}
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
    assert "inactive" in firing["reason"]


def test_a_script_without_a_schedule_is_404_there(client: Client, hello: Script) -> None:
    error_of(client.get("/scripts/hello/schedule"), 404, "NOT_FOUND")


def test_a_time_zone_moves_the_schedule_that_is_there(client: Client) -> None:
    client.post("/scripts", json=factories.body(schedule="daily"))
    changed = client.put("/scripts/hello", json={"time_zone": "Asia/Tokyo"}).json
    assert changed is not None
    assert (changed["schedule"], changed["time_zone"]) == ("daily", "Asia/Tokyo")
    assert "T15:00" in client.get("/scripts/hello/schedule").json["next"][0]  # type: ignore[index]


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
