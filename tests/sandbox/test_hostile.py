"""Scripts that mean harm. Whatever they do, the host stays whole and the next run is unharmed.

They start where require() ends: a setter on Object.prototype catches the module object of a library while
it loads, and with it everything that Node has. What holds from there on is the jail.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from sandbox.job import Limits
from tests.sandbox.support import Ran, Runner

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
"""


@pytest.fixture(autouse=True)
def unharmed(run: Runner) -> Iterator[None]:
    yield
    assert run("exports.handler = () => 'fine'").result == "fine"


def attack(run: Runner, statements: str, limits: Limits | None = None) -> Ran:
    """Run `statements` as a handler's body, with raw access to files and descriptors."""
    return run(f"{RAW}\nexports.handler = async (payload, context) => {{ {statements} }};", limits=limits)


def test_the_identity_inside_is_nobodys(run: Runner) -> None:
    status = attack(run, "return [fs.readFileSync('/proc/self/status', 'utf8'), process.getuid(), process.pid]").result
    lines = dict(line.split(":\t", 1) for line in status[0].splitlines() if ":\t" in line)
    assert status[1:] == [65534, 1]
    assert {lines[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (lines["NoNewPrivs"], lines["Seccomp"]) == ("1", "2")


def test_the_root_holds_nothing_of_the_hosts(run: Runner) -> None:
    roots, etc, proc, binaries = attack(
        run, "return ['/', '/etc', '/proc', '/bin'].map((path) => fs.readdirSync(path))"
    ).result
    assert set(roots) <= {"bin", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "tmp", "usr"}
    assert sorted(etc) == ["group", "passwd"]
    assert sorted(proc) == ["1", "self", "thread-self"]
    assert binaries == ["node"]


@pytest.mark.parametrize(
    "path",
    ["/x", "/boot/boot.js", "/etc/passwd", "/bin/node", "/run/x", "/dev/x", "/proc/self/oom_score_adj"],
)
def test_nothing_outside_of_tmp_can_be_written(run: Runner, path: str) -> None:
    assert attack(run, f"return code(() => fs.writeFileSync('{path}', '-1000'))").result in (
        "EROFS",
        "EACCES",
        "EPERM",
    )


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/proc/1/root/etc/shadow",
        "/proc/kcore",
        "/proc/sys/kernel/hostname",
        "/sys/kernel",
        "/root",
    ],
)
def test_host_files_cannot_be_read(run: Runner, path: str) -> None:
    assert attack(
        run,
        f"const path = '{path}';"
        "return code(() => fs.statSync(path).isDirectory() ? fs.readdirSync(path) : fs.readFileSync(path))",
    ).result in ("ENOENT", "EACCES", "EPERM")


def test_mounts_name_no_run_and_no_script(run: Runner) -> None:
    mounts = attack(run, "return fs.readFileSync('/proc/self/mountinfo', 'utf8')").result
    assert "run-1" not in mounts
    assert "/slots/s" in mounts


def test_scratch_space_is_bounded_in_bytes_and_in_files(run: Runner) -> None:
    ran = attack(
        run,
        """
        const big = Buffer.alloc(16e6);
        const full = code(() => { for (let i = 0; ; i++) fs.writeFileSync('/tmp/big' + i, big); });
        for (const name of fs.readdirSync('/tmp')) fs.unlinkSync('/tmp/' + name);
        const many = code(() => { for (let i = 0; i < 9000; i++) fs.writeFileSync('/tmp/f' + i, ''); });
        return [full, many];
        """,
    )
    assert ran.result == ["ENOSPC", "ENOSPC"]


def test_no_process_can_be_started(run: Runner) -> None:
    ran = attack(
        run,
        """
        const { spawnSync, fork } = real('child_process');
        return [spawnSync('/bin/node', ['-e', '0']).error.code, code(() => fork('/boot/boot.js'))];
        """,
    )
    assert ran.result == ["EPERM", "EPERM"]


def test_there_is_no_network_socket(run: Runner) -> None:
    ran = attack(
        run,
        """
        const { TCP, constants } = process.binding('tcp_wrap');
        const udp = real('dgram').createSocket('udp4');
        const refused = await new Promise((done) => { udp.on('error', (e) => done(e.code)); udp.bind(0); });
        const tcp = new TCP(constants.SOCKET).bind('127.0.0.1', 0);
        return [tcp, refused, code(() => fs.readFileSync('/proc/net/dev'))];
        """,
    )
    assert ran.result == [-97, "EAFNOSUPPORT", "ENOENT"]


def test_only_its_own_way_out_is_in_run(run: Runner) -> None:
    assert attack(run, "return fs.readdirSync('/run')").result in ([], ["egress.sock"])


def test_only_the_promised_descriptors_are_open(run: Runner) -> None:
    ran = attack(
        run,
        "const link = (fd) => code(() => fs.readlinkSync('/proc/self/fd/' + fd));"
        "return fs.readdirSync('/proc/self/fd').map(link)",
    )
    links = ran.result
    assert all(link.split(":")[0] in ("pipe", "anon_inode", "/dev/null", "ENOENT", "socket") for link in links), links
    assert len([link for link in links if link == "/dev/null"]) <= 2


def test_more_threads_than_allowed_cannot_be_started(run: Runner) -> None:
    ran = attack(
        run,
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
        limits=Limits(pids=24, timeout_ms=20_000),
    )
    # Node may also abort when it gets no thread: then the jail is gone, and the host has not noticed.
    assert ran.kind == "crash" or ran.result in ([True, "EAGAIN"], [True, "ERR_WORKER_INIT_FAILED"])


@pytest.mark.parametrize("fd", [1, 2, 3, 4, 5])
def test_junk_on_a_descriptor_harms_only_its_own_run(run: Runner, fd: int) -> None:
    ran = attack(run, f"code(() => write({fd}, Buffer.alloc(5000, 0xff))); return 'mine'")
    assert ran.kind in ("succeeded", "crash")


def test_a_frame_that_claims_gigabytes_is_refused_at_once(run: Runner) -> None:
    ran = attack(
        run,
        "const b = Buffer.from(frame('C', '{}', '')); b.writeUInt32BE(0xffffffff, 0); write(4, b); for (;;);",
    )
    assert ran.kind == "crash"
    assert ran.outcome.duration_ms < 5000


@pytest.mark.parametrize(
    ("forged", "kind"),
    [
        ("frame('R', '{\"left\":[]}', '[1,')", "bad_result"),
        ("frame('R', '{\"left\":[]}', 'NaN')", "bad_result"),
        ("frame('R', '{\"left\":[]}', '[' .repeat(100000))", "bad_result"),
        ("frame('R', '{\"left\":[]}', '1'.repeat(100000))", "bad_result"),
        ("frame('R', '{\"left\":[]}', '1e999')", "bad_result"),
        ("frame('R', '{\"left\":[]}', Buffer.from([0x22, 0xff, 0x22]))", "bad_result"),
        ("frame('R', '{\"left\":[]}', '\"\\\\ud800\"')", "succeeded"),
        ("frame('R', '[]', '1')", "crash"),
        ("frame('R', '[' .repeat(100000), '1')", "crash"),
        ("frame('R', '{}', Buffer.alloc(7e6, 0x31))", "result_too_large"),
        ("frame('Z', '{}', '')", "crash"),
        ("frame('B', '{}', '')", "crash"),
        ("frame('E', '{\"kind\":\"timeout\"}', '')", "crash"),
        (
            'frame(\'E\', \'{"kind":"exception","name":5,"message":["\\\\ud800"],"stack":null}\', \'\')',
            "exception",
        ),
        ("frame('E', '{\"kind\":{\"a\":1}}', '')", "crash"),
        ("frame('C', '{\"id\":1e400}', '{}')", "crash"),
        ("frame('C', '{\"id\":\"x\"}', '{}')", "crash"),
        ("frame('C', '{\"id\":1,\"method\":\"m\"}', '[' .repeat(100000))", "crash"),
        ('frame(\'A\', \'{"id":1,"name":"../../x","content_type":"a"}\', \'x\')', "succeeded"),
    ],
)
def test_a_forged_frame_is_judged_as_data(run: Runner, forged: str, kind: str) -> None:
    ran = attack(run, f"write(4, {forged}); return 'after'")
    assert ran.kind == kind
    assert ran.sink.artifacts == []
    if ran.outcome.result is not None:
        ran.outcome.result.decode()
    if ran.outcome.error is not None:
        (ran.outcome.error.name + ran.outcome.error.message + ran.outcome.error.stack).encode()


def test_a_damaged_log_channel_ends_the_log_but_not_the_run(run: Runner) -> None:
    ran = attack(run, "console.log('one'); write(5, Buffer.alloc(100, 0xff)); console.log('two'); return 1")
    assert ran.result == 1
    assert ran.texts[0] == "one"
    assert ran.sink.lines[-1].level == "SYSTEM"
    assert "damaged its log channel" in ran.texts[-1]


def test_a_log_over_its_limit_is_cut_and_says_so(run: Runner) -> None:
    ran = run.body(
        "for (let i = 0; i < 1000; i++) console.log('x'.repeat(99)); return 1",
        limits=Limits(log_bytes=10_000),
    )
    assert ran.result == 1
    assert ran.outcome.usage.log_truncated
    assert ran.outcome.usage.log_bytes <= 10_000
    assert len(ran.texts) == 10_000 // (99 + 33) + 1
    assert ran.sink.lines[-1].level == "SYSTEM"
    assert "cut at its limit of 10000 bytes: " in ran.texts[-1]


@pytest.mark.parametrize("fd", [1, 5])
def test_a_flood_costs_little_and_is_cut(run: Runner, fd: int) -> None:
    record = "Buffer.concat([Buffer.from([0,0,3,0xf1,0x49]), Buffer.alloc(8), Buffer.alloc(1000, 0x78)])"
    data = "Buffer.alloc(65536, 0x0a)" if fd == 1 else f"Buffer.concat(new Array(60).fill({record}))"
    began = time.thread_time()
    ran = attack(
        run,
        f"const data = {data}; for (;;) write({fd}, data);",
        limits=Limits(timeout_ms=2500, log_bytes=1_000_000),
    )
    assert ran.kind == "timeout"
    assert ran.outcome.usage.log_truncated
    assert ran.outcome.usage.log_bytes <= 1_000_000
    assert sum(len(text) for text in ran.texts[:-1]) <= 1_000_000
    assert time.thread_time() - began < 2.0


def test_so_many_calls_that_nobody_could_answer_end_the_run(run: Runner) -> None:
    ran = attack(run, "const call = frame('C', '{\"id\":1,\"method\":\"m\"}', '{}'); for (;;) write(4, call);")
    assert ran.kind == "crash"
    assert "more calls" in ran.message


def test_a_memory_hog_outside_of_the_heap_is_killed_by_the_kernel(run: Runner) -> None:
    ran = run.body("const k = []; for (;;) k.push(Buffer.alloc(16e6, 1))", limits=Limits(memory_mb=128))
    assert ran.kind == "memory"
    assert ran.outcome.usage.peak_memory_bytes > 128 * 1024 * 1024


def test_tampered_builtins_change_only_what_the_script_sees(run: Runner) -> None:
    ran = run.body(
        """
        JSON.stringify = () => 'forged'; JSON.parse = () => 'forged'; Date.now = () => 0;
        Object.prototype.toJSON = () => 'forged'; Array.prototype.push = () => 0;
        Buffer.from = () => { throw 1; };
        globalThis.setImmediate = undefined; process.getActiveResourcesInfo = undefined; Promise = undefined;
        console.log('still');
        return 7;
        """
    )
    assert ran.kind in ("succeeded", "exception", "bad_result")
    assert ran.sink.starts == 1


def test_handlers_of_signals_do_not_delay_the_end(run: Runner) -> None:
    source = "for (const s of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(s, () => {}); for (;;);"
    began = time.monotonic()
    assert run.body(source, limits=Limits(timeout_ms=300)).kind == "timeout"
    assert time.monotonic() - began < 5


def test_signals_to_itself_do_not_end_or_stop_the_jail_early(run: Runner) -> None:
    ran = run.body("for (const s of ['SIGKILL', 'SIGSTOP', 'SIGSEGV']) process.kill(process.pid, s); return 1")
    assert ran.kind == "succeeded"
