"""What the pool does, counted for metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.demand import Shape
from sandbox.lease import Jail


@dataclass(slots=True)
class Figures:
    """Counts since they were last taken, so that of many who ask each adds its own share to one sum."""

    boots: Counter[Shape] = field(default_factory=Counter)
    boot_seconds: dict[Shape, float] = field(default_factory=dict)
    ends: Counter[tuple[Shape, str]] = field(default_factory=Counter)

    def take(self, jails: Iterable[Jail], wanted: Mapping[Shape, int]) -> dict[str, Any]:
        """As JSON: how many jails there are in each state and how many are wanted now, and the counts, which begin
        anew."""
        states = Counter((one.shape, one.state) for one in jails)
        taken = {
            "jails": [{**shape._asdict(), "state": state, "count": count} for (shape, state), count in states.items()],
            "wanted": [{**shape._asdict(), "count": count} for shape, count in wanted.items()],
            "boots": [
                {**shape._asdict(), "count": count, "seconds": round(self.boot_seconds[shape], 6)}
                for shape, count in self.boots.items()
            ],
            "ends": [
                {**shape._asdict(), "reason": reason, "count": count} for (shape, reason), count in self.ends.items()
            ],
        }
        self.boots.clear()
        self.boot_seconds.clear()
        self.ends.clear()
        return taken

    def booted(self, shape: Shape, seconds: float) -> None:
        self.boots[shape] += 1
        self.boot_seconds[shape] = self.boot_seconds.get(shape, 0.0) + seconds
