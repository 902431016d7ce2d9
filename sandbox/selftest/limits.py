"""Whether the control groups limit what they should."""

from __future__ import annotations

import time
from pathlib import Path

from sandbox.selftest.finding import Finding, found, judged
from sandbox.selftest.program import Report
from sandbox.selftest.trial import DEADLINE_S, Trial, wait_for

_CPU_SHARE = 0.05
_ENOUGH_MS = 100.0
"""Twenty times what it may have in one of the scheduler's periods."""
_TIMES_ITS_SHARE = 2
_STEP_S = 0.002


def memory(hog: Trial, by: str) -> Finding:
    code, kills = hog.code(), hog.slot.group.oom_kills()
    limit = hog.memory_bytes >> 20
    if kills:
        return found("memory", True, f"{by}: killed at {limit} MB")
    return found("memory", False, f"{by}: nothing is killed above {limit} MB (exit code {code})")


def swap(trial: Trial) -> Finding:
    """What a jail swaps out must count, or else it takes the host's swap space in place of memory."""
    both = trial.counter("memory.memsw.limit_in_bytes")
    alone = trial.counter("memory.swap.max")
    if both is not None:
        return judged("swap", [] if int(both) <= trial.memory_bytes else [f"memory and swap {both.strip()}"], "counted")
    if alone is not None:
        return judged("swap", [] if alone.strip() == "0" else [f"swap {alone.strip()}"], "none for jails")
    areas = [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    return judged("swap", [f"this host swaps to {area}, and jails may" for area in areas], "the host has none")


def pids(report: Report | None, most: int, by: str) -> Finding:
    started = report.answers["threads count"] if report is not None else 0
    if report is not None and started < most:
        return found("pids", True, f"{by}: no more than {started} threads of {most} allowed tasks, nsjail's included")
    return found("pids", False, f"{by}: {started} threads were started, {most} tasks are allowed")


def cpu(spin: Trial, by: str) -> Finding:
    """Holds the probe to a small share, and waits until the kernel stops it, or until it has had several times its
    share. Where it gets little since others are busy, neither may come: then it has had no more than its share."""
    spin.slot.group.limit(spin.memory_bytes, spin.pids, _CPU_SHARE)
    before, start = spin.slot.group.read().cpu_ms, time.monotonic()
    faults = ["there is no group"] if spin.counter("cpu.stat") is None else []
    while not faults and not _throttled(spin) and time.monotonic() - start < DEADLINE_S:
        used = spin.slot.group.read().cpu_ms - before
        if used > max(_ENOUGH_MS, _TIMES_ITS_SHARE * _CPU_SHARE * 1000 * (time.monotonic() - start)):
            faults.append(f"used {used:.0f} ms at a stretch with {_CPU_SHARE:.0%} of a core")
        if wait_for(spin.process.pidfd, seconds=_STEP_S):
            faults.append("the probe ended")
    return judged("cpu", [f"{by}: {fault}" for fault in faults], f"{by}: held to {_CPU_SHARE:.0%} of a core")


def _throttled(trial: Trial) -> bool:
    lines = (trial.counter("cpu.stat") or "").splitlines()
    return any(line.startswith("nr_throttled ") and not line.endswith(" 0") for line in lines)
