"""The warm jails: which there are, which should be booted next, and which may go."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from sandbox.demand import Demand, Shape
from sandbox.lease import Jail

BACKOFF_S = (1.0, 60.0)


class Stock:
    """Pure bookkeeping, like `Demand`: it boots and ends nothing, and time is an argument."""

    def __init__(self, wanted: Demand, is_bootable: Callable[[Shape], bool], most: int) -> None:
        """`is_bootable` says whether a jail of this shape can be started at once; `most` is for all shapes together."""
        self.demand = wanted
        self._is_bootable = is_bootable
        self._most = most
        self._jails: dict[Shape, deque[Jail]] = {}
        self._failures: Counter[Shape] = Counter()
        self._retry_at: dict[Shape, float] = {}

    @property
    def is_full(self) -> bool:
        return sum(map(len, self._jails.values())) >= self._most

    @property
    def resident_bytes(self) -> int:
        return sum(one.resident_bytes for line in self._jails.values() for one in line)

    def add(self, booted: Jail) -> None:
        self._jails.setdefault(booted.shape, deque()).append(booted)

    def take(self, shape: Shape) -> Jail | None:
        """One of this shape, the oldest first."""
        line = self._jails.get(shape)
        return line.popleft() if line else None

    def remove(self, ended: Jail) -> None:
        """No error if it is not here."""
        line = self._jails.get(ended.shape, deque())
        if ended in line:
            line.remove(ended)

    def has_booted(self, shape: Shape) -> None:
        del self._failures[shape]
        self._retry_at.pop(shape, None)

    def has_failed(self, shape: Shape, now: float) -> float:
        """A boot of this shape failed: it is tried again later and later. Returns after how many seconds."""
        low, high = BACKOFF_S
        self._failures[shape] += 1
        delay = min(low * (1 << min(self._failures[shape] - 1, 16)), high)
        self._retry_at[shape] = now + delay
        return delay

    def lacking(self, now: float) -> Shape | None:
        """The shape that is asked for most of which too few are here. What can't be booted now does not keep the
        others waiting."""
        for shape in self.demand.shapes(now):
            too_few = len(self._jails.get(shape, ())) < self.demand.wanted(shape, now)
            if too_few and now >= self._retry_at.get(shape, 0.0) and self._is_bootable(shape):
                return shape
        return None

    def surplus(self, now: float) -> list[Jail]:
        """What nobody asks for any more."""
        return [
            one for shape, line in self._jails.items() for one in list(line)[self.demand.wanted(shape, now) :]
        ]

    def coldest(self, now: float) -> list[Jail]:
        """All, those first whose shape is asked for least."""
        shapes = self.demand.shapes(now)
        rank = {shape: -place for place, shape in enumerate(shapes)}
        ordered = sorted(self._jails, key=lambda shape: rank.get(shape, -len(shapes)))
        return [one for shape in ordered for one in self._jails[shape]]

    def giving_way(self, shape: Shape, now: float) -> Jail | None:
        """A jail that may go for one of this shape, which is asked for more."""
        return next((one for one in self.coldest(now) if self.demand.is_less(one.shape, shape, now)), None)
