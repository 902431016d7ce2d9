"""One jail's way out, and the account of what its run did with it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from sandbox.egress import resolver
from sandbox.egress.addresses import IPAddress
from sandbox.egress.group import Groups
from sandbox.egress.policy import Policy, RefusalKind, Refused, Target

if TYPE_CHECKING:
    from sandbox.egress.connection import Connection

MAX_RECORDED = 100
"""Refusals of one run that are reported one by one. Further ones are counted."""
_RESOLVING_AT_ONCE = 4
_RESOLVING_OR_WAITING = 128


@dataclass(frozen=True)
class Refusal:
    """One attempt that was turned down. `host` is what was asked for, made printable."""

    host: str
    port: int
    reason: str
    kind: RefusalKind


@dataclass
class Report:
    """What a run did: bytes that came from outside, bytes that went there, and what was refused."""

    bytes_in: int = 0
    bytes_out: int = 0
    refused: list[Refusal] = field(default_factory=list)
    refused_counts: Counter[RefusalKind] = field(default_factory=Counter)
    """All of them, also those that are not in `refused`."""

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "refused_counts": dict(self.refused_counts)}


class Slot:
    """One jail's way out. It refuses everything while no run is assigned to it."""

    def __init__(self, resolve: resolver.Resolve, groups: Groups) -> None:
        self.policy: Policy | None = None
        self.report = Report()
        self.connections: set[Connection] = set()
        self.on_first_use: Callable[[], None] | None = None
        """Called when the run connects for the first time, before anything is answered."""
        self._groups = groups
        self._group = groups.join(None)
        self._admitted: set[Connection] = set()
        self._resolve = resolve
        self._resolving = asyncio.Semaphore(_RESOLVING_AT_ONCE)
        self._lookups: set[asyncio.Task[Sequence[IPAddress]]] = set()

    def assign(self, policy: Policy, group: str | None) -> None:
        """A run of `group` begins: what is left of an earlier one is closed and forgotten."""
        self.release()
        self.policy = policy
        self._group = self._groups.join(group)

    def release(self) -> Report:
        """The run is over: every connection is closed at once, and the report is final."""
        self.policy = None
        self.on_first_use = None
        self.abort()
        for connection in list(self._admitted):
            self.dismiss(connection)
        self._group.members -= 1
        self._group = self._groups.join(None)
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

    @property
    def is_refused_often(self) -> bool:
        return sum(self.report.refused_counts.values()) > MAX_RECORDED

    def refuse(self, host: str, port: int, refused: Refused) -> None:
        """Puts an attempt on record."""
        self.report.refused_counts[refused.kind] += 1
        if len(self.report.refused) < MAX_RECORDED:
            printable = "".join(c if c.isascii() and c.isprintable() else "?" for c in host[:255])
            self.report.refused.append(Refusal(printable, port, str(refused), refused.kind))

    def admit(self, connection: "Connection", target: Target) -> Policy:
        """The policy that the connection runs under, which counts until it is dismissed. Raises Refused.

        Whatever is refused here has used up nothing of what the group may open in a minute.
        """
        if self.policy is None:
            raise Refused(RefusalKind.NO_RUN, "no run is assigned to this jail")
        self.policy.check_host(target)
        if len(self._admitted) >= self.policy.max_connections:
            raise Refused(RefusalKind.CONNECTIONS, f"more than {self.policy.max_connections} connections at once")
        self.check_bytes()
        self._group.open()
        self._admitted.add(connection)
        return self.policy

    def dismiss(self, connection: "Connection") -> None:
        """The connection counts no longer."""
        if connection in self._admitted:
            self._admitted.remove(connection)
            self._group.close()

    def moved(self, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Counts bytes. Raises Refused when they were the last that may move."""
        self.report.bytes_in += bytes_in
        self.report.bytes_out += bytes_out
        self._group.move(bytes_in + bytes_out)
        self.check_bytes()

    def check_bytes(self) -> None:
        """Raises Refused when the run, or its group, has moved as many bytes as it may."""
        if self.policy is None:
            return
        if self.report.bytes_in + self.report.bytes_out >= self.policy.max_bytes:
            raise Refused(RefusalKind.BYTES, f"byte limit of {self.policy.max_bytes} reached")
        self._group.check_bytes()

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
