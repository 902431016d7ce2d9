"""A schedule's due times, and which of those that passed are made up for. Nothing is read or written here."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from millrace import cron, logs
from millrace.models import Schedule

GRACE_MS = 15_000  # a due time that is older was missed; a slow tick, or the wait for a lock, makes none missed
MAX_RECORDS = 1_000  # of due times that are passed over at once; the last one sums up the rest


@dataclass(frozen=True)
class PassedOver:
    """Due times that get no run, each with the reason, and the one that comes after them all."""

    records: list[tuple[int, str]]
    following: int | None


def after(schedule: Schedule, moment: int) -> int | None:
    """The first due time later than this. Raises Invalid for a schedule that is damaged."""
    expression = cron.parse(schedule.expression)
    return cron.next_fire(expression, schedule.time_zone, after_ms=moment, anchor_ms=schedule.anchor_at)


def between(schedule: Schedule, first: int, last: int) -> Iterator[int]:
    """The due times from `first` to `last`, both included, in order."""
    due = after(schedule, first - 1)
    while due is not None and due <= last:
        yield due
        due = after(schedule, due)


def latest(schedule: Schedule, first: int, last: int) -> int | None:
    """The latest due time from `first` to `last`, in some forty steps however long that is."""
    found: int | None = None
    early, late = first - 1, last
    while early < late:
        middle = early if found is None else (early + late) // 2
        following = after(schedule, middle)
        if following is not None and following <= last:
            found = early = following
        elif found is None:
            return None
        else:
            late = middle
    return found


def missed(schedule: Schedule, now: int) -> PassedOver | None:
    """What is due by now and not made up for, as the schedule's `catch_up` says; None when nothing is."""
    if schedule.next_fire_at >= now - GRACE_MS:
        return None
    return _pass_over(schedule, _made_up_from(schedule, now) - 1, _REASONS[schedule.catch_up].format(
        minutes=schedule.catch_up_minutes
    ))


def unfired(schedule: Schedule, now: int, reason: str) -> PassedOver | None:
    """All that is due by now and has not fired yet; None when nothing is."""
    return None if schedule.next_fire_at is None else _pass_over(schedule, now, reason)


_REASONS = {
    "none": "Missed: nothing fired it in time, and this schedule does not catch up.",
    "last": "Missed: nothing fired it in time, and this schedule makes up for the latest only.",
    "all": "Missed: nothing fired it in time, and it is older than {minutes} minutes.",
}


def _made_up_from(schedule: Schedule, now: int) -> int:
    """The moment from which on what was due still runs."""
    in_time = now - GRACE_MS
    if schedule.catch_up == "all":
        return now - int(schedule.catch_up_minutes) * 60_000
    if schedule.catch_up == "last":
        newest = latest(schedule, schedule.next_fire_at, now)
        return in_time if newest is None else min(newest, in_time)
    return in_time


def _pass_over(schedule: Schedule, last: int, reason: str) -> PassedOver | None:
    due = list(itertools.islice(between(schedule, schedule.next_fire_at, last), MAX_RECORDS + 1))
    if not due:
        return None
    records = [(each, reason) for each in due[:MAX_RECORDS]]
    if len(due) > MAX_RECORDS:
        newest = latest(schedule, due[-1], last) or due[-1]
        records[-1] = (records[-1][0], f"{reason} So it is with all until {logs.timestamp(newest)}.")
    return PassedOver(records, after(schedule, last))
