"""What workspaces use, hour by hour: how many runs ended, how many failed, how long they took and worked.

An hour (of UTC) is summed up once, when it is over, so that nobody who looks at a month reads a month of runs. The
sums outlive the runs. The hour under way is read from the runs themselves.

A run belongs to the hour in which it ended. `finish` names that moment before it commits, which is what `GRACE_MS` is
for; whatever commits later still is not counted, nor is what a clock that was set back writes into an hour of the
past. A clock that is ahead sums an hour up too early: once it is right again, such sums of what is not over are thrown
away and made anew. Runs that are deleted before their hour is summed up, with their script, do not count.
"""

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import peewee

from millrace.database import transaction
from millrace.errors import Invalid
from millrace.limits import DAY_MS
from millrace.models import Attempt, Run, UsageHour, Workspace
from millrace.models.run import FAILED, TIMED_OUT
from millrace.models.script import DELETED
from millrace.runs import MAX_DURATION_MS
from millrace.services import Services

HOUR_MS = 3600 * 1000
STEPS = {"hour": HOUR_MS, "day": DAY_MS}
GRACE_MS = 2 * 60 * 1000  # how long an hour has been over when it is summed up
KEPT_DAYS = 400
CAUGHT_UP_DAYS = 90  # how far back hours are summed up after a start; runs are not kept longer by default
LOOKS = 24  # hours that one step looks at
PART = 50  # hours of workspaces that one step sums up, and old ones that it removes
SLICE = 5000  # runs that one query counts
MOST_LIVE = 20_000  # runs that are read to show the hours which are not summed up
MOST_POINTS = 10_000

_FAILED = (FAILED, TIMED_OUT)


def _edges() -> Iterator[int]:
    edge = 0
    while edge <= MAX_DURATION_MS:
        yield edge
        edge = max(edge + 1, -(-edge * 11 // 10))
    yield edge


# Bucket n counts durations in milliseconds from EDGES[n] until before EDGES[n + 1]: small numbers each by itself, then
# each bucket reaches 10 % further. Rows name buckets by number, so these never change.
EDGES = tuple(_edges())


@dataclass(frozen=True)
class Point:
    """What a workspace used from `at` on. Percentiles are within 10 %, of runs that started; None if none did.

    `runs` counts all that ended, `failed` those that timed out as well. `cut`: there were too many to read them all
    before their hour is summed up, and these are the latest of them.
    """

    at: int
    runs: int = 0
    failed: int = 0
    worker_seconds: float = 0.0
    p50_ms: int | None = None
    p99_ms: int | None = None
    cut: bool = False


@dataclass
class _Sum:
    runs: int = 0
    failed: int = 0
    worker_ms: int = 0  # of every try
    durations: dict[int, int] = field(default_factory=dict)  # a count for each bucket
    cut: bool = False

    def count(self, status: str, duration_ms: int | None, earlier_ms: int | None, runs: int) -> None:
        """Add so many runs that ended alike. `duration_ms` is None for those that never started."""
        self.runs += runs
        self.failed += runs if status in _FAILED else 0
        self.worker_ms += int(earlier_ms or 0)
        if duration_ms is not None:
            self.worker_ms += duration_ms * runs
            number = bucket(duration_ms)
            self.durations[number] = self.durations.get(number, 0) + runs

    def merge(self, other: "_Sum") -> None:
        self.runs += other.runs
        self.failed += other.failed
        self.worker_ms += other.worker_ms
        mine = self.durations
        for number, count in other.durations.items():
            mine[number] = mine.get(number, 0) + count
        self.cut |= other.cut

    def point(self, at: int) -> Point:
        p50, p99 = percentile(self.durations, 0.5), percentile(self.durations, 0.99)
        return Point(at, self.runs, self.failed, self.worker_ms / 1000, p50, p99, self.cut)


def bucket(duration_ms: int) -> int:
    """The number of the bucket that counts this duration."""
    return max(0, bisect.bisect_right(EDGES, duration_ms) - 1)


def percentile(durations: Mapping[int, int], share: float) -> int | None:
    """The middle of the bucket of the duration that so many, from 0 to 1, do not exceed. None if nothing is counted."""
    rank = max(1, math.ceil(share * sum(durations.values())))
    for number in sorted(durations):
        rank -= durations[number]
        if rank <= 0:
            return (EDGES[number] + EDGES[number + 1] - 1) // 2
    return None


class Summing:
    """What one process remembers: the hours that it need not look at again."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settled: set[int] = set()

    def step(self) -> bool:
        """Sum up a part of what is not yet, newest first. Returns whether there is more to do now."""
        now = self._services.clock()
        newest = _newest_over(now)
        removed = _remove(UsageHour.hour < now - KEPT_DAYS * DAY_MS)
        # Made while a clock was ahead. No further, so that one which is far behind costs no more than a day; and none
        # that is over, so that schedulers whose clocks differ a little do not undo each other's work.
        removed |= _remove((UsageHour.hour > now - HOUR_MS) & (UsageHour.hour < now + DAY_MS))
        kept = range(newest, newest - CAUGHT_UP_DAYS * DAY_MS, -HOUR_MS)
        self._settled &= set(kept)
        unsettled = [hour for hour in kept if hour not in self._settled]
        room = PART
        for hour in unsettled[:LOOKS]:
            waiting = _unsummed(hour, room)
            for workspace_id in waiting:
                sum_up(workspace_id, hour)
            room -= len(waiting)
            if not room:
                return True
            self._settled.add(hour)
        return removed or len(unsettled) > LOOKS


def _newest_over(now: int) -> int:
    """The newest hour that is over for long enough."""
    return _begin(now - GRACE_MS, HOUR_MS) - HOUR_MS


def _begin(moment: int, step_ms: int) -> int:
    return moment - moment % step_ms


def _remove(condition: peewee.Expression) -> bool:
    """Whether there may be more."""
    some = [row.id for row in UsageHour.select(UsageHour.id).where(condition).limit(PART)]
    if some:
        with transaction():
            UsageHour.delete().where(UsageHour.id.in_(some)).execute()
    return len(some) == PART


def _unsummed(hour: int, most: int) -> list[str]:
    """Workspaces in which runs ended within that hour and that have no sum of it."""
    # Subqueries for one value are asked for each workspace by itself, which are two looks into an index; of an EXISTS
    # PostgreSQL may make a join that reads the history.
    ended = Run.select(Run.completed_at).where(*_ended(Workspace.id, hour, hour + HOUR_MS)).limit(1)
    summed = UsageHour.select(UsageHour.hour).where(UsageHour.workspace == Workspace.id, UsageHour.hour == hour)
    waiting = Workspace.select(Workspace.id).where(
        Workspace.status != DELETED, _is_null(summed.limit(1)), ~_is_null(ended)
    )
    return [workspace.id for workspace in waiting.order_by(Workspace.id).limit(most)]


def _is_null(subquery: peewee.Query) -> peewee.Expression:
    return peewee.Expression(subquery, peewee.OP.IS, None)


def _ended(workspace: Any, since: int, until: int) -> tuple[peewee.Expression, ...]:
    """The condition for runs that ended from `since` until before `until`, as their index has them."""
    ended = Run.completed_at
    return Run.workspace == workspace, ended.is_null(False), ended >= since, ended < until


def sum_up(workspace_id: str, hour: int) -> bool:
    """Keep the sum of what ended within that hour, which is over. False: it was there, or the workspace is gone."""
    total = _Sum()
    begin, end = hour, hour + HOUR_MS
    while begin < end:
        until = _slice_end(workspace_id, begin, end)
        for _, counts, _ in _counted(_chosen(workspace_id, begin, until)):
            total.count(*counts)
        begin = until
    durations = {str(number): count for number, count in sorted(total.durations.items())}
    try:
        with transaction():
            UsageHour.create(
                workspace=workspace_id, hour=hour, runs=total.runs, failed=total.failed, worker_ms=total.worker_ms,
                durations=durations,
            )  # fmt: skip
    except peewee.IntegrityError:
        return False
    return True


def _slice_end(workspace_id: str, begin: int, end: int) -> int:
    """Until when about `SLICE` runs ended: no moment is divided, however many ended within it."""
    runs = Run.select(Run.completed_at).where(*_ended(workspace_id, begin, end)).order_by(Run.completed_at)
    following = runs.offset(SLICE).limit(1).scalar()
    return end if following is None else max(following, begin + 1)


def _chosen(workspace_id: str, since: int, until: int) -> "peewee.ModelSelect[Run]":
    earlier = Attempt.select(peewee.fn.SUM(Attempt.duration_ms)).where(Attempt.run == Run.id)
    return Run.select(
        Run.completed_at, (Run.completed_at / HOUR_MS * HOUR_MS).alias("hour"), Run.status,
        peewee.Case(None, [(Run.started_at.is_null(False), Run.duration_ms)]).alias("duration_ms"),
        peewee.Case(None, [(Run.tries > 0, earlier)]).alias("earlier_ms"),
    ).where(*_ended(workspace_id, since, until))  # fmt: skip


def _counted(chosen: "peewee.ModelSelect[Run]") -> Iterable[tuple[int, tuple[str, int | None, int | None, int], int]]:
    """These runs by what they have in common: their hour, what `_Sum.count` takes, and when the first of them ended."""
    alike = (chosen.c.hour, chosen.c.status, chosen.c.duration_ms)
    groups = Run.select(
        *alike, peewee.fn.SUM(chosen.c.earlier_ms), peewee.fn.COUNT(chosen.c.completed_at),
        peewee.fn.MIN(chosen.c.completed_at),
    ).from_(chosen).group_by(*alike)  # fmt: skip
    rows: Iterable[Any] = groups.tuples()
    return ((row[0], (row[1], row[2], row[3], row[4]), row[5]) for row in rows)


@dataclass(frozen=True)
class Figures:
    """Points in order, and all of them in one."""

    points: list[Point]
    whole: Point


def figures(
    services: Services, workspace_id: str, since: int, until: int, step: Literal["hour", "day"]
) -> Figures:
    """A point for each hour or day (of UTC) that the range touches, oldest first, and their total, with two queries.

    An hour that is not summed up is read from the runs if it is the present one or the one before. Raises Invalid when
    there would be more than `MOST_POINTS`.
    """
    step_ms = STEPS[step]
    begins = range(_begin(since, step_ms), until, step_ms)
    if len(begins) > MOST_POINTS:
        raise Invalid(f"That would be {len(begins)} points, and may be {MOST_POINTS}.", field="since", value=since)
    sums = {begin: _Sum() for begin in begins}
    for hour, total in _hours(services, workspace_id, begins.start, begins.start + len(begins) * step_ms):
        sums[_begin(hour, step_ms)].merge(total)
    whole = _Sum()
    for total in sums.values():
        whole.merge(total)
    return Figures([total.point(begin) for begin, total in sums.items()], whole.point(begins.start))


def _hours(services: Services, workspace_id: str, since: int, until: int) -> Iterator[tuple[int, _Sum]]:
    columns = (UsageHour.hour, UsageHour.runs, UsageHour.failed, UsageHour.worker_ms, UsageHour.durations)
    rows: Iterable[Any] = UsageHour.select(*columns).where(
        UsageHour.workspace == workspace_id, UsageHour.hour >= since, UsageHour.hour < until
    ).tuples()  # fmt: skip
    summed = {
        hour: _Sum(runs, failed, worker_ms, {int(number): count for number, count in durations.items()})
        for hour, runs, failed, worker_ms, durations in rows
    }
    present = _begin(services.clock(), HOUR_MS)
    unsummed = [hour for hour in (present - HOUR_MS, present) if since <= hour < until and hour not in summed]
    return itertools.chain(summed.items(), _live(workspace_id, unsummed).items())


def _live(workspace_id: str, hours: Sequence[int]) -> dict[int, _Sum]:
    """What ended within these hours, one or two that follow each other; the latest `MOST_LIVE` of it."""
    if not hours:
        return {}
    sums = {hour: _Sum() for hour in hours}
    oldest = until = hours[-1] + HOUR_MS
    latest = _chosen(workspace_id, hours[0], until).order_by(Run.completed_at.desc()).limit(MOST_LIVE)
    for hour, counts, first in _counted(latest):
        sums[hour].count(*counts)
        oldest = min(oldest, first)
    if sum(total.runs for total in sums.values()) >= MOST_LIVE:
        for hour, total in sums.items():
            total.cut = hour <= oldest
    return sums
