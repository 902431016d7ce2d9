"""What passes between those who ask for jails and those who keep them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sandbox import jail
from sandbox.demand import Shape
from sandbox.loop import Timer
from sandbox.proxylink import Traffic
from sandbox.slots import Slot


@dataclass(frozen=True, slots=True)
class Request:
    """What a worker asks for."""

    runtime: str
    memory_mb: int
    pids: int
    cpus: float
    timeout_ms: int
    reuse_key: str | None
    hosts: tuple[str, ...] | None
    egress_group: str | None = None
    """Whose limits on connections, rate and bytes it shares with other jails."""
    preloaded: bool = False
    """Whether it loads large libraries, so that a jail that has them is worth its memory."""

    @property
    def shape(self) -> Shape:
        """What kind of jail serves it."""
        return Shape(self.runtime, self.memory_mb, self.preloaded)

    @property
    def reuse_as(self) -> tuple[object, ...] | None:
        """A used jail serves only requests that are equal in all but the time limit."""
        if self.reuse_key is None:
            return None
        return (self.reuse_key, self.shape, self.pids, self.cpus, self.hosts, self.egress_group)


@dataclass(frozen=True, slots=True)
class Account:
    """What a job used, as the launcher measured it, and how its jail ended if it did."""

    cpu_ms: float
    peak_memory_bytes: int
    oom_kills: int
    exit_code: int | None
    traffic: Traffic


@dataclass(slots=True, eq=False)
class Jail:
    slot: Slot
    process: jail.JailProcess
    shape: Shape
    state: str = "booting"
    started_at: float = 0.0
    booted_at: float = 0.0
    runs: int = 0
    request: Request | None = None
    cpu_ms: float | None = None
    """What it had used at its last reading: the next job's account starts there."""
    exit_code: int | None = None
    timer: Timer | None = None
    resident_bytes: int = 0
    paused: bool = False
    assigned: bool = False
    """Whether its slot may reach the outside: from its first job to the end of one that did."""
    on_exit: list[Callable[[], None]] = field(default_factory=list)

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@dataclass(slots=True, eq=False)
class Waiter:
    """Someone who waits for a jail; `abandoned` once they no longer do."""

    request: Request
    on_ready: Callable[[Jail, str], None]
    on_failed: Callable[[str], None]
    abandoned: bool = False
