"""How many jails are kept ready follows what was asked for, and what memory allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.demand import KEEP_S, MAX_SHAPES, MEMORY_S, Demand, Shape

PLAIN, LARGE = Shape("nodejs20", 256), Shape("nodejs20", 1024, preloaded=True)


def test_before_anybody_asks_the_least_is_wanted_and_nothing_of_other_shapes() -> None:
    wanted = Demand({PLAIN: 4}, 8)
    assert wanted.wanted(PLAIN, 0.0) == 4
    assert wanted.wanted(LARGE, 0.0) == 0
    assert wanted.shapes(0.0) == [PLAIN]


def test_a_burst_raises_what_is_wanted_to_its_height_and_no_further_than_the_most() -> None:
    wanted = Demand({PLAIN: 2}, 8)
    for _ in range(5):
        wanted.add(LARGE, 10.0)
    assert wanted.wanted(LARGE, 10.0) == 5
    for _ in range(50):
        wanted.add(LARGE, 10.0)
    assert wanted.wanted(LARGE, 10.0) == 8


def test_a_burst_is_forgotten_but_one_jail_stays_for_an_hour() -> None:
    wanted = Demand({}, 8)
    for _ in range(8):
        wanted.add(LARGE, 0.0)
    assert wanted.wanted(LARGE, MEMORY_S) == 3
    assert wanted.wanted(LARGE, KEEP_S) == 1
    assert wanted.wanted(LARGE, KEEP_S + 1) == 0
    assert wanted.shapes(KEEP_S + 1) == []


def test_what_is_asked_for_most_comes_first() -> None:
    wanted = Demand({PLAIN: 2}, 8)
    assert wanted.shapes(0.0) == [PLAIN]
    wanted.add(LARGE, 1.0)
    assert wanted.shapes(1.0) == [LARGE, PLAIN]


def test_of_many_sizes_those_asked_for_least_are_forgotten_first() -> None:
    wanted = Demand({PLAIN: 2}, 8)
    for _ in range(5):
        wanted.add(PLAIN, 0.0)
    for size in range(1000):
        wanted.add(Shape("nodejs20", 300 + size), 1.0)
    assert len(wanted.shapes(1.0)) <= MAX_SHAPES + 1
    assert wanted.shapes(1.0)[0] == PLAIN
    assert wanted.wanted(PLAIN, 1.0) == 5


def test_what_is_asked_for_less_may_go_but_not_what_is_always_kept() -> None:
    wanted = Demand({PLAIN: 2}, 8)
    wanted.add(LARGE, 0.0)
    hot = Shape("python3.11", 256)
    for _ in range(3):
        wanted.add(hot, 0.0)
    assert wanted.is_less(LARGE, hot, 0.0)
    assert not wanted.is_less(hot, LARGE, 0.0)
    assert not wanted.is_less(PLAIN, hot, 0.0)


def test_with_a_most_of_none_no_demand_keeps_a_jail() -> None:
    wanted = Demand({PLAIN: 0}, 0)
    wanted.add(PLAIN, 0.0)
    assert wanted.wanted(PLAIN, 0.0) == 0


@given(st.lists(st.floats(0, 10_000), max_size=50), st.integers(0, 5), st.integers(0, 20))
def test_at_any_time_no_fewer_than_the_least_and_no_more_than_either_bound(
    times: list[float], least: int, most: int
) -> None:
    wanted = Demand({PLAIN: least}, most)
    for now in sorted(times):
        wanted.add(PLAIN, now)
        assert least <= wanted.wanted(PLAIN, now) <= max(least, most)
