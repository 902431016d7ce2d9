import calendar
import time
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from millrace import cron, errors

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def ms(text: str) -> int:
    """Epoch milliseconds of an ISO time; UTC unless it says otherwise."""
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def local(instant: int, zone: str) -> str:
    return datetime.fromtimestamp(instant / 1000, ZoneInfo(zone)).isoformat(timespec="minutes")


def firings(text: str, after: str, count: int = 3, zone: str = "UTC", anchor: str = "2026-01-01") -> list[str]:
    found = cron.upcoming(cron.parse(text), zone, ms(after), ms(anchor), count)
    return [local(instant, zone).removesuffix("+00:00") for instant in found]


# What is accepted and refused


@pytest.mark.parametrize(
    "text",
    [
        *("hourly", "daily", "weekly"),
        *(
            "rate(1 minute)",
            "rate(1 hour)",
            "rate(1 day)",
            "rate(6 hours)",
            "rate(15 minutes)",
            "rate(999999 days)",
        ),
        "cron(0 12 * * ? *)",
        "cron(0/15 9-17 ? * MON-FRI *)",
        "cron(0 10 ? * 6L *)",
        "cron(0 10 ? * fril *)",
        "cron(0 9 ? * 3#2 *)",
        "cron(0 9 ? * tue#2 *)",
        "cron(0 18 L * ? *)",
        "cron(0 18 L-3 * ? *)",
        "cron(0 18 LW * ? *)",
        "cron(0 18 1,15W,L,L-30 * ? *)",
        "cron(0 8 1W * ? *)",
        "cron(0 20-2 * * ? *)",
        "cron(0 8 ? jan,Jul mon 2026-2030)",
        "cron(0 8 ? NOV-FEB SAT-MON *)",
        "cron(0 11-23/2,*/5,7 * * ? *)",
        "cron(00 08 01 01 ? 1970,2199)",
        "cron(59 23 31 12 ? 2199)",
        "cron( 0  12 * * ? * )",
        "cron(0 0 ? * 2/2 *)",
        "cron(0 0 ? * L,3L *)",
    ],
)
def test_a_valid_schedule_is_kept_as_it_was_sent(text: str) -> None:
    assert cron.parse(text).text == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "schedule '' must be hourly, daily"),
        ("yearly", "schedule 'yearly' must be hourly, daily"),
        ("Daily", "schedule 'Daily' must be"),
        (" daily", "schedule ' daily' must be"),
        ("0 12 * * *", "must be hourly, daily, weekly, rate(value unit), cron("),
        ("cron(0 12 * * ? *", "must be hourly"),
        ("CRON(0 12 * * ? *)", "must be hourly"),
        ("cron(0 12 * * ? *)\n", "must be hourly"),
        ("cron(0\t12 * * ? *)", "must be hourly"),
        ("cron(0 12 * * ? *))", "cron year '*)' must be 1970-2199, with the wildcards , - * /"),
        ("cron()", "cron must have six fields"),
        ("cron(0 12 * * ?)", "this one has 5"),
        ("cron(0 0 12 * * ? *)", "this one has 7"),
        ("cron(0 12 * * * *)", "exactly one must be '?'"),
        ("cron(0 12 ? * ? *)", "exactly one must be '?'"),
        ("cron(0 12 1 * MON *)", "exactly one must be '?'"),
        ("cron(60 0 * * ? *)", "cron minutes '60' must be 0-59"),
        ("cron(0 24 * * ? *)", "cron hours '24' must be 0-23"),
        ("cron(0 0 0 * ? *)", "cron day-of-month '0' must be 1-31"),
        ("cron(0 0 32 * ? *)", "cron day-of-month '32' must be 1-31"),
        ("cron(0 0 1 13 ? *)", "cron month '13' must be 1-12 or JAN-DEC"),
        ("cron(0 0 1 MON ? *)", "cron month 'MON' must be 1-12 or JAN-DEC"),
        ("cron(0 0 ? * 0 *)", "cron day-of-week '0' must be 1-7 or SUN-SAT"),
        ("cron(0 0 ? * 8 *)", "cron day-of-week '8' must be 1-7 or SUN-SAT"),
        ("cron(0 0 ? * JAN *)", "cron day-of-week 'JAN' must be 1-7 or SUN-SAT"),
        ("cron(0 0 ? * MON#6 *)", "cron day-of-week '#6' must be #1 to #5"),
        ("cron(0 0 ? * MON#0 *)", "cron day-of-week '#0' must be #1 to #5"),
        ("cron(0 0 ? * 3#1,6#3 *)", "cron day-of-week '3#1,6#3' must be a single item"),
        ("cron(0 0 ? * 3#1,FRI *)", "must be a single item"),
        ("cron(0 0 ? * 9L *)", "cron day-of-week '9' must be"),
        ("cron(0 0 ? * 15W *)", "cron day-of-week '15W' must be"),
        ("cron(0 0 L/2 * ? *)", "cron day-of-month 'L/2' must be 1-31"),
        ("cron(0 0 L-0 * ? *)", "cron day-of-month 'L-0' must be L-1 to L-30"),
        ("cron(0 0 L-31 * ? *)", "cron day-of-month 'L-31' must be L-1 to L-30"),
        ("cron(0 0 32W * ? *)", "cron day-of-month '32' must be 1-31"),
        ("cron(0 0 W * ? *)", "cron day-of-month 'W' must be"),
        ("cron(0 0 1-5W * ? *)", "cron day-of-month '1-5W' must be"),
        ("cron(0 0 1,? * ? *)", "cron day-of-month '?' must be"),
        ("cron(? 0 * * ? *)", "cron minutes '?' must be"),
        ("cron(0 0 * ? ? *)", "cron month '?' must be"),
        ("cron(0 0 * * ? ?)", "cron year '?' must be"),
        ("cron(0 0 * * ? 1969)", "cron year '1969' must be 1970-2199"),
        ("cron(0 0 * * ? 2200)", "cron year '2200' must be 1970-2199"),
        ("cron(0 0 * * ? 2030-2026)", "cron year '2030-2026' must not end before it begins"),
        ("cron(0/0 * * * ? *)", "cron minutes step '/0' must be 1-59"),
        ("cron(0/60 * * * ? *)", "cron minutes step '/60' must be 1-59"),
        ("cron(0 0/24 * * ? *)", "cron hours step '/24' must be 1-23"),
        ("cron(5- * * * ? *)", "cron minutes '5-' must be"),
        ("cron(-5 * * * ? *)", "cron minutes '-5' must be"),
        ("cron(1,,2 * * * ? *)", "cron minutes '' must be"),
        ("cron(1.5 * * * ? *)", "cron minutes '1.5' must be"),
        ("cron(*-5 * * * ? *)", "cron minutes '*-5' must be"),
        ("cron(99999999999999999999 * * * ? *)", "cron minutes '99999999999999999999' must be"),
        ("cron(٣ * * * ? *)", "must be hourly"),
        ("cron(0 0 ? * ſUN *)", "must be hourly"),
        ("rate(0 minutes)", "rate value '0' must be a whole number of 1-999999"),
        ("rate(1 hours)", "rate unit 'hours' must be minute, hour, day for the value 1"),
        ("rate(5 hour)", "rate unit 'hour' must be minutes, hours, days for the value 5"),
        ("rate(1.5 hours)", "rate value '1.5' must be a whole number"),
        ("rate(10 seconds)", "rate unit 'seconds' must be minutes, hours, days"),
        ("rate(-1 days)", "rate value '-1' must be a whole number"),
        ("rate(1  hour)", "rate unit ' hour' must be"),
        ("rate(1000000 hours)", "rate value '1000000' must be"),
        ("rate(1)", "rate unit '' must be"),
        ("rate()", "rate value '' must be"),
        ("rate(٣ hours)", "must be hourly"),
        (None, "schedule must be a string"),
        (5, "schedule must be a string"),
        (["daily"], "schedule must be a string"),
    ],
)
def test_a_broken_schedule_is_refused_by_field_value_and_rule(text: object, message: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        cron.parse(text)
    assert message in caught.value.message
    assert caught.value.field == "schedule"


@pytest.mark.parametrize(
    "text",
    [
        "cron(" + "1," * 5_000_000 + "1 * * * ? *)",
        "rate(" + "9" * 10_000_000 + " hours)",
        "9" * 10_000_000,
        "\ud800" * 100,
        "cron(" + "\x00" * 100 + ")",
        "cron(" + "9" * 200 + " * * * ? *)",
    ],
)
def test_hostile_schedules_are_refused_at_once_in_few_words(text: str) -> None:
    started = time.process_time()
    with pytest.raises(errors.Invalid) as caught:
        cron.parse(text)
    assert time.process_time() - started < 1
    assert len(caught.value.message.encode()) < 1000


@given(st.text() | st.text("cronrate()0123456789*/?,-#LWMONSUA ").map(lambda inner: f"cron({inner})"))
@settings(deadline=None)
def test_any_text_is_either_a_schedule_or_invalid(text: str) -> None:
    try:
        expression = cron.parse(text)
    except errors.Invalid:
        return
    fires = cron.next_fire(expression, "UTC", 0, 0)
    assert fires is None or fires > 0


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tashkent", "US/Pacific", "Etc/GMT+5"]
)
def test_iana_zones_are_accepted(zone: str) -> None:
    assert cron.validate_zone(zone) == zone


@pytest.mark.parametrize(
    "zone",
    [
        *("", "Mars/Phobos", "europe/berlin", "Berlin", "Europe", "CEST", "+02:00", "Factory", "localtime"),
        *(
            "../../etc/passwd",
            "/etc/localtime",
            "right/UTC",
            "zone.tab",
            "UTC\x00",
            "\ud800",
            "E" * 10_000_000,
        ),
        *(None, 3, ["UTC"], {}),
    ],
)
def test_an_unknown_zone_is_refused(zone: object) -> None:
    with pytest.raises(errors.Invalid, match="must be an IANA time zone") as caught:
        cron.validate_zone(zone)
    assert caught.value.field == "time_zone"


def test_firings_in_an_unknown_zone_are_refused() -> None:
    with pytest.raises(errors.Invalid, match="IANA"):
        cron.next_fire(cron.parse("rate(1 hour)"), "Mars/Phobos", 0, 0)


# When it fires


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("hourly", "2026-08-01T10:00", ["2026-08-01T11:00", "2026-08-01T12:00"]),
        ("daily", "2026-08-01T10:00", ["2026-08-02T00:00", "2026-08-03T00:00"]),
        ("weekly", "2026-08-01T10:00", ["2026-08-02T00:00", "2026-08-09T00:00"]),
        ("cron(0 12 * * ? *)", "2026-12-31T12:00", ["2027-01-01T12:00", "2027-01-02T12:00"]),
        ("cron(0 12 * * ? *)", "2026-12-31T11:59:59.999", ["2026-12-31T12:00", "2027-01-01T12:00"]),
        ("cron(1/10 * * * ? *)", "2026-08-01T10:45", ["2026-08-01T10:51", "2026-08-01T11:01"]),
        ("cron(0/15 9-17 ? * MON-FRI *)", "2026-07-31T17:40", ["2026-07-31T17:45", "2026-08-03T09:00"]),
        ("cron(15 10 ? * 6L *)", "2026-08-01", ["2026-08-28T10:15", "2026-09-25T10:15"]),
        ("cron(0 9 ? * 3#2 *)", "2026-08-01", ["2026-08-11T09:00", "2026-09-08T09:00"]),
        ("cron(0 9 ? * MON#5 *)", "2026-08-01", ["2026-08-31T09:00", "2026-11-30T09:00"]),
        ("cron(0 18 L * ? *)", "2026-01-31T18:00", ["2026-02-28T18:00", "2026-03-31T18:00"]),
        ("cron(0 18 L-3 * ? *)", "2026-02-01", ["2026-02-25T18:00", "2026-03-28T18:00"]),
        ("cron(0 18 L-30 * ? *)", "2026-02-01", ["2026-03-01T18:00", "2026-05-01T18:00"]),
        ("cron(0 18 LW * ? *)", "2026-05-01", ["2026-05-29T18:00", "2026-06-30T18:00"]),
        ("cron(0 8 1W * ? *)", "2026-07-31", ["2026-08-03T08:00", "2026-09-01T08:00"]),
        ("cron(0 8 31W * ? *)", "2026-05-01", ["2026-05-29T08:00", "2026-07-31T08:00"]),
        ("cron(0 8 15W,L * ? *)", "2026-08-01", ["2026-08-14T08:00", "2026-08-31T08:00"]),
        ("cron(0 20-2 * * ? *)", "2026-08-01T01:30", ["2026-08-01T02:00", "2026-08-01T20:00"]),
        ("cron(0 22-3/2 * * ? *)", "2026-08-01T00:00", ["2026-08-01T02:00", "2026-08-01T22:00"]),
        ("cron(0 0 ? * SAT-MON *)", "2026-08-01", ["2026-08-02T00:00", "2026-08-03T00:00"]),
        ("cron(0 0 ? * L *)", "2026-08-01", ["2026-08-08T00:00", "2026-08-15T00:00"]),
        ("cron(0 0 1 NOV-FEB/2 ? *)", "2026-02-01", ["2026-11-01T00:00", "2027-01-01T00:00"]),
        ("cron(0 0 29 2 ? *)", "2026-08-01", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        ("cron(0 0 29 2 ? *)", "2096-03-01", ["2104-02-29T00:00", "2108-02-29T00:00"]),
        ("cron(0 8 ? jan,Jul mon 2026-2030)", "2026-07-27T08:00", ["2027-01-04T08:00", "2027-01-11T08:00"]),
        ("cron(59 23 31 12 ? 2199)", "2026-01-01", ["2199-12-31T23:59"]),
        ("cron(0 0 1 1 ? 1970-2199/100)", "1900-01-01", ["1970-01-01T00:00", "2070-01-01T00:00"]),
    ],
)
def test_a_cron_fires_at_these_times(text: str, after: str, expected: list[str]) -> None:
    assert firings(text, after, count=2) == expected


@pytest.mark.parametrize(
    "text",
    [
        "cron(0 0 30 2 ? *)",
        "cron(0 0 31 4,6,9,11 ? *)",
        "cron(* * 31W 2,4,6,9,11 ? *)",
        "cron(0 0 29 2 ? 2100)",
        "cron(* * * * ? 1970-2025)",
        "cron(0 0 L-30 2 ? *)",
        "cron(0 0 ? 2 MON#5 2027,2031)",
    ],
)
def test_what_never_fires_again_is_known_quickly(text: str) -> None:
    expression = cron.parse(text)
    started = time.process_time()
    assert cron.next_fire(expression, "Europe/Berlin", ms("2026-08-01"), 0) is None
    assert time.process_time() - started < 1
    assert cron.upcoming(expression, "Europe/Berlin", ms("2026-08-01"), 0, 5) == []


def test_a_cron_that_only_fires_in_skipped_hours_never_fires() -> None:
    expression = cron.parse("cron(* 2 ? 3 1L *)")
    started = time.process_time()
    assert cron.next_fire(expression, "Europe/Berlin", ms("2026-01-01"), 0) is None
    assert time.process_time() - started < 1


def test_a_clock_that_is_far_ahead_has_no_more_firings() -> None:
    assert cron.next_fire(cron.parse("cron(0 0 * * ? *)"), "Pacific/Apia", 10**18, 0) is None


def test_the_first_and_the_last_year_are_those_of_the_zone() -> None:
    everyday = cron.parse("cron(0 0 * * ? *)")
    assert cron.next_fire(everyday, "Asia/Tokyo", -(10**18), 0) == ms("1970-01-01T00:00+09:00")
    last = cron.parse("cron(59 23 31 12 ? 2199)")
    assert cron.next_fire(last, "America/New_York", 0, 0) == ms("2199-12-31T23:59-05:00")


def test_a_rate_counts_from_its_anchor() -> None:
    assert firings("rate(6 hours)", "2026-01-01T00:00", anchor="2026-01-01T00:07") == [
        *("2026-01-01T06:07", "2026-01-01T12:07", "2026-01-01T18:07")
    ]
    assert firings("rate(1 minute)", "2026-01-01T00:10", count=1, anchor="2026-01-01T00:00") == ["2026-01-01T00:11"]


def test_a_rate_first_fires_one_interval_after_the_anchor() -> None:
    expression = cron.parse("rate(1 hour)")
    for after in (-(10**15), 999, 1000, 1001, 1000 + HOUR - 1):
        assert cron.next_fire(expression, "UTC", after, 1000) == 1000 + HOUR
    assert cron.next_fire(expression, "UTC", 1000 + HOUR, 1000) == 1000 + 2 * HOUR


def test_a_day_of_a_rate_has_24_hours_though_the_clock_changes() -> None:
    # Berlin's 29 March 2026 has 23 hours.
    assert firings("rate(1 day)", "2026-03-28", 2, "Europe/Berlin", anchor="2026-03-27T12:00+01:00") == [
        *("2026-03-28T12:00+01:00", "2026-03-29T13:00+02:00")
    ]


@pytest.mark.parametrize(
    ("zone", "text", "after", "expected"),
    [
        # Spring: 02:00 becomes 03:00, so 02:30 is not there.
        (
            "Europe/Berlin",
            "cron(30 2 * * ? *)",
            "2026-03-28T00:00",
            ["2026-03-28T02:30+01:00", "2026-03-30T02:30+02:00"],
        ),
        (
            "Europe/Berlin",
            "cron(0 * * * ? *)",
            "2026-03-29T00:30",
            ["2026-03-29T03:00+02:00", "2026-03-29T04:00+02:00"],
        ),
        # Autumn: 03:00 becomes 02:00, so 02:30 is there twice and the first counts.
        (
            "Europe/Berlin",
            "cron(30 2 * * ? *)",
            "2026-10-24T12:00",
            ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"],
        ),
        (
            "Europe/Berlin",
            "cron(0/30 2-3 * * ? *)",
            "2026-10-25T00:15",
            ["2026-10-25T02:30+02:00", "2026-10-25T03:00+01:00"],
        ),
        # Asked within the second 02:15.
        ("Europe/Berlin", "cron(30 2 * * ? *)", "2026-10-25T01:15", ["2026-10-26T02:30+01:00"]),
        (
            "America/New_York",
            "cron(15 2 * * ? *)",
            "2026-03-07T12:00",
            ["2026-03-09T02:15-04:00", "2026-03-10T02:15-04:00"],
        ),
        (
            "America/New_York",
            "cron(15 1 * * ? *)",
            "2026-11-01T00:00",
            ["2026-11-01T01:15-04:00", "2026-11-02T01:15-05:00"],
        ),
        # Half an hour: 02:00 becomes 02:30 on 4 October, 02:00 becomes 01:30 on 5 April.
        (
            "Australia/Lord_Howe",
            "cron(13,30 2 * * ? *)",
            "2026-10-02T16:00",
            ["2026-10-04T02:30+11:00", "2026-10-05T02:13+11:00"],
        ),
        (
            "Australia/Lord_Howe",
            "cron(45 1 * * ? *)",
            "2026-04-04T00:00",
            ["2026-04-05T01:45+11:00", "2026-04-06T01:45+10:30"],
        ),
        (
            "Asia/Tashkent",
            "cron(30 2 29 3 ? *)",
            "2026-01-01",
            ["2026-03-29T02:30+05:00", "2027-03-29T02:30+05:00"],
        ),
        # Samoa had no 30 December 2011.
        (
            "Pacific/Apia",
            "cron(0 12 28-31 12 ? 2011)",
            "2011-12-28T23:00",
            ["2011-12-29T12:00-10:00", "2011-12-31T12:00+14:00"],
        ),
    ],
)
def test_a_skipped_time_does_not_fire_and_a_repeated_one_fires_once(
    zone: str, text: str, after: str, expected: list[str]
) -> None:
    assert firings(text, after, len(expected), zone) == expected


# Against others' reading of the same rules

NAMES = {
    "month": ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    "week": ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
}
BOUNDS = {
    "minute": (0, 59),
    "hour": (0, 23),
    "day": (1, 31),
    "month": (1, 12),
    "week": (1, 7),
    "year": (1970, 2199),
}


@lru_cache(maxsize=100_000)
def part_holds(field: str, part: str, value: int) -> bool:
    """One item of a list, said as a condition on the value rather than as a set of values."""
    low, high = BOUNDS[field]
    body, _, step = part.partition("/")
    first, _, last = body.partition("-")
    for place, name in enumerate(NAMES.get(field, [])):
        first, last = (str(place + low) if text.upper() == name else text for text in (first, last))
    if first == "*":
        first, last = str(low), str(high)
    start = int(first)
    stop = int(last) if last else high if step else start
    size = high - low + 1
    return (value - start) % size <= (stop - start) % size and (value - start) % size % int(step or 1) == 0


def day_of_month_holds(part: str, day: date) -> bool:
    length = calendar.monthrange(day.year, day.month)[1]
    if part == "L":
        return day.day == length
    if part.startswith("L-"):
        return day.day == length - int(part[2:])
    if part.endswith("W"):
        wanted = length if part == "LW" else int(part[:-1])
        workdays = [number for number in range(1, length + 1) if day.replace(day=number).weekday() < 5]
        return wanted <= length and day.day == min(workdays, key=lambda number: abs(number - wanted))
    return part_holds("day", part, day.day)


def day_of_week_holds(part: str, day: date) -> bool:
    number = day.isoweekday() % 7 + 1
    if part == "L":
        return number == 7
    if part.endswith("L"):
        return part_holds("week", part[:-1], number) and (day + timedelta(days=7)).month != day.month
    if "#" in part:
        weekday, nth = part.split("#")
        return part_holds("week", weekday, number) and (day.day + 6) // 7 == int(nth)
    return part_holds("week", part, number)


def day_holds(fields: list[str], day: date) -> bool:
    if not any(part_holds("year", part, day.year) for part in fields[5].split(",")):
        return False
    if not any(part_holds("month", part, day.month) for part in fields[3].split(",")):
        return False
    if fields[2] == "?":
        return any(day_of_week_holds(part, day) for part in fields[4].split(","))
    return any(day_of_month_holds(part, day) for part in fields[2].split(","))


def brute_force(text: str, zone: str, after: int, until: int) -> list[int]:
    """Every minute of the window is looked at on the local clock; a second pass of the clock is left out."""
    fields = text.removeprefix("cron(").removesuffix(")").split()
    info, days, found = ZoneInfo(zone), {}, []
    for instant in range(after - after % MINUTE + MINUTE, until + 1, MINUTE):
        clock = datetime.fromtimestamp(instant / 1000, info)
        if clock.date() not in days:
            days[clock.date()] = day_holds(fields, clock.date())
        if (
            days[clock.date()]
            and not clock.fold
            and any(part_holds("hour", part, clock.hour) for part in fields[1].split(","))
            and any(part_holds("minute", part, clock.minute) for part in fields[0].split(","))
        ):
            found.append(instant)
    return found


def items(field: str, *, odd_ranges: bool = True) -> st.SearchStrategy[str]:
    low, high = BOUNDS[field]
    number = st.integers(low, high).map(str)
    one = st.one_of(number, st.sampled_from(NAMES[field])) if field in NAMES else number
    step = st.integers(1, high if field != "minute" else 30).map(str)
    # Croniter takes the whole field for a range from a value to itself, and for a step from the last one.
    before_last = st.integers(low, high - 1).map(str)
    kinds = [
        one,
        st.just("*"),
        st.tuples(st.one_of(st.just("*"), before_last), step).map("/".join),
        st.lists(number, min_size=2, max_size=2, unique=True).map("-".join),
    ]
    if odd_ranges:
        kinds += [
            st.tuples(one, one).map("-".join),
            st.tuples(one, step).map("/".join),
            st.builds("{}-{}/{}".format, one, one, step),
        ]
    return st.one_of(kinds)


def lists(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(part, min_size=1, max_size=3).map(",".join)


weekdays = st.one_of(st.integers(1, 7).map(str), st.sampled_from(NAMES["week"]))
nth_weekdays = st.builds("{}#{}".format, weekdays, st.integers(1, 5))
special_days = st.one_of(
    st.sampled_from(["L", "LW"]),
    st.integers(1, 30).map("L-{}".format),
    st.integers(1, 31).map("{}W".format),
)
all_days = st.one_of(
    st.tuples(lists(st.one_of(special_days, items("day"))), st.just("?")),
    st.tuples(st.just("?"), lists(st.one_of(st.just("L"), weekdays.map("{}L".format), items("week")))),
    st.tuples(st.just("?"), nth_weekdays),
)


@given(
    minutes=lists(items("minute")),
    hours=lists(items("hour")),
    days=all_days,
    month=st.one_of(st.just("*"), lists(items("month"))),
    year=st.sampled_from(["*", "2026", "2025,2027", "2026-2030/2", "2020-2040"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Tashkent"]),
    start=st.integers(ms("2025-10-01"), ms("2027-04-30")),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_firings_are_those_of_looking_at_every_minute(
    minutes: str, hours: str, days: tuple[str, str], month: str, year: str, zone: str, start: int
) -> None:
    text = f"cron({minutes} {hours} {days[0]} {month} {days[1]} {year})"
    until = start + 20 * DAY
    expected = brute_force(text, zone, start, until)
    expression = cron.parse(text)
    assert cron.upcoming(expression, zone, start, 0, len(expected)) == expected
    after_window = cron.next_fire(expression, zone, expected[-1] if expected else start, 0)
    assert after_window is None or after_window > until


CLOCK_CHANGES_OF_2026 = (
    ("2026-02-14", "2026-02-16"),
    ("2026-03-07", "2026-03-09"),
    ("2026-03-21", "2026-03-23"),
    ("2026-03-28", "2026-03-30"),
    ("2026-04-04", "2026-04-06"),
    ("2026-10-03", "2026-10-05"),
    ("2026-10-24", "2026-10-26"),
    ("2026-10-31", "2026-11-02"),
)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"])
@pytest.mark.parametrize("text", ["cron(* * * * ? *)", "cron(7/13 0-3 * * ? *)"])
def test_every_clock_change_of_a_year_is_that_of_looking_at_every_minute(zone: str, text: str) -> None:
    for start, until in CLOCK_CHANGES_OF_2026:
        expected = brute_force(text, zone, ms(start), ms(until))
        assert cron.upcoming(cron.parse(text), zone, ms(start), 0, len(expected)) == expected


def weekdays_for_croniter(text: str) -> str:
    """Sunday is 0 there, and a step needs its end."""
    for number, name in enumerate(NAMES["week"], start=1):
        text = text.replace(name, str(number))
    parts = []
    for part in text.split(","):
        days, slash, step = part.partition("/")
        days, hash_sign, nth = days.partition("#")
        shifted = "-".join(str(int(day) - 1) if day.isdigit() else day for day in days.split("-"))
        if slash and shifted != "*":
            shifted += "-6"
        parts.append(shifted + hash_sign + nth + slash + step)
    return ",".join(parts)


def plain(field: str) -> st.SearchStrategy[str]:
    return lists(items(field, odd_ranges=False))


@given(
    minutes=plain("minute"),
    hours=plain("hour"),
    days=st.one_of(
        st.tuples(plain("day"), st.just("?")), st.tuples(st.just("?"), st.one_of(plain("week"), nth_weekdays))
    ),
    month=plain("month"),
    start=st.integers(ms("1990-01-01"), ms("2090-01-01")),
)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_firings_are_those_of_croniter_where_it_knows_the_grammar(
    minutes: str, hours: str, days: tuple[str, str], month: str, start: int
) -> None:
    translated = f"{minutes} {hours} {days[0]} {month} {weekdays_for_croniter(days[1])}".replace("?", "*")
    assume(croniter.is_valid(translated))
    text = f"cron({minutes} {hours} {days[0]} {month} {days[1]} *)"
    theirs = croniter(translated, datetime.fromtimestamp(start // 1000, UTC), max_years_between_matches=400)
    for instant in cron.upcoming(cron.parse(text), "UTC", start, 0, 5):
        assert int(theirs.get_next(datetime).timestamp() * 1000) == instant


@given(
    st.integers(ms("2020-01-01"), ms("2040-01-01")),
    st.sampled_from(["hourly", "cron(0 2 L * ? *)", "rate(7 hours)"]),
)
@settings(deadline=None)
def test_asking_again_from_each_firing_walks_the_same_times(start: int, text: str) -> None:
    expression = cron.parse(text)
    previewed = cron.upcoming(expression, "Europe/Berlin", start, start, 10)
    walked = [start]
    while len(walked) <= len(previewed):
        following = cron.next_fire(expression, "Europe/Berlin", walked[-1], start)
        assert following is not None
        walked.append(following)
    assert walked[1:] == previewed


def test_a_rate_beyond_all_calendars_is_due_no_more() -> None:
    plan = cron.parse("rate(999999 days)")
    assert cron.upcoming(plan, "UTC", after_ms=0, anchor_ms=0, count=5) == []
    plan = cron.parse("rate(60000 days)")
    assert len(cron.upcoming(plan, "UTC", after_ms=0, anchor_ms=0, count=5)) == 1


# Five fields


@pytest.mark.parametrize(("fields", "expected"), [
    ("*/20 * * * *", ["2027-01-15 12:20", "2027-01-15 12:40", "2027-01-15 13:00"]),
    ("0 9 * * 1-5", ["2027-01-18 09:00", "2027-01-19 09:00", "2027-01-20 09:00"]),
    ("30 6 1,15 * *", ["2027-02-01 06:30", "2027-02-15 06:30", "2027-03-01 06:30"]),
    ("0 0 * * 0", ["2027-01-17 00:00", "2027-01-24 00:00", "2027-01-31 00:00"]),
    ("0 0 * * 7", ["2027-01-17 00:00", "2027-01-24 00:00", "2027-01-31 00:00"]),
    ("0 0 * * sun", ["2027-01-17 00:00", "2027-01-24 00:00", "2027-01-31 00:00"]),
    ("0 0 * * 5/1", ["2027-01-16 00:00", "2027-01-22 00:00", "2027-01-23 00:00"]),
    ("0 0 29 feb *", ["2028-02-29 00:00", "2032-02-29 00:00", "2036-02-29 00:00"]),
    # Where both name days, either is enough.
    ("0 0 20 * 1", ["2027-01-18 00:00", "2027-01-20 00:00", "2027-01-25 00:00"]),
    ("0 0 31 2 *", []),
])
def test_five_fields_fire_as_in_a_crontab(fields: str, expected: list[str]) -> None:
    schedule = cron.of_crontab(fields)
    assert cron.crontab_of(schedule) == fields
    start = int(datetime(2027, 1, 15, 12, 0, tzinfo=UTC).timestamp() * 1000)
    due = cron.upcoming(cron.parse(schedule), "UTC", after_ms=start, anchor_ms=start, count=3)
    assert [datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M") for at in due] == expected


@pytest.mark.parametrize(("text", "message"), [
    ("0 9 * *", "five fields"), ("0 9 * * * *", "five fields"), ("", "five fields"), ("@daily", "five fields"),
    ("rate(5 minutes)", "five fields"), ("crontab(0 9 * * *)", "five fields"), ("0 9 * * *)", "five fields"),
    ("0 9 * * *\n", "five fields"), ("\u0660 9 * * *", "five fields"), (None, "five fields"),
    ("60 * * * *", "cron minute '60'"), ("* 24 * * *", "cron hour '24'"), ("0 0 0 * *", "cron day-of-month '0'"),
    ("0 0 * 13 *", "cron month '13'"), ("0 0 * * 8", "cron day-of-week '8'"), ("0 0 * * 5-1", "before it begins"),
    ("0 0 ? * 1", "day-of-month '?'"), ("0 0 L * *", "day-of-month 'L'"), ("0 0 * * 2#1", "day-of-week '2#1'"),
    ("*/0 * * * *", "step '/0'"), ("*/60 * * * *", "step '/60'"), ("0 0 * * ,", "day-of-week ''"),
    ("* " * 200 + "*", "at most 256 characters"),
])
def test_what_is_no_crontab_is_refused_with_the_part_and_its_rule(text: object, message: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        cron.of_crontab(text, field="cron")
    assert message in caught.value.message
    assert caught.value.field == "cron"


@pytest.mark.parametrize("text", ["daily", "rate(5 minutes)", "cron(0 12 * * ? *)"])
def test_a_schedule_of_another_form_has_no_five_fields(text: str) -> None:
    assert cron.crontab_of(text) is None


def _crontab_field(low: int, high: int) -> st.SearchStrategy[str]:
    # croniter takes 1-1 of weekdays for the whole week.
    bounds = st.lists(st.integers(low, high), min_size=2, max_size=2, unique=True).map(sorted)
    part = st.one_of(
        st.integers(low, high).map(str),
        bounds.map(lambda pair: f"{pair[0]}-{pair[1]}"),
        st.tuples(bounds, st.integers(1, high - low)).map(lambda each: f"{each[0][0]}-{each[0][1]}/{each[1]}"),
    )
    return st.one_of(st.just("*"), st.lists(part, min_size=1, max_size=3).map(",".join))


@given(
    fields=st.tuples(
        _crontab_field(0, 59), _crontab_field(0, 23), _crontab_field(1, 28), _crontab_field(1, 12), _crontab_field(0, 6)
    ),
    start=st.integers(1_600_000_000, 2_000_000_000),
)
def test_five_fields_fire_when_croniter_says(fields: tuple[str, ...], start: int) -> None:
    text = " ".join(fields)
    due = cron.upcoming(
        cron.parse(cron.of_crontab(text)), "UTC", after_ms=start * 1000, anchor_ms=start * 1000, count=3
    )
    other = croniter(text, start)
    assert due == [int(other.get_next(float)) * 1000 for _ in range(3)]
