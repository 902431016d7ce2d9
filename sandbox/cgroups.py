"""Control groups that the platform owns: one per slot, limited before a jail starts in it and read after it
ends.

nsjail's own cgroup flags are not used, since nsjail removes its groups at exit and with them the evidence
(peak memory, cpu time, the kill counter). Version 1 needs the controllers memory, pids, cpu and cpuacct;
version 2 a subtree that this process may write, as systemd's `Delegate=yes` or a container gives.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CPU_PERIOD_US = 100_000
"""A longer period would freeze a script for most of a second once its share is used up."""
BOOT_WEIGHT = 1.0
"""For a jail that somebody waits for."""
RUN_WEIGHT = 0.1
"""Below that of a boot: scripts that spin must not keep others from starting."""
REFILL_WEIGHT = 0.02
"""For jails that nobody waits for: they boot on what others leave."""
_V1_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
_V2_CONTROLLERS = ("memory", "pids", "cpu")


class CgroupsUnavailable(Exception):
    """No control groups that this process may write; the message says which are missing and how to mend
    it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of one group since it was made; the peak since `reset_peak`."""

    cpu_ms: float
    peak_memory_bytes: int


class Group(Protocol):
    """The control group of one slot."""

    @property
    def join_files(self) -> tuple[str, ...]:
        """Files to which a process writes "0" to move itself into the group."""

    def limit(self, memory_bytes: int, pids: int, cpus: float) -> None:
        """Set the limits; raises OSError (EBUSY) when more memory is in use than `memory_bytes`."""

    def weigh(self, weight: float) -> None:
        """Share of the cpu when it is scarce; 1.0 is an ordinary group's."""

    def reset_peak(self) -> None:
        """Start the peak anew, where the kernel can."""

    def read(self) -> Reading: ...

    def oom_kills(self) -> int:
        """How many of its processes the kernel killed for want of memory."""

    def remove(self) -> None:
        """Kill what is left in the group, and remove it. No error if it is gone."""


class Tree(Protocol):
    """Where the groups of one launcher live."""

    version: int

    def create(self, name: str) -> Group: ...

    def paths(self) -> list[str]:
        """Folders to clear after a crash; see `clear`."""

    def remove(self) -> None:
        """Remove the tree and all in it."""


def open_tree(name: str) -> Tree:
    """Make the tree `name` below this process's own groups; raises CgroupsUnavailable with the reason."""
    mounts = _mounts()
    missing = [controller for controller in _V1_CONTROLLERS if controller not in mounts]
    if not missing:
        return _TreeV1(name, {controller: mounts[controller] for controller in _V1_CONTROLLERS})
    if "" in mounts:
        return _TreeV2(name, mounts[""])
    raise CgroupsUnavailable(
        f"cgroup controllers {', '.join(missing)} are not mounted and there is no cgroup2 mount either; "
        "mount cgroup2 on /sys/fs/cgroup, or run the container with its cgroups writable"
    )


def clear(paths: list[str]) -> None:
    """Kill everything in the trees at `paths` and remove them: what a launcher that crashed left behind."""
    for path in map(Path, paths):
        if path.is_dir():
            for folder, _, _ in os.walk(path, topdown=False):
                _empty_and_remove(Path(folder))


def _mounts() -> dict[str, Path]:
    """This process's own group folder by controller; version 2 has the key "" (as in /proc/self/cgroup)."""
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update({controller: path for controller in controllers.split(",")})
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        fstype, _, options = tail.split(" ", 2)
        root, point = fields.split()[3:5]
        names = [""] if fstype == "cgroup2" else options.split(" ")[-1].split(",") if fstype == "cgroup" else []
        for name in names:
            if name in own and name not in found:
                found[name] = _inside(Path(point), root, own[name])
    return found


def _inside(point: Path, root: str, path: str) -> Path:
    """Where group `path` appears under a mount whose root is `root`; a container often mounts only its
    part."""
    relative = os.path.relpath(path, root) if path.startswith(root) else path.lstrip("/")
    folder = point / relative
    return folder if folder.is_dir() else point


def _write(path: Path | str, value: object) -> None:
    # One unbuffered write: the kernel answers each write with success or an errno.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def _read(path: Path | str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65536).decode()
    finally:
        os.close(descriptor)


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise CgroupsUnavailable(
            f"cannot make the cgroup {folder} ({error.strerror}); run as root, or give this user the subtree "
            "(systemd: Delegate=yes)"
        ) from error
    return folder


def _empty_and_remove(folder: Path) -> None:
    """Killed processes leave their group a moment later, hence the bounded retries."""
    for attempt in range(200):
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                for pid in map(int, _read(folder / "cgroup.procs").split()):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001 if attempt < 20 else 0.01)
    raise CgroupsUnavailable(f"the cgroup {folder} cannot be removed: processes in it do not end")


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

    def remove(self) -> None:
        """Nothing was made."""


class _TreeV1:
    version = 1

    def __init__(self, name: str, controllers: dict[str, Path]) -> None:
        self._folders = {key: _make(folder / name) for key, folder in controllers.items()}

    def create(self, name: str) -> Group:
        return _GroupV1({key: _make(folder / name) for key, folder in self._folders.items()})

    def paths(self) -> list[str]:
        return sorted({str(folder) for folder in self._folders.values()})

    def remove(self) -> None:
        clear(self.paths())


class _GroupV1:
    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        memory, cpu = folders["memory"], folders["cpu"]
        self._limit_file = memory / "memory.limit_in_bytes"
        self._swap_file = memory / "memory.memsw.limit_in_bytes"
        self._peak_file = str(memory / "memory.max_usage_in_bytes")
        self._cpu_file = str(folders["cpuacct"] / "cpuacct.usage")
        self._has_swap_limit = self._swap_file.exists()
        self._set: dict[Path, object] = {}
        self._memory_limit = 0
        _write(cpu / "cpu.cfs_period_us", CPU_PERIOD_US)

    @property
    def join_files(self) -> tuple[str, ...]:
        return tuple(sorted({f"{folder}/cgroup.procs" for folder in self._folders.values()}))

    def limit(self, memory_bytes: int, pids: int, cpus: float) -> None:
        self._limit_memory(memory_bytes)
        self._once(self._folders["pids"] / "pids.max", pids)
        self._once(self._folders["cpu"] / "cpu.cfs_quota_us", int(cpus * CPU_PERIOD_US))

    def _limit_memory(self, memory_bytes: int) -> None:
        # memory+swap may never be below memory: raise it first, lower it last.
        files = [self._swap_file, self._limit_file] if self._has_swap_limit else [self._limit_file]
        if memory_bytes < self._memory_limit or self._memory_limit == 0:
            files.reverse()
        for file in files:
            self._once(file, memory_bytes)
        self._memory_limit = memory_bytes

    def weigh(self, weight: float) -> None:
        self._once(self._folders["cpu"] / "cpu.shares", max(2, int(weight * 1024)))

    def _once(self, file: Path, value: object) -> None:
        if self._set.get(file) != value:
            _write(file, value)
            self._set[file] = value

    def reset_peak(self) -> None:
        _write(self._peak_file, 0)

    def read(self) -> Reading:
        return Reading(
            cpu_ms=int(_read(self._cpu_file)) / 1e6,
            peak_memory_bytes=int(_read(self._peak_file)),
        )

    def oom_kills(self) -> int:
        return _field(_read(self._folders["memory"] / "memory.oom_control"), "oom_kill")

    def remove(self) -> None:
        for folder in set(self._folders.values()):
            _empty_and_remove(folder)


class _TreeV2:
    version = 2

    def __init__(self, name: str, own: Path) -> None:
        available = _read(own / "cgroup.controllers").split() if (own / "cgroup.controllers").exists() else []
        missing = [controller for controller in _V2_CONTROLLERS if controller not in available]
        if missing:
            raise CgroupsUnavailable(
                f"cgroup2 at {own} offers no {', '.join(missing)} controller; delegate them to this user "
                "(systemd: Delegate=yes), or run the container with a writable cgroup namespace"
            )
        self._make_room(own)
        self._folder = _make(own / name)
        _write(self._folder / "cgroup.subtree_control", " ".join(f"+{key}" for key in _V2_CONTROLLERS))

    def _make_room(self, own: Path) -> None:
        """A group that hands out controllers may hold no processes: move ours into a leaf beside the tree."""
        wanted = " ".join(f"+{key}" for key in _V2_CONTROLLERS)
        try:
            _write(own / "cgroup.subtree_control", wanted)
        except OSError:
            leaf = _make(own / "launcher")
            for pid in _read(own / "cgroup.procs").split():
                _write(leaf / "cgroup.procs", pid)
            _write(own / "cgroup.subtree_control", wanted)

    def create(self, name: str) -> Group:
        return _GroupV2(_make(self._folder / name))

    def paths(self) -> list[str]:
        return [str(self._folder)]

    def remove(self) -> None:
        clear(self.paths())


class _GroupV2:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if (folder / "memory.swap.max").exists():
            _write(folder / "memory.swap.max", 0)
        _write(folder / "memory.oom.group", 0)

    @property
    def join_files(self) -> tuple[str, ...]:
        return (f"{self._folder}/cgroup.procs",)

    def limit(self, memory_bytes: int, pids: int, cpus: float) -> None:
        _write(self._folder / "memory.max", memory_bytes)
        _write(self._folder / "pids.max", pids)
        _write(self._folder / "cpu.max", f"{int(cpus * CPU_PERIOD_US)} {CPU_PERIOD_US}")

    def weigh(self, weight: float) -> None:
        _write(self._folder / "cpu.weight", max(1, int(weight * 100)))

    def reset_peak(self) -> None:
        """memory.peak can be reset for one open file only, and only from kernel 6.12: it stays the jail's
        peak."""

    def read(self) -> Reading:
        peak = self._folder / "memory.peak"
        return Reading(
            cpu_ms=_field(_read(self._folder / "cpu.stat"), "usage_usec") / 1e3,
            peak_memory_bytes=int(_read(peak if peak.exists() else self._folder / "memory.current")),
        )

    def oom_kills(self) -> int:
        return _field(_read(self._folder / "memory.events"), "oom_kill")

    def remove(self) -> None:
        _empty_and_remove(self._folder)
