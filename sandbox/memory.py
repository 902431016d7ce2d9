"""How much memory this process and its jails may have: the host's, or what a control group leaves them of it.

A container sees the whole host in /proc/meminfo, and is killed at its own limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox.cgroups.files import field
from sandbox.cgroups.host import own_groups

SCARCE = 0.1
"""Of all memory; with less left what is idle ends."""
AMPLE = 0.2
"""With less left nothing is booted ahead."""
_IDLE_SHARE = 0.25
"""Of all memory, what idle jails may hold together."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes in all, and those of them that are left."""

    total: int
    available: int


class Memory:
    """Looks anew each time: limits can be changed."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._meminfo = proc / "meminfo"
        self._groups = list(_limiting(proc))

    @property
    def for_idle_jails(self) -> int:
        """Bytes that warm and parked jails may hold together."""
        return int(min(room.total for room in self._rooms()) * _IDLE_SHARE)

    def is_scarce(self, share: float = SCARCE) -> bool:
        """Whether less than this share is left, of the host's memory or of what a control group allows."""
        return any(room.available < room.total * share for room in self._rooms())

    def _rooms(self) -> Iterator[Room]:
        yield _of_host(self._meminfo.read_text())
        for group in self._groups:
            if (room := group.room()) is not None:
                yield room


@dataclass(frozen=True, slots=True)
class _Group:
    folder: Path
    limit: str
    usage: str
    reclaimable: str
    """The line of memory.stat that has what the kernel takes back before it is short: pages of files."""

    def room(self) -> Room | None:
        """None without a limit."""
        try:
            limit = (self.folder / self.limit).read_text().strip()
            used = int((self.folder / self.usage).read_text())
            cached = field((self.folder / "memory.stat").read_text(), self.reclaimable)
        except FileNotFoundError:
            return None  # the root group has none
        # Version 1 says a number of more bytes than any host has when there is no limit.
        if limit == "max" or int(limit) > _physical_bytes():
            return None
        return Room(int(limit), int(limit) - used + cached)


def _limiting(proc: Path) -> Iterator[_Group]:
    """This process's group and those above it, as far as they are mounted."""
    own = own_groups(proc)
    if "memory" in own:
        files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    elif "" in own:
        files = ("memory.max", "memory.current", "inactive_file")
    else:
        return
    folder = own.get("memory", own.get("", Path()))
    while (folder / "cgroup.procs").exists():
        yield _Group(folder, *files)
        folder = folder.parent


def _of_host(meminfo: str) -> Room:
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    total, available = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return Room(total, available)


def _physical_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
