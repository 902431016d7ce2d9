"""Proves that the layers of the sandbox hold on this host: python -m sandbox.selftest prints one line for
each.

What can be is looked at from outside the jail; what can't is tried from inside by programs of a few bytes
(sandbox/probe.py). The launcher does the same at every start, in well under a second.
"""

from __future__ import annotations

import os
import select
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox import cgroups, jail, nsjail, place, probe, rootfs, runtimes
from sandbox.runtimes import Runtime
from sandbox.slots import Slot, Slots

_DEADLINE_MS = 10_000
_MEMORY_MB = 64
_PIDS = 32
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_EPERM, _EAFNOSUPPORT = 1, 97
_PROBES = {
    "ptrace": probe.errno_of(101),
    "fork": probe.errno_of(57),
    "inet": probe.errno_of(41, 2, 1, 0),
    "memory": probe.fill_memory(1 << 30),
    "threads": probe.count_threads(1000),
}
_KERNEL_HINT = (
    "Allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0);"
    " in a container also system calls and mounts (--security-opt seccomp=unconfined,"
    " --security-opt apparmor=unconfined, --cap-add SYS_ADMIN)"
)
_CGROUP_HINT = "Run as root with writable cgroups, or delegate a subtree to this user (systemd: Delegate=yes)"
_CONFIG_HINT = "sandbox/nsjail.cfg and sandbox/seccomp.policy must be those of this release; reinstall Millrace"


@dataclass(frozen=True, slots=True)
class Finding:
    layer: str
    holds: bool
    detail: str
    remedy: str
    """How to mend it; of use only if it does not hold."""


@dataclass(frozen=True, slots=True)
class _Death:
    code: int
    oom_kills: int


def quick(slots: Slots, runtime: Runtime, root: Path, probe_root: Path, cgroup_version: int) -> list[Finding]:
    """Boot jails in `slots` and report on every layer; the slots are free again afterwards."""
    binary = nsjail.find_binary()
    slot = slots.take()
    try:
        findings = _look_at_runtime(binary, slot, runtime, root)
    finally:
        slots.give_back(slot)
    if not findings[0].holds:
        return findings
    deaths: dict[str, _Death] = {}
    for name in _PROBES:
        slot = slots.take()
        try:
            deaths[name] = _run_probe(binary, slot, probe_root, name)
        finally:
            slots.give_back(slot)
    return findings + _judge_probes(deaths, cgroup_version)


def build_probe_root(parent: Path) -> Path:
    """A root that holds nothing but the probes."""
    root = parent / "probe"
    if not root.is_dir():
        rootfs.furnish_bare(root, {f"bin/{name}": probe.executable(code) for name, code in _PROBES.items()})
    return root


def summary(findings: Sequence[Finding]) -> str:
    """One line: what holds, and what does not."""
    return ", ".join(f"{finding.layer} {'ok' if finding.holds else 'MISSING'}" for finding in findings)


def _look_at_runtime(binary: Path, slot: Slot, runtime: Runtime, root: Path) -> list[Finding]:
    command = nsjail.runtime_command(runtime, nsjail.LEAST_MB)
    process = _start(binary, slot, root, command, nsjail.LEAST_MB, 64)
    try:
        _wait(process.pipes.control)
        process.find_runtime()
        if not process.runtime_pid:
            detail = process.boot_log() or "it did not become ready"
            return [Finding("jail", False, f"a jail cannot be booted: {detail}", _KERNEL_HINT)]
        booted = Finding("jail", True, f"{runtime.name} boots in nsjail", "")
        return [booted, *_inspect(Path(f"/proc/{process.runtime_pid}"))]
    finally:
        process.kill()
        _collect(process)


def _inspect(proc: Path) -> list[Finding]:
    """What the kernel says about the runtime's process, seen from outside."""
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    uids = set(status["Uid"].split())
    shared = [name for name in _NAMESPACES if os.readlink(proc / "ns" / name) == os.readlink(f"/proc/self/ns/{name}")]
    capabilities = {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    writable = _writable_mounts(proc)
    interfaces = [line.split(":")[0].strip() for line in (proc / "net" / "dev").read_text().splitlines()[2:]]
    routes = (proc / "net" / "route").read_text().splitlines()[1:]
    return [
        Finding("user", "0" not in uids, f"runs under user id {'/'.join(sorted(uids))}", _CONFIG_HINT),
        Finding("capabilities", {int(value, 16) for value in capabilities} == {0}, "none in any set", _CONFIG_HINT),
        Finding("no_new_privs", status["NoNewPrivs"] == "1", f"NoNewPrivs {status['NoNewPrivs']}", _CONFIG_HINT),
        Finding("namespaces", not shared, f"shared with the host: {', '.join(shared) or 'none'}", _KERNEL_HINT),
        Finding(
            "root",
            writable == {"/tmp", "/dev/null"},
            f"writable: {', '.join(sorted(writable))}",
            _CONFIG_HINT,
        ),
        Finding(
            "network",
            interfaces in ([], ["lo"]) and not routes,
            f"interfaces {interfaces}, {len(routes)} routes",
            _CONFIG_HINT,
        ),
    ]


def _writable_mounts(proc: Path) -> set[str]:
    mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
    return {fields[4] for fields in mounts if "rw" in fields[5].split(",") and fields[4] != "/proc"}


def _judge_probes(deaths: dict[str, _Death], cgroup_version: int) -> list[Finding]:
    ptrace, fork, inet = deaths["ptrace"].code, deaths["fork"].code, deaths["inet"].code
    memory, threads = deaths["memory"], deaths["threads"].code
    filtered = (ptrace, fork, inet) == (nsjail.FILTERED_CODE, _EPERM, _EAFNOSUPPORT)
    version = f"cgroup v{cgroup_version}" if cgroup_version else "no cgroups"
    return [
        Finding(
            "seccomp",
            filtered,
            f"ptrace {ptrace}, fork {fork}, socket {inet} (159, 1, 97 expected)",
            _CONFIG_HINT,
        ),
        Finding(
            "memory",
            memory.oom_kills > 0,
            f"{version}, kills {memory.oom_kills}, code {memory.code}",
            _CGROUP_HINT,
        ),
        Finding("pids", 0 < threads < _PIDS, f"{version}, {threads} threads started, limit {_PIDS}", _CGROUP_HINT),
    ]


def _run_probe(binary: Path, slot: Slot, root: Path, name: str) -> _Death:
    process = _start(binary, slot, root, [f"/bin/{name}"], _MEMORY_MB, _PIDS)
    _wait(process.pidfd)
    process.kill_hard()
    code = _collect(process)
    return _Death(code, slot.group.oom_kills())


def _start(binary: Path, slot: Slot, root: Path, command: Sequence[str], memory_mb: int, pids: int) -> jail.JailProcess:
    slot.group.limit(nsjail.memory_limit_bytes(memory_mb), pids, 1.0)
    return jail.start(nsjail.arguments(binary, slot.config_for(root), command, slot.outer_id), slot.group)


def _wait(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(_DEADLINE_MS)


def _collect(process: jail.JailProcess) -> int:
    code = process.reap()
    process.close()
    return code


def check_host() -> list[Finding]:
    """The self-test of a host on which no launcher need run, in a folder of its own.

    As root the calling process moves into a mount namespace of its own; see sandbox/place.py.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-selftest-") as folder:
        return _check_in(Path(folder))


def _check_in(folder: Path) -> list[Finding]:
    runtime = runtimes.named("nodejs20")
    findings: list[Finding] = []
    tree: cgroups.Tree
    try:
        tree = cgroups.open_tree(f"millrace-selftest-{os.getpid()}")
    except cgroups.CgroupsUnavailable as error:
        findings.append(Finding("cgroups", False, str(error), _CGROUP_HINT))
        tree = cgroups.NoTree()
    try:
        root, probe_root = rootfs.build(runtime, folder / "roots"), build_probe_root(folder / "roots")
        seen = place.open_to_jails(folder)
        slots = Slots(folder / "slots", seen / "slots", tree, None)
        seen_root, seen_probes = (seen / path.relative_to(folder) for path in (root, probe_root))
        return findings + quick(slots, runtime, seen_root, seen_probes, tree.version)
    except (rootfs.RootfsError, nsjail.NsjailMissing) as error:
        return [*findings, Finding("jail", False, str(error), "Install what is missing")]
    finally:
        tree.remove()


def main() -> int:
    findings = check_host()
    for finding in findings:
        print(f"{'ok     ' if finding.holds else 'MISSING'}  {finding.layer:<13} {finding.detail}")
        if not finding.holds:
            print(f"         {'':<13} to mend it: {finding.remedy}")
    return 0 if all(finding.holds for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
