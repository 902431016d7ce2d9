"""What the probes found, layer by layer."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sandbox import nsjail
from sandbox.selftest import outside, probes
from sandbox.selftest.finding import Finding, judged
from sandbox.selftest.program import Report
from sandbox.selftest.trial import Trial, wait_for

_HOST_NAME = b"jail"
_NODE_NAME_OFFSET, _NODE_NAME_BYTES = 65, 65
_LEAVING_TRIES, _LEAVING_S = 100, 0.005
_DEATHS_OF_I386 = (nsjail.FILTERED_CODE, 128 + 11)
"""By the policy, or by a kernel that knows no such calls."""


def look(report: Report, proc: Path, forked: int, deaths: Mapping[str, int]) -> list[Finding]:
    """`proc` is that of a runtime; `forked` is what fork answered elsewhere, and `deaths` the exit codes of the
    programs that make one call each."""
    fork = [] if forked == -errno.EPERM else [f"fork {_named(forked)}"]
    i386 = [] if deaths["i386"] in _DEATHS_OF_I386 else [f"i386 calls work (exit code {deaths['i386']})"]
    writable = [f"{point} is writable" for point in outside.writable(proc)]
    return [
        _host_name(report),
        judged("root", [*writable, *_faults(report, "root")], "read-only, but for /tmp and /dev/null"),
        judged("files", [*_faults(report, "files"), *outside.host_files(proc)], "none of this host's"),
        _processes(report),
        _tmp(report),
        _seccomp(proc, deaths),
        judged("sockets", _faults(report, "sockets"), "unix sockets only; inet, netlink, vsock are refused"),
        judged("forks", [*fork, *_faults(report, "forks")], "threads but no processes, and none in a new namespace"),
        judged("syscalls", [*_faults(report, "syscalls"), *i386], "unlisted, x32 and i386 calls are refused"),
    ]


def kill(stay: Trial) -> Finding:
    """Ends nsjail in the roughest way; its jail must end with it, threads and all."""
    inner = os.pidfd_open(stay.process.runtime_pid)
    try:
        stay.process.kill_hard()
        ended = wait_for(inner)
    finally:
        os.close(inner)
    stay.code()
    left = _lasting(stay) if ended else ["the jail itself"]
    return judged("kill", [f"{each} outlives nsjail" for each in left], "all of a jail ends with nsjail")


def _lasting(trial: Trial) -> list[str]:
    """Processes in the group of a jail that has ended; what has just died leaves it a moment later."""
    for _ in range(_LEAVING_TRIES):
        if not trial.processes():
            return []
        time.sleep(_LEAVING_S)
    return [f"process {pid}" for pid in trial.processes()]


def _faults(report: Report, layer: str) -> list[str]:
    return [
        f"{attempt.what} {_named(report.answers[attempt.what])}, not {errno.errorcode[attempt.expected]}"
        for attempt in probes.ATTEMPTS
        if attempt.layer == layer and report.answers[attempt.what] != -attempt.expected
    ]


def _named(answer: int) -> str:
    return "succeeds" if answer >= 0 else f"answers {errno.errorcode.get(-answer, str(-answer))}"


def _host_name(report: Report) -> Finding:
    field = report.buffer[_NODE_NAME_OFFSET : _NODE_NAME_OFFSET + _NODE_NAME_BYTES]
    name = field.partition(b"\0")[0]
    return judged("hostname", [] if name == _HOST_NAME else [f"it is {name.decode('latin-1')!r}"], "jail")


def _processes(report: Report) -> Finding:
    faults = [] if report.answers["getpid"] == 1 else [f"its process id is {report.answers['getpid']}, not 1"]
    if report.answers["entries"] < 0:
        faults.append("/proc cannot be read")
    start = probes.PROC_ENTRIES.offset
    entries = report.buffer[start : start + max(0, report.answers["entries"])]
    others = sorted(set(_names(entries)) - {".", "..", "1", "self", "thread-self"})
    faults += [f"/proc/{name} is there" for name in others[:5]]
    return judged("processes", faults, "sees its own alone, number 1")


def _names(entries: bytes) -> Iterator[str]:
    """The names in what getdents64 wrote."""
    position = 0
    while position < len(entries):
        (length,) = struct.unpack_from("<H", entries, position + 16)
        yield entries[position + 19 : position + length].partition(b"\0")[0].decode("latin-1")
        position += length


def _tmp(report: Report) -> Finding:
    answers = report.answers
    faults = [*_unless(answers["executable file"] == -errno.EPERM, "a file there can be executed")]
    faults += _unless(answers["long file"] == -errno.EFBIG, f"a file may be longer than {probes.TMP_MB} MB")
    full = answers["half"] == 0 and answers["whole"] == -errno.ENOSPC
    faults += _unless(full, f"it takes more than {probes.TMP_MB} MB")
    count = answers["folders count"]
    crowded = answers["folders"] == -errno.ENOSPC and count <= probes.MOST_FILES
    faults += _unless(crowded, f"it takes {count} files and more")
    return judged("tmp", faults, f"full after {probes.TMP_MB} MB, after {count} files; nothing there can be executed")


def _unless(holds: bool, fault: str) -> Iterable[str]:
    return [] if holds else [fault]


def _seccomp(proc: Path, deaths: Mapping[str, int]) -> Finding:
    mode = outside.read_status(proc)["Seccomp"]
    faults = [] if mode == "2" else [f"mode {mode}, not 2"]
    faults += [f"{name} does not kill" for name in probes.KILLING if deaths[name] != nsjail.FILTERED_CODE]
    return judged("seccomp", faults, f"{', '.join(probes.KILLING)} kill")
