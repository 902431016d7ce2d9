"""Charts as numbers: where bars, lines and labels stand. `charts.html` draws them.

The picture is stretched to the width that there is, so that x counts columns and y goes from 0 at the top to `HEIGHT`;
labels are text beside it, placed by percentages, for text would be stretched as well.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HEIGHT = 100
MOST_TICKS = 5
MOST_MARKS = 5
_GAP = 0.12  # of a column, at each side of its bar
_STEPS = (1, 2, 5, 10)
_TIMES = ((3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms"))
_COUNTS = ((1_000_000_000, "G"), (1_000_000, "M"), (1000, "k"))


@dataclass(frozen=True)
class Tick:
    """A value on the axis. `y` is within the picture, from the top."""

    y: float
    label: str


@dataclass(frozen=True)
class Axis:
    """From 0 at the bottom to `top`."""

    top: float
    ticks: tuple[Tick, ...]

    def y(self, value: float) -> float:
        """Where a value stands."""
        return round(HEIGHT * (1 - value / self.top), 2)


@dataclass(frozen=True)
class Part:
    """A rectangle of a column, in the colour of a series."""

    series: int
    y: float
    height: float


@dataclass(frozen=True)
class Column:
    """A bar of stacked parts, and what it says when one points at it. It covers no space where nothing is."""

    x: float
    width: float
    parts: tuple[Part, ...]
    title: str


@dataclass(frozen=True)
class Mark:
    """A label below the picture, for the column that begins at that moment; `left` in percent."""

    left: float
    at: int


@dataclass(frozen=True)
class Chart:
    """What is drawn. `legend` names the series in order, `colours` are theirs, by number."""

    key: str
    title: str
    description: str
    axis: Axis
    count: int
    marks: tuple[Mark, ...]
    columns: tuple[Column, ...]
    colours: tuple[int, ...]
    legend: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def counts(top: float) -> Axis:
    """An axis of whole numbers that reaches `top` at least."""
    return _axis(top, 1, _count)


def times(top_ms: float, label: Callable[[float, str], str] = "{:g} {}".format) -> Axis:
    """An axis of milliseconds, with steps that are round in the unit that fits; `label` writes a number of a unit."""
    size, unit = next((each for each in _TIMES if top_ms >= each[0]), _TIMES[-1])
    return _axis(top_ms, size, lambda value: label(value / size, unit))


def _axis(top: float, unit: int, label: Callable[[float], str]) -> Axis:
    step = _step(top / unit, whole=unit == 1) * unit
    number = max(1, math.ceil(top / step - 1e-9))
    end = number * step
    ticks = (Tick(round(HEIGHT * (1 - each / number), 2), label(each * step)) for each in range(number + 1))
    return Axis(end, tuple(ticks))


def _step(top: float, *, whole: bool) -> float:
    """1, 2 or 5 with zeros, so that no more than `MOST_TICKS` of them, with 0, reach `top`."""
    least = top / (MOST_TICKS - 1)
    if least <= 0 or (whole and least <= 1):
        return 1
    size = 10.0 ** math.floor(math.log10(least))
    return next(each * size for each in _STEPS if each * size >= least * (1 - 1e-9))


def _count(value: float) -> str:
    size, letter = next((each for each in _COUNTS if value >= each[0]), (1, ""))
    return f"{value / size:g}{letter}"


def columns(stacks: Sequence[Sequence[float]], titles: Sequence[str], axis: Axis) -> tuple[Column, ...]:
    """A bar for each stack of values, the first at the bottom."""
    width = round(1 - 2 * _GAP, 2)
    return tuple(
        Column(round(number + _GAP, 2), width, _parts(values, axis), title)
        for number, (values, title) in enumerate(zip(stacks, titles, strict=True))
    )


def _parts(values: Sequence[float], axis: Axis) -> tuple[Part, ...]:
    parts, below = [], 0.0
    for number, value in enumerate(values):
        if value > 0:
            y = axis.y(below + value)
            parts.append(Part(number, y, round(axis.y(below) - y, 2)))
            below += value
    return tuple(parts)


def line(values: Sequence[float | None], axis: Axis) -> str:
    """The path through the middle of the columns. It breaks where there is no value; one alone is a dot."""
    words = []
    for number, value in enumerate(values):
        if value is None:
            continue
        goes_on = number > 0 and values[number - 1] is not None
        words.append(f"{'L' if goes_on else 'M'}{number + 0.5:g} {axis.y(value):g}")
        if not goes_on:
            words.append("h0")  # which round ends make a dot
    return "".join(words)


def marks(moments: Sequence[int]) -> tuple[Mark, ...]:
    """Labels for `MOST_MARKS` columns at most, evenly from the last one back."""
    every = -(-len(moments) // MOST_MARKS) or 1
    chosen = range(len(moments) - 1, -1, -every)
    return tuple(Mark(round(100 * (each + 0.5) / len(moments), 2), moments[each]) for each in reversed(chosen))
