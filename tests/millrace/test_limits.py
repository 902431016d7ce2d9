"""What a workspace may use."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import limits, runs, scripts
from millrace.errors import Invalid, NotFound, TooMany
from millrace.limits import DAY_MS, MB, Limits, RetentionDays
from millrace.models import Audit, Run, Workspace
from millrace.services import Services
from tests import world
from tests.world import ACME, OTHER, Clock, at_once


def test_nobody_has_limits_until_they_are_set(memory: Services) -> None:
    world.workspace(memory)
    assert limits.of(ACME) == Limits()
    assert limits.of(ACME).as_dict() == {
        "max_concurrent_runs": None, "runs_per_day": None, "stored_mb": None,
        "retention_days": {"runs": 90, "logs": 30, "events": 30, "artifacts": 90, "dead_letters": 30},
    }  # fmt: skip


def test_a_change_sets_what_it_names_and_leaves_the_rest(memory: Services) -> None:
    world.workspace(memory)
    limits.change(memory, ACME, {"runs_per_day": 1000, "retention_days.logs": 7})
    limits.change(memory, ACME, {"stored_mb": 500, "retention_days.runs": None})
    expected = Limits(runs_per_day=1000, stored_mb=500, retention_days=RetentionDays(runs=None, logs=7))
    assert limits.of(ACME) == expected
    # What nobody set is not in the row: a new default reaches it.
    assert Workspace.get_by_id(ACME).limits == {
        "runs_per_day": 1000, "stored_mb": 500, "retention_days": {"logs": 7, "runs": None},
    }  # fmt: skip
    limits.change(memory, ACME, {"runs_per_day": None})
    assert limits.of(ACME).runs_per_day is None
    first = Audit.select().order_by(Audit.id).get()
    assert (first.workspace_id, first.actor, first.action) == (ACME, "operator", "limits.changed")
    assert first.details == {"runs_per_day": 1000, "retention_days.logs": 7}


def test_changes_at_once_lose_nothing(memory: Services) -> None:
    world.workspace(memory)
    names = ["runs_per_day", "stored_mb", "max_concurrent_runs", "retention_days.logs", "retention_days.runs"]
    answers = at_once(memory.database, *[lambda name=name: limits.change(memory, ACME, {name: 5}) for name in names])
    assert not [each for each in answers if isinstance(each, BaseException)]
    assert limits.of(ACME) == Limits(5, 5, 5, RetentionDays(runs=5, logs=5))


@pytest.mark.parametrize(("wanted", "field"), [
    ({"runs_per_hour": 1}, "runs_per_hour"), ({"retention_days.dreams": 1}, "retention_days.dreams"),
    ({"runs_per_day": 0}, "runs_per_day"), ({"runs_per_day": True}, "runs_per_day"),
    ({"runs_per_day": "5"}, "runs_per_day"), ({"runs_per_day": 1.5}, "runs_per_day"),
    ({"stored_mb": -1}, "stored_mb"), ({"max_concurrent_runs": 10**10}, "max_concurrent_runs"),
    ({"retention_days.logs": 0}, "retention_days.logs"), ({"retention_days.logs": 40_000}, "retention_days.logs"),
    ({"retention_days": 5}, "retention_days"), ({"": 5}, ""),
])
def test_a_wrong_limit_is_refused_by_field_and_value_and_nothing_is_set(
    memory: Services, wanted: dict[str, Any], field: str
) -> None:
    world.workspace(memory)
    with pytest.raises(Invalid) as caught:
        limits.change(memory, ACME, {"stored_mb": 7, **wanted})
    assert caught.value.field == field
    assert caught.value.value == next(iter(wanted.values()))
    assert Workspace.get_by_id(ACME).limits is None and Audit.select().count() == 0


_DAYS = st.one_of(st.none(), st.integers(1, 36_500))
_COUNT = st.one_of(st.none(), st.integers(1, 1_000_000_000))


@given(st.builds(Limits, _COUNT, _COUNT, _COUNT, st.builds(RetentionDays, _DAYS, _DAYS, _DAYS, _DAYS, _DAYS)))
def test_limits_survive_being_stored(chosen: Limits) -> None:
    assert limits.parse(chosen.as_dict()) == chosen


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda below: st.lists(below)
                    | st.dictionaries(st.sampled_from(["runs_per_day", "retention_days", "logs", "x"]), below)))
def test_whatever_is_stored_is_limits_or_invalid(value: Any) -> None:
    try:
        assert isinstance(limits.parse(value), Limits)
    except Invalid as error:
        assert error.details and error.details[0].message


def test_a_workspace_that_is_not_there_has_none(memory: Services) -> None:
    for ask in (lambda: limits.of("nobody"), lambda: limits.change(memory, "nobody", {}),
                lambda: limits.usage(memory, "nobody")):
        with pytest.raises(NotFound):
            ask()


def test_the_run_after_the_days_last_is_refused_until_the_next_day(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    stranger = world.script(memory, owner=OTHER)
    world.start(memory, script)
    clock.now = limits.day_of(clock.now) + DAY_MS  # yesterday's does not count
    limits.change(memory, ACME, {"runs_per_day": 2})
    world.start(memory, script)
    clock.forward(ms=DAY_MS - 2500)
    world.start(memory, world.script(memory, "another"))
    with pytest.raises(TooMany, match=r"'acme' has started 2 runs today, and may start 2 a day") as caught:
        world.start(memory, script)
    assert caught.value.retry_after == 3
    world.start(memory, stranger)
    clock.forward(s=caught.value.retry_after)
    world.start(memory, script)


def test_scripts_that_start_at_once_do_not_share_the_days_last_run(memory: Services) -> None:
    scripts = [world.script(memory, slug) for slug in ("one", "two", "three", "four")]
    limits.change(memory, ACME, {"runs_per_day": 2})
    answers = at_once(memory.database, *[lambda each=each: world.start(memory, each) for each in scripts])
    assert sorted(type(each).__name__ for each in answers) == ["Run", "Run", "TooMany", "TooMany"]
    assert Run.select().count() == 2


def test_a_repeated_request_is_answered_although_the_day_is_used_up(memory: Services) -> None:
    script = world.script(memory)
    limits.change(memory, ACME, {"runs_per_day": 1})
    first = runs.submit(memory, world.order(script, idempotency_key="k"))
    again = runs.submit(memory, world.order(script, idempotency_key="k"))
    assert (again.run.id, again.created) == (first.run.id, False)


def test_a_full_store_takes_no_run_and_leaves_no_payload(memory: Services) -> None:
    script = world.script(memory)
    limits.change(memory, ACME, {"stored_mb": 2})
    world.start(memory, script)  # not measured yet
    Workspace.update(stored_bytes=2 * MB - 1).execute()
    world.start(memory, script)
    Workspace.update(stored_bytes=2 * MB).execute()
    before = memory.objects.list("")
    with pytest.raises(TooMany, match=r"'acme' stores 2 MB, and may store 2 MB \(stored_mb\)") as caught:
        world.start(memory, script, "x" * runs.INLINE_LIMIT)
    assert caught.value.retry_after == 600
    assert memory.objects.list("") == before
    limits.change(memory, ACME, {"stored_mb": None})
    world.start(memory, script)


def test_a_full_store_takes_no_source(memory: Services) -> None:
    script = world.script(memory)
    limits.change(memory, ACME, {"stored_mb": 2})
    Workspace.update(stored_bytes=2 * MB).execute()
    before = memory.objects.list("")
    source = b"exports.handler = () => 2\n"
    for attempt in (lambda: world.script(memory, "another"), lambda: scripts.rollback(memory, script, 1),
                    lambda: scripts.update(memory, script, scripts.Change(source=source))):  # fmt: skip
        with pytest.raises(TooMany, match="stored_mb"):
            attempt()
    assert memory.objects.list("") == before
    assert scripts.update(memory, script, scripts.Change(columns={"memory_mb": 512})).version == 1


def test_other_limits_alone_refuse_nothing(memory: Services) -> None:
    script = world.script(memory)
    limits.change(memory, ACME, {"retention_days.logs": 1})
    Workspace.update(stored_bytes=10**12).execute()
    world.start(memory, script)


def test_runs_are_counted_no_further_than_the_limit(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    for _ in range(5):
        world.start(memory, script)
    assert [limits._count_today(ACME, clock.now, most) for most in (1, 3, 9, None)] == [1, 3, 5, 5]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_the_count_reads_an_index(memory: Services) -> None:
    today = Run.select(Run.id).where(Run.workspace == ACME, Run.created_at >= 5).limit(7)
    plan = memory.database.execute_sql(f"EXPLAIN QUERY PLAN {today.sql()[0]}", today.sql()[1]).fetchall()
    assert "COVERING INDEX run_workspace_id_created_at" in str(plan), plan


def test_usage_is_of_today_and_of_this_workspace(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    world.finish(memory, world.start(memory, script))
    clock.forward(ms=DAY_MS)
    started = [world.start(memory, script) for _ in range(3)]
    for run in started[:2]:
        runs.claim(memory, run.id, 1, "w", 15_000)
    world.start(memory, world.script(memory, owner=OTHER))
    assert limits.usage(memory, ACME) == limits.Usage(runs_today=3, running=2, stored_bytes=None, stored_at=None)


def test_days_are_those_of_utc(clock: Clock) -> None:
    days = [limits.day_of(clock.now + hour * 3600_000) for hour in range(49)]
    assert all(after - before in (0, DAY_MS) for before, after in itertools.pairwise(days))
    assert len(set(days)) == 3 and not days[0] % DAY_MS
