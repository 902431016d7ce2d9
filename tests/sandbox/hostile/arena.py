"""Where hostile scripts meet the platform: each is run, judged, and followed by an honest run that must not notice.

A script starts where require() ends: a setter on Object.prototype catches the module object of a library while it
loads, and with it everything that Node has. What holds from there on is the jail.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sandbox.client import Sandbox
from sandbox.job import Limits
from sandbox.pool import IDLE_S, MAX_RUNS
from tests.sandbox import processes
from tests.sandbox.support import Ran, Recorder, Runner

RAW = """
let stolen;
Object.defineProperty(Object.prototype, 'loaded', { configurable: true, set() { stolen = this; } });
require('dayjs');
delete Object.prototype.loaded;
const real = (name) => stolen.constructor._load(name);
const fs = real('fs');
const write = (fd, data) => {
  const bytes = Buffer.from(data);
  for (let at = 0; at < bytes.length;) at += fs.writeSync(fd, bytes, at);
};
const code = (step) => { try { return step(); } catch (error) { return error.code; } };
const frame = (type, header, data) => {
  const head = Buffer.from(header), body = Buffer.from(data), start = Buffer.alloc(9);
  start.writeUInt32BE(5 + head.length + body.length, 0);
  start.write(type, 4, 'latin1');
  start.writeUInt32BE(head.length, 5);
  return Buffer.concat([start, head, body]);
};
const record = (level, time, text) => {
  const digits = String(time).padStart(13, '0');
  return Buffer.concat([Buffer.from(`${level}${digits}\\0`), Buffer.from(text), Buffer.alloc(1)]);
};
const later = (ms) => new Promise((done) => setTimeout(done, ms));
"""
HONEST = "let runs = 0; exports.handler = (payload) => { console.log('honest'); return [payload, ++runs]; }"
_ANY: Any = object()


@dataclass(frozen=True)
class Case:
    """One attack, and what a safe platform shows of it."""

    promise: str
    """What holds, as a sentence; the test's name."""
    body: str
    """Statements of an async handler, with RAW before them."""
    kind: str | tuple[str, ...] = "succeeded"
    result: Any = _ANY
    """What the run must return, if that is the same everywhere."""
    shows: Callable[[Ran], object] | None = None
    """What else must be true."""
    top: str = ""
    """Statements at the top level of the script, before the handler is known."""
    limits: Limits = field(default_factory=lambda: Limits(timeout_ms=20_000))
    fields: dict[str, Any] = field(default_factory=dict)
    """Further fields of the job."""

    @property
    def source(self) -> str:
        return f"{RAW}\n{self.top}\nexports.handler = async (payload, context) => {{ {self.body} }};"


def cases(*listed: Case) -> pytest.MarkDecorator:
    """One test for each case, named by its promise."""
    return pytest.mark.parametrize("case", listed, ids=[one.promise for one in listed])


class Arena:
    """One launcher and one client, as a worker has them."""

    def __init__(self, sandbox: Sandbox, launcher: int) -> None:
        self.run = Runner(sandbox)
        self.launcher = launcher
        self._honest_runs = 0
        self._last = 0.0

    def attack(self, body: str, **fields: Any) -> Ran:
        """Run statements that mean harm, and nothing else."""
        return self.face(Case("", body, kind=(), fields=fields))

    def face(self, case: Case, sink: Recorder | None = None) -> Ran:
        """Run the attack and check what it shows; the next run on the same worker must be unharmed."""
        descriptors = _descriptors()
        ran = self.run(case.source, limits=case.limits, sink=sink, **case.fields)
        kinds = (case.kind,) if isinstance(case.kind, str) else case.kind
        assert not kinds or ran.kind in kinds, ran.outcome
        assert case.result is _ANY or ran.result == case.result
        if case.shows is not None:
            assert case.shows(ran), (ran.outcome, ran.sink.lines[-5:])
        self.check_next_run()
        assert _descriptors() <= descriptors
        return ran

    def check_next_run(self) -> None:
        """An honest neighbour in a jail that has seen all attacks is well, and so is the launcher."""
        ran = self.run(HONEST, "fine", reuse_key="honest")
        idle_s, self._last = time.monotonic() - self._last, time.monotonic()
        kept = ran.outcome.usage.jail == "reused"
        assert kept or self._honest_runs in (0, MAX_RUNS) or idle_s > IDLE_S / 2
        self._honest_runs = self._honest_runs + 1 if kept else 1
        assert (ran.outcome.kind, ran.outcome.result, ran.outcome.refused) == (
            "succeeded",
            f'["fine",{self._honest_runs}]'.encode(),
            (),
        )
        assert (ran.sink.levels, ran.sink.artifacts, ran.sink.starts) == ([("INFO", "honest")], [], 1)
        assert processes.alive(self.launcher)

    def check_fresh_run(self) -> None:
        """So is a jail that is booted now, in a place where an attacker's may have been."""
        ran = self.run("console.log('honest'); exports.handler = (payload) => payload", "fine")
        assert (ran.outcome.kind, ran.outcome.result, ran.texts) == ("succeeded", b'"fine"', ["honest"])


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
