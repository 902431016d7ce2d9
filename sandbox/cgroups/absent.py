"""No control groups at all."""

from __future__ import annotations

from sandbox.cgroups.contract import Group, Reading


class NoTree:
    """Stands in where a permissive launcher has no control groups: nothing is limited, nothing is counted."""

    version = 0

    def create(self, name: str) -> Group:
        return _NoGroup()

    def paths(self) -> list[str]:
        return []

    def remove(self) -> None:
        """Nothing was made."""


class _NoGroup:
    join_files: tuple[str, ...] = ()

    def limit(self, memory_bytes: int, pids: int, cpus: float) -> None:
        """Nothing limits."""

    def weigh(self, weight: float) -> None:
        """All weigh the same."""

    def reset_peak(self) -> None:
        """There is none."""

    def read(self) -> Reading:
        return Reading(cpu_ms=0.0, peak_memory_bytes=0)

    def oom_kills(self) -> int:
        return 0

    def reset(self) -> bool:
        return True

    def remove(self) -> None:
        """Nothing was made."""
