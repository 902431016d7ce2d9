"""More memory, time, threads, files, lines or answers than a run may have: it ends, and nobody else feels it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from sandbox import conversation
from sandbox.job import CallRefused, Limits, LogLine
from tests.sandbox.hostile.arena import Arena, Case, cases
from tests.sandbox.support import Ran, Recorder

BRIEF = Limits(timeout_ms=1200)
SMALL = Limits(memory_mb=128, timeout_ms=20_000)
OOM = ("memory", "exception", "crash")
MIB = 1 << 20


def near_its_limit(ran: Ran) -> bool:
    return ran.outcome.usage.peak_memory_bytes <= (128 + 33) * MIB


@cases(
    Case(
        "buffers without end are killed by the kernel",
        "const k = []; for (;;) k.push(Buffer.alloc(16e6, 1))",
        kind="memory",
        shows=near_its_limit,
        limits=SMALL,
    ),
    Case(
        "a heap without end is a memory limit",
        "const k = []; for (;;) k.push(Array(10000).fill(k.length + 0.5))",
        kind="memory",
        shows=near_its_limit,
        limits=SMALL,
    ),
    Case(
        "WebAssembly memory is counted",
        "const m = new WebAssembly.Memory({ initial: 1, maximum: 65536 });"
        "for (;;) { m.grow(256); new Uint8Array(m.buffer).fill(1, m.buffer.byteLength - 256 * 65536); }",
        kind=OOM,
        shows=near_its_limit,
        limits=SMALL,
    ),
    Case(
        "memory shared between threads is counted",
        "const k = []; for (;;) { const s = new SharedArrayBuffer(16e6); new Uint8Array(s).fill(1); k.push(s); }",
        kind=OOM,
        shows=near_its_limit,
        limits=SMALL,
    ),
    Case(
        "a zip bomb is counted",
        "const z = require('zlib'); const small = z.gzipSync(Buffer.alloc(64e6)); const k = [];"
        "for (;;) k.push(z.gunzipSync(small))",
        kind=OOM,
        shows=near_its_limit,
        limits=SMALL,
    ),
    Case(
        "scratch counts as memory",
        "const k = Buffer.alloc(110e6, 1); for (let i = 0; i < 30; i++) fs.writeFileSync('/tmp/f' + i,"
        " Buffer.alloc(1e6, 1));"
        "for (;;) k.fill(2)",
        kind=("memory", "exception", "timeout"),
        shows=near_its_limit,
        limits=Limits(memory_mb=128, timeout_ms=3000),
    ),
    Case(
        "scratch is bounded in bytes and in files",
        """
        const big = Buffer.alloc(16e6);
        const full = code(() => { for (let i = 0; ; i++) fs.writeFileSync('/tmp/big' + i, big); });
        for (const name of fs.readdirSync('/tmp')) fs.unlinkSync('/tmp/' + name);
        const many = code(() => { for (let i = 0; i < 9000; i++) fs.writeFileSync('/tmp/f' + i, ''); });
        for (const name of fs.readdirSync('/tmp')) fs.unlinkSync('/tmp/' + name);
        const deep = code(() => { for (let i = 0; i < 9000; i++) { fs.mkdirSync('/tmp/d' + i); fs.symlinkSync('x',
          '/tmp/s' + i); } });
        return [full, many, deep];
        """,
        result=["ENOSPC", "ENOSPC", "ENOSPC"],
    ),
    Case(
        "one file is bounded",
        "fs.writeFileSync('/tmp/x', ''); return [code(() => fs.truncateSync('/tmp/x', 1e12)), code(() => {"
        " const f = fs.openSync('/tmp/x', 'w'); for (;;) fs.writeSync(f, Buffer.alloc(1e6)); })]",
        shows=lambda ran: ran.result[0] == "EFBIG" and ran.result[1] in ("ENOSPC", "EFBIG"),
    ),
    Case(
        "descriptors are bounded",
        "const open = []; const full = code(() => { for (let i = 0; i < 10000;"
        " i++) open.push(fs.openSync('/dev/null')); });"
        "for (const fd of open) fs.closeSync(fd); return [full, open.length < 256]",
        result=["EMFILE", True],
    ),
    Case(
        "threads are bounded",
        """
        const { Worker } = real('worker_threads');
        let started = 0;
        const refusal = await new Promise((done) => {
          for (let i = 0; i < 40; i++) {
            try {
              const worker = new Worker('setInterval(() => {}, 1000)', { eval: true });
              worker.on('online', () => { started += 1; });
              worker.on('error', (error) => done(error.code));
            } catch (error) {
              done(error.code);
            }
          }
        });
        return [started < 40, refusal];
        """,
        # Node may also abort when it gets no thread: then the jail is gone, and the host has not noticed.
        kind=("succeeded", "crash"),
        shows=lambda ran: ran.kind == "crash" or ran.result in ([True, "EAGAIN"], [True, "ERR_WORKER_INIT_FAILED"]),
        limits=Limits(pids=24, timeout_ms=20_000),
    ),
    Case(
        "a bomb of threads that start threads ends with its run",
        """
        const { Worker } = real('worker_threads');
        const bomb = `const { Worker } = require('worker_threads');
          for (;;) try { new Worker(process.env.BOMB, { eval: true }).on('error', () => {}) } catch {}`;
        process.env.BOMB = bomb;
        for (;;) { try { new Worker(bomb, { eval: true }).on('error', () => {}); } catch {} await later(1); }
        """,
        kind=("timeout", "crash", "memory"),
        limits=BRIEF,
    ),
    Case("an endless loop costs the run its time", "for (;;);", kind="timeout", limits=BRIEF),
    Case("an endless loop at the top level does too", "", top="for (;;);", kind="timeout", limits=BRIEF),
    Case("an endless chain of promises does too", "for (;;) await null", kind="timeout", limits=BRIEF),
    Case("so do ticks", "const t = () => process.nextTick(t); t(); await later(10)", kind="timeout", limits=BRIEF),
    Case(
        "so does an expression that backtracks for ever",
        "return /^(a+)+$/.test('a'.repeat(60) + '!')",
        kind="timeout",
        limits=BRIEF,
    ),
    Case(
        "so does JSON in a loop",
        "const t = JSON.stringify(Array(1e5).fill({ a: [1] })); for (;;) JSON.parse(t)",
        kind="timeout",
        limits=BRIEF,
    ),
    Case("so does a number of a million digits",
         "return (3n ** 20000000n).toString().length", kind="timeout", limits=BRIEF),
    Case("so does a key that takes for ever", "require('crypto').pbkdf2Sync('a', 'b', 2 ** 30, 64, 'sha512')",
         kind="timeout", limits=BRIEF),
    Case("so does sleep", "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)", kind="timeout", limits=BRIEF),
    Case(
        "handlers of signals do not delay the end",
        "for (const s of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGXCPU']) process.on(s, () => {}); for (;;);",
        kind="timeout",
        limits=BRIEF,
    ),
    Case(
        "a handler of the last moment does not delay the end",
        "process.on('exit', () => { for (;;); }); process.on('beforeExit', () => { for (;;); }); return 1",
        result=1,
    ),
    Case(
        "a hundred thousand timers are the script's own",
        "for (let i = 0; i < 1e5; i++) setTimeout(() => {}, 1e8); return 1",
        result=1,
    ),
    Case("a stack without end is an exception", "const f = () => f() + 1; return f()", kind="exception"),
    Case(
        "a result that nests without end is none",
        "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a",
        kind=("bad_result", "exception"),
    ),
    Case(
        "a result of hundreds of megabytes is too large, or more than the script's memory",
        "return Array(150).fill('x'.repeat(1 << 20))",
        kind=("result_too_large", "memory", "bad_result"),
    ),
    Case(
        "very many values are a result like any other",
        "return Array(2e5).fill([])",
        shows=lambda ran: len(ran.result) == 200_000,
    ),
    Case(
        "a log over its limit is cut and says so",
        "for (let i = 0; i < 1e6; i++) console.log('x'.repeat(99)); return 1",
        shows=lambda ran: ran.result == 1
        and ran.outcome.usage.log_truncated
        and ran.outcome.usage.log_bytes <= 10_000
        and len(ran.texts) == 10_000 // (99 + 33) + 1
        and "cut at its limit of 10000 bytes: " in ran.texts[-1],
        limits=Limits(log_bytes=10_000, timeout_ms=60_000),
    ),
    Case(
        "a line without an end is cut into pieces",
        "for (let i = 0; i < 40; i++) process.stdout.write('x'.repeat(65536)); return 1",
        shows=lambda ran: sum(map(len, ran.texts)) == 40 * 65536 and max(map(len, ran.texts)) <= 262_144,
    ),
    Case(
        "answers that nobody reads end the run",
        "const call = frame('C', '{\"id\":1,\"method\":\"m\"}', '{}'); for (;;) write(4, call);",
        kind="crash",
        shows=lambda ran: "did not read the answers" in ran.message,
        limits=Limits(timeout_ms=60_000),
    ),
)  # fmt: skip
def test_exhaustion(arena: Arena, case: Case) -> None:
    arena.face(case, Dropper())


class Dropper(Recorder):
    """A sink that keeps only the last lines, as one that ships what it gets; what grows is then the sandbox's own."""

    def on_log(self, lines: Sequence[LogLine]) -> None:
        self.lines = [*self.lines, *lines][-100:]
        self.batches.append(len(lines))

    def on_call(self, method: str, params: dict[str, Any]) -> Any:
        raise CallRefused("nobody answers here" * 500)

    def on_artifact(self, name: str, content_type: str, data: bytes) -> None:
        raise CallRefused("nobody keeps it")


class Watch:
    """How far this process has grown since the start."""

    def __init__(self, statm: int) -> None:
        self._statm = statm
        self._first = self._resident()
        self.growth = 0

    def look(self) -> None:
        self.growth = max(self.growth, self._resident() - self._first)

    def _resident(self) -> int:
        return int(os.pread(self._statm, 200, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def watched() -> Iterator[Watch]:
    statm = os.open("/proc/self/statm", os.O_RDONLY)
    watch, done = Watch(statm), threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            watch.look()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield watch
    finally:
        done.set()
        looking.join()
        os.close(statm)


CALL = "frame('C', '{\"id\":1,\"method\":\"m\"}'"
FLOODS = {
    "lines on stdout": "const data = Buffer.alloc(65536, 10); for (;;) write(1, data)",
    "one line on stderr": "const data = Buffer.alloc(65536, 0x41); for (;;) write(2, data)",
    "junk on stdout": "const data = require('crypto').randomBytes(65536); for (;;) write(1, data)",
    "empty records": "const data = Buffer.concat(Array(5000).fill(record('I', 1, ''))); for (;;) write(5, data)",
    "large records": "const data = Buffer.concat(Array(60).fill(record('I', 1, 'x'.repeat(1000))));"
    "for (;;) write(5, data)",
    "all logs at once": "const data = Buffer.alloc(65536, 10);"
    "const mine = Buffer.concat(Array(5000).fill(record('I', 1, '')));"
    "for (;;) { write(1, data); write(2, data); write(5, mine); }",
    "console lines": "for (;;) console.log('x'.repeat(100))",
    "single bytes of a frame": "const b = frame('A', '{}', ''); b.writeUInt32BE(60e6, 0); write(4, b);"
    "const one = Buffer.from([32]); for (;;) fs.writeSync(4, one)",
    "calls in turn": "for (;;) await Promise.all(Array.from({ length: 100 },"
    " () => context.publish('a', 1).catch(() => {})))",
    "calls of a megabyte": f"const b = {CALL}, '{{\"a\":[' + '{{}},'.repeat(3e5) + '0]}}'); for (;;) write(4, b)",
    "artifacts that are refused": "const head = '{\"id\":1,\"name\":\"a\",\"content_type\":\"a\"}';"
    "const b = frame('A', head, Buffer.alloc(8e6)); for (;;) write(4, b)",
}  # fmt: skip


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_costs_the_run_its_time_and_the_worker_no_memory(arena: Arena, flood: str) -> None:
    sink = Dropper()
    with watched() as watch:
        ran = arena.face(Case("", FLOODS[flood], kind="timeout", limits=Limits(timeout_ms=1500)), sink)
    assert watch.growth < 100 * MIB
    assert ran.outcome.usage.log_bytes <= 100 * MIB


@pytest.mark.parametrize("flood", FLOODS)
def test_a_run_that_has_spent_its_share_of_the_worker_is_not_listened_to(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, flood: str
) -> None:
    """With nothing to spend, what the pipes hold is read once, and once more at the end: a flood fills them often."""
    monkeypatch.setattr(conversation, "_GRACE_S", 0.0)
    monkeypatch.setattr(conversation, "_SHARE", 0.0)
    monkeypatch.setattr(conversation, "_KEPT_S_PER_BYTE", 0.0)
    sink = Dropper()
    ran = arena.run(Case("", FLOODS[flood]).source, limits=Limits(timeout_ms=1500), sink=sink)
    assert ran.kind == "timeout"
    assert len(sink.batches) <= 40
    assert sink.batches or flood != "console lines"
    monkeypatch.undo()
    arena.check_next_run()


def test_a_flood_beside_the_answer_does_not_hold_it_back(arena: Arena) -> None:
    """Threads write on while the answer is there: what the pipes hold is read, not what will be in them."""
    sink = Dropper()
    flood = "const fs = require('fs'); const data = Buffer.alloc(65536, 10);"
    flood += "for (;;) try { fs.writeSync(FD, data) } catch {}"
    body = f"""
    const {{ Worker }} = real('worker_threads');
    for (const fd of [1, 2]) new Worker({flood!r}.replace('FD', fd), {{ eval: true }});
    await later(300);
    return 1;
    """
    with watched() as watch:
        ran = arena.face(Case("", body, result=1, limits=Limits(log_bytes=1 << 30)), sink)
    assert ran.kind == "succeeded"
    assert watch.growth < 100 * MIB


def test_a_quiet_neighbour_is_served_beside_burning_jails(arena: Arena) -> None:
    burns = (
        "for (;;);",
        "const t = JSON.stringify(Array(1e5).fill([1])); for (;;) JSON.parse(t)",
        "/^(a+)+$/.test('a'.repeat(60) + '!')",
    )
    with ThreadPoolExecutor(len(burns)) as threads:
        burning = [threads.submit(arena.run.body, burn, limits=Limits(timeout_ms=1500)) for burn in burns]
        served = 0
        while not all(one.done() for one in burning):
            arena.check_next_run()
            served += 1
    assert served > 3
    assert [one.result().kind for one in burning] == ["timeout"] * len(burns)
