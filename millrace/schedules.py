"""When scripts run by themselves: setting a schedule, and turning due times into runs.

`next_fire_at` is the first due time that has no record yet. Each step takes one or several due times from there: in
one transaction it moves `next_fire_at` on, on condition that it still is what was read, and writes their records.
So every due time has one, however many schedulers run and wherever they die.

What becomes of a due time while an earlier run of the schedule goes on, `overlap` says: `allow` both, `skip` it,
`queue` it behind the earlier ones, or `cancel` those. What becomes of due times that nothing fired in time,
`catch_up` says: `none` runs, the `last` one does, or `all` of the last `catch_up_minutes` do, one after the other.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import peewee

from millrace import cron, database, duetimes, logs, paging, runs
from millrace.database import transaction
from millrace.errors import Conflict, DomainError, Invalid, NotFound, PlatformError
from millrace.models import Firing, Run, Schedule, Script
from millrace.models.run import QUEUED
from millrace.models.script import DELETED
from millrace.paging import Position
from millrace.services import Services

RETRY_MS = 60_000  # how long a schedule is left alone whose next due time cannot be told for a fault of ours
PART = 100  # due times of one schedule that a tick makes up for; the next tick goes on
OVERLAP = ("allow", "skip", "queue", "cancel")
CATCH_UP = ("none", "last", "all")
CATCH_UP_MINUTES = (1, 44_640)
RAN, SKIPPED = "ran", "skipped"
BACKFILLED = "backfilled"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fired:
    """What became of one due time."""

    script: str
    due_at: int
    outcome: str  # ran | skipped
    run_id: str | None


def replace(
    services: Services, script: Script, expression: str | None, time_zone: str | None,
    policy: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Set, change or (None) remove the script's schedule, in the caller's transaction. Raises Invalid.

    `policy` sets `overlap`, `catch_up` and `catch_up_minutes`; what is left out stays. A change of the expression or
    the zone starts the clock of rate() anew; the same again leaves it. A schedule that is paused stays so.
    """
    current = of(script)
    now = services.clock()
    if expression is None:
        Schedule.delete().where(Schedule.script == script.uuid).execute()
        return
    zone = time_zone or (current.time_zone if current else "UTC")
    parsed = cron.parse(expression)
    cron.validate_zone(zone)
    values = dict(policy or {})
    if current is None or (current.expression, current.time_zone) != (expression, zone):
        paused = current is not None and current.paused_at is not None
        following = cron.next_fire(parsed, zone, after_ms=now, anchor_ms=now)
        values |= {"expression": expression, "time_zone": zone, "anchor_at": now,
                   "next_fire_at": None if paused else following}
    if current is None:
        Schedule.create(script=script.uuid, **values)
    elif values:
        if "next_fire_at" in values:
            _leave_unfired(current, now, "The schedule was changed before it fired.")
        Schedule.update(values).where(Schedule.script == script.uuid).execute()


def _leave_unfired(schedule: Schedule, now: int, reason: str) -> None:
    """Record what is due and has not fired, before the schedule forgets it."""
    with suppress(Invalid):  # of a schedule that is damaged nobody can tell what was due
        passed = duetimes.unfired(schedule, now, reason)
        if passed is not None:
            _record_skipped(schedule.script_id, passed.records, now)


def of(script: Script) -> Schedule | None:
    """The script's schedule, if it has one."""
    return Schedule.get_or_none(Schedule.script == script.uuid)


def require(script: Script) -> Schedule:
    """The script's schedule, or NotFound."""
    schedule = of(script)
    if schedule is None:
        raise NotFound(f"Script '{script.slug}' has no schedule.")
    return schedule


def upcoming(schedule: Schedule, after: int, count: int) -> list[int]:
    """The next due times; none while it is paused."""
    if schedule.paused_at is not None:
        return []
    return cron.upcoming(
        cron.parse(schedule.expression), schedule.time_zone, after_ms=after, count=count, anchor_ms=schedule.anchor_at
    )


def firings(
    script: Script, size: int, before: Position | None = None, outcome: str | None = None
) -> tuple[list[Firing], Position | None]:
    """Records of due times, the latest due time first, and where the next page begins."""
    query = Firing.select().where(Firing.script == script.uuid)
    if before is not None:
        query = query.where(Firing.due_at < before[0])
    if outcome is not None:
        query = query.where(Firing.outcome == outcome)
    rows = list(query.order_by(Firing.due_at.desc()).limit(size + 1))
    return paging.cut(rows, size, lambda firing: (firing.due_at, script.uuid))


def page(workspace_id: str, before: Position | None, size: int) -> tuple[list[Schedule], Position | None]:
    """The workspace's schedules with their scripts, those of the newest first, and where the next page begins."""
    query = Schedule.select(Schedule, Script).join(Script)
    query = query.where(Script.workspace == workspace_id, Script.status != DELETED)
    if before is not None:
        query = query.where(paging.older(Script.created_at, Script.uuid, before))
    rows = list(query.order_by(Script.created_at.desc(), Script.uuid.desc()).limit(size + 1))
    return paging.cut(rows, size, lambda schedule: (schedule.script.created_at, schedule.script_id))


def last_firings(uuids: Sequence[str]) -> dict[str, Firing]:
    """What became of the latest due time of each of these scripts that has one, by the script's uuid."""
    each = Firing.alias()
    latest = each.select(peewee.fn.MAX(each.due_at)).where(each.script == Script.uuid)
    query = Firing.select().join(Script, on=(Firing.script == Script.uuid) & (Firing.due_at == latest))
    return {firing.script_id: firing for firing in query.where(Script.uuid.in_(list(uuids)))}


def next_due() -> int | None:
    """The earliest due time of all schedules."""
    earliest: int | None = Schedule.select(peewee.fn.MIN(Schedule.next_fire_at)).scalar()
    return earliest


# Pausing


def pause(services: Services, script: Script) -> Schedule:
    """Nothing fires until `resume`; runs that were started go on. Raises NotFound when there is no schedule."""
    now = services.clock()
    with transaction():
        runs.lock_script(script.uuid)
        schedule = require(script)
        if schedule.paused_at is None:
            _leave_unfired(schedule, now, "The schedule was paused before it fired.")
            Schedule.update(paused_at=now, next_fire_at=None).where(Schedule.script == script.uuid).execute()
    return require(script)


def resume(services: Services, script: Script) -> Schedule:
    """Go on with the first due time from now on.

    What passed meanwhile is not made up for; the first of it is recorded as skipped, with the length of the pause.
    Raises NotFound when there is no schedule.
    """
    now = services.clock()
    with transaction():
        runs.lock_script(script.uuid)
        schedule = require(script)
        if schedule.paused_at is not None:
            following = duetimes.after(schedule, now)
            Schedule.update(paused_at=None, next_fire_at=following).where(Schedule.script == script.uuid).execute()
            _record_pause(schedule, now)
    return require(script)


def _record_pause(schedule: Schedule, now: int) -> None:
    begin = schedule.paused_at
    known = Firing.select(Firing.due_at).where(
        Firing.script == schedule.script_id, Firing.due_at > begin, Firing.due_at <= now
    )
    backfilled = {firing.due_at for firing in known}
    first = next((due for due in duetimes.between(schedule, begin + 1, now) if due not in backfilled), None)
    if first is not None:
        reason = f"Paused from {logs.timestamp(begin)} until {logs.timestamp(now)}: nothing was started meanwhile."
        _record_skipped(schedule.script_id, [(first, reason)], now)


# Firing


def fire_due(services: Services, limit: int = 500) -> list[Fired]:
    """Fire every schedule that is due, each due time once however many schedulers run.

    One that cannot fire is recorded as skipped and keeps none of the others waiting. Where there is much to make up
    for, a part of it is done: call again while `next_due` is in the past.
    """
    now = services.clock()
    # The newest first, so that those which catch up for hours do not keep the punctual ones waiting.
    due = list(
        Schedule.select(Schedule, Script).join(Script).where(Schedule.next_fire_at <= now)
        .order_by(Schedule.next_fire_at.desc()).limit(limit)
    )  # fmt: skip
    fired: list[Fired] = []
    for schedule in due:
        if len(fired) >= limit:
            break
        fired += _fire_safely(services, schedule, now, most=min(PART, limit - len(fired)))
    _end_outdated(services)
    return fired


def _fire_safely(services: Services, schedule: Schedule, now: int, most: int) -> list[Fired]:
    fired: list[Fired] = []
    try:
        for each in _fire(services, schedule, now, most):
            fired.append(each)
    except _Outrun:
        pass
    except Invalid as error:
        # Stored by an earlier release, or damaged: it waits until a person sets it anew.
        log.error("a schedule is no longer valid and stops: %s", error.message, extra={"script": schedule.script_id})
        fired += _skip(schedule, schedule.next_fire_at, error.message, None, now)
    except (*database.UNREACHABLE, PlatformError) as error:
        if not database.is_contended(error):
            raise
        log.warning("a schedule fires later, its script is locked: %s", error, extra={"script": schedule.script_id})
    except Exception as error:
        log.exception("a schedule could not fire", extra={"script": schedule.script_id})
        reason = f"{type(error).__name__} in the scheduler"
        fired += _skip(schedule, schedule.next_fire_at, reason, _after_fault(schedule, now), now)
    return fired


def _after_fault(schedule: Schedule, now: int) -> int | None:
    """The due time after the one that failed, or a later moment if that cannot be told either."""
    try:
        return duetimes.after(schedule, schedule.next_fire_at)
    except Exception:
        log.exception("the next due time cannot be told", extra={"script": schedule.script_id})
        return now + RETRY_MS


def _fire(services: Services, schedule: Schedule, now: int, most: int) -> Iterator[Fired]:
    """What is due of one schedule, oldest first; up to `most` runs. Raises _Outrun when another one is at it."""
    missed = duetimes.missed(schedule, now)
    if missed is not None:
        yield from _pass_over(schedule, missed, now)
    for _ in range(most):
        if schedule.next_fire_at is None:
            return
        due_at = duetimes.after(schedule, schedule.next_fire_at - 1)  # rules of a zone may have changed meanwhile
        if due_at is None or due_at > now:
            _move_on(schedule, due_at)
            return
        yield from _start(services, schedule, due_at, now)


def _start(services: Services, schedule: Schedule, due_at: int, now: int) -> Sequence[Fired]:
    """Run one due time, or record why not. Nothing when it has its record already."""
    following = duetimes.after(schedule, due_at)

    def because(run: Run) -> None:
        _advance(schedule, following)
        _settle_overlap(schedule, run, now)
        Firing.create(script=run.script_id, due_at=due_at, fired_at=now, outcome=RAN, run_id=run.id)

    try:
        submitted = runs.submit(services, order(schedule, due_at), because)
    except DomainError as error:
        return _skip(schedule, due_at, error.message, following, now)
    except peewee.IntegrityError:
        _move_on(schedule, following)  # it was skipped before, by a clock that was ahead
        return ()
    if not submitted.created:
        _move_on(schedule, following)  # it ran before the clock was set back, or as part of a backfill
        return ()
    schedule.next_fire_at = following
    return (Fired(schedule.script_id, due_at, RAN, submitted.run.id),)


def order(schedule: Schedule, due_at: int) -> runs.Order:
    """The wish to run one due time."""
    return runs.Order(
        workspace=schedule.script.workspace_id, script=schedule.script_id, payload={}, trigger="schedule",
        due_at=due_at, serial=schedule.overlap == "queue",
    )  # fmt: skip


def _settle_overlap(schedule: Schedule, run: Run, now: int) -> None:
    """Compare with runs of earlier due times, in the transaction of the new one. Raises Conflict to skip this one."""
    earlier = Run.completed_at.is_null() & (Run.script == schedule.script_id) & (Run.due_at < run.due_at)
    if schedule.overlap == "skip":
        unfinished = Run.select(Run.id, Run.due_at).where(earlier).order_by(Run.due_at.desc()).first()
        if unfinished is not None:
            due = logs.timestamp(unfinished.due_at)
            raise Conflict(f"Run '{unfinished.id}', which was due at {due}, has not ended.")
    elif schedule.overlap == "cancel":
        # No worker claims what is marked so, and the one that has it ends it: from the commit on none is under way.
        # What a person had backfilled is not outdated by the present.
        outdated = Run.select(Run.id).join(
            Firing, on=(Firing.script == Run.script) & (Firing.due_at == Run.due_at)
        ).where(earlier, Run.cancel_requested_at.is_null(), Firing.reason.is_null() | (Firing.reason != BACKFILLED))
        Run.update(cancel_requested_at=now).where(Run.id.in_([each.id for each in outdated])).execute()


def _end_outdated(services: Services) -> None:
    """End the queued runs that later ones replaced: those of this tick, and what a scheduler left that died then."""
    # Script by script, as the index of what is open has it: all that waits on the platform may be a million runs.
    replacing = Schedule.select(Schedule.script).where(Schedule.overlap == "cancel")
    outdated = Run.select().where(
        Run.script.in_(replacing), Run.completed_at.is_null(), Run.status == QUEUED,
        Run.cancel_requested_at.is_null(False),
    )  # fmt: skip
    for run in list(outdated):
        try:
            runs.cancel(services, run)
        except (Conflict, NotFound):
            continue  # it has ended meanwhile, or is deleted
        except database.UNREACHABLE as error:
            if not database.is_contended(error):
                raise


def _skip(schedule: Schedule, due_at: int, reason: str, following: int | None, now: int) -> Sequence[Fired]:
    try:
        return _pass_over(schedule, duetimes.PassedOver([(due_at, reason)], following), now)
    except _Outrun:
        return ()


def _pass_over(schedule: Schedule, passed: duetimes.PassedOver, now: int) -> Sequence[Fired]:
    """Record due times that get no run, and move on. Raises _Outrun."""
    try:
        with transaction():
            runs.lock_script(schedule.script_id)  # first, as everybody does, or two could wait for each other
            _advance(schedule, passed.following)
            _record_skipped(schedule.script_id, passed.records, now)
    except NotFound:  # deleted meanwhile
        raise _Outrun from None
    schedule.next_fire_at = passed.following
    return [Fired(schedule.script_id, due_at, SKIPPED, None) for due_at, _ in passed.records]


def _record_skipped(script_uuid: str, records: Sequence[tuple[int, str]], now: int) -> None:
    """Write why these due times get no run, except for those that have a record already."""
    rows = [
        {"script": script_uuid, "due_at": due_at, "fired_at": now, "outcome": SKIPPED, "reason": reason[:200]}
        for due_at, reason in records
    ]
    Firing.insert_many(rows).on_conflict_ignore().execute()


def realign(services: Services) -> int:
    """Bring back schedules that wait too long, after the clock was set back. Returns how many.

    A due time that has run already does not run again. One that was skipped and now lies ahead may still run.
    """
    now = services.clock()
    moved = 0
    for schedule in list(Schedule.select().where(Schedule.next_fire_at > now)):
        try:
            expression = cron.parse(schedule.expression)
        except Invalid:
            continue  # `fire_due` tells of it
        anchor_at = min(schedule.anchor_at, now)
        following = cron.next_fire(expression, schedule.time_zone, after_ms=now, anchor_ms=anchor_at)
        if following is not None and following < schedule.next_fire_at:
            moved += _move_back(schedule, following, anchor_at, now)
    return moved


def _move_back(schedule: Schedule, following: int, anchor_at: int, now: int) -> int:
    with transaction():
        moved = (
            Schedule.update(next_fire_at=following, anchor_at=anchor_at)
            .where(Schedule.script == schedule.script_id, Schedule.next_fire_at == schedule.next_fire_at)
            .execute()
        )
        if moved:
            ahead = (Firing.script == schedule.script_id) & (Firing.due_at > now)
            Firing.delete().where(ahead, Firing.outcome == SKIPPED).execute()
    return int(moved)


class _Outrun(Exception):
    """Another scheduler took this due time, or the schedule changed meanwhile."""


def _advance(schedule: Schedule, following: int | None) -> None:
    """Move on in the transaction at hand; the object at hand follows once that is committed. Raises _Outrun."""
    moved = (
        Schedule.update(next_fire_at=following)
        .where(Schedule.script == schedule.script_id, Schedule.next_fire_at == schedule.next_fire_at)
        .execute()
    )
    if not moved:
        raise _Outrun


def _move_on(schedule: Schedule, following: int | None) -> None:
    _advance(schedule, following)
    schedule.next_fire_at = following
