"""What is booted next and what may go follows demand, and what fails waits longer each time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sandbox.demand import Demand, Shape
from sandbox.stock import BACKOFF_S, Stock

PLAIN, LARGE, SNAKE = Shape("nodejs20", 256), Shape("nodejs20", 1024), Shape("python3.11", 256)


def jail(shape: Shape) -> Any:
    return SimpleNamespace(shape=shape, resident_bytes=10)


def stock(least: dict[Shape, int] | None = None, *, bootable: tuple[Shape, ...] = (PLAIN, LARGE, SNAKE)) -> Stock:
    return Stock(Demand(least or {}, 4), lambda shape: shape in bootable, most=3)


def test_what_is_asked_for_most_and_lacks_comes_first() -> None:
    kept = stock({PLAIN: 1})
    kept.demand.add(SNAKE, 0.0)
    assert kept.lacking(0.0) == SNAKE
    kept.add(jail(SNAKE))
    assert kept.lacking(0.0) == PLAIN
    kept.add(jail(PLAIN))
    assert kept.lacking(0.0) is None


def test_what_cannot_be_booted_or_failed_a_moment_ago_keeps_nobody_waiting() -> None:
    kept = stock({PLAIN: 1}, bootable=(PLAIN, LARGE))
    kept.demand.add(SNAKE, 0.0)
    kept.demand.add(LARGE, 0.0)
    kept.demand.add(LARGE, 0.0)
    assert kept.lacking(0.0) == LARGE
    delay = kept.has_failed(LARGE, 0.0)
    assert kept.lacking(0.0) == PLAIN
    assert kept.lacking(delay) == LARGE


def test_failures_in_a_row_wait_longer_up_to_a_bound_and_a_boot_forgives_them() -> None:
    kept = stock()
    delays = [kept.has_failed(PLAIN, 0.0) for _ in range(100)]
    assert delays[:3] == [BACKOFF_S[0], 2 * BACKOFF_S[0], 4 * BACKOFF_S[0]]
    assert max(delays) == delays[-1] == BACKOFF_S[1]
    kept.has_booted(PLAIN)
    assert kept.has_failed(PLAIN, 0.0) == BACKOFF_S[0]


def test_the_coldest_go_first_and_only_for_what_is_asked_for_more() -> None:
    kept = stock({PLAIN: 1})
    for shape, times in ((LARGE, 1), (SNAKE, 3)):
        for _ in range(times):
            kept.demand.add(shape, 0.0)
    jails = {shape: jail(shape) for shape in (PLAIN, SNAKE, LARGE)}
    for one in jails.values():
        kept.add(one)
    assert kept.is_full and kept.resident_bytes == 30
    assert [one.shape for one in kept.coldest(0.0)] == [PLAIN, LARGE, SNAKE]
    assert kept.giving_way(SNAKE, 0.0) is jails[LARGE]  # not what is always kept, however cold
    assert kept.giving_way(LARGE, 0.0) is None
    kept.remove(jails[LARGE])
    assert kept.giving_way(SNAKE, 0.0) is None
