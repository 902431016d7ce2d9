"""Version 2 of control groups: one tree, of which this process was handed down a part."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from sandbox.cgroups.contract import CPU_PERIOD_US, LEFT_BYTES, CgroupsUnavailable, Group, Reading
from sandbox.cgroups.files import Settings, clear, empty_and_remove, field, make, read, refusal, write

CONTROLLERS = ("memory", "pids", "cpu")
LEAF = "millrace-main"
"""Where the processes of the service are kept; systemd can start them there (`DelegateSubgroup=`)."""
_HAND_DOWN = " ".join(f"+{controller}" for controller in CONTROLLERS)
_MOVES = 100


class TreeV2:
    version = 2

    def __init__(self, name: str, home: Path) -> None:
        self._folder = home / name
        _hand_down(home)
        make(self._folder)
        try:
            # Whoever moves a process needs this file of the nearest group that is above both places.
            os.close(os.open(home / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
            write(self._folder / "cgroup.subtree_control", _HAND_DOWN)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._folder.rmdir()
            raise refusal(f"cannot move processes within the cgroup {home}", error) from error

    def create(self, name: str) -> Group:
        return GroupV2(make(self._folder / name))

    def paths(self) -> list[str]:
        return [str(self._folder)]

    def remove(self) -> None:
        clear(self.paths())


class GroupV2:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.join_files: tuple[str, ...] = (f"{folder}/cgroup.procs",)
        self._settings = Settings()
        self._peak_file = folder / "memory.peak"
        self._has_peak = self._peak_file.exists()
        # Before Linux 6.12 nobody may write it, so there the mode says so even to root.
        self._resets_peak = self._has_peak and bool(self._peak_file.stat().st_mode & stat.S_IWUSR)
        self._peak_fd = -1
        self._memory_limit = 0
        self._earlier_kills = 0
        if (folder / "memory.swap.max").exists():
            write(folder / "memory.swap.max", 0)
        # A jail is one thing: if the kernel must kill in it, then nsjail and the runtime at once.
        write(folder / "memory.oom.group", 1)

    def limit(self, memory_bytes: int, pids: int, cpus: float) -> None:
        if memory_bytes != self._memory_limit:
            # Version 1 refuses a limit below what is in use; this version would kill to get there.
            if int(read(self._folder / "memory.current")) > memory_bytes:
                raise OSError(errno.EBUSY, "more memory is in use than the new limit", str(self._folder))
            write(self._folder / "memory.max", memory_bytes)
            self._memory_limit = memory_bytes
        self._settings.put(f"{self._folder}/pids.max", pids)
        self._settings.put(f"{self._folder}/cpu.max", f"{int(cpus * CPU_PERIOD_US)} {CPU_PERIOD_US}")

    def weigh(self, weight: float) -> None:
        self._settings.put(f"{self._folder}/cpu.weight", max(1, int(weight * 100)))

    def reset_peak(self) -> None:
        if not self._resets_peak:
            return
        # The kernel resets what this open file shows and no other, so it stays open until the group is removed.
        if self._peak_fd < 0:
            self._peak_fd = os.open(self._peak_file, os.O_RDWR | os.O_CLOEXEC)
        os.pwrite(self._peak_fd, b"0", 0)

    def read(self) -> Reading:
        return Reading(
            cpu_ms=field(read(self._folder / "cpu.stat"), "usage_usec") / 1e3,
            peak_memory_bytes=self._peak(),
        )

    def _peak(self) -> int:
        if self._peak_fd >= 0:
            return int(os.pread(self._peak_fd, 32, 0))
        return int(read(self._peak_file if self._has_peak else self._folder / "memory.current"))

    def oom_kills(self) -> int:
        return self._all_kills() - self._earlier_kills

    def _all_kills(self) -> int:
        return field(read(self._folder / "memory.events"), "oom_kill")

    def reset(self) -> bool:
        if not self._resets_peak or read(self._folder / "cgroup.procs"):
            return False
        if int(read(self._folder / "memory.current")) > LEFT_BYTES:
            return False
        self._earlier_kills = self._all_kills()
        self.reset_peak()
        return True

    def remove(self) -> None:
        if self._peak_fd >= 0:
            os.close(self._peak_fd)
            self._peak_fd = -1
        empty_and_remove(self._folder)


def _hand_down(folder: Path) -> None:
    """Let the groups below `folder` be limited; its own processes move to a leaf if the kernel asks for it."""
    for _ in range(_MOVES):
        try:
            write(folder / "cgroup.subtree_control", _HAND_DOWN)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise refusal(f"cannot hand down the controllers of the cgroup {folder}", error) from error
        # A process that is about to be moved may fork a new one, hence the rounds.
        _move_processes(folder, make(folder / LEAF))
    raise CgroupsUnavailable(
        f"the cgroup {folder} cannot be emptied: some of its processes do not move; start Millrace in a group of "
        "its own (systemd-run --scope -p Delegate=yes)"
    )


def _move_processes(source: Path, target: Path) -> None:
    for pid in read(source / "cgroup.procs").split():
        try:
            write(target / "cgroup.procs", pid)
        except ProcessLookupError:
            continue
        except OSError as error:
            raise refusal(f"cannot move process {pid} to the cgroup {target}", error) from error
