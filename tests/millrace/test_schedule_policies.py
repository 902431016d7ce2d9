"""What becomes of due times that overlap, that were missed, or that pass while a schedule is paused."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from millrace import duetimes, logs, runs, schedules, scripts
from millrace.errors import Invalid, NotFound
from millrace.models import Firing, Run, Schedule, Script
from millrace.services import Services
from tests import world
from tests.world import Clock, at_once, reload, sent

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOON = 1_800_014_400_000  # 2027-01-15T12:00:00Z


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


def scheduled(services: Services, expression: str = "rate(10 minutes)", slug: str = "hello", **policy: Any) -> Script:
    return world.script(services, slug, schedule=expression, schedule_policy=policy)


def next_tick(services: Services, clock: Clock, minutes: int = 10) -> list[schedules.Fired]:
    clock.forward(ms=minutes * MINUTE)
    return schedules.fire_due(services)


def outcomes(script: Script) -> list[tuple[int, str]]:
    """When each record was due, in minutes after noon, and what became of it; oldest first."""
    return [((each.due_at - NOON) // MINUTE, each.outcome) for each in reversed(schedules.firings(script, 10_000)[0])]


def reasons(script: Script) -> list[str | None]:
    return [each.reason for each in reversed(schedules.firings(script, 10_000)[0])]


def of_due(minutes: int) -> Run:
    return Run.get(Run.due_at == NOON + minutes * MINUTE)


def policy_of(script: Script) -> tuple[str, str, int]:
    schedule = schedules.require(script)
    return schedule.overlap, schedule.catch_up, schedule.catch_up_minutes


# Setting it


def test_what_a_policy_leaves_out_has_its_default_and_later_stays_as_it_is(memory: Services) -> None:
    script = world.script(memory, schedule="hourly")
    assert policy_of(script) == ("allow", "last", 1440)
    script = scripts.update(memory, script, scripts.Change(schedule_policy={"overlap": "skip"}))
    script = scripts.update(memory, script, scripts.Change(schedule_policy={"catch_up": "all", "catch_up_minutes": 5}))
    assert policy_of(script) == ("skip", "all", 5)
    script = scripts.update(memory, script, scripts.Change(schedule="daily"))
    assert policy_of(script) == ("skip", "all", 5)


def test_another_policy_does_not_start_a_rate_anew(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, "rate(1 hour)")
    clock.forward(ms=30 * MINUTE)
    scripts.update(memory, script, scripts.Change(schedule_policy={"overlap": "queue"}))
    assert schedules.next_due() == NOON + HOUR


def test_a_policy_without_a_schedule_is_refused_and_changes_nothing(memory: Services) -> None:
    with pytest.raises(Invalid, match="schedule_policy has no meaning without a schedule"):
        world.script(memory, schedule_policy={"overlap": "skip"})
    assert Script.select().count() == 0
    script = world.script(memory)
    with pytest.raises(Invalid):
        scripts.update(memory, script, scripts.Change(schedule_policy={"overlap": "skip"}))
    scripts.update(memory, script, scripts.Change(schedule="hourly"))
    with pytest.raises(Invalid) as refused:
        scripts.update(memory, script, scripts.Change(schedule="", schedule_policy={"overlap": "skip"}))
    assert refused.value.field == "schedule_policy"
    assert policy_of(script) == ("allow", "last", 1440)


def test_a_change_of_the_schedule_leaves_a_record_of_what_had_not_fired(memory: Services, clock: Clock) -> None:
    script = scheduled(memory)
    clock.forward(ms=25 * MINUTE)
    scripts.update(memory, script, scripts.Change(schedule="daily"))
    assert outcomes(script) == [(10, "skipped"), (20, "skipped")]
    assert set(reasons(script)) == {"The schedule was changed before it fired."}


def test_a_damaged_schedule_can_be_changed(memory: Services, clock: Clock) -> None:
    script = scheduled(memory)
    Schedule.update(expression="rate(of fire)").execute()
    clock.forward(ms=HOUR)
    scripts.update(memory, script, scripts.Change(schedule="rate(1 hour)"))
    assert outcomes(script) == [] and schedules.next_due() == NOON + 2 * HOUR


# Overlap


def test_allow_runs_beside_an_earlier_run(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, overlap="allow")
    next_tick(memory, clock)
    next_tick(memory, clock)
    assert outcomes(script) == [(10, "ran"), (20, "ran")]
    assert len(sent(memory)) == 2


def test_skip_leaves_out_a_due_time_while_an_earlier_run_goes_on_and_names_it(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, overlap="skip")
    next_tick(memory, clock)
    first = of_due(10)
    next_tick(memory, clock)
    world.finish(memory, first)
    next_tick(memory, clock)
    assert outcomes(script) == [(10, "ran"), (20, "skipped"), (30, "ran")]
    assert reasons(script)[1] == f"Run '{first.id}', which was due at 2027-01-15T12:10:00.000Z, has not ended."
    assert Run.select().count() == 2


def test_skip_does_not_care_for_runs_that_the_schedule_did_not_start(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, overlap="skip")
    world.start(memory, script)
    world.start(memory, script, trigger="schedule")  # as a caller may say of a call
    next_tick(memory, clock)
    assert outcomes(script) == [(10, "ran")]


def test_queue_has_a_run_wait_until_the_earlier_ones_have_ended(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, overlap="queue")
    for _ in range(3):
        next_tick(memory, clock)
    first, second, third = of_due(10), of_due(20), of_due(30)
    assert outcomes(script) == [(10, "ran"), (20, "ran"), (30, "ran")]
    assert sent(memory) == [(first.id, 1)]
    world.finish(memory, first)
    assert sent(memory) == [(second.id, 1)]
    world.finish(memory, second)
    assert sent(memory) == [(third.id, 1)]


def test_cancel_ends_earlier_runs_whether_they_run_or_wait(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, overlap="cancel")
    next_tick(memory, clock)
    next_tick(memory, clock)
    assert reload(of_due(10)).status == "cancelled"
    running = of_due(20)
    assert runs.claim(memory, running.id, 1, "worker", 15_000)
    by_hand = world.start(memory, script)
    next_tick(memory, clock)
    assert reload(running).cancel_requested_at == clock.now
    assert (of_due(30).status, reload(by_hand).status) == ("queued", "queued")
    assert outcomes(script) == [(10, "ran"), (20, "ran"), (30, "ran")]


def test_cancel_gives_the_place_of_the_old_run_to_the_new_one(memory: Services, clock: Clock) -> None:
    world.script(memory, schedule="rate(10 minutes)", schedule_policy={"overlap": "cancel"}, max_concurrent_runs=1)
    next_tick(memory, clock)
    next_tick(memory, clock)
    assert [run_id for run_id, _ in sent(memory)] == [of_due(10).id, of_due(20).id]


def test_a_run_that_ended_meanwhile_is_not_cancelled(memory: Services, clock: Clock) -> None:
    scheduled(memory, overlap="cancel")
    next_tick(memory, clock)
    world.finish(memory, of_due(10))
    next_tick(memory, clock)
    assert (of_due(10).status, of_due(10).cancel_requested_at) == ("succeeded", None)


def test_a_scheduler_that_dies_after_replacing_a_run_leaves_it_to_the_next_one(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduled(memory, overlap="cancel")
    next_tick(memory, clock)
    with monkeypatch.context() as patched:
        patched.setattr(schedules, "_end_outdated", lambda _: None)
        next_tick(memory, clock)
    old = of_due(10)
    assert old.status == "queued" and not runs.claim(memory, old.id, 1, "worker", 15_000)
    schedules.fire_due(memory)
    assert reload(old).status == "cancelled"


def test_a_due_time_that_is_refused_cancels_nothing(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, overlap="cancel")
    next_tick(memory, clock)
    scripts.update(memory, script, scripts.Change(columns={"status": "paused"}))
    next_tick(memory, clock)
    assert outcomes(script) == [(10, "ran"), (20, "skipped")]
    assert (of_due(10).status, of_due(10).cancel_requested_at) == ("queued", None)


# Catching up


def test_none_records_what_was_missed_and_runs_nothing(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, catch_up="none")
    next_tick(memory, clock, minutes=35)
    assert outcomes(script) == [(10, "skipped"), (20, "skipped"), (30, "skipped")]
    assert set(reasons(script)) == {"Missed: nothing fired it in time, and this schedule does not catch up."}
    assert schedules.next_due() == NOON + 40 * MINUTE
    next_tick(memory, clock, minutes=5)
    assert outcomes(script)[3:] == [(40, "ran")]


@pytest.mark.parametrize("catch_up", schedules.CATCH_UP)
@pytest.mark.parametrize("late_ms", [0, 1_500, duetimes.GRACE_MS])
def test_a_slow_tick_misses_nothing(memory: Services, clock: Clock, catch_up: str, late_ms: int) -> None:
    script = scheduled(memory, catch_up=catch_up)
    for _ in range(3):
        clock.forward(ms=late_ms)
        next_tick(memory, clock)
        clock.forward(ms=-late_ms)
    assert outcomes(script) == [(10, "ran"), (20, "ran"), (30, "ran")]
    assert set(reasons(script)) == {None}


def test_beyond_the_grace_a_due_time_was_missed(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, catch_up="none")
    clock.forward(ms=duetimes.GRACE_MS + 1)
    next_tick(memory, clock)
    assert outcomes(script) == [(10, "skipped")]


def test_last_makes_up_for_the_latest_and_records_the_others(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, catch_up="last")
    next_tick(memory, clock, minutes=35)
    assert outcomes(script) == [(10, "skipped"), (20, "skipped"), (30, "ran")]
    reason = "Missed: nothing fired it in time, and this schedule makes up for the latest only."
    assert reasons(script) == [reason, reason, None]


def test_all_makes_up_for_each_within_the_window_in_order(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, catch_up="all", catch_up_minutes=30)
    next_tick(memory, clock, minutes=55)
    assert outcomes(script) == [(10, "skipped"), (20, "skipped"), (30, "ran"), (40, "ran"), (50, "ran")]
    assert reasons(script)[0] == "Missed: nothing fired it in time, and it is older than 30 minutes."
    assert [run_id for run_id, _ in sent(memory)] == [of_due(each).id for each in (30, 40, 50)]


def test_all_goes_on_at_the_next_tick_and_keeps_no_punctual_schedule_waiting(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "PART", 2)
    slow = scheduled(memory, catch_up="all")
    clock.forward(ms=50 * MINUTE - 1)
    punctual = scheduled(memory, "cron(50 12 * * ? *)", slug="punctual")
    clock.forward(ms=1)
    assert next(fired.script for fired in schedules.fire_due(memory)) == punctual.uuid
    assert outcomes(slow) == [(10, "ran"), (20, "ran")]
    ticks = 1
    while (due := schedules.next_due()) is not None and due <= clock.now:
        schedules.fire_due(memory)
        ticks += 1
    assert outcomes(slow) == [(each, "ran") for each in (10, 20, 30, 40, 50)]
    assert ticks == 3


def test_however_many_schedules_have_much_to_make_up_for_a_tick_is_bounded_and_all_get_there(
    memory: Services, clock: Clock
) -> None:
    made = [scheduled(memory, slug=f"script-{number}", catch_up="all") for number in range(3)]
    made.append(scheduled(memory, slug="script-3", catch_up="last"))
    clock.forward(ms=60 * MINUTE)
    ticks = [schedules.fire_due(memory, limit=4)]
    while ticks[-1]:
        ticks.append(schedules.fire_due(memory, limit=4))
    assert max(len(fired) for fired in ticks) <= 4 + 5  # runs, and what one schedule has missed
    assert [len(outcomes(script)) for script in made] == [6, 6, 6, 6]


def test_all_with_skip_runs_one_of_them(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, catch_up="all", overlap="skip")
    next_tick(memory, clock, minutes=35)
    assert outcomes(script) == [(10, "ran"), (20, "skipped"), (30, "skipped")]


@pytest.mark.parametrize("catch_up", ["none", "last"])
def test_after_years_the_records_are_bounded_and_the_last_one_sums_up_the_rest(
    memory: Services, clock: Clock, catch_up: str
) -> None:
    script = scheduled(memory, "rate(1 minute)", catch_up=catch_up)
    clock.forward(ms=30)
    next_tick(memory, clock, minutes=1000 * 24 * 60)
    skipped = [each for each in reversed(schedules.firings(script, 10_000)[0]) if each.outcome == "skipped"]
    assert len(skipped) == duetimes.MAX_RECORDS
    newest = clock.now - 30 - MINUTE  # the one after it is in time, and the latest
    assert skipped[-1].reason.endswith(f"So it is with all until {logs.timestamp(newest)}.")
    assert schedules.next_due() == clock.now - 30 + MINUTE
    assert Run.select().count() == 1


# Pausing


def test_a_paused_schedule_fires_nothing_and_goes_on_with_the_next_due_time(memory: Services, clock: Clock) -> None:
    script = scheduled(memory, catch_up="all")
    next_tick(memory, clock)
    paused = schedules.pause(memory, script)
    assert (paused.paused_at, schedules.next_due(), schedules.upcoming(paused, clock.now, 5)) == (clock.now, None, [])
    assert next_tick(memory, clock, minutes=35) == []
    resumed = schedules.resume(memory, script)
    assert (resumed.paused_at, resumed.next_fire_at) == (None, NOON + 50 * MINUTE)
    next_tick(memory, clock, minutes=5)
    assert outcomes(script) == [(10, "ran"), (20, "skipped"), (50, "ran")]
    assert reasons(script)[1] == (
        "Paused from 2027-01-15T12:10:00.000Z until 2027-01-15T12:45:00.000Z: nothing was started meanwhile."
    )


def test_a_pause_in_which_nothing_was_due_leaves_no_record(memory: Services, clock: Clock) -> None:
    script = scheduled(memory)
    schedules.pause(memory, script)
    clock.forward(ms=9 * MINUTE)
    schedules.resume(memory, script)
    assert outcomes(script) == []
    next_tick(memory, clock, minutes=1)
    assert outcomes(script) == [(10, "ran")]


def test_pausing_and_resuming_twice_is_as_once(memory: Services, clock: Clock) -> None:
    script = scheduled(memory)
    schedules.resume(memory, script)
    schedules.pause(memory, script)
    clock.forward(ms=15 * MINUTE)
    assert schedules.pause(memory, script).paused_at == NOON
    schedules.resume(memory, script)
    schedules.resume(memory, script)
    assert outcomes(script) == [(10, "skipped")]
    assert schedules.next_due() == NOON + 20 * MINUTE


def test_what_had_not_fired_when_it_was_paused_has_a_record(memory: Services, clock: Clock) -> None:
    script = scheduled(memory)
    clock.forward(ms=10 * MINUTE)
    schedules.pause(memory, script)
    assert outcomes(script) == [(10, "skipped")]
    assert reasons(script) == ["The schedule was paused before it fired."]


def test_a_schedule_that_is_changed_in_its_pause_stays_paused(memory: Services, clock: Clock) -> None:
    script = scheduled(memory)
    schedules.pause(memory, script)
    scripts.update(memory, script, scripts.Change(schedule="rate(1 hour)"))
    assert next_tick(memory, clock, minutes=150) == []
    resumed = schedules.resume(memory, script)
    assert (outcomes(script), resumed.next_fire_at) == ([(60, "skipped")], NOON + 3 * HOUR)


def test_a_script_without_a_schedule_has_nothing_to_pause(memory: Services) -> None:
    script = world.script(memory)
    for verb in (schedules.pause, schedules.resume):
        with pytest.raises(NotFound, match="has no schedule"):
            verb(memory, script)


def test_a_pause_and_a_due_time_at_once_leave_one_record(memory: Services, clock: Clock) -> None:
    script = scheduled(memory)
    for _ in range(5):
        clock.forward(ms=10 * MINUTE)
        at_once(memory.database, lambda: schedules.fire_due(memory), lambda: schedules.pause(memory, script),
                lambda: schedules.fire_due(memory))
        schedules.resume(memory, script)
    assert [due for due, _ in outcomes(script)] == [10, 20, 30, 40, 50]
    assert Run.select().count() == sum(outcome == "ran" for _, outcome in outcomes(script))


# Whatever happens


class Died(BaseException):
    """What nothing catches, as the end of a process."""


@contextmanager
def mortal(dies_at: int) -> Iterator[None]:
    """Schedulers die at the so-many-th step: inside of a transaction, at its end, or after it."""
    steps = itertools.count(1)

    def dangerous(work: Callable[..., Any]) -> Callable[..., Any]:
        def do(*args: Any, **kwargs: Any) -> Any:
            if next(steps) == dies_at:
                raise Died
            answer = work(*args, **kwargs)
            if next(steps) == dies_at:
                raise Died
            return answer

        return do

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Firing, "create", dangerous(Firing.create))
        for name in ("_record_skipped", "_advance", "_settle_overlap", "_end_outdated"):
            patched.setattr(schedules, name, dangerous(getattr(schedules, name)))
        patched.setattr(runs, "submit", dangerous(runs.submit))
        yield


# Time passes; then schedulers tick at once, one of two dies, several take turns, or a run ends.
HAPPENING = st.tuples(
    st.integers(1, 75 * MINUTE),
    st.one_of(
        st.tuples(st.just("tick"), st.integers(1, 3)),
        st.tuples(st.just("die"), st.integers(1, 12)),
        st.tuples(st.just("turns"), st.lists(st.integers(0, 2), max_size=20)),
        st.tuples(st.just("end"), st.just(None)),
    ),
)
POLICIES = st.fixed_dictionaries({
    "overlap": st.sampled_from(schedules.OVERLAP), "catch_up": st.sampled_from(schedules.CATCH_UP),
    "catch_up_minutes": st.sampled_from([1, 7, 45, 300]),
})  # fmt: skip


def take_turns(services: Services, script: Script, turns: list[int]) -> None:
    """Three schedulers that have read the same row do a step whenever it is their turn, then no more."""
    row = schedules.require(script)
    if row.next_fire_at > services.clock():
        return
    steps = [schedules._fire(services, schedules.require(script), services.clock(), 5) for _ in range(3)]
    for number in turns:
        try:
            next(steps[number], None)
        except schedules._Outrun:
            event("outrun")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=POLICIES, happenings=st.lists(HAPPENING, min_size=3, max_size=14))
def test_whatever_happens_each_due_time_has_one_record_and_at_most_one_run(
    memory: Services, clock: Clock, policy: dict[str, Any], happenings: list[tuple[int, tuple[str, Any]]]
) -> None:
    clock.now = begin = NOON
    script = scheduled(memory, slug=f"s-{memory.new_id()}", **policy)
    for passed, (what, detail) in happenings:
        clock.forward(ms=passed)
        if what == "tick":
            assert not [each for each in at_once(memory.database, *[lambda: schedules.fire_due(memory)] * detail)
                        if isinstance(each, BaseException)]
        elif what == "die":
            with mortal(detail):
                at_once(memory.database, lambda: schedules.fire_due(memory), lambda: schedules.fire_due(memory))
        elif what == "turns":
            take_turns(memory, script, detail)
        else:
            for run in list(Run.select().where(Run.script == script.uuid, Run.completed_at.is_null()).limit(1)):
                runs.cancel(memory, run)
    clock.forward(ms=10 * MINUTE)
    while (due := schedules.next_due()) is not None and due <= clock.now:
        schedules.fire_due(memory)

    expected = list(range(begin + 10 * MINUTE, clock.now + 1, 10 * MINUTE))
    records = list(reversed(schedules.firings(script, 10_000)[0]))
    assert [each.due_at for each in records] == expected
    assert all((each.run_id is None) == (each.outcome == "skipped") for each in records)
    assert all(each.reason for each in records if each.outcome == "skipped")
    ran = {(each.due_at, each.run_id) for each in records if each.outcome == "ran"}
    started = [(run.due_at, run.id) for run in Run.select().where(Run.script == script.uuid)]
    assert sorted(started) == sorted(ran)
    Schedule.delete().execute()
