"""What workspaces used, by the hour: the sums against a plain computation over all runs."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import removal, runs, usage
from millrace.errors import Invalid
from millrace.limits import DAY_MS
from millrace.models import Attempt, Run, Script, UsageHour
from millrace.runs import MAX_DURATION_MS
from millrace.services import Services
from millrace.usage import GRACE_MS, HOUR_MS, Point, Summing
from tests import world
from tests.world import ACME, OTHER, Clock, at_once

MIDNIGHT = 1_800_000_000_000 - 1_800_000_000_000 % DAY_MS


def series(memory: Services, workspace_id: str, since: int, until: int, step: Literal["hour", "day"]) -> list[Point]:
    return usage.figures(memory, workspace_id, since, until, step).points


def totals(memory: Services, workspace_id: str, since: int, until: int) -> Point:
    return usage.figures(memory, workspace_id, since, until, "hour").whole


@pytest.fixture(autouse=True)
def last_hour_of_a_day(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is half past, and what is to be looked at after a start is not long."""
    clock.now = MIDNIGHT - HOUR_MS // 2
    monkeypatch.setattr(usage, "CAUGHT_UP_DAYS", 2)


def ended(
    services: Services, script: Script, at: int, duration_ms: int | None = 5, status: str = "succeeded",
    tries: Sequence[int] = (),
) -> Run:  # fmt: skip
    """A run that ended at that moment; without a duration it never started. `tries` are those before the last."""
    started = None if duration_ms is None else at - duration_ms
    run = Run.create(
        id=services.new_id(), workspace=script.workspace_id, script=script.uuid, version=1, status=status,
        trigger="api", mode="async", created_at=at, available_at=at, sent_at=at, started_at=started, completed_at=at,
        duration_ms=duration_ms or 0, attempt=len(tries) + 1, tries=len(tries),
    )  # fmt: skip
    for number, each in enumerate(tries, 1):
        Attempt.create(run=run.id, number=number, status="failed", completed_at=at, started_at=at, duration_ms=each)
    return run


def summed(services: Services) -> int:
    """Sum up all there is. Returns in how many steps."""
    summing, steps = Summing(services), 1
    while summing.step():
        steps += 1
    return steps


def rows(*columns: Any) -> list[Any]:
    return list(UsageHour.select(*columns or (UsageHour.hour,)).order_by(UsageHour.hour).tuples())


def exact(durations: list[int], share: float) -> int:
    return sorted(durations)[max(1, math.ceil(share * len(durations))) - 1]


# Buckets


@given(st.integers(0, MAX_DURATION_MS))
def test_a_bucket_is_ten_percent_wide_at_most(duration_ms: int) -> None:
    number = usage.bucket(duration_ms)
    first, after = usage.EDGES[number], usage.EDGES[number + 1]
    assert first <= duration_ms < after
    assert after - 1 <= max(first, 1.1 * first)


def test_the_buckets_are_those_that_rows_name() -> None:
    assert [usage.bucket(each) for each in (-1, 0, 1, 11, 100, 30_000, MAX_DURATION_MS)] == [0, 0, 1, 11, 30, 90, 207]


@given(st.lists(st.integers(0, MAX_DURATION_MS), min_size=1), st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_a_percentile_is_within_ten_percent(durations: list[int], share: float) -> None:
    found = usage.percentile(Counter(map(usage.bucket, durations)), share)
    assert found is not None and abs(found - exact(durations, share)) <= 0.1 * exact(durations, share)


def test_nothing_has_no_percentile() -> None:
    assert usage.percentile({}, 0.5) is None


# What is summed up


def test_an_hour_is_summed_up_when_it_is_over_for_two_minutes(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    ended(memory, script, MIDNIGHT - 1, 1500)
    summing = Summing(memory)
    clock.now = MIDNIGHT + GRACE_MS - 1
    summing.step()
    assert rows() == []
    clock.forward(ms=1)
    summing.step()
    assert rows() == [(MIDNIGHT - HOUR_MS,)]


def test_failures_time_of_all_tries_and_what_never_started_count_as_they_should(
    memory: Services, clock: Clock
) -> None:
    script = world.script(memory)
    at = MIDNIGHT - DAY_MS
    ended(memory, script, at, 1000)
    ended(memory, script, at, 3000, "failed", tries=[500, 700])
    ended(memory, script, at + HOUR_MS - 1, 2000, "timed_out")
    ended(memory, script, at + 1, 100, "cancelled")
    ended(memory, script, at + 2, None, "cancelled")
    ended(memory, script, at + HOUR_MS)  # of the next hour
    ended(memory, script, at - 1)  # of the one before
    summed(memory)
    row = UsageHour.get(UsageHour.hour == at)
    assert (row.workspace_id, row.runs, row.failed, row.worker_ms) == (ACME, 5, 2, 7300)
    assert row.durations == {str(usage.bucket(each)): 1 for each in (100, 1000, 2000, 3000)}
    assert len(rows()) == 3


def test_a_run_that_workers_carried_is_counted(memory: Services, clock: Clock) -> None:
    script = world.script(memory, retry={"count": 1, "delay_seconds": 0, "jitter": False})
    run = world.start(memory, script)
    world.finish(memory, run, "failed", error="x")
    runs.release_due(memory)
    world.finish(memory, run)
    world.finish(memory, world.start(memory, script), "timed_out")
    runs.release_due(memory)
    runs.cancel(memory, world.start(memory, script))
    (now,) = series(memory, ACME, clock.now, clock.now + 1, "hour")
    assert (now.runs, now.failed, now.worker_seconds, now.p50_ms) == (2, 0, 0.01, 5)
    clock.forward(ms=2 * HOUR_MS)
    summed(memory)
    assert rows(UsageHour.runs, UsageHour.failed, UsageHour.worker_ms) == [(2, 0, 10)]


def test_hours_without_runs_have_no_row_and_every_workspace_has_its_own(memory: Services) -> None:
    for owner, hours in ((ACME, (3, 20)), (OTHER, (3,))):
        script = world.script(memory, owner=owner)
        for back in hours:
            ended(memory, script, MIDNIGHT - back * HOUR_MS)
    summed(memory)
    assert sorted(rows(UsageHour.workspace, UsageHour.hour)) == [
        (ACME, MIDNIGHT - 20 * HOUR_MS), (ACME, MIDNIGHT - 3 * HOUR_MS), (OTHER, MIDNIGHT - 3 * HOUR_MS),
    ]  # fmt: skip


def test_a_sum_is_made_once_and_stays(memory: Services) -> None:
    script = world.script(memory)
    ended(memory, script, MIDNIGHT - DAY_MS)
    assert usage.sum_up(ACME, MIDNIGHT - DAY_MS)
    ended(memory, script, MIDNIGHT - DAY_MS + 1)  # by a clock that was set back
    assert not usage.sum_up(ACME, MIDNIGHT - DAY_MS)
    summed(memory)
    assert rows(UsageHour.runs) == [(1,)]
    Run.delete().execute()
    summed(memory)
    assert rows(UsageHour.runs) == [(1,)]


def test_many_schedulers_at_once_make_each_sum_once(memory: Services) -> None:
    script = world.script(memory)
    for back in range(1, 20):
        ended(memory, script, MIDNIGHT - back * HOUR_MS)
    answers = at_once(memory.database, *[lambda: summed(memory)] * 4)
    assert not [each for each in answers if isinstance(each, BaseException)]
    assert [runs for _, runs in rows(UsageHour.hour, UsageHour.runs)] == [1] * 18  # one is the present hour


@pytest.mark.parametrize("slice_", [1, 2, 3, 7])
def test_an_hour_is_counted_in_slices_that_miss_and_double_nothing(
    memory: Services, monkeypatch: pytest.MonkeyPatch, slice_: int
) -> None:
    monkeypatch.setattr(usage, "SLICE", slice_)
    script = world.script(memory)
    at = MIDNIGHT - DAY_MS
    for offset in (0, 0, 0, 0, 1, 5, 5, 5, 6, HOUR_MS - 1, HOUR_MS - 1, HOUR_MS, HOUR_MS):
        ended(memory, script, at + offset)
    assert usage.sum_up(ACME, at)
    assert rows(UsageHour.runs) == [(11,)]


# How much at a time


def test_after_a_start_it_catches_up_a_bounded_part_each_time_newest_first(
    memory: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "PART", 4)
    hours = [MIDNIGHT - back * HOUR_MS for back in range(2, 6)]
    for owner in ("a", "b", "c"):
        script = world.script(memory, owner=owner)
        for hour in hours:
            ended(memory, script, hour)
    summing = Summing(memory)
    for done in (4, 8, 12):
        assert summing.step()
        assert [hour for (hour,) in rows()] == sorted(hour for hour in hours for _ in range(3))[-done:]


def test_a_start_looks_back_no_further_than_the_days_it_says(memory: Services) -> None:
    script = world.script(memory)
    newest = MIDNIGHT - 2 * HOUR_MS
    for hours in (0, usage.CAUGHT_UP_DAYS * 24 - 1, usage.CAUGHT_UP_DAYS * 24):
        ended(memory, script, newest - hours * HOUR_MS)
    assert summed(memory) == usage.CAUGHT_UP_DAYS * 24 // usage.LOOKS
    assert rows() == [(newest - (usage.CAUGHT_UP_DAYS * 24 - 1) * HOUR_MS,), (newest,)]


def test_what_was_looked_at_is_not_looked_at_again(
    memory: Services, clock: Clock, queries: list[tuple[str, Any]]
) -> None:
    world.script(memory)
    summing = Summing(memory)
    while summing.step():
        pass
    queries.clear()
    assert not summing.step()
    assert len(queries) == 2  # of what is to be removed
    clock.forward(ms=HOUR_MS)
    queries.clear()
    assert not summing.step()
    assert len(queries) == 3


def test_sums_are_removed_after_400_days(memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "PART", 2)
    script = world.script(memory)
    at = MIDNIGHT - DAY_MS
    for number in range(4):
        ended(memory, script, at + number * HOUR_MS)
    summed(memory)
    clock.now = at + 400 * DAY_MS + 2 * HOUR_MS
    summed(memory)
    assert rows() == [(at + 2 * HOUR_MS,), (at + 3 * HOUR_MS,)]
    clock.forward(ms=DAY_MS)
    summed(memory)
    assert rows() == []


def test_a_deleted_workspace_is_not_summed_up_and_its_sums_go_with_it(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    ended(memory, script, MIDNIGHT - DAY_MS)
    summed(memory)
    ended(memory, script, MIDNIGHT - DAY_MS - HOUR_MS)
    removal.delete_workspace(memory, ACME)
    summed(memory)
    assert len(rows()) == 1
    clock.forward(ms=removal.LATE_MS)
    while removal.purge_workspaces(memory):
        pass
    assert rows() == []
    assert not usage.sum_up(ACME, MIDNIGHT - DAY_MS)


# Clocks


def test_what_a_clock_that_was_ahead_summed_up_too_early_is_made_anew(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    present = MIDNIGHT - HOUR_MS
    ended(memory, script, present + 1)
    summing = Summing(memory)
    clock.forward(ms=HOUR_MS)
    summing.step()
    assert rows(UsageHour.hour, UsageHour.runs) == [(present, 1)]
    clock.forward(ms=-HOUR_MS)
    ended(memory, script, present + 2)
    summing.step()
    assert rows() == []
    clock.forward(ms=HOUR_MS)
    summing.step()
    assert rows(UsageHour.hour, UsageHour.runs) == [(present, 2)]


def test_schedulers_whose_clocks_differ_a_little_do_not_undo_each_others_work(memory: Services, clock: Clock) -> None:
    ended(memory, world.script(memory), MIDNIGHT - 1)
    clock.now = MIDNIGHT + GRACE_MS
    Summing(memory).step()
    clock.forward(ms=-GRACE_MS)
    Summing(memory).step()
    assert len(rows()) == 1


def test_a_clock_that_is_far_behind_costs_a_day_at_most(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = world.script(memory)
    monkeypatch.setattr(usage, "CAUGHT_UP_DAYS", 31)
    for days in (1, 10, 30):
        ended(memory, script, MIDNIGHT - days * DAY_MS)
    summed(memory)
    clock.forward(ms=-40 * DAY_MS)
    summed(memory)
    assert len(rows()) == 3


# What is read


def test_points_cover_the_range_with_what_is_summed_up_and_with_the_present_hour(
    memory: Services, clock: Clock
) -> None:
    script, stranger = world.script(memory), world.script(memory, owner=OTHER)
    for back in (3, 2):
        ended(memory, script, MIDNIGHT - back * HOUR_MS, 2000)
    summed(memory)
    ended(memory, script, clock.now, 4000, "failed", tries=[1000])
    for at in (MIDNIGHT - 3 * HOUR_MS, clock.now):
        ended(memory, stranger, at, 9000)
    summed(memory)
    points = series(memory, ACME, MIDNIGHT - 4 * HOUR_MS + 5, clock.now + 1, "hour")
    assert [(each.at, each.runs, each.failed, each.worker_seconds) for each in points] == [
        (MIDNIGHT - 4 * HOUR_MS, 0, 0, 0.0), (MIDNIGHT - 3 * HOUR_MS, 1, 0, 2.0),
        (MIDNIGHT - 2 * HOUR_MS, 1, 0, 2.0), (MIDNIGHT - HOUR_MS, 1, 1, 5.0),
    ]  # fmt: skip
    assert points[0].p50_ms is None and points[0].p99_ms is None
    assert points[3].p50_ms == pytest.approx(4000, rel=0.1) and not points[3].cut
    whole = totals(memory, ACME, MIDNIGHT - 4 * HOUR_MS + 5, clock.now)
    assert (whole.runs, whole.failed, whole.worker_seconds) == (3, 1, 9.0)
    assert whole.p50_ms == pytest.approx(2000, rel=0.1) and whole.p99_ms == pytest.approx(4000, rel=0.1)


def test_the_hour_before_is_there_though_it_is_not_summed_up_yet(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    ended(memory, script, MIDNIGHT - 1)
    clock.now = MIDNIGHT + 1
    assert [each.runs for each in series(memory, ACME, MIDNIGHT - DAY_MS, MIDNIGHT + 1, "day")] == [1, 0]
    clock.now = MIDNIGHT + GRACE_MS
    summed(memory)
    assert [each.runs for each in series(memory, ACME, MIDNIGHT - DAY_MS, MIDNIGHT + 1, "day")] == [1, 0]


def test_too_many_runs_of_the_present_hour_are_cut_and_it_says_so(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = world.script(memory)
    before, now = MIDNIGHT - 2 * HOUR_MS, MIDNIGHT - HOUR_MS
    for at in (before, before + 1, now + 1, now + 2):
        ended(memory, script, at)
    monkeypatch.setattr(usage, "MOST_LIVE", 3)
    points = series(memory, ACME, before - HOUR_MS, clock.now, "hour")
    assert [(each.runs, each.cut) for each in points] == [(0, False), (1, True), (2, False)]
    assert totals(memory, ACME, before, clock.now).cut


@pytest.mark.parametrize("hours", [1, 24, 9000])
def test_two_queries_do_whatever_the_range(memory: Services, queries: list[tuple[str, Any]], hours: int) -> None:
    for ask in (totals, lambda *range_: series(*range_, "hour")):
        queries.clear()
        ask(memory, ACME, MIDNIGHT - hours * HOUR_MS, MIDNIGHT)
        assert len(queries) == 2


def test_ranges_that_are_empty_or_too_long(memory: Services) -> None:
    assert series(memory, ACME, MIDNIGHT, MIDNIGHT, "hour") == []
    assert series(memory, ACME, MIDNIGHT, MIDNIGHT - DAY_MS, "day") == []
    assert totals(memory, ACME, MIDNIGHT, MIDNIGHT) == Point(MIDNIGHT)
    with pytest.raises(Invalid, match="may be 10000"):
        series(memory, ACME, 0, MIDNIGHT, "hour")


# Against a plain computation

_run = st.tuples(
    st.integers(0, 6), st.sampled_from([0, 1, 2, HOUR_MS - 1]), st.none() | st.integers(0, 100_000),
    st.sampled_from(["succeeded", "failed", "timed_out", "cancelled"]), st.lists(st.integers(0, 1000), max_size=2),
)  # fmt: skip


@given(st.lists(_run, max_size=30), st.integers(1, 5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_points_and_totals_are_what_all_runs_say(memory: Services, clock: Clock, given_runs: Any, slice_: int) -> None:
    script = world.script(memory, f"s-{memory.new_id()}")
    first = MIDNIGHT - 7 * HOUR_MS
    Run.delete().execute()
    UsageHour.delete().execute()
    with memory.database.atomic():
        for hour, offset, duration, status, tries in given_runs:
            at = min(first + hour * HOUR_MS + offset, clock.now)
            ended(memory, script, at, duration, status, tries if duration is not None else ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage, "SLICE", slice_)
        summed(memory)
    points = series(memory, ACME, first, MIDNIGHT, "hour")
    for hour, point in enumerate(points):
        check(point, [each for each in given_runs if each[0] == hour])
    check(totals(memory, ACME, first, MIDNIGHT), given_runs)


def check(point: Point, plain: list[Any]) -> None:
    took = [duration for _, _, duration, _, _ in plain if duration is not None]
    earlier = sum(sum(tries) for _, _, duration, _, tries in plain if duration is not None)
    assert point.runs == len(plain)
    assert point.failed == len([each for each in plain if each[3] in ("failed", "timed_out")])
    assert point.worker_seconds == (sum(took) + earlier) / 1000
    for found, share in ((point.p50_ms, 0.5), (point.p99_ms, 0.99)):
        assert (found is None) == (not took)
        assert found is None or abs(found - exact(took, share)) <= 0.1 * exact(took, share)


# The way to the rows


@pytest.fixture
def queries(memory: Services, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the database is asked."""
    asked: list[tuple[str, Any]] = []
    execute = memory.database.execute_sql

    def note(sql: str, params: Any = None, *rest: Any) -> Any:
        if sql.startswith(("SELECT", "DELETE", "INSERT", "UPDATE")):
            asked.append((sql, params))
        return execute(sql, params, *rest)

    monkeypatch.setattr(memory.database, "execute_sql", note)
    return asked


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_the_history_is_read_by_an_index_alone(memory: Services, queries: list[tuple[str, Any]]) -> None:
    ended(memory, world.script(memory), MIDNIGHT - 2 * HOUR_MS)
    queries.clear()
    Summing(memory).step()
    totals(memory, ACME, MIDNIGHT - DAY_MS, MIDNIGHT)
    selects = [each for each in queries if each[0].startswith("SELECT")]
    plans = [str(memory.database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", each).fetchall()) for sql, each in selects]
    of_runs = [plan for (sql, _), plan in zip(selects, plans, strict=True) if '"run"' in sql]
    assert len(of_runs) >= 4
    for plan in of_runs:
        assert "INDEX run_completed_at (workspace_id=? AND completed_at>? AND completed_at<?)" in plan, plan
    assert not [plan for plan in plans if "SCAN t1'" in plan and "workspace" not in plan], plans
    assert not [plan for plan in plans if "usage_hour" in plan and "usage_hour_" not in plan], plans


@pytest.fixture
def long_history(memory: Services) -> Iterator[None]:
    """Statistics of many runs in many workspaces: with few rows PostgreSQL reads tables from end to end."""
    for number in range(20):
        script = world.script(memory, owner=f"w-{number}")
        with memory.database.atomic():
            Run.insert_many([
                {
                    "id": memory.new_id(), "workspace": script.workspace_id, "script": script.uuid, "version": 1,
                    "status": "succeeded", "trigger": "api", "mode": "async", "created_at": at, "available_at": at,
                    "sent_at": at, "started_at": at, "completed_at": at, "duration_ms": 5, "attempt": 1,
                }
                for at in range(MIDNIGHT - 30 * DAY_MS, MIDNIGHT, 6 * HOUR_MS)
            ]).execute()  # fmt: skip
    memory.database.execute_sql("ANALYZE")
    yield


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_postgresql_reads_the_index_as_well(
    memory: Services, queries: list[tuple[str, Any]], long_history: None
) -> None:
    queries.clear()
    Summing(memory).step()
    totals(memory, "w-1", MIDNIGHT - DAY_MS, MIDNIGHT)
    for sql, parameters in [each for each in queries if each[0].startswith("SELECT") and '"run"' in each[0]]:
        plan = str(memory.database.execute_sql(f"EXPLAIN {sql}", parameters).fetchall())
        assert "run_completed_at" in plan and "Seq Scan on run" not in plan, plan
