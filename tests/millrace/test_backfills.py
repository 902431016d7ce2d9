"""Running what a schedule would have started, or has skipped, in the past."""

import itertools

import pytest

from millrace import backfills, schedules, scripts
from millrace.errors import Invalid, NotFound, Unprocessable
from millrace.models import Firing, Run, Script
from millrace.services import Services
from tests import world
from tests.world import Clock, at_once, sent

MINUTE = 60_000
HOUR = 60 * MINUTE
NOON = 1_800_014_400_000  # 2027-01-15T12:00:00Z


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def script(memory: Services, clock: Clock) -> Script:
    """Due at each full hour; set at 12:00, and it is 16:30 now."""
    made = world.script(memory, schedule="hourly", schedule_policy={"catch_up": "none"})
    clock.forward(ms=4 * HOUR + 30 * MINUTE)
    return made


def due_times(run_ids: list[str]) -> list[int]:
    """In hours after noon."""
    return [(Run.get_by_id(run_id).due_at - NOON) // HOUR for run_id in run_ids]


def backfill(services: Services, script: Script, since: float, until: float) -> list[str]:
    return backfills.start(services, script, NOON + int(since * HOUR), NOON + int(until * HOUR))


def records(script: Script) -> list[tuple[int, str, str | None]]:
    newest_first, _ = schedules.firings(script, 100)
    return [((each.due_at - NOON) // HOUR, each.outcome, each.reason) for each in reversed(newest_first)]


def test_each_due_time_of_the_stretch_gets_a_run_in_order_the_ends_included(memory: Services, script: Script) -> None:
    schedules.fire_due(memory)
    started = backfill(memory, script, 1, 3)
    assert due_times(started) == [1, 2, 3]
    assert [run_id for run_id, _ in sent(memory)] == started
    assert {Run.get_by_id(run_id).trigger for run_id in started} == {"schedule"}


def test_a_skipped_due_time_becomes_one_that_ran(memory: Services, script: Script) -> None:
    schedules.fire_due(memory)
    assert [outcome for _, outcome, _ in records(script)] == ["skipped"] * 4
    started = backfill(memory, script, 2, 2.5)
    assert records(script)[1] == (2, "ran", "backfilled")
    assert [outcome for _, outcome, _ in records(script)] == ["skipped", "ran", "skipped", "skipped"]
    assert Firing.get(Firing.outcome == "ran").run_id == started[0]


def test_it_reaches_back_before_the_schedule_was_set(memory: Services, script: Script) -> None:
    assert due_times(backfill(memory, script, -2, 0)) == [-2, -1, 0]
    assert records(script)[:3] == [(each, "ran", "backfilled") for each in (-2, -1, 0)]


def test_of_a_rate_the_clock_is_taken_to_have_run_before(memory: Services, clock: Clock) -> None:
    script = world.script(memory, schedule="rate(2 hours)")
    clock.forward(ms=5 * HOUR)
    assert due_times(backfill(memory, script, -5, 5)) == [-4, -2, 0, 2, 4]


def test_the_same_again_starts_nothing_twice(memory: Services, script: Script) -> None:
    first = backfill(memory, script, 0, 2)
    assert backfill(memory, script, 0, 3) == [run.id for run in Run.select().where(Run.due_at == NOON + 3 * HOUR)]
    assert backfill(memory, script, 0, 3) == []
    assert len(first) == 3 and Run.select().count() == 4


def test_many_at_once_start_each_due_time_once(memory: Services, script: Script) -> None:
    def both() -> list[str]:
        return backfill(memory, script, -5, 4)

    answers = at_once(memory.database, both, both, lambda: schedules.fire_due(memory) and [])
    assert not [each for each in answers if isinstance(each, BaseException)]
    assert sorted(due_times(list(itertools.chain(*answers)))) == list(range(-5, 5))
    assert [outcome for _, outcome, _ in records(script)] == ["ran"] * 10
    assert Run.select().count() == 10


def test_what_ran_is_left_alone(memory: Services, clock: Clock) -> None:
    script = world.script(memory, schedule="hourly")
    clock.forward(ms=HOUR)
    schedules.fire_due(memory)
    assert backfill(memory, script, 0.5, 1) == []
    assert records(script) == [(1, "ran", None)]


def test_what_ran_does_not_run_again_when_its_run_is_forgotten(memory: Services, script: Script) -> None:
    backfill(memory, script, 1, 2)
    Run.delete().execute()
    assert backfill(memory, script, 1, 3) == [run.id for run in Run.select()]
    assert Run.select().count() == 1


def test_a_due_time_that_was_backfilled_before_it_fired_does_not_fire(memory: Services, script: Script) -> None:
    backfill(memory, script, 4, 4.5)
    schedules.fire_due(memory)
    assert [(due, outcome) for due, outcome, _ in records(script)] == [
        (1, "skipped"), (2, "skipped"), (3, "skipped"), (4, "ran"),
    ]
    assert schedules.next_due() == NOON + 5 * HOUR


def test_with_overlap_queue_they_run_one_after_the_other(memory: Services, script: Script) -> None:
    scripts.update(memory, script, scripts.Change(schedule_policy={"overlap": "queue"}))
    first, second = backfill(memory, script, 1, 2)
    assert sent(memory) == [(first, 1)]
    world.finish(memory, Run.get_by_id(first))
    assert sent(memory) == [(second, 1)]


def test_a_due_time_with_overlap_cancel_does_not_end_a_backfill(
    memory: Services, clock: Clock, script: Script
) -> None:
    scripts.update(memory, script, scripts.Change(schedule_policy={"overlap": "cancel"}))
    started = backfill(memory, script, 1, 2)
    for _ in range(2):
        clock.forward(ms=30 * MINUTE)
        schedules.fire_due(memory)
    assert [Run.get_by_id(run_id).status for run_id in started] == ["queued", "queued"]
    assert Run.get(Run.due_at == NOON + 5 * HOUR).status == "queued"


def test_one_that_failed_goes_on_where_it_ended(memory: Services, script: Script) -> None:
    backfill(memory, script, 0, 1)
    paused = scripts.update(memory, script, scripts.Change(columns={"status": "paused"}))
    with pytest.raises(Unprocessable):
        backfill(memory, paused, 0, 3)
    active = scripts.update(memory, script, scripts.Change(columns={"status": "active"}))
    assert due_times(backfill(memory, active, 0, 3)) == [2, 3]


def test_what_was_due_in_a_pause_can_be_made_up_for(memory: Services, clock: Clock) -> None:
    script = world.script(memory, schedule="hourly")
    schedules.pause(memory, script)
    clock.forward(ms=3 * HOUR)
    assert due_times(backfill(memory, script, 1, 2)) == [1, 2]
    schedules.resume(memory, script)
    assert [(due, outcome) for due, outcome, _ in records(script)] == [(1, "ran"), (2, "ran"), (3, "skipped")]


@pytest.mark.parametrize(("since", "until", "field", "message"), [
    (4, 5, "until", "must not be in the future"), (2, 2, "from", "earlier than until"),
    (3, 2, "from", "earlier than until"), (-1000, 4, "until", "more than 1000 due times"),
])
def test_a_stretch_that_breaks_a_rule_starts_nothing(
    memory: Services, script: Script, since: float, until: float, field: str, message: str
) -> None:
    with pytest.raises(Invalid, match=message) as refused:
        backfill(memory, script, since, until)
    assert refused.value.field == field
    assert Run.select().count() == 0


def test_a_script_without_a_schedule_has_nothing_to_backfill(memory: Services) -> None:
    with pytest.raises(NotFound, match="has no schedule"):
        backfill(memory, world.script(memory), -2, -1)
