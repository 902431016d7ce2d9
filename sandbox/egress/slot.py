"""One jail's way out, and the account of what its run did with it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from sandbox.egress import resolver
from sandbox.egress.addresses import IPAddress
from sandbox.egress.policy import Policy, Refused

if TYPE_CHECKING:
    from sandbox.egress.connection import Connection

MAX_RECORDED = 100
"""Refusals that are reported for one run. Further ones are refused all the same."""
_RESOLVING_AT_ONCE = 4
_RESOLVING_OR_WAITING = 128


@dataclass(frozen=True)
class Refusal:
    """One attempt that was turned down. `host` is what was asked for, made printable."""

    host: str
    port: int
    reason: str


@dataclass
class Report:
    """What a run did: bytes that came from outside, bytes that went there, and what was refused."""

    bytes_in: int = 0
    bytes_out: int = 0
    refused: list[Refusal] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        return asdict(self)


class Slot:
    """One jail's way out. It refuses everything while no run is assigned to it."""

    def __init__(self, resolve: resolver.Resolve = resolver.system) -> None:
        self.policy: Policy | None = None
        self.report = Report()
        self.connections: set[Connection] = set()
        self.on_first_use: Callable[[], None] | None = None
        """Called when the run connects for the first time, before anything is answered."""
        self._resolve = resolve
        self._resolving = asyncio.Semaphore(_RESOLVING_AT_ONCE)
        self._lookups: set[asyncio.Task[Sequence[IPAddress]]] = set()

    def assign(self, policy: Policy) -> None:
        """A run begins: what is left of an earlier one is closed and forgotten."""
        self.release()
        self.policy = policy

    def release(self) -> Report:
        """The run is over: every connection is closed at once, and the report is final."""
        self.policy = None
        self.on_first_use = None
        self.abort()
        report, self.report = self.report, Report()
        return report

    def touched(self) -> None:
        """The jail has connected."""
        on_first_use, self.on_first_use = self.on_first_use, None
        if on_first_use is not None:
            on_first_use()

    def abort(self) -> None:
        for connection in list(self.connections):
            connection.abort()

    def refuse(self, host: str, port: int, reason: str) -> None:
        """Puts an attempt on record."""
        if len(self.report.refused) < MAX_RECORDED:
            printable = "".join(c if c.isascii() and c.isprintable() else "?" for c in host[:255])
            self.report.refused.append(Refusal(printable, port, reason))

    def admit(self) -> Policy:
        """The policy that one more connection runs under. Raises Refused."""
        if self.policy is None:
            raise Refused("no run is assigned to this jail")
        if sum(connection.counts for connection in self.connections) >= self.policy.max_connections:
            raise Refused(f"more than {self.policy.max_connections} connections at once")
        if self.spent:
            raise Refused(f"byte limit of {self.policy.max_bytes} reached")
        return self.policy

    @property
    def spent(self) -> bool:
        """Whether the run has moved as many bytes as it may."""
        if self.policy is None:
            return False
        return self.report.bytes_in + self.report.bytes_out >= self.policy.max_bytes

    async def lookup(self, name: str) -> Sequence[IPAddress]:
        """The name's addresses. Raises socket.gaierror, and Unreachable when too many names are under way.

        A lookup goes on when nobody waits for it any more, since its thread does. So a run that asks for slow
        names and hangs up takes no more threads from the other slots than one that waits.
        """
        if len(self._lookups) >= _RESOLVING_OR_WAITING:
            raise resolver.Unreachable("EAI_AGAIN")
        task = asyncio.get_running_loop().create_task(self._bounded_lookup(name))
        self._lookups.add(task)
        task.add_done_callback(self._lookup_done)
        return await asyncio.shield(task)

    async def _bounded_lookup(self, name: str) -> Sequence[IPAddress]:
        async with self._resolving:
            return await self._resolve(name)

    def _lookup_done(self, task: asyncio.Task[Sequence[IPAddress]]) -> None:
        self._lookups.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also when nobody waited for it
