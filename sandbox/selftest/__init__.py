"""Proves that the layers of the sandbox hold on this host: python -m sandbox.selftest prints a table of them.

Every layer is tried from inside a jail, by programs of a few bytes, or measured on a jail from outside. The launcher
does the same at every start, in well under a second: all jails boot at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sandbox import nsjail, rootfs
from sandbox.demand import Shape
from sandbox.proxylink import ProxyLink
from sandbox.runtimes import Runtime
from sandbox.selftest import egress, inside, limits, outside, probes
from sandbox.selftest.finding import Finding, found, summary
from sandbox.selftest.program import Program
from sandbox.selftest.trial import Trial
from sandbox.slots import Slots

__all__ = ["Finding", "build_probe_root", "quick", "summary"]

_HOG_MB = 16
_PIDS = 32


def quick(
    slots: Slots,
    runtime: Runtime,
    root: Path,
    probe_root: Path,
    cgroup_version: int,
    proxy: ProxyLink | None = None,
    egress_allow: Sequence[str] = (),
) -> list[Finding]:
    """Boot jails in `slots` and report on every layer; the slots are free again afterwards.

    With `proxy`, which must be the slots', on the way out too; `egress_allow` are its exemptions.
    """
    command = nsjail.runtime_command(runtime, Shape(runtime.name, nsjail.LEAST_MB))
    programs = probes.build()
    with contextlib.ExitStack() as stack:
        try:
            booting = stack.enter_context(Trial(slots, root, command, memory_mb=nsjail.LEAST_MB))
        except OSError as error:
            return [found("jail", False, f"a jail cannot be started: {error}")]
        trials = {name: stack.enter_context(_start(slots, probe_root, name)) for name in programs if name != "egress"}
        if not booting.wait_for_output(booting.process.pipes.control):
            detail = booting.process.boot_log() or "it did not become ready"
            return [found("jail", False, f"a jail cannot be booted: {detail}")]
        findings = [
            found("jail", True, f"{runtime.name} boots in nsjail"),
            *_judge(booting, trials, programs, f"cgroup v{cgroup_version}" if cgroup_version else "no cgroups"),
        ]
    if proxy is not None:
        findings.append(egress.check(slots, probe_root, programs["egress"], proxy, egress_allow))
    return findings


def build_probe_root(parent: Path) -> Path:
    """A root under `parent` that holds nothing but the probes; those of other releases are removed."""
    files = {f"bin/{name}": program.executable() for name, program in probes.build().items()}
    digest = hashlib.sha256(b"".join(name.encode() + content for name, content in files.items())).hexdigest()[:16]
    root = parent / f"probe-{digest}"
    if not root.is_dir():
        draft = parent / f"probe-{os.getpid()}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        rootfs.furnish_bare(draft, files)
        draft.rename(root)
    rootfs.remove_others(parent, root)
    return root


def _start(slots: Slots, probe_root: Path, name: str) -> Trial:
    command = [f"/bin/{name}"]
    if name == "memory":
        return Trial(slots, probe_root, command, memory_mb=_HOG_MB)
    if name == "stay":
        return Trial(slots, probe_root, command, pids=_PIDS)
    return Trial(slots, probe_root, command)


def _judge(
    booted: Trial, trials: Mapping[str, Trial], programs: Mapping[str, Program], cgroups: str
) -> Iterator[Finding]:
    proc, stay = booted.proc(), trials["stay"]
    if not stay.wait_for_output(stay.process.pipes.stdout):
        yield found("probes", False, f"they do not run: exit code {stay.code()} {stay.process.boot_log()}")
        return
    yield from outside.look(proc, stay.proc())
    deaths = {name: trials[name].code() for name in (*probes.KILLING, "i386", "look")}
    report, started = programs["look"].read(trials["look"].output()), programs["stay"].read(stay.output())
    if report is None or started is None:
        yield found("probes", False, f"they do not report: exit code {deaths['look']}")
    else:
        yield from inside.look(report, proc, started.answers["fork"], deaths)
    yield limits.memory(trials["memory"], cgroups)
    yield limits.swap(trials["memory"])
    yield limits.pids(started, _PIDS, cgroups)
    yield limits.cpu(trials["spin"], cgroups)
    yield inside.kill(stay)
