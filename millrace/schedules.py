"""When scripts run by themselves: setting a schedule, and turning due times into runs."""

import logging
from dataclasses import dataclass

import peewee

from millrace import cron, database, logs, runs
from millrace.database import transaction
from millrace.errors import DomainError, Invalid, NotFound, PlatformError
from millrace.models import Firing, Run, Schedule, Script
from millrace.services import Services

RETRY_MS = 60_000  # how long a schedule that could not fire for a fault of ours is left alone

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fired:
    """What became of one due time."""

    script: str
    due_at: int
    outcome: str  # ran | skipped
    run_id: str | None


def replace(services: Services, script: Script, expression: str | None, time_zone: str | None) -> None:
    """Set, change or (None) remove the script's schedule, in the caller's transaction. Raises Invalid.

    A change of the expression or the zone starts the clock of rate() anew; the same again leaves it.
    """
    current = Schedule.get_or_none(Schedule.script == script.uuid)
    if expression is None:
        Schedule.delete().where(Schedule.script == script.uuid).execute()
        return
    zone = time_zone or (current.time_zone if current else "UTC")
    parsed = cron.parse(expression)
    cron.validate_zone(zone)
    if current is not None and (current.expression, current.time_zone) == (expression, zone):
        return
    now = services.clock()
    values = {"expression": expression, "time_zone": zone, "anchor_at": now,
              "next_fire_at": cron.next_fire(parsed, zone, after_ms=now, anchor_ms=now)}
    if current is None:
        Schedule.create(script=script.uuid, **values)
    else:
        Schedule.update(values).where(Schedule.script == script.uuid).execute()


def of(script: Script) -> Schedule | None:
    """The script's schedule, if it has one."""
    return Schedule.get_or_none(Schedule.script == script.uuid)


def upcoming(schedule: Schedule, after: int, count: int) -> list[int]:
    """The next due times."""
    return cron.upcoming(
        cron.parse(schedule.expression), schedule.time_zone, after_ms=after, count=count, anchor_ms=schedule.anchor_at
    )


def firings(script: Script, limit: int) -> list[Firing]:
    """The latest records of due times, newest first."""
    return list(Firing.select().where(Firing.script == script.uuid).order_by(Firing.due_at.desc()).limit(limit))


def next_due() -> int | None:
    """The earliest due time of all schedules."""
    earliest: int | None = Schedule.select(peewee.fn.MIN(Schedule.next_fire_at)).scalar()
    return earliest


def fire_due(services: Services, limit: int = 500) -> list[Fired]:
    """Fire every schedule that is due, each due time once however many schedulers run.

    After a pause of the platform a schedule fires once, for the latest due time, and goes on from now. One that
    cannot fire is recorded as skipped and keeps none of the others waiting.
    """
    now = services.clock()
    due = list(
        Schedule.select().where(Schedule.next_fire_at <= now).order_by(Schedule.next_fire_at).limit(limit)
    )
    return [fired for schedule in due if (fired := _fire_safely(services, schedule, now)) is not None]


def _fire_safely(services: Services, schedule: Schedule, now: int) -> Fired | None:
    try:
        return _fire(services, schedule, now)
    except Invalid as error:
        # Stored by an earlier release, or damaged: it waits until a person sets it anew.
        log.error("a schedule is no longer valid and stops: %s", error.message, extra={"script": schedule.script_id})
        return _skip(schedule, schedule.next_fire_at, None, now, error.message)
    except (*database.UNREACHABLE, PlatformError) as error:
        if not database.is_contended(error):
            raise
        log.warning("a schedule fires later, its script is locked: %s", error, extra={"script": schedule.script_id})
        return None
    except Exception as error:
        log.exception("a schedule could not fire", extra={"script": schedule.script_id})
        reason = f"{type(error).__name__} in the scheduler"
        return _skip(schedule, schedule.next_fire_at, now + RETRY_MS, now, reason)


def _fire(services: Services, schedule: Schedule, now: int) -> Fired | None:
    expression = cron.parse(schedule.expression)
    following = cron.next_fire(expression, schedule.time_zone, after_ms=now, anchor_ms=schedule.anchor_at)
    due_at = _latest_due(expression, schedule, now)
    script = Script.get_or_none(Script.uuid == schedule.script_id)
    if due_at is None or script is None:
        _move_on(schedule, following)
        return None
    missed = None if due_at == schedule.next_fire_at else (
        f"The due times from {logs.timestamp(schedule.next_fire_at)} on passed while no scheduler ran."
    )

    def because(run: Run) -> None:
        _advance(schedule, following)
        Firing.create(script=script.uuid, due_at=due_at, fired_at=now, outcome="ran", reason=missed, run_id=run.id)

    order = runs.Order(workspace=script.workspace_id, script=script.uuid, payload={}, trigger="schedule",
                       due_at=due_at)
    try:
        submitted = runs.submit(services, order, because)
    except _Outrun:
        return None
    except DomainError as error:
        return _skip(schedule, due_at, following, now, error.message)
    if not submitted.created:
        _move_on(schedule, following)  # it ran before the clock was set back
        return None
    return Fired(script.uuid, due_at, "ran", submitted.run.id)


def _latest_due(expression: cron.Expression, schedule: Schedule, now: int) -> int | None:
    """The latest due time from the one that was noted until now, in some forty steps however long the pause was."""
    latest: int | None = None
    early, late = schedule.next_fire_at - 1, now
    while early < late:
        middle = early if latest is None else (early + late) // 2
        following = cron.next_fire(expression, schedule.time_zone, after_ms=middle, anchor_ms=schedule.anchor_at)
        if following is not None and following <= now:
            latest = early = following
        elif latest is None:
            return None
        else:
            late = middle
    return latest


def _skip(schedule: Schedule, due_at: int, following: int | None, now: int, reason: str) -> Fired | None:
    try:
        with transaction():
            runs.lock_script(schedule.script_id)  # first, as everybody does, or two could wait for each other
            _advance(schedule, following)
            Firing.create(script=schedule.script_id, due_at=due_at, fired_at=now, outcome="skipped",
                          reason=reason[:200])
    except (_Outrun, NotFound):  # deleted meanwhile
        return None
    except peewee.IntegrityError:
        _move_on(schedule, following)  # this due time has its record already
        return None
    return Fired(schedule.script_id, due_at, "skipped", None)


def realign(services: Services) -> int:
    """Bring back schedules that wait too long, after the clock was set back. Returns how many.

    A due time that has fired already does not fire again.
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
            moved += (
                Schedule.update(next_fire_at=following, anchor_at=anchor_at)
                .where(Schedule.script == schedule.script_id, Schedule.next_fire_at == schedule.next_fire_at)
                .execute()
            )
    return moved


class _Outrun(Exception):
    """Another scheduler took this due time, or the schedule changed meanwhile."""


def _advance(schedule: Schedule, following: int | None) -> None:
    if not _move_on(schedule, following):
        raise _Outrun


def _move_on(schedule: Schedule, following: int | None) -> int:
    return int(
        Schedule.update(next_fire_at=following)
        .where(Schedule.script == schedule.script_id, Schedule.next_fire_at == schedule.next_fire_at)
        .execute()
    )
