"""Looks at a launcher from outside: its children, descriptors, groups and folders."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

CONTROLLERS = ("memory", "pids", "cpu", "cpuacct") if Path("/sys/fs/cgroup/memory").exists() else ("",)
"""Each slot has a group in every one of them; on version 2 there is one tree."""


@dataclass(frozen=True)
class Census:
    descriptors: int
    jails: int
    groups: int


def launcher_of(home: Path) -> int:
    """The process id of the launcher that serves `home`."""
    wanted = f"MILLRACE_HOME={home}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            serves = wanted in (folder / "environ").read_bytes().split(b"\0")
            if serves and b"sandbox.launcher" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"no launcher serves {home}")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def jails(launcher: int) -> list[int]:
    """The nsjail processes that `launcher` started."""
    found = []
    for pid in children(launcher):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == "nsjail":
                found.append(pid)
        except OSError:
            continue
    return found


def groups(home: Path) -> list[Path]:
    """The control groups of `home`'s slots that have a process in them."""
    tree = "millrace-" + hashlib.sha256(str(home).encode()).hexdigest()[:12]
    found = []
    # Not by glob: it fails when another launcher's tree vanishes under it.
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        if os.path.basename(folder) != tree:
            continue
        for path in (Path(folder, name) for name in names if name.startswith("s")):
            try:
                if (path / "cgroup.procs").read_text().strip():
                    found.append(path)
            except OSError:
                continue
    return found


def census(launcher: int, home: Path) -> Census:
    return Census(len(os.listdir(f"/proc/{launcher}/fd")), len(jails(launcher)), len(groups(home)))


def settled_census(launcher: int, home: Path) -> Census:
    """The census once two in a row agree: jails end and are refilled a moment after a run."""
    last = census(launcher, home)
    for _ in range(100):
        time.sleep(0.1)
        now = census(launcher, home)
        if now == last:
            return now
        last = now
    raise AssertionError("the launcher does not come to rest")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
