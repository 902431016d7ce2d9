"""Where things stand in a chart."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.console import charts
from web.console.charts import HEIGHT, MOST_TICKS, Axis

TOP = st.floats(0, 1e15, allow_nan=False)


def labels(axis: Axis) -> list[str]:
    return [tick.label for tick in axis.ticks]


@given(TOP, st.sampled_from([charts.counts, charts.times]))
def test_an_axis_begins_at_zero_reaches_the_top_and_has_few_ticks(top: float, make: object) -> None:
    axis = make(top)  # type: ignore[operator]
    assert axis.top >= top * (1 - 1e-9) and axis.top > 0
    assert 2 <= len(axis.ticks) <= MOST_TICKS
    assert (axis.ticks[0].y, axis.ticks[-1].y) == (HEIGHT, 0)
    gaps = [below.y - above.y for below, above in itertools.pairwise(axis.ticks)]
    assert max(gaps) - min(gaps) < 0.05
    assert len(set(labels(axis))) == len(axis.ticks)
    assert axis.top <= max(1, 2.5 * top)  # the picture is not empty in its upper half


@pytest.mark.parametrize(("top", "expected"), [
    (0, ["0", "1"]), (1, ["0", "1"]), (3, ["0", "1", "2", "3"]), (5, ["0", "2", "4", "6"]),
    (1000, ["0", "500", "1k"]), (4200, ["0", "2k", "4k", "6k"]), (1_500_000, ["0", "500k", "1M", "1.5M"]),
    (7e9, ["0", "2G", "4G", "6G", "8G"]),
])  # fmt: skip
def test_counts_are_whole_and_short(top: float, expected: list[str]) -> None:
    assert labels(charts.counts(top)) == expected


@pytest.mark.parametrize(("top", "expected"), [
    (0, ["0 ms", "1 ms"]), (5, ["0 ms", "2 ms", "4 ms", "6 ms"]), (999, ["0 ms", "500 ms", "1000 ms"]),
    (1500, ["0 s", "0.5 s", "1 s", "1.5 s"]), (90_000, ["0 min", "0.5 min", "1 min", "1.5 min"]),
    (7_200_000, ["0 h", "0.5 h", "1 h", "1.5 h", "2 h"]), (3_600_000_000, ["0 h", "500 h", "1000 h"]),
])  # fmt: skip
def test_times_are_round_in_the_unit_that_fits(top: float, expected: list[str]) -> None:
    assert labels(charts.times(top)) == expected


def test_bars_stand_on_the_ground_and_on_each_other() -> None:
    axis = charts.counts(10)
    one, two, none = charts.columns([(6, 2), (0, 4), (0, 0)], ["a", "b", "c"], axis)
    assert [(part.series, part.y, part.height) for part in one.parts] == [(0, 40, 60), (1, 20, 20)]
    assert [(part.series, part.y, part.height) for part in two.parts] == [(1, 60, 40)]
    assert none.parts == () and none.title == "c"
    assert (one.x, two.x) == (0.12, 1.12) and one.x + one.width < 1


@given(st.lists(st.lists(st.integers(0, 10**12), min_size=2, max_size=2), max_size=50))
def test_no_bar_leaves_the_picture(stacks: list[list[float]]) -> None:
    axis = charts.counts(max(map(sum, stacks), default=0))
    for column in charts.columns(stacks, [""] * len(stacks), axis):
        assert column.x >= 0 and column.x + column.width <= len(stacks)
        for part in column.parts:
            assert part.y >= 0 and part.y + part.height <= HEIGHT + 0.02


@pytest.mark.parametrize(("values", "expected"), [
    ([], ""), ([None, None], ""), ([5], "M0.5 50h0"), ([None, 10, None], "M1.5 0h0"),
    ([0, 10, 5, None, 5], "M0.5 100h0L1.5 0L2.5 50M4.5 50h0"),
])  # fmt: skip
def test_a_line_breaks_where_there_is_nothing_and_one_value_is_a_dot(
    values: list[float | None], expected: str
) -> None:
    assert charts.line(values, Axis(10, ())) == expected


@given(st.integers(0, 1000))
def test_there_are_a_few_marks_and_one_for_the_last_column(count: int) -> None:
    marks = charts.marks(range(count))
    assert len(marks) <= charts.MOST_MARKS
    assert bool(marks) == bool(count)
    assert all(0 < mark.left < 100 for mark in marks)
    assert not marks or marks[-1].at == count - 1
    assert sorted(marks, key=lambda mark: mark.left) == list(marks)


def test_huge_values_are_written_in_full_digits_nowhere() -> None:
    column = charts.columns([(10**12, 1)], ["x"], charts.counts(10**12 + 1))[0]
    assert not re.search(r"\d{7}|e\+", str(column.parts))
