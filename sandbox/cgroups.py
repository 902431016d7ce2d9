"""Control groups that the platform owns: one per slot, limited before a jail starts in it and read after it
ends.

nsjail's own cgroup flags are not used, since nsjail removes its groups at exit and with them the evidence
(peak memory, cpu time, the kill counter). Version 1 needs the controllers memory, pids, cpu and cpuacct;
version 2 a subtree that this process may write, as systemd's `Delegate=yes` or a container gives. Where both
are mounted, the one that has the controllers is used.

On version 2 a group that limits others may hold no processes. The launcher's own group therefore hands its
processes, all of the service's, to a leaf beside the tree; nothing else about them changes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
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
_LEFT_BYTES = 16 * 1024 * 1024
"""What a group that another jail is to have may still be charged with: files that stay cached."""
_V1_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
_V2_CONTROLLERS = ("memory", "pids", "cpu")
LEAF = "millrace-main"
"""Where version 2 keeps the processes of the service; systemd can start them there (`DelegateSubgroup=`)."""
_HAND_DOWN = " ".join(f"+{controller}" for controller in _V2_CONTROLLERS)
_MOVES = 100


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

    @property
    def join_files(self) -> tuple[str, ...]:
        """Files to which a process writes "0" to move itself into the group."""

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


def open_tree(name: str, proc: Path = Path("/proc")) -> Tree:
    """Make the tree `name` below this process's own groups; raises CgroupsUnavailable with the reason.

    The same name is the same place again, for this process and for others of its service.
    """
    groups = _own_groups(proc)
    absent = [controller for controller in _V1_CONTROLLERS if controller not in groups]
    if not absent:
        return _TreeV1(name, {controller: groups[controller] for controller in _V1_CONTROLLERS})
    if "" not in groups:
        raise CgroupsUnavailable(
            f"cgroup controllers {_list(absent)} are not mounted and there is no cgroup2 mount either; "
            "mount cgroup2 on /sys/fs/cgroup, or run the container with its cgroups writable"
        )
    home = groups[""].parent if groups[""].name == LEAF else groups[""]
    offered = _read(home / "cgroup.controllers").split() if (home / "cgroup.controllers").exists() else []
    missing = [controller for controller in _V2_CONTROLLERS if controller not in offered]
    if missing:
        held = [controller for controller in missing if controller in groups]
        raise CgroupsUnavailable(_why_missing(home, missing, held, absent, proc))
    return _TreeV2(name, home)


def clear(paths: list[str]) -> None:
    """Kill everything in the trees at `paths` and remove them: what a launcher that crashed left behind."""
    for path in map(Path, paths):
        if path.is_dir():
            for folder, _, _ in os.walk(path, topdown=False):
                _empty_and_remove(Path(folder))


def _why_missing(home: Path, missing: list[str], held: list[str], absent: list[str], proc: Path) -> str:
    if off := [controller for controller in missing if controller in _switched_off(proc)]:
        return (
            f"the kernel was started without the cgroup controllers {_list(off)}; take cgroup_disable={','.join(off)} "
            f"off its command line (some boards need cgroup_enable={','.join(off)} on it)"
        )
    if held:
        return (
            f"cgroup version 1 has the controllers {_list(held)} but not {_list(absent)}, so that neither version is "
            "complete; mount those as version 1 too, or start the host with systemd.unified_cgroup_hierarchy=1"
        )
    return (
        f"cgroup2 at {home} offers no controllers {_list(missing)}; have them handed down (systemd: Delegate=yes in "
        "the unit, or systemd-run --scope -p Delegate=yes; a container: --cgroupns=private and writable cgroups; "
        f"else {' '.join(f'+{controller}' for controller in missing)} in cgroup.subtree_control of each group above)"
    )


def _switched_off(proc: Path) -> set[str]:
    rows = [line.split() for line in (proc / "cgroups").read_text().splitlines()[1:]]
    return {row[0] for row in rows if row[3] == "0"}


def _list(controllers: list[str]) -> str:
    return ", ".join(controllers)


def _own_groups(proc: Path) -> dict[str, Path]:
    """This process's own group folder by controller; version 2 has the key "" (as in /proc/self/cgroup)."""
    own: dict[str, str] = {}
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update({controller: path for controller in controllers.split(",")})
    found: dict[str, Path] = {}
    for line in (proc / "self" / "mountinfo").read_text().splitlines():
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
    # A group outside of the cgroup namespace has "/.." in its path; what is mounted is then the nearest.
    if ".." in f"{root}/{path}".split("/") or not Path(path).is_relative_to(root):
        return point
    folder = point / Path(path).relative_to(root)
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


def _refusal(what: str, error: OSError) -> CgroupsUnavailable:
    if error.errno == errno.EROFS:
        remedy = "mount it read-write, or run the container with its cgroups writable"
    else:
        remedy = (
            "run as root, or give this user the subtree (systemd: Delegate=yes in the unit, or from a terminal "
            "systemd-run --user --scope -p Delegate=yes)"
        )
    return CgroupsUnavailable(f"{what} ({error.strerror}); {remedy}")


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise _refusal(f"cannot make the cgroup {folder}", error) from error
    return folder


def _hand_down(folder: Path) -> None:
    """Let the groups below `folder` be limited; its own processes move to a leaf if the kernel asks for it."""
    for _ in range(_MOVES):
        try:
            _write(folder / "cgroup.subtree_control", _HAND_DOWN)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise _refusal(f"cannot hand down the controllers of the cgroup {folder}", error) from error
        # A process that is about to be moved may fork a new one, hence the rounds.
        _move_processes(folder, _make(folder / LEAF))
    raise CgroupsUnavailable(
        f"the cgroup {folder} cannot be emptied: some of its processes do not move; start Millrace in a group of "
        "its own (systemd-run --scope -p Delegate=yes)"
    )


def _move_processes(source: Path, target: Path) -> None:
    for pid in _read(source / "cgroup.procs").split():
        try:
            _write(target / "cgroup.procs", pid)
        except ProcessLookupError:
            continue
        except OSError as error:
            raise _refusal(f"cannot move process {pid} to the cgroup {target}", error) from error


def _kill_all(folder: Path) -> None:
    if (folder / "cgroup.kill").exists():
        _write(folder / "cgroup.kill", 1)
        return
    for pid in map(int, _read(folder / "cgroup.procs").split()):
        # A process of a pid namespace that is not ours shows as 0, which to kill() is this process's own group.
        if pid:
            os.kill(pid, signal.SIGKILL)


def _empty_and_remove(folder: Path) -> None:
    """Killed processes leave their group a moment later, hence the bounded retries."""
    for attempt in range(200):
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            with contextlib.suppress(OSError):
                _kill_all(folder)
            time.sleep(0.001 if attempt < 20 else 0.01)
    raise CgroupsUnavailable(f"the cgroup {folder} cannot be removed: processes in it do not end")


class _Settings:
    """Writes a group's files, each only when its value changes."""

    def __init__(self) -> None:
        self._written: dict[Path, object] = {}

    def put(self, file: Path, value: object) -> None:
        if self._written.get(file) != value:
            _write(file, value)
            self._written[file] = value


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
        self._settings = _Settings()
        self._memory_limit = 0
        self._earlier_kills = 0
        _write(cpu / "cpu.cfs_period_us", CPU_PERIOD_US)

    @property
    def join_files(self) -> tuple[str, ...]:
        return tuple(sorted({f"{folder}/cgroup.procs" for folder in self._folders.values()}))

    def limit(self, memory_bytes: int, pids: int, cpus: float) -> None:
        self._limit_memory(memory_bytes)
        self._settings.put(self._folders["pids"] / "pids.max", pids)
        self._settings.put(self._folders["cpu"] / "cpu.cfs_quota_us", int(cpus * CPU_PERIOD_US))

    def _limit_memory(self, memory_bytes: int) -> None:
        # memory+swap may never be below memory: raise it first, lower it last.
        files = [self._swap_file, self._limit_file] if self._has_swap_limit else [self._limit_file]
        if memory_bytes < self._memory_limit or self._memory_limit == 0:
            files.reverse()
        for file in files:
            self._settings.put(file, memory_bytes)
        self._memory_limit = memory_bytes

    def weigh(self, weight: float) -> None:
        self._settings.put(self._folders["cpu"] / "cpu.shares", max(2, int(weight * 1024)))

    def reset_peak(self) -> None:
        _write(self._peak_file, 0)

    def read(self) -> Reading:
        return Reading(
            cpu_ms=int(_read(self._cpu_file)) / 1e6,
            peak_memory_bytes=int(_read(self._peak_file)),
        )

    def oom_kills(self) -> int:
        return self._all_kills() - self._earlier_kills

    def _all_kills(self) -> int:
        return _field(_read(self._folders["memory"] / "memory.oom_control"), "oom_kill")

    def reset(self) -> bool:
        # Who is in one of the groups is in all of them.
        memory = self._folders["memory"]
        if _read(memory / "cgroup.procs") or int(_read(memory / "memory.usage_in_bytes")) > _LEFT_BYTES:
            return False
        self._earlier_kills = self._all_kills()
        self.reset_peak()
        return True

    def remove(self) -> None:
        for folder in set(self._folders.values()):
            _empty_and_remove(folder)


class _TreeV2:
    version = 2

    def __init__(self, name: str, home: Path) -> None:
        self._folder = home / name
        _hand_down(home)
        _make(self._folder)
        try:
            # Whoever moves a process needs this file of the nearest group that is above both places.
            os.close(os.open(home / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
            _write(self._folder / "cgroup.subtree_control", _HAND_DOWN)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._folder.rmdir()
            raise _refusal(f"cannot move processes within the cgroup {home}", error) from error

    def create(self, name: str) -> Group:
        return _GroupV2(_make(self._folder / name))

    def paths(self) -> list[str]:
        return [str(self._folder)]

    def remove(self) -> None:
        clear(self.paths())


class _GroupV2:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settings = _Settings()
        self._peak_file = folder / "memory.peak"
        self._has_peak = self._peak_file.exists()
        # Before Linux 6.12 nobody may write it, so there the mode says so even to root.
        self._resets_peak = self._has_peak and bool(self._peak_file.stat().st_mode & stat.S_IWUSR)
        self._peak_fd = -1
        self._memory_limit = 0
        self._earlier_kills = 0
        if (folder / "memory.swap.max").exists():
            _write(folder / "memory.swap.max", 0)
        # A jail is one thing: if the kernel must kill in it, then nsjail and the runtime at once.
        _write(folder / "memory.oom.group", 1)

    @property
    def join_files(self) -> tuple[str, ...]:
        return (f"{self._folder}/cgroup.procs",)

    def limit(self, memory_bytes: int, pids: int, cpus: float) -> None:
        if memory_bytes != self._memory_limit:
            # Version 1 refuses a limit below what is in use; this version would kill to get there.
            if int(_read(self._folder / "memory.current")) > memory_bytes:
                raise OSError(errno.EBUSY, "more memory is in use than the new limit", str(self._folder))
            _write(self._folder / "memory.max", memory_bytes)
            self._memory_limit = memory_bytes
        self._settings.put(self._folder / "pids.max", pids)
        self._settings.put(self._folder / "cpu.max", f"{int(cpus * CPU_PERIOD_US)} {CPU_PERIOD_US}")

    def weigh(self, weight: float) -> None:
        self._settings.put(self._folder / "cpu.weight", max(1, int(weight * 100)))

    def reset_peak(self) -> None:
        if not self._resets_peak:
            return
        # The kernel resets what this open file shows and no other, so it stays open until the group is removed.
        if self._peak_fd < 0:
            self._peak_fd = os.open(self._peak_file, os.O_RDWR | os.O_CLOEXEC)
        os.pwrite(self._peak_fd, b"0", 0)

    def read(self) -> Reading:
        return Reading(
            cpu_ms=_field(_read(self._folder / "cpu.stat"), "usage_usec") / 1e3,
            peak_memory_bytes=self._peak(),
        )

    def _peak(self) -> int:
        if self._peak_fd >= 0:
            return int(os.pread(self._peak_fd, 32, 0))
        return int(_read(self._peak_file if self._has_peak else self._folder / "memory.current"))

    def oom_kills(self) -> int:
        return self._all_kills() - self._earlier_kills

    def _all_kills(self) -> int:
        return _field(_read(self._folder / "memory.events"), "oom_kill")

    def reset(self) -> bool:
        if not self._resets_peak or _read(self._folder / "cgroup.procs"):
            return False
        if int(_read(self._folder / "memory.current")) > _LEFT_BYTES:
            return False
        self._earlier_kills = self._all_kills()
        self.reset_peak()
        return True

    def remove(self) -> None:
        if self._peak_fd >= 0:
            os.close(self._peak_fd)
            self._peak_fd = -1
        _empty_and_remove(self._folder)
