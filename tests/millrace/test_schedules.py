"""Schedules: setting them, and turning due times into runs."""

import itertools
import logging
import threading
from typing import Any

import peewee
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import cron, removal, runs, schedules, scripts
from millrace.database import transaction
from millrace.errors import Invalid
from millrace.models import Firing, Run, Schedule, Workspace
from millrace.services import Services
from tests import world
from tests.world import Clock, at_once, sent

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOON = 1_800_014_400_000  # 2027-01-15T12:00:00Z


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


def due_times() -> list[int]:
    return [run.due_at for run in Run.select().order_by(Run.due_at)]


def test_a_schedule_fires_at_its_due_time_and_not_before(memory: Services, clock: Clock) -> None:
    script = world.script(memory, schedule="cron(30 12 * * ? *)")
    assert schedules.next_due() == NOON + 30 * MINUTE
    clock.forward(ms=30 * MINUTE - 1)
    assert schedules.fire_due(memory) == []
    clock.forward(ms=1)
    fired = schedules.fire_due(memory)
    assert [(each.script, each.due_at, each.outcome) for each in fired] == [(script.uuid, clock.now, "ran")]
    run = Run.get()
    assert (run.id, run.trigger, run.due_at, run.payload) == (fired[0].run_id, "schedule", clock.now, "{}")
    assert sent(memory) == [(run.id, 1)]
    assert schedules.fire_due(memory) == []
    assert schedules.next_due() == NOON + DAY + 30 * MINUTE
    record = Firing.get()
    assert (record.due_at, record.fired_at, record.outcome, record.reason) == (clock.now, clock.now, "ran", None)


def test_a_rate_counts_from_when_it_was_set(memory: Services, clock: Clock) -> None:
    clock.forward(ms=12_345)
    script = world.script(memory, schedule="rate(5 minutes)")
    schedule = schedules.of(script)
    assert schedule is not None
    assert schedules.upcoming(schedule, clock.now, 2) == [clock.now + 5 * MINUTE, clock.now + 10 * MINUTE]


def test_the_same_schedule_again_does_not_start_a_rate_anew(memory: Services, clock: Clock) -> None:
    script = world.script(memory, schedule="rate(1 hour)")
    clock.forward(ms=30 * MINUTE)
    scripts.update(memory, script, scripts.Change(schedule="rate(1 hour)"))
    assert schedules.next_due() == NOON + HOUR
    scripts.update(memory, script, scripts.Change(schedule="rate(2 hours)"))
    assert schedules.next_due() == NOON + 30 * MINUTE + 2 * HOUR


def test_a_schedule_can_be_changed_moved_and_removed(memory: Services) -> None:
    script = world.script(memory, schedule="cron(0 13 * * ? *)")
    script = scripts.update(memory, script, scripts.Change(time_zone="Europe/Berlin"))
    assert schedules.next_due() == NOON + DAY  # 13:00 in Berlin is 12:00 UTC, and that is now
    script = scripts.update(memory, script, scripts.Change(schedule="hourly"))
    schedule = schedules.of(script)
    assert schedule is not None and (schedule.time_zone, schedule.next_fire_at) == ("Europe/Berlin", NOON + HOUR)
    script = scripts.update(memory, script, scripts.Change(schedule=""))
    assert schedules.of(script) is None and schedules.next_due() is None
    with pytest.raises(Invalid, match="without a schedule"):
        scripts.update(memory, script, scripts.Change(time_zone="UTC"))


@pytest.mark.parametrize(("expression", "zone"), [
    ("every day", None), ("cron(0 12 * * * *)", None), ("rate(0 minutes)", None), ("daily", "Mars/Olympus"),
])
def test_a_wrong_schedule_makes_no_script(memory: Services, expression: str, zone: str | None) -> None:
    with pytest.raises(Invalid):
        world.script(memory, schedule=expression, time_zone=zone)
    assert Schedule.select().count() == 0


@pytest.mark.parametrize("schedulers", [4])
def test_however_many_schedulers_run_a_due_time_fires_once(
    memory: Services, clock: Clock, schedulers: int
) -> None:
    made = [world.script(memory, f"script-{number}", schedule="rate(1 minute)") for number in range(5)]
    for _ in range(3):
        clock.forward(ms=MINUTE)
        answers = at_once(memory.database, *[lambda: schedules.fire_due(memory)] * schedulers)
        fired = list(itertools.chain(*answers))
        assert sorted(each.script for each in fired) == sorted(script.uuid for script in made)
        assert len(sent(memory)) == len(made)
    assert Run.select().count() == Firing.select().count() == 3 * len(made)


# After a time without a scheduler; see test_schedule_policies.py for more


def test_after_a_pause_the_latest_due_time_fires_late_and_once(memory: Services, clock: Clock) -> None:
    script = world.script(memory, schedule="rate(10 minutes)")
    clock.forward(ms=3 * DAY + 5 * MINUTE)
    fired = schedules.fire_due(memory)
    assert [each.due_at for each in fired if each.outcome == "ran"] == due_times() == [NOON + 3 * DAY]
    record = schedules.firings(script, 1)[0][0]
    assert record.fired_at - record.due_at == 5 * MINUTE
    assert record.reason is None
    assert schedules.next_due() == NOON + 3 * DAY + 10 * MINUTE
    assert schedules.fire_due(memory) == []


@pytest.mark.parametrize(("expression", "pause"), [
    ("rate(7 minutes)", 6 * MINUTE), ("rate(7 minutes)", 7 * MINUTE), ("rate(7 minutes)", 9 * DAY),
    ("rate(1 day)", 800 * DAY), ("hourly", 40 * DAY), ("weekly", 800 * DAY), ("cron(59 23 31 12 ? *)", 800 * DAY),
    ("cron(0/15 9-17 ? * MON-FRI *)", 40 * DAY), ("cron(0/15 9-17 ? * MON-FRI *)", DAY), ("cron(0 0 29 2 ? *)", DAY),
    ("cron(30 1-2 * 3,11 ? *)", 800 * DAY),
])
def test_the_latest_due_time_is_the_one_that_a_count_finds(
    memory: Services, clock: Clock, expression: str, pause: int
) -> None:
    zone = "America/New_York"
    world.script(memory, schedule=expression, time_zone=zone)
    clock.forward(ms=pause)
    every = cron.upcoming(cron.parse(expression), zone, after_ms=NOON, anchor_ms=NOON, count=3_000)
    assert every[-1] > clock.now
    schedules.fire_due(memory)
    assert due_times() == [due for due in every if due <= clock.now][-1:]


def test_a_schedule_that_is_over_fires_no_more(memory: Services, clock: Clock) -> None:
    world.script(memory, schedule="cron(0 13 15 1 ? 2027)")
    clock.forward(ms=2 * HOUR)
    assert len(schedules.fire_due(memory)) == 1
    assert schedules.next_due() is None
    clock.forward(ms=1000 * DAY)
    assert schedules.fire_due(memory) == []


# What must not stop the others


def test_an_inactive_script_skips_its_due_times_with_a_reason(memory: Services, clock: Clock) -> None:
    script = world.script(memory, schedule="rate(1 minute)")
    script = scripts.update(memory, script, scripts.Change(columns={"status": "paused"}))
    clock.forward(ms=MINUTE)
    assert [each.outcome for each in schedules.fire_due(memory)] == ["skipped"]
    scripts.update(memory, script, scripts.Change(columns={"status": "active"}))
    clock.forward(ms=MINUTE)
    assert [each.outcome for each in schedules.fire_due(memory)] == ["ran"]
    newest, oldest = schedules.firings(script, 10)[0]
    assert (newest.outcome, oldest.outcome) == ("ran", "skipped")
    assert oldest.reason == "Script 'hello' is paused; only an active script can run."
    assert due_times() == [NOON + 2 * MINUTE]


def test_a_suspended_workspace_skips_only_its_own(memory: Services, clock: Clock) -> None:
    world.script(memory, schedule="rate(1 minute)")
    other = world.script(memory, owner=world.OTHER, schedule="rate(1 minute)")
    Workspace.update(status="suspended").where(Workspace.id == world.ACME).execute()
    clock.forward(ms=MINUTE)
    assert {each.script: each.outcome for each in schedules.fire_due(memory)}[other.uuid] == "ran"
    assert Run.select().count() == 1


def test_a_schedule_that_no_longer_parses_stops_alone(
    memory: Services, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broken, good = world.script(memory, "broken", schedule="rate(1 minute)"), None
    Schedule.update(expression="rate(of fire)", next_fire_at=NOON).execute()
    good = world.script(memory, "good", schedule="rate(1 minute)")
    clock.forward(ms=MINUTE)
    with caplog.at_level(logging.ERROR):
        fired = {each.script: each.outcome for each in schedules.fire_due(memory)}
    assert fired == {broken.uuid: "skipped", good.uuid: "ran"}
    assert "no longer valid" in caplog.text
    stopped = schedules.of(broken)
    assert stopped is not None and stopped.next_fire_at is None
    scripts.update(memory, broken, scripts.Change(schedule="rate(1 minute)"))
    clock.forward(ms=MINUTE)
    assert {each.outcome for each in schedules.fire_due(memory)} == {"ran"}


def test_a_fault_of_ours_in_one_schedule_waits_a_minute_and_stops_nobody(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unlucky = world.script(memory, "unlucky", schedule="rate(1 minute)")
    lucky = world.script(memory, "lucky", schedule="rate(1 minute)")
    submit = schedules.runs.submit

    def fail(services: Services, order: schedules.runs.Order, because: object) -> object:
        if order.script == unlucky.uuid:
            raise ZeroDivisionError
        return submit(services, order, because)  # type: ignore[arg-type]

    clock.forward(ms=MINUTE)
    with monkeypatch.context() as patched:
        patched.setattr(schedules.runs, "submit", fail)
        fired = {each.script: each.outcome for each in schedules.fire_due(memory)}
    assert fired == {unlucky.uuid: "skipped", lucky.uuid: "ran"}
    assert "ZeroDivisionError" in caplog.text
    clock.forward(ms=schedules.RETRY_MS)
    assert {each.script: each.outcome for each in schedules.fire_due(memory)} == {
        unlucky.uuid: "ran", lucky.uuid: "ran",
    }


def test_a_database_that_is_away_is_told_to_the_caller(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.script(memory, schedule="rate(1 minute)")
    clock.forward(ms=MINUTE)

    def away(*_: object) -> None:
        raise peewee.OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patched:
        patched.setattr(schedules.runs, "submit", away)
        with pytest.raises(peewee.OperationalError):
            schedules.fire_due(memory)
    assert [each.outcome for each in schedules.fire_due(memory)] == ["ran"]


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_skipping_and_changing_a_schedule_at_once_do_not_wait_for_each_other(memory: Services, clock: Clock) -> None:
    script = world.script(memory, schedule="rate(1 minute)")
    Schedule.update(expression="damaged").execute()
    clock.forward(ms=MINUTE)
    answers: list[object] = []

    def fire() -> None:
        with memory.database.connection_context():
            try:
                answers.extend(schedules.fire_due(memory))
            except peewee.OperationalError as error:
                answers.append(error)

    def waits() -> int:
        return int(memory.database.execute_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0])

    firing = threading.Thread(target=fire)
    with transaction():
        runs.lock_script(script.uuid)
        firing.start()
        world.until(waits)
        Schedule.update(next_fire_at=clock.now + MINUTE).execute()
    firing.join(20)
    assert answers == []  # the change was first, and nothing is due any more


def test_a_script_that_goes_while_its_schedule_is_skipped_is_no_fault(memory: Services, clock: Clock) -> None:
    script = world.script(memory, schedule="rate(1 minute)")
    schedule = schedules.of(script)
    assert schedule is not None
    removal.delete(memory, script)
    assert schedules._skip(schedule, schedule.next_fire_at, "late", None, clock.now) == ()


# A clock that jumps


def test_a_clock_set_back_fires_nothing_twice_and_loses_nothing(memory: Services, clock: Clock) -> None:
    world.script(memory, schedule="rate(10 minutes)")
    for _ in range(3):
        clock.forward(ms=10 * MINUTE)
        schedules.fire_due(memory)
    assert len(due_times()) == 3
    clock.forward(ms=-25 * MINUTE)
    assert schedules.realign(memory) == 1
    for _ in range(5):
        clock.forward(ms=10 * MINUTE)
        schedules.fire_due(memory)
        assert schedules.next_due() is not None
    assert due_times() == [NOON + number * 10 * MINUTE for number in (1, 2, 3, 4, 5)]


def test_a_clock_that_was_a_year_ahead_leaves_no_schedule_asleep(memory: Services, clock: Clock) -> None:
    world.script(memory, "cron-one", schedule="hourly")
    clock.forward(ms=365 * DAY)
    world.script(memory, "rate-one", schedule="rate(1 hour)")
    schedules.fire_due(memory)
    clock.forward(ms=-365 * DAY)
    assert schedules.realign(memory) == 2
    clock.forward(ms=HOUR)
    assert len(schedules.fire_due(memory)) == 2


def test_nothing_is_realigned_while_the_clock_goes_right(memory: Services, clock: Clock) -> None:
    for number, expression in enumerate(("hourly", "rate(3 minutes)", "weekly", "cron(0 0 29 2 ? *)")):
        world.script(memory, f"script-{number}", schedule=expression)
    for _ in range(10):
        clock.forward(ms=MINUTE + 17)
        schedules.fire_due(memory)
        assert schedules.realign(memory) == 0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.integers(-30 * MINUTE, 90 * MINUTE), max_size=15))
def test_whatever_the_clock_does_no_due_time_has_two_runs_and_none_lies_ahead(
    memory: Services, clock: Clock, steps: list[int]
) -> None:
    clock.now = NOON
    script = world.script(memory, f"s-{memory.new_id()}", schedule="rate(10 minutes)")
    latest = clock.now
    for step in steps:
        clock.forward(ms=step)
        latest = max(latest, clock.now)
        if step < 0:
            schedules.realign(memory)
        schedules.fire_due(memory)
        schedule = schedules.of(script)
        assert schedule is not None and 0 < schedule.next_fire_at - clock.now <= 10 * MINUTE
    ran = [run.due_at for run in Run.select().where(Run.script == script.uuid)]
    assert len(ran) == len(set(ran))
    assert all(due <= latest for due in ran)
    Schedule.delete().execute()


def test_a_script_whose_row_is_locked_keeps_no_other_schedule_waiting(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, other = (world.script(memory, slug, schedule="rate(1 minute)") for slug in ("locked", "other"))
    submit = runs.submit

    def contended(services: Services, order: runs.Order, *more: Any) -> runs.Submitted:
        if order.script == locked.uuid:
            raise peewee.OperationalError(psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"))
        return submit(services, order, *more)

    clock.forward(s=60)
    with monkeypatch.context() as patched:
        patched.setattr(runs, "submit", contended)
        assert [fired.script for fired in schedules.fire_due(memory)] == [other.uuid]
    assert [fired.script for fired in schedules.fire_due(memory)] == [locked.uuid]  # its due time is not lost
