"""What the kernel says about a booted jail, seen from outside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sandbox.selftest.finding import Finding, found, judged

_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_CLOSED = frozenset({"nosuid", "nodev", "noexec"})
# By mount point: whether it may be written to, its options, and those of its file system.
_MOUNTS: Mapping[str, tuple[str, frozenset[str], frozenset[str]]] = {
    "/": ("ro", frozenset({"nosuid", "nodev"}), frozenset()),
    "/dev/null": ("rw", frozenset({"nosuid", "noexec"}), frozenset()),
    "/dev/zero": ("ro", frozenset({"nosuid", "noexec"}), frozenset()),
    "/dev/urandom": ("ro", frozenset({"nosuid", "noexec"}), frozenset()),
    "/dev/random": ("ro", frozenset({"nosuid", "noexec"}), frozenset()),
    "/proc": ("ro", _CLOSED, frozenset({"subset=pid", "hidepid=invisible"})),
    "/tmp": ("rw", _CLOSED, frozenset({"size=32768k", "nr_inodes=4096"})),
    "/run": ("ro", _CLOSED, frozenset()),
}
_LIMITS = {
    "Max file size": 32 << 20,
    "Max stack size": 8 << 20,
    "Max core file size": 0,
    "Max open files": 256,
    "Max locked memory": 64 << 10,
    "Max msgqueue size": 0,
    "Max realtime priority": 0,
}
_NOT_IN_A_JAIL = ("etc/shadow", "root", "home", "var", "sys", "proc/sys", "proc/kcore")
_FIRST_PIPE, _LAST_PIPE = 1, 5


def look(proc: Path, other: Path) -> list[Finding]:
    """`proc` is the folder in /proc of a runtime that waits for its job, `other` that of a program in a second jail
    that has opened nothing."""
    status = read_status(proc)
    return [
        _user(_user_ids(proc), _user_ids(other)),
        _capabilities(status),
        found("no_new_privs", status["NoNewPrivs"] == "1", f"NoNewPrivs {status['NoNewPrivs']}"),
        _namespaces(proc),
        _mount_options(_mounts(proc)),
        _descriptors(other),
        _limits(proc),
        _network(proc),
    ]


def read_status(proc: Path) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)


def _user_ids(proc: Path) -> set[int]:
    """Those of the jail's first process on this host: real, effective, saved and file system's."""
    return set(map(int, read_status(proc)["Uid"].split()))


def _user(first: set[int], second: set[int]) -> Finding:
    """Two jails that run at the same time must not be the same user, if this process may choose."""
    ids = "/".join(map(str, sorted(first | second)))
    if os.geteuid() != 0:
        return judged("user", ["runs as root"] if 0 in first | second else [], f"user id {ids}, this one's own")
    faults = ["runs as root"] if 0 in first | second else []
    if first & second:
        faults.append(f"two jails share user id {ids}")
    return judged("user", faults, f"two jails run under the user ids {ids}")


def writable(proc: Path) -> list[str]:
    """Mount points that are writable and should not be."""
    allowed = {point for point, (access, _, _) in _MOUNTS.items() if access == "rw"}
    return sorted(point for point, (options, _) in _mounts(proc).items() if "rw" in options and point not in allowed)


def host_files(proc: Path) -> list[str]:
    """Names of this host's that exist in the runtime's root."""
    return [f"/{name} exists" for name in _NOT_IN_A_JAIL if os.path.lexists(proc / "root" / name)]


def _descriptors(proc: Path) -> Finding:
    """Of a program that has opened nothing."""
    links = {int(name): os.readlink(proc / "fd" / name) for name in os.listdir(proc / "fd")}
    faults = [f"{fd} is {link}" for fd, link in sorted(links.items()) if not _is_promised(fd, link)]
    return judged("descriptors", faults, "0 is /dev/null, 1 to 5 are pipes, and there are no others")


def _is_promised(fd: int, link: str) -> bool:
    return link == "/dev/null" if fd == 0 else _FIRST_PIPE <= fd <= _LAST_PIPE and link.startswith("pipe:")


def _capabilities(status: Mapping[str, str]) -> Finding:
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    faults = [f"{name} {status[name]}" for name in sets if int(status[name], 16)]
    return judged("capabilities", faults, "none in any set")


def _namespaces(proc: Path) -> Finding:
    shared = [name for name in _NAMESPACES if os.readlink(proc / "ns" / name) == os.readlink(f"/proc/self/ns/{name}")]
    return judged("namespaces", [f"{name} is the host's" for name in shared], f"own {', '.join(_NAMESPACES)}")


def _mounts(proc: Path) -> dict[str, tuple[set[str], set[str]]]:
    """Options of each mount point, and those of its file system."""
    mounts = {}
    for line in (proc / "mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        point, options = fields.split()[4:6]
        mounts[point] = (set(options.split(",")), set(tail.split(" ")[2].split(",")))
    return mounts


def _mount_options(mounts: Mapping[str, tuple[set[str], set[str]]]) -> Finding:
    faults = [f"{point} is mounted" for point in sorted(mounts.keys() - _MOUNTS.keys())]
    for point, (access, options, of_file_system) in _MOUNTS.items():
        if point not in mounts:
            faults.append(f"{point} is not mounted")
            continue
        lacking = ({access} | options) - mounts[point][0] | of_file_system - mounts[point][1]
        faults += [f"{point} is not {option}" for option in sorted(lacking)]
    return judged("mounts", faults, "nosuid, nodev, noexec, and /proc shows a jail's own processes only")


def _limits(proc: Path) -> Finding:
    faults = []
    for line in (proc / "limits").read_text().splitlines():
        most = _LIMITS.get(line[:25].strip())
        hard = line[46:67].strip()
        if most is not None and (hard == "unlimited" or int(hard) > most):
            faults.append(f"{line[:25].strip()} is {hard}, more than {most}")
    return judged("rlimits", faults, "core 0, files of 32 MB, 256 descriptors, 64 kB of locked memory")


def _network(proc: Path) -> Finding:
    net = proc / "net"
    interfaces = [line.split(":")[0].strip() for line in (net / "dev").read_text().splitlines()[2:]]
    faults = [f"interface {name}" for name in interfaces if name != "lo"]
    faults += [f"route {line.split()[1]}" for line in (net / "route").read_text().splitlines()[1:]]
    # An interface that is down has no local addresses.
    if "LOCAL" in _text(net / "fib_trie") or _text(net / "if_inet6"):
        faults.append("the loopback interface is up")
    return judged("network", faults, "no interface is up, no routes")


def _text(file: Path) -> str:
    """Empty where the kernel has no such file, for want of the protocol."""
    return file.read_text() if file.exists() else ""
