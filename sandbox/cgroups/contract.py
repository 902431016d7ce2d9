"""What a control group does for a jail, on whichever version of the kernel's interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

CPU_PERIOD_US = 100_000
"""A longer period would freeze a script for most of a second once its share is used up."""
LEFT_BYTES = 16 * 1024 * 1024
"""What a group that another jail is to have may still be charged with: files that stay cached."""


class CgroupsUnavailable(Exception):
    """No control groups that this process may write; the message says which are missing and how to mend
    it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of one group since it was made; the peak since `reset_peak`, or since then too if the kernel can't."""

    cpu_ms: float
    peak_memory_bytes: int


class Group(Protocol):
    """The control group of one slot."""

    join_files: tuple[str, ...]
    """Files to which a process of one thread writes "0" to move itself into the group."""

    def limit(self, memory_bytes: int, pids: int, cpus: float) -> None:
        """Set the limits; raises OSError (EBUSY) when more memory is in use than `memory_bytes`."""

    def weigh(self, weight: float) -> None:
        """Share of the cpu when it is scarce; 1.0 is an ordinary group's."""

    def reset_peak(self) -> None:
        """Start the peak anew, where the kernel can: version 2 from Linux 6.12, version 1 always."""

    def read(self) -> Reading: ...

    def oom_kills(self) -> int:
        """How many of its processes the kernel killed for want of memory."""

    def reset(self) -> bool:
        """Make it as good as new for another jail; False if that can't be, and then it is to be removed."""

    def remove(self) -> None:
        """Kill what is left in the group, remove it and close its files. No error if it is gone."""


class Tree(Protocol):
    """Where the groups of one launcher live."""

    version: int

    def create(self, name: str) -> Group: ...

    def paths(self) -> list[str]:
        """Folders to clear after a crash; see `clear`."""

    def remove(self) -> None:
        """Remove the tree and all in it."""
