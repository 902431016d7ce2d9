"""What the runs of one group may use together, whichever slots they are in.

A group is a name that the launcher gives with a run; what it stands for is the launcher's affair. Accounts live as
long as the process does, and those of groups that have nothing left to remember are forgotten.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields

from sandbox.egress.policy import RefusalKind, Refused

Clock = Callable[[], float]
"""Seconds that never go backwards."""

MB = 1024 * 1024
_MINUTE_S = 60.0
_STEP_S = 300.0
_STEPS_AN_HOUR = 12
_CLEAR_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What each group may use at most; 0 means no limit."""

    connections: int = 0
    """Open at once."""
    rate: int = 0
    """New connections a minute. A group that was quiet may open a minute's worth at once."""
    mb_per_hour: int = 0
    """Both directions together, in any hour."""

    @classmethod
    def from_json(cls, data: object) -> "Limits":
        """Limits from the launcher's words. Raises ValueError."""
        known = {each.name for each in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != known:
            raise ValueError(f"limits must be an object of {', '.join(sorted(known))}, not {data!r}")
        if not all(type(value) is int and value >= 0 for value in data.values()):
            raise ValueError(f"limits must be whole numbers from 0, not {data!r}")
        return cls(**data)

    def as_json(self) -> dict[str, int]:
        return asdict(self)


NO_LIMITS = Limits()


class Bucket:
    """Tokens that come back evenly, `per_minute` a minute; no more than a minute's worth are kept."""

    def __init__(self, per_minute: int) -> None:
        self._size = per_minute
        self._per_second = per_minute / _MINUTE_S
        self._tokens = float(per_minute)
        self._counted_at = 0.0

    def wait(self, now: float) -> float:
        """Seconds until there is a token to take; 0 when there is one."""
        missing = 1 - self._tokens_at(now)
        return max(0.0, missing / self._per_second)

    def take(self, now: float) -> None:
        self._tokens = self._tokens_at(now) - 1
        self._counted_at = now

    def is_full(self, now: float) -> bool:
        return self._tokens_at(now) >= self._size

    def _tokens_at(self, now: float) -> float:
        return min(self._size, self._tokens + (now - self._counted_at) * self._per_second)


class LastHour:
    """A sum of what was added within an hour.

    Kept in steps of five minutes, so that a group costs at most thirteen numbers. What was added is forgotten after
    an hour at the earliest and five minutes more at the latest.
    """

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}

    def add(self, amount: int, now: float) -> None:
        step = int(now // _STEP_S)
        self._steps[step] = self._steps.get(step, 0) + amount

    def total(self, now: float) -> int:
        oldest = int(now // _STEP_S) - _STEPS_AN_HOUR
        for step in [step for step in self._steps if step < oldest]:
            del self._steps[step]
        return sum(self._steps.values())


class Group:
    """The account of one group."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.members = 0  # slots that it is assigned to
        self._limits = limits
        self._clock = clock
        self._open = 0
        self._bucket = Bucket(limits.rate)
        self._bytes = LastHour()

    def open(self) -> None:
        """Counts a new connection. Raises Refused when the group has as many as it may."""
        limits, now = self._limits, self._clock()
        if limits.connections and self._open >= limits.connections:
            raise Refused(
                RefusalKind.GROUP_CONNECTIONS, f"group limit of {limits.connections} connections at once reached"
            )
        if limits.rate:
            if wait := math.ceil(self._bucket.wait(now)):
                raise Refused(
                    RefusalKind.GROUP_RATE,
                    f"group limit of {limits.rate} new connections a minute reached; try again in {wait} s",
                )
            self._bucket.take(now)
        self._open += 1

    def close(self) -> None:
        """One that was opened has ended."""
        self._open -= 1

    def move(self, size: int) -> None:
        """Counts bytes, of either direction."""
        if self._limits.mb_per_hour:
            self._bytes.add(size, self._clock())

    def check_bytes(self) -> None:
        """Raises Refused when the group has moved as many bytes as it may."""
        limit = self._limits.mb_per_hour
        if limit and self._bytes.total(self._clock()) >= limit * MB:
            raise Refused(RefusalKind.GROUP_BYTES, f"group limit of {limit} MB an hour reached")

    @property
    def is_forgettable(self) -> bool:
        """Whether a new account would say the same."""
        now = self._clock()
        return not self.members and not self._open and self._bucket.is_full(now) and not self._bytes.total(now)


class Groups:
    """The accounts of all groups."""

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._known: dict[str, Group] = {}
        self._clear_at = clock() + _CLEAR_EVERY_S

    def __len__(self) -> int:
        return len(self._known)

    def join(self, name: str | None) -> Group:
        """The group's account, for one more slot. A slot without a group gets one of its own, without limits."""
        self._clear()
        if name is None:
            group = Group(NO_LIMITS, self._clock)
        else:
            group = self._known.setdefault(name, Group(self._limits, self._clock))
        group.members += 1
        return group

    def _clear(self) -> None:
        now = self._clock()
        if now >= self._clear_at:
            self._clear_at = now + _CLEAR_EVERY_S
            self._known = {name: group for name, group in self._known.items() if not group.is_forgettable}
