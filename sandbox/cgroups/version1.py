"""Version 1 of control groups: a tree of folders for each controller."""

from __future__ import annotations

from pathlib import Path

from sandbox.cgroups.contract import CPU_PERIOD_US, LEFT_BYTES, Group, Reading
from sandbox.cgroups.files import Settings, clear, empty_and_remove, field, make, read, write

CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")


class TreeV1:
    version = 1

    def __init__(self, name: str, controllers: dict[str, Path]) -> None:
        self._folders = {key: make(folder / name) for key, folder in controllers.items()}

    def create(self, name: str) -> Group:
        return GroupV1({key: make(folder / name) for key, folder in self._folders.items()})

    def paths(self) -> list[str]:
        return sorted({str(folder) for folder in self._folders.values()})

    def remove(self) -> None:
        clear(self.paths())


class GroupV1:
    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = set(folders.values())
        memory, pids, cpu, cpuacct = (str(folders[controller]) for controller in CONTROLLERS)
        self._memory_folder = memory
        self._limit_file = f"{memory}/memory.limit_in_bytes"
        self._swap_file = f"{memory}/memory.memsw.limit_in_bytes"
        self._peak_file = f"{memory}/memory.max_usage_in_bytes"
        self._pids_file = f"{pids}/pids.max"
        self._quota_file = f"{cpu}/cpu.cfs_quota_us"
        self._weight_file = f"{cpu}/cpu.shares"
        self._cpu_file = f"{cpuacct}/cpuacct.usage"
        self._has_swap_limit = Path(self._swap_file).exists()
        self._settings = Settings()
        self._memory_limit = 0
        self._earlier_kills = 0
        # "tasks" moves one thread, for which the kernel need not wait for all of the host's processors, as for
        # "cgroup.procs" it does. Whoever joins has but one.
        self.join_files = tuple(sorted(f"{folder}/tasks" for folder in self._folders))
        write(f"{cpu}/cpu.cfs_period_us", CPU_PERIOD_US)

    def limit(self, memory_bytes: int, pids: int, cpus: float) -> None:
        self._limit_memory(memory_bytes)
        self._settings.put(self._pids_file, pids)
        self._settings.put(self._quota_file, int(cpus * CPU_PERIOD_US))

    def _limit_memory(self, memory_bytes: int) -> None:
        # memory+swap may never be below memory: raise it first, lower it last.
        files = [self._swap_file, self._limit_file] if self._has_swap_limit else [self._limit_file]
        if memory_bytes < self._memory_limit or self._memory_limit == 0:
            files.reverse()
        for file in files:
            self._settings.put(file, memory_bytes)
        self._memory_limit = memory_bytes

    def weigh(self, weight: float) -> None:
        self._settings.put(self._weight_file, max(2, int(weight * 1024)))

    def reset_peak(self) -> None:
        write(self._peak_file, 0)

    def read(self) -> Reading:
        return Reading(
            cpu_ms=int(read(self._cpu_file)) / 1e6,
            peak_memory_bytes=int(read(self._peak_file)),
        )

    def oom_kills(self) -> int:
        return self._all_kills() - self._earlier_kills

    def _all_kills(self) -> int:
        return field(read(f"{self._memory_folder}/memory.oom_control"), "oom_kill")

    def reset(self) -> bool:
        # Who is in one of the groups is in all of them.
        memory = self._memory_folder
        if read(f"{memory}/cgroup.procs") or int(read(f"{memory}/memory.usage_in_bytes")) > LEFT_BYTES:
            return False
        self._earlier_kills = self._all_kills()
        self.reset_peak()
        return True

    def remove(self) -> None:
        for folder in self._folders:
            empty_and_remove(folder)
