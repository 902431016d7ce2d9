"""How to mend each layer, on this host and for whoever runs this process."""

from __future__ import annotations

import os
from pathlib import Path

from sandbox import nsjail

_REINSTALL = "Put it back, or reinstall Millrace"
_UNIT = "in the launcher's systemd unit: Delegate=memory pids cpu"
_BY_CONFIG = {
    "capabilities": "keep_caps: false",
    "no_new_privs": "disable_no_new_privs: false",
    "hostname": 'hostname: "jail"',
    "root": 'mount { dst: "/" } without rw: true',
    "files": "no mounts but those of this release",
    "mounts": "the options of every mount",
    "processes": 'clone_newpid: true, and the options "subset=pid,hidepid=invisible" of /proc',
    "tmp": 'noexec: true and the options "size=33554432,nr_inodes=4096" of /tmp',
    "descriptors": "no pass_fd",
    "rlimits": "the rlimit_ lines",
    "network": "iface_no_lo: true, and nothing else that begins with iface or macvlan",
    "kill": "clone_newpid: true",
}
"""What must stand in nsjail.cfg for the layer to hold; nothing of the host can take it away."""
_BY_POLICY = {
    "sockets": "the rules for socket",
    "forks": "the rules for fork, clone and execveat",
    "syscalls": "DEFAULT ERRNO(38) and the block soft_deny",
}
_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")
_SWITCHES = (
    ("user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
    ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
)
"""By which a kernel forbids user namespaces: file in /proc/sys, its value then, and the setting that allows them."""


def remedy(layer: str) -> str:
    """What to change, as one or two sentences without the last full stop."""
    if layer in _BY_CONFIG:
        return f"sandbox/nsjail.cfg must have {_BY_CONFIG[layer]}. {_REINSTALL}"
    if layer in _BY_POLICY:
        return f"sandbox/seccomp.policy must have {_BY_POLICY[layer]}. {_REINSTALL}"
    return {
        "jail": _jail,
        "namespaces": _namespaces,
        "user": _user,
        "seccomp": _seccomp,
        "memory": lambda: _cgroups("memory"),
        "pids": lambda: _cgroups("pids"),
        "cpu": lambda: _cgroups("cpu"),
        "cgroups": lambda: _cgroups("memory, pids and cpu"),
        "swap": _swap,
        "egress": _egress,
        "probes": _jail,
    }[layer]()


def _jail() -> str:
    forbidding = [setting for file, value, setting in _SWITCHES if _sysctl(file) == value]
    if forbidding and (os.geteuid() != 0 or forbidding[0].startswith("user.")):
        return f"Allow user namespaces: sysctl -w {' '.join(forbidding)} (and the same in /etc/sysctl.d to keep it)"
    if os.geteuid() == 0 and not _maps_ids_of_jails():
        return (
            f"This container has too few user ids, and jails as root need {nsjail.FIRST_OUTER_ID} and up: run it"
            " without userns-remap, or run the launcher in it as an ordinary user"
        )
    if _in_container():
        return (
            "Allow the container namespaces and mounts: docker run --cap-add SYS_ADMIN"
            " --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
            " --security-opt systempaths=unconfined"
        )
    return "The kernel needs CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS, CONFIG_SECCOMP_FILTER, and 5.8 or later"


def _namespaces() -> str:
    return f"sandbox/nsjail.cfg must not switch off any clone_new line. {_REINSTALL}. If it does not: {_jail()}"


def _user() -> str:
    if os.geteuid() == 0:
        return f"sandbox/nsjail.py must give each slot an id of its own, from {nsjail.FIRST_OUTER_ID} up. {_REINSTALL}"
    return "The launcher itself must run as an ordinary user with an id other than 0"


def _seccomp() -> str:
    return (
        "sandbox/nsjail.cfg must have seccomp_policy_file, and sandbox/seccomp.policy the block hostile_kill."
        f" {_REINSTALL}. The kernel needs CONFIG_SECCOMP_FILTER"
    )


def _cgroups(controllers: str) -> str:
    if os.geteuid() != 0:
        return (
            f"Delegate the controllers {controllers} to this user: {_UNIT}; from a terminal: systemd-run --user --scope"
            ' -p "Delegate=memory pids cpu"; on cgroup v1 a folder that it owns below each, with this process in it. Or'
            " run the launcher as root"
        )
    if _in_container():
        return (
            f"Make the control groups of {controllers} writable: docker run --cgroupns=private -v"
            " /sys/fs/cgroup:/sys/fs/cgroup:rw, or --privileged"
        )
    return (
        f"The kernel must offer {controllers}: boot with cgroup_enable=memory and CONFIG_CFS_BANDWIDTH, with cgroup2 on"
        f" /sys/fs/cgroup; {_UNIT}"
    )


def _swap() -> str:
    return "Boot with swapaccount=1 (cgroup v1), or delegate memory.swap.max (cgroup v2); or turn swap off: swapoff -a"


def _egress() -> str:
    return (
        "The launcher's log says why the egress proxy (python -m sandbox.egress) does not answer; if it"
        " answers wrongly, reinstall Millrace"
    )


def _sysctl(file: str) -> str:
    path = Path("/proc/sys") / file
    return path.read_text().strip() if path.exists() else ""


def _maps_ids_of_jails() -> bool:
    """Whether jails' outer ids exist in this process's user namespace."""
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(int(first) <= nsjail.FIRST_OUTER_ID < int(first) + int(count) for first, _, count in ranges)


def _in_container() -> bool:
    return any(map(os.path.exists, _CONTAINER_MARKS))
