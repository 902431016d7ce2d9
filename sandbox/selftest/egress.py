"""Whether a jail's one way out answers, and refuses what no script may reach."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from sandbox.egress.policy import Exemption, parse_target
from sandbox.proxylink import ProxyLink
from sandbox.selftest import probes
from sandbox.selftest.finding import Finding, found, judged
from sandbox.selftest.program import Program
from sandbox.selftest.trial import Trial
from sandbox.slots import Slots

PATIENCE_S = 10.0

_STEP_S = 0.005
_REFUSED = b"HTTP/1.1 403 "


def check(slots: Slots, probe_root: Path, program: Program, proxy: ProxyLink, allow: Sequence[str]) -> Finding:
    """`allow` are the operator's exemptions: what they cover may be reached."""
    slot = slots.take()
    slots.give_back(slot)
    if not _answers(slot.folder / "run"):
        return found("egress", False, "the proxy does not answer")
    # The slot given back last is taken next.
    proxy.assign(slot.name, None)
    with Trial(slots, probe_root, ["/bin/egress"]) as trial:
        trial.wait_for_output(trial.process.pipes.stdout)
        report = program.read(trial.output())
    proxy.release(slot.name, lambda _: None)
    if report is None:
        return found("egress", False, "the jail gets no answer from the proxy")
    faults = [
        f"{target} is answered {said.decode('latin-1')!r}, not 403"
        for number, target in enumerate(probes.EGRESS_TARGETS)
        if not (said := _first_line(report.buffer, number)).startswith(_REFUSED) and not _exempted(target, allow)
    ]
    return judged("egress", faults, f"the proxy refuses {' and '.join(probes.EGRESS_TARGETS)}")


def _first_line(buffer: bytes, number: int) -> bytes:
    start = number * probes.EGRESS_ANSWER_BYTES
    return buffer[start : start + probes.EGRESS_ANSWER_BYTES].partition(b"\r\n")[0].partition(b"\0")[0]


def _exempted(authority: str, allow: Sequence[str]) -> bool:
    target = parse_target(authority)
    assert target.address is not None
    return any(Exemption.parse(each).covers(target, target.address) for each in allow)


def _answers(run: Path) -> bool:
    """Whether somebody listens in this folder by now: the proxy is started at the same time as the self-test."""
    folder = os.open(run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(int(PATIENCE_S / _STEP_S)):
            with socket.socket(socket.AF_UNIX) as client:
                # By the descriptor: a unix address holds 108 bytes, a home may be longer.
                if client.connect_ex(f"/proc/self/fd/{folder}/egress.sock") == 0:
                    return True
            time.sleep(_STEP_S)
    finally:
        os.close(folder)
    return False
