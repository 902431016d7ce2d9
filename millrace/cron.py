"""When a schedule fires: presets, `rate(...)`, EventBridge's `cron(...)` with its six fields, and Unix's five.

    hourly | daily | weekly       minute 0 of every hour, 00:00 every day, Sunday 00:00
    rate(value unit)              1 minute|hour|day, or more minutes|hours|days
    cron(minutes hours day-of-month month day-of-week year)
    crontab(minute hour day-of-month month day-of-week)

The grammar of `cron` is that of the EventBridge user guide and, where the guide is silent, of Quartz, which
it follows. Every field takes `,` lists, `-` ranges, which may wrap as in 20-2 (not over years), `*`, and `/`
steps from a start or over a range; names are in any case. One of day-of-month and day-of-week must be `?`,
the other must not.

- In day-of-month `L` is the last day, `L-3` three days before it, `15W` the weekday nearest to the 15th
  within the month (and none in a month without that day), `LW` the last weekday. They may stand in lists.
- In day-of-week 1 is Sunday, `L` Saturday, `6L` or `FRIL` the last Friday of the month. `3#2` is the second
  Tuesday, and stands alone.

`crontab` is what Unix and robfig/cron understand: `,` lists, `-` ranges, `*`, `/` steps and names; in day-of-week 0 and
7 are Sunday. Where both day-of-month and day-of-week name days, either is enough. Which of the two dialects is meant
its word says, never the number of fields: Monday is 2 in one and 1 in the other.

Pure: time comes as an argument, in epoch milliseconds. Local times are those of the schedule's zone, and
behave as in EventBridge Scheduler: one that spring skips does not fire, one that autumn repeats fires once,
the first time. A rate counts from its anchor, and its day is always 24 hours.
"""

import calendar
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from importlib import resources
from zoneinfo import ZoneInfo

from millrace import errors

MAX_LENGTH = 256
FIRST_YEAR, LAST_YEAR = 1970, 2199

_FORMS = (
    "hourly, daily, weekly, rate(value unit), cron(minutes hours day-of-month month day-of-week year) or "
    "crontab(minute hour day-of-month month day-of-week)"
)
_CRONTAB = "crontab("
_PRESETS = {"hourly": "0 * * * ? *", "daily": "0 0 * * ? *", "weekly": "0 0 ? * 1 *"}
_UNITS_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_NUMBER = r"[0-9]{1,4}"
_ITEM = rf"({_NUMBER}|[A-Z]{{3}})"
_PART = re.compile(rf"(?:\*|{_ITEM}(?:-{_ITEM})?)(?:/({_NUMBER}))?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# No zone is a day away from UTC: outside of these no local time is in a year that can be named.
_EARLIEST_MS = -86_400_000
_LATEST_MS = (datetime(LAST_YEAR + 1, 1, 2, tzinfo=UTC) - _EPOCH) // _MILLISECOND

# The days of a month, given the weekday of its first (Monday is 0) and its length.
Days = Callable[[int, int], set[int]]


@dataclass(frozen=True)
class Rate:
    """Every so many milliseconds from an anchor."""

    interval_ms: int


@dataclass(frozen=True)
class Calendar:
    """Local times; every tuple is in ascending order."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: tuple[int, ...]
    years: tuple[int, ...]
    days: Days


@dataclass(frozen=True)
class Expression:
    """A valid schedule. `text` is as it was sent."""

    text: str
    plan: Rate | Calendar = dataclasses.field(compare=False, repr=False)


def parse(text: object, field: str = "schedule") -> Expression:
    """Read a schedule of the script engine API; raises Invalid with the part, its value and its rule."""
    if not isinstance(text, str):
        raise errors.Invalid(f"{field} must be a string: {_FORMS}", field=field, value=text)
    try:
        return Expression(text, _plan(text))
    except _Broken as broken:
        raise errors.Invalid(str(broken), field=field, value=text) from None


def of_crontab(text: object, field: str = "schedule") -> str:
    """The schedule that five bare fields of a crontab mean; raises Invalid as `parse` does."""
    if not isinstance(text, str) or not text.isascii() or not text.isprintable() or "(" in text or ")" in text:
        raise errors.Invalid(
            f"{field} must have the five fields minute, hour, day of month, month and day of week, such as 0 9 * * 1-5",
            field=field, value=text,
        )  # fmt: skip
    schedule = f"{_CRONTAB}{' '.join(text.split())})"
    try:
        _plan(schedule)
    except _Broken as broken:
        raise errors.Invalid(str(broken), field=field, value=text) from None
    return schedule


def crontab_of(schedule: str) -> str | None:
    """The five fields of a schedule that `of_crontab` made; None for one of another form."""
    return schedule.removeprefix(_CRONTAB)[:-1] if schedule.startswith(_CRONTAB) else None


def validate_zone(name: object, field: str = "time_zone") -> str:
    """The name itself if it is an IANA time zone; raises Invalid otherwise."""
    if not isinstance(name, str) or name not in _zone_names():
        shown = errors.shorten(name)
        raise errors.Invalid(
            f"{field} {shown!r} must be an IANA time zone such as Europe/Berlin",
            field=field,
            value=name,
        )
    return name


def next_fire(expression: Expression, zone: str, after_ms: int, anchor_ms: int) -> int | None:
    """The first firing later than `after_ms`, or None if there is none any more.

    `anchor_ms` is when the schedule was made or last changed: a rate fires first one interval after it.
    """
    return next(_firings(expression, zone, after_ms, anchor_ms), None)


def upcoming(expression: Expression, zone: str, after_ms: int, anchor_ms: int, count: int) -> list[int]:
    """Up to `count` firings later than `after_ms`, in order."""
    return list(itertools.islice(_firings(expression, zone, after_ms, anchor_ms), count))


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    # The package's own list, for the machine's may hold more: "localtime", "right/UTC" with leap seconds.
    names = resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split()
    return frozenset(names) - {"Factory"}


# Firing


def _firings(expression: Expression, zone: str, after_ms: int, anchor_ms: int) -> Iterator[int]:
    info = ZoneInfo(validate_zone(zone))
    plan = expression.plan
    if isinstance(plan, Rate):
        passed = max((after_ms - anchor_ms) // plan.interval_ms, 0)
        due = itertools.count(anchor_ms + (passed + 1) * plan.interval_ms, plan.interval_ms)
        return itertools.takewhile(lambda at: at <= _LATEST_MS, due)
    return _calendar_firings(plan, info, after_ms)


def _calendar_firings(plan: Calendar, zone: ZoneInfo, after_ms: int) -> Iterator[int]:
    if after_ms > _LATEST_MS:
        return
    start = (_EPOCH + max(after_ms, _EARLIEST_MS) * _MILLISECOND).astimezone(zone)
    end_of_gap = datetime.min
    # First occurrences come in the order of their local times, so none is missed by starting at this one.
    for local in _local_times(plan, start.replace(tzinfo=None)):
        if local < end_of_gap:
            continue
        instant = _first_occurrence(local, zone)
        if instant is None:
            end_of_gap = _end_of_gap(local, zone)
        elif instant > after_ms:
            yield instant


def _first_occurrence(local: datetime, zone: ZoneInfo) -> int | None:
    """The instant of a local time, the earlier one of two; None for a time that the clock skips."""
    instant = local.replace(tzinfo=zone).astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) != local:
        return None
    return (instant - _EPOCH) // _MILLISECOND


def _end_of_gap(skipped: datetime, zone: ZoneInfo) -> datetime:
    """The minute in which the clock goes on after skipping this local time.

    Saves a plan that fires in the skipped hour alone from converting every minute of it, for two centuries.
    """
    # Of a skipped time the two readings (PEP 495) lie on either side of the change, and in reverse order.
    before = skipped.replace(tzinfo=zone, fold=1).astimezone(UTC)
    after = skipped.replace(tzinfo=zone, fold=0).astimezone(UTC)
    old_offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(minutes=1):
        middle = before + (after - before) / 2
        if middle.astimezone(zone).utcoffset() == old_offset:
            before = middle
        else:
            after = middle
    return after.astimezone(zone).replace(tzinfo=None, second=0, microsecond=0)


def _local_times(plan: Calendar, start: datetime) -> Iterator[datetime]:
    """The plan's local times from the minute of `start` on."""
    for day in _dates(plan, start.date()):
        earliest = (start.hour, start.minute) if day == start.date() else (0, 0)
        for hour in plan.hours:
            for minute in plan.minutes:
                if (hour, minute) >= earliest:
                    yield datetime.combine(day, time(hour, minute))


def _dates(plan: Calendar, start: date) -> Iterator[date]:
    # A month is one of 28 kinds; what never fires is known after looking at each kind of it once.
    known: dict[tuple[int, int], list[int]] = {}
    for year in plan.years:
        if year < start.year:
            continue
        for month in plan.months:
            if (year, month) < (start.year, start.month):
                continue
            kind = calendar.monthrange(year, month)
            if kind not in known:
                known[kind] = sorted(plan.days(*kind))
            for day in known[kind]:
                if (year, month, day) >= (start.year, start.month, start.day):
                    yield date(year, month, day)


# Reading


class _Broken(Exception):
    """A sentence that says which part of the text breaks which rule."""


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    wildcards: str = ", - * /"
    names: tuple[str, ...] = ()
    wraps: bool = True

    @property
    def rule(self) -> str:
        numbers = f"{self.low}-{self.high}"
        return f"{numbers} or {self.names[0]}-{self.names[-1]}" if self.names else numbers

    def number(self, item: str) -> int:
        if item in self.names:
            return self.names.index(item) + self.low
        if not item.isdigit() or not self.low <= int(item) <= self.high:
            raise _Broken(f"cron {self.name} {item!r} must be {self.rule}")
        return int(item)

    def values(self, part: str) -> set[int]:
        """What one item of a list stands for."""
        match = _PART.fullmatch(part)
        if match is None:
            shown = errors.shorten(part)
            raise _Broken(f"cron {self.name} {shown!r} must be {self.rule}, with the wildcards {self.wildcards}")
        first, last, step_text = match.groups()
        start = self.number(first) if first else self.low
        stop = self.number(last) if last else start if first and not step_text else self.high
        step = self.step(step_text) if step_text else 1
        if stop >= start:
            return set(range(start, stop + 1, step))
        if not self.wraps:
            raise _Broken(f"cron {self.name} {part!r} must not end before it begins")
        size = self.high - self.low + 1
        return {(value - self.low) % size + self.low for value in range(start, stop + size + 1, step)}

    def step(self, text: str) -> int:
        # A step past the field would look as if it counted on into the next hour or day.
        highest = self.high if self.wraps else self.high - self.low
        if not 1 <= int(text) <= highest:
            raise _Broken(f"cron {self.name} step '/{text}' must be 1-{highest}")
        return int(text)

    def read(self, text: str) -> tuple[int, ...]:
        return tuple(sorted(set().union(*map(self.values, text.split(",")))))


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MINUTES = _Field("minutes", 0, 59)
_HOURS = _Field("hours", 0, 23)
_DAY_OF_MONTH = _Field("day-of-month", 1, 31, ", - * ? / L W")
_MONTH = _Field("month", 1, 12, names=_MONTHS)
_DAY_OF_WEEK = _Field("day-of-week", 1, 7, ", - * ? / L #", names=_WEEKDAYS)
_YEAR = _Field("year", FIRST_YEAR, LAST_YEAR, wraps=False)

# A crontab's. Its ranges do not wrap.
_TAB_MINUTE = _Field("minute", 0, 59, wraps=False)
_TAB_HOUR = _Field("hour", 0, 23, wraps=False)
_TAB_DAY_OF_MONTH = _Field("day-of-month", 1, 31, wraps=False)
_TAB_MONTH = _Field("month", 1, 12, names=_MONTHS, wraps=False)
_TAB_DAY_OF_WEEK = _Field("day-of-week", 0, 7, names=_WEEKDAYS, wraps=False)


def _plan(text: str) -> Rate | Calendar:
    if len(text) > MAX_LENGTH:
        raise _Broken(f"schedule must have at most {MAX_LENGTH} characters, this one has {len(text)}")
    if text in _PRESETS:
        return _read_cron(_PRESETS[text])
    # Other digits, blanks and cases of other scripts would pass for ours below.
    if text.isascii() and text.isprintable() and text.endswith(")"):
        if text.startswith("rate("):
            return _read_rate(text.removeprefix("rate(")[:-1])
        if text.startswith("cron("):
            return _read_cron(text.removeprefix("cron(")[:-1])
        if text.startswith(_CRONTAB):
            return _read_crontab(text.removeprefix(_CRONTAB)[:-1])
    raise _Broken(f"schedule {errors.shorten(text)!r} must be {_FORMS}")


def _read_rate(text: str) -> Rate:
    value, _, unit = text.partition(" ")
    if not re.fullmatch(r"[0-9]{1,6}", value) or int(value) == 0:
        raise _Broken(f"rate value {errors.shorten(value)!r} must be a whole number of 1-999999")
    plural = "" if int(value) == 1 else "s"
    allowed = [name + plural for name in _UNITS_MS]
    if unit not in allowed:
        shown = errors.shorten(unit)
        raise _Broken(f"rate unit {shown!r} must be {', '.join(allowed)} for the value {int(value)}")
    return Rate(int(value) * _UNITS_MS[unit.removesuffix("s")])


def _read_cron(text: str) -> Calendar:
    fields = text.upper().split()
    if len(fields) != 6:
        raise _Broken(
            f"cron must have six fields (minutes hours day-of-month month day-of-week year), this one has {len(fields)}"
        )
    minutes, hours, day_of_month, month, day_of_week, year = fields
    return Calendar(
        minutes=_MINUTES.read(minutes),
        hours=_HOURS.read(hours),
        days=_read_days(day_of_month, day_of_week),
        months=_MONTH.read(month),
        years=_YEAR.read(year),
    )


def _read_crontab(text: str) -> Calendar:
    fields = text.upper().split()
    if len(fields) != 5:
        raise _Broken(
            f"crontab must have five fields (minute hour day-of-month month day-of-week), this one has {len(fields)}"
        )
    minute, hour, day_of_month, month, day_of_week = fields
    return Calendar(
        minutes=_TAB_MINUTE.read(minute),
        hours=_TAB_HOUR.read(hour),
        days=_read_days_of_crontab(day_of_month, day_of_week),
        months=_TAB_MONTH.read(month),
        years=tuple(range(FIRST_YEAR, LAST_YEAR + 1)),
    )


def _read_days_of_crontab(day_of_month: str, day_of_week: str) -> Days:
    days = set(_TAB_DAY_OF_MONTH.read(day_of_month))
    # Sunday is both 0 and 7, so that what counts on to the end of the week must end at 6.
    closed = re.sub(r"(^|,)(\w+)/", r"\1\2-6/", day_of_week.replace("*", "0-6"))
    weekdays = {value % 7 + 1 for value in _TAB_DAY_OF_WEEK.read(closed)}
    either = day_of_month != "*" and day_of_week != "*"

    def chosen(first: int, length: int) -> set[int]:
        by_weekday = {day for day in range(1, length + 1) if _weekday(day, first) in weekdays}
        by_day = {day for day in days if day <= length}
        return by_day | by_weekday if either else by_day & by_weekday

    return chosen


def _read_days(day_of_month: str, day_of_week: str) -> Days:
    if (day_of_month == "?") == (day_of_week == "?"):
        raise _Broken(f"cron day-of-month {day_of_month!r} and day-of-week {day_of_week!r}: exactly one must be '?'")
    return _read_days_of_month(day_of_month) if day_of_week == "?" else _read_days_of_week(day_of_week)


def _read_days_of_month(text: str) -> Days:
    plain: set[int] = set()
    special: list[Days] = []
    for part in text.split(","):
        if part == "L":
            special.append(lambda first, length: {length})
        elif part == "LW":
            special.append(lambda first, length: _nearest_weekday(length, first, length))
        elif offset := re.fullmatch(rf"L-({_NUMBER})", part):
            special.append(_before_last(int(offset[1])))
        elif nearest := re.fullmatch(rf"({_NUMBER})W", part):
            special.append(_nearest_to(_DAY_OF_MONTH.number(nearest[1])))
        else:
            plain |= _DAY_OF_MONTH.values(part)
    return lambda first, length: {day for day in plain if day <= length}.union(
        *(days(first, length) for days in special)
    )


def _before_last(offset: int) -> Days:
    if not 1 <= offset <= 30:
        raise _Broken(f"cron day-of-month 'L-{offset}' must be L-1 to L-30")
    return lambda first, length: {length - offset} if length > offset else set()


def _nearest_to(day: int) -> Days:
    return lambda first, length: _nearest_weekday(day, first, length)


def _nearest_weekday(day: int, first: int, length: int) -> set[int]:
    if day > length:
        return set()
    weekday = (first + day - 1) % 7
    if weekday == calendar.SATURDAY:
        return {day - 1 if day > 1 else day + 2}
    if weekday == calendar.SUNDAY:
        return {day + 1 if day < length else day - 2}
    return {day}


def _read_days_of_week(text: str) -> Days:
    if "#" in text:
        return _read_nth_weekday(text)
    plain: set[int] = set()
    last: set[int] = set()
    for part in text.split(","):
        if part == "L":
            plain.add(7)
        elif last_one := re.fullmatch(rf"{_ITEM}L", part):
            last.add(_DAY_OF_WEEK.number(last_one[1]))
        else:
            plain |= _DAY_OF_WEEK.values(part)
    return lambda first, length: {
        day for day in range(1, length + 1) if _weekday(day, first) in (plain | last if day > length - 7 else plain)
    }


def _read_nth_weekday(text: str) -> Days:
    match = re.fullmatch(rf"{_ITEM}#({_NUMBER})", text)
    if match is None:
        raise _Broken(f"cron day-of-week {errors.shorten(text)!r} must be a single item when it has '#'")
    weekday, nth = _DAY_OF_WEEK.number(match[1]), int(match[2])
    if not 1 <= nth <= 5:
        raise _Broken(f"cron day-of-week '#{nth}' must be #1 to #5")
    return lambda first, length: {
        day for day in range(nth * 7 - 6, min(nth * 7, length) + 1) if _weekday(day, first) == weekday
    }


def _weekday(day: int, first: int) -> int:
    """1 for Sunday to 7 for Saturday."""
    return (first + day) % 7 + 1
