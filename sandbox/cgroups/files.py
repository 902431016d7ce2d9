"""The folders and files by which the kernel's control groups are made, set, read and removed."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path

from sandbox.cgroups.contract import CgroupsUnavailable


def write(path: Path | str, value: object) -> None:
    # One unbuffered write: the kernel answers each write with success or an errno.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def read(path: Path | str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65536).decode()
    finally:
        os.close(descriptor)


def field(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def refusal(what: str, error: OSError) -> CgroupsUnavailable:
    if error.errno == errno.EROFS:
        remedy = "mount it read-write, or run the container with its cgroups writable"
    else:
        remedy = (
            "run as root, or give this user the subtree (systemd: Delegate=yes in the unit, or from a terminal "
            "systemd-run --user --scope -p Delegate=yes)"
        )
    return CgroupsUnavailable(f"{what} ({error.strerror}); {remedy}")


def make(folder: Path) -> Path:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise refusal(f"cannot make the cgroup {folder}", error) from error
    return folder


def kill_all(folder: Path) -> None:
    if (folder / "cgroup.kill").exists():
        write(folder / "cgroup.kill", 1)
        return
    for pid in map(int, read(folder / "cgroup.procs").split()):
        # A process of a pid namespace that is not ours shows as 0, which to kill() is this process's own group.
        if pid:
            os.kill(pid, signal.SIGKILL)


def empty_and_remove(folder: Path) -> None:
    """Killed processes leave their group a moment later, hence the bounded retries."""
    for attempt in range(200):
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            with contextlib.suppress(OSError):
                kill_all(folder)
            time.sleep(0.001 if attempt < 20 else 0.01)
    raise CgroupsUnavailable(f"the cgroup {folder} cannot be removed: processes in it do not end")


class Settings:
    """Writes a group's files, each only when its value changes."""

    def __init__(self) -> None:
        self._written: dict[str, object] = {}

    def put(self, file: str, value: object) -> None:
        if self._written.get(file) != value:
            write(file, value)
            self._written[file] = value


def clear(paths: list[str]) -> None:
    """Kill everything in the trees at `paths` and remove them: what a launcher that crashed left behind."""
    for path in map(Path, paths):
        if path.is_dir():
            for folder, _, _ in os.walk(path, topdown=False):
                empty_and_remove(Path(folder))
