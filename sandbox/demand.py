"""How many jails to keep booted ahead: what was asked for lately says so, within what memory allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

MEMORY_S = 120.0
"""How fast a burst is forgotten: after so many seconds two thirds of it are."""
KEEP_S = 3600.0
"""One jail stays ready this long for a shape that was asked for once."""
MAX_SHAPES = 64
"""Of which demand is remembered: anybody may ask for a size of memory that nobody else uses."""


class Shape(NamedTuple):
    """Jails of one shape boot alike, and serve the same requests."""

    runtime: str
    memory_mb: int
    """V8 takes its heap's limit at boot only."""
    preloaded: bool = False
    """Whether the runtime's large libraries are loaded already."""


@dataclass(slots=True)
class _Level:
    jails: float = 0.0
    at: float = 0.0


class Demand:
    """Pure bookkeeping: time, in seconds of any clock that does not go back, is an argument."""

    def __init__(self, least: Mapping[Shape, int], most: int) -> None:
        """`least` are kept whatever happens; `most` jails of a shape at the height of a burst, where 0 means that none
        are kept for any demand."""
        self.least = dict(least)
        self._most = most
        self._levels: dict[Shape, _Level] = {}

    def add(self, shape: Shape, now: float) -> None:
        """A jail of this shape was taken."""
        if shape not in self._levels and len(self._levels) >= MAX_SHAPES:
            del self._levels[min(self._levels, key=lambda each: self._height(each, now))]
        level = self._levels.setdefault(shape, _Level())
        level.jails = self._decayed(level, now) + 1.0
        level.at = now

    def wanted(self, shape: Shape, now: float) -> int:
        """How many should be ready."""
        least = self.least.get(shape, 0)
        level = self._levels.get(shape)
        if level is None or now - level.at > KEEP_S:
            return least
        return max(least, min(self._most, max(1, math.ceil(self._decayed(level, now) - 0.5))))

    def shapes(self, now: float) -> list[Shape]:
        """Every shape of which some are wanted, the most asked for first. Forgets those that nobody asks for."""
        for shape in [shape for shape, level in self._levels.items() if now - level.at > KEEP_S]:
            del self._levels[shape]
        known = {**dict.fromkeys(shape for shape, least in self.least.items() if least), **dict.fromkeys(self._levels)}
        return sorted(known, key=lambda shape: -self._height(shape, now))

    def is_less(self, shape: Shape, other: Shape, now: float) -> bool:
        """Whether jails of `shape` may go for one of `other`: it is asked for less, and no least is kept of it."""
        return not self.least.get(shape) and self._height(shape, now) < self._height(other, now)

    def _height(self, shape: Shape, now: float) -> float:
        level = self._levels.get(shape)
        return self._decayed(level, now) if level is not None else 0.0

    @staticmethod
    def _decayed(level: _Level, now: float) -> float:
        return level.jails * math.exp(-(now - level.at) / MEMORY_S)
