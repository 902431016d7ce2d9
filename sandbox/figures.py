"""What the pool does, counted for metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sandbox.demand import Shape
from sandbox.lease import Jail


class Kind(NamedTuple):
    """What is told of a shape. Not its memory: there are as many sizes as people ask for, and a message has bounds."""

    runtime: str
    preloaded: bool

    @classmethod
    def of(cls, shape: Shape) -> Kind:
        return cls(shape.runtime, shape.preloaded)


@dataclass(slots=True)
class Figures:
    """Counts since they were last taken, so that of many who ask each adds its own share to one sum."""

    boots: Counter[Kind] = field(default_factory=Counter)
    boot_seconds: dict[Kind, float] = field(default_factory=dict)
    ends: Counter[tuple[Kind, str]] = field(default_factory=Counter)

    def booted(self, shape: Shape, seconds: float) -> None:
        kind = Kind.of(shape)
        self.boots[kind] += 1
        self.boot_seconds[kind] = self.boot_seconds.get(kind, 0.0) + seconds

    def ended(self, shape: Shape, reason: str) -> None:
        self.ends[Kind.of(shape), reason] += 1

    def take(self, jails: Iterable[Jail], wanted: Mapping[Shape, int]) -> dict[str, Any]:
        """As JSON: how many jails there are in each state and how many are wanted now, and the counts, which begin
        anew."""
        states = Counter((Kind.of(one.shape), one.state) for one in jails)
        asked: Counter[Kind] = Counter()
        for shape, count in wanted.items():
            asked[Kind.of(shape)] += count
        taken = {
            "jails": [{**kind._asdict(), "state": state, "count": count} for (kind, state), count in states.items()],
            "wanted": [{**kind._asdict(), "count": count} for kind, count in asked.items()],
            "boots": [
                {**kind._asdict(), "count": count, "seconds": round(self.boot_seconds[kind], 6)}
                for kind, count in self.boots.items()
            ],
            "ends": [{**kind._asdict(), "reason": why, "count": count} for (kind, why), count in self.ends.items()],
        }
        self.boots.clear()
        self.boot_seconds.clear()
        self.ends.clear()
        return taken
