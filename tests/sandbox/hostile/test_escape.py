"""Out of the jail, or more within it than was given: files, processes, identities, signals, system calls."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.launcher import ROOT
from tests.sandbox.hostile import syscalls
from tests.sandbox.hostile.arena import Arena, Case, cases
from tests.sandbox.support import Ran

DENIED = ("EROFS", "EACCES", "EPERM", "ENOENT", "EINVAL", "EIO")
UNSEEN = ("ENOENT", "EACCES", "EPERM")


def is_nobody(ran: Ran) -> bool:
    status, *ids = ran.result
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return (
        ids == [65534, 65534, [65534], 1]
        and {lines[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        and (lines["NoNewPrivs"], lines["Seccomp"]) == ("1", "2")
    )


def is_bare(ran: Ran) -> bool:
    root, etc, proc, binaries, run = ran.result
    return (
        set(root) <= {"bin", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "tmp", "usr"}
        and sorted(etc) == ["group", "passwd"]
        and sorted(proc) == ["1", "self", "thread-self"]
        and binaries == ["node"]
        and run == ["egress.sock"]
    )


def only_pipes(ran: Ran) -> bool:
    kinds = {link.split(":")[0] for link in ran.result}
    return kinds <= {"pipe", "anon_inode", "/dev/null", "ENOENT", "socket"} and ran.result.count("/dev/null") <= 2


WRITES = [
    "/x", "/boot/boot.js", "/boot/node_modules/axios/index.js", "/etc/passwd", "/bin/node", "/run/x", "/dev/x",
    "/proc/self/oom_score_adj", "/proc/self/uid_map", "/proc/self/setgroups", "/proc/sys/kernel/core_pattern",
    "/proc/1/root/x", "/sys/fs/cgroup/x", "/tmp/../etc/x",
]  # fmt: skip
READS = [
    "/etc/shadow", "/proc/1/root/etc/shadow", "/proc/1/cwd/../etc/shadow", "/proc/kcore", "/proc/kallsyms",
    "/proc/sys/kernel/hostname", "/proc/net/unix", "/proc/4194304/status", "/sys/kernel", "/root", "/home",
    "/var/run/docker.sock", "/dev/mem", "/dev/shm", "/dev/kmsg", "/proc/1/root/proc/../../root",
]  # fmt: skip


@cases(
    *(
        Case(
            f"{path} cannot be written",
            f"return code(() => fs.writeFileSync('{path}', '-1000'))",
            shows=lambda ran: ran.result in DENIED,
        )
        for path in WRITES
    ),
    *(
        Case(
            f"{path} cannot be read",
            f"const path = '{path}';"
            "return code(() => fs.statSync(path).isDirectory() ? fs.readdirSync(path) : fs.readFileSync(path))",
            shows=lambda ran: ran.result in UNSEEN,
        )
        for path in READS
    ),
    Case(
        "the identity inside is nobody's, without any capability",
        "return [fs.readFileSync('/proc/self/status', 'utf8'), process.getuid(), process.getgid(), process.getgroups(),"
        " process.pid]",
        shows=is_nobody,
    ),
    Case(
        "no identity can be taken on",
        "return [process.setuid, process.seteuid, process.setgid, process.setegid, (id) => process.setgroups([id])]"
        ".map((become) => code(() => become(0)))",
        result=["EPERM"] * 5,
    ),
    Case(
        "the root holds nothing of the host's",
        "return ['/', '/etc', '/proc', '/bin', '/run'].map((path) => fs.readdirSync(path))",
        shows=is_bare,
    ),
    Case(
        "mounts name no run and no script",
        "return fs.readFileSync('/proc/self/mountinfo', 'utf8')",
        shows=lambda ran: "run-1" not in ran.result and "/slots/s" in ran.result and "index.js" not in ran.result,
    ),
    Case(
        "only the promised descriptors are open",
        "return fs.readdirSync('/proc/self/fd').map((fd) => code(() => fs.readlinkSync('/proc/self/fd/' + fd)))",
        shows=only_pipes,
    ),
    Case(
        "no process can be started, by whatever module",
        """
        const { spawnSync, fork } = real('child_process');
        process.env.LD_PRELOAD = '/tmp/x.so';
        return [spawnSync('/bin/node', ['-e', '0']).error.code, code(() => fork('/boot/boot.js'))];
        """,
        result=["EPERM", "EPERM"],
    ),
    Case(
        "a cluster has no workers",
        "const cluster = real('cluster'); cluster.setupPrimary({ exec: '/boot/boot.js' });"
        "return code(() => cluster.fork())",
        result="EPERM",
    ),
    Case(
        "a native addon cannot be loaded",
        "fs.copyFileSync('/lib/x86_64-linux-gnu/libm.so.6', '/tmp/x.node');"
        "return [code(() => process.dlopen({ exports: {} }, '/tmp/x.node')), code(() => real('/tmp/x.node'))]",
        result=["ERR_DLOPEN_DISABLED", "ERR_DLOPEN_DISABLED"],
    ),
    Case(
        "a library of one's own is not mapped as code from scratch",
        "fs.copyFileSync('/lib/x86_64-linux-gnu/libm.so.6', '/tmp/x.so');"
        "try { real('crypto').setEngine('/tmp/x.so'); return 'loaded'; } catch (error) { return error.message; }",
        shows=lambda ran: ran.result != "loaded" and "libm" not in ran.result,
    ),
    Case(
        "a link in scratch leads nowhere outside",
        """
        fs.symlinkSync('/etc/shadow', '/tmp/a'); fs.symlinkSync('../../../../../../root', '/tmp/b');
        fs.symlinkSync('/proc/1/root/../../..', '/tmp/c');
        return [code(() => fs.readFileSync('/tmp/a')), code(() => fs.readdirSync('/tmp/b')),
          fs.readdirSync('/tmp/c').includes('home'), code(() => fs.linkSync('/etc/passwd', '/tmp/d'))];
        """,
        result=["ENOENT", "ENOENT", False, "EXDEV"],
    ),
    Case(
        "above the root there is the root",
        "process.chdir('/proc/self/cwd/../../../../..'); return [process.cwd(), fs.readdirSync('.').includes('home')]",
        result=["/", False],
    ),
    Case(
        "process 1 is the script's own, and there is no other to signal",
        """
        const found = [fs.readlinkSync('/proc/1/exe'), fs.readFileSync('/proc/1/comm', 'utf8').trim()];
        const seen = new Set();
        for (let pid = 1000; pid < 4000; pid++) seen.add(code(() => process.kill(pid, 9)));
        return [...found, ...seen, code(() => process.kill(-1, 9))];
        """,
        result=["/bin/node", "node", "ESRCH", "EPERM"],
    ),
    Case(
        "signals to itself neither end nor stop the jail early",
        "for (const s of ['SIGKILL', 'SIGSTOP', 'SIGSEGV', 'SIGTSTP', 'SIGTERM']) process.kill(process.pid, s);"
        " return 1",
        result=1,
    ),
    Case(
        "its own code cannot be overwritten through /proc",
        "return [code(() => fs.openSync('/proc/self/mem', 'r+')), code(() => fs.openSync('/proc/1/mem', 'r+'))]",
        result=["EROFS", "EROFS"],
    ),
    Case(
        "the inspector finds the script's own process, and opens no port",
        """
        const inspector = real('inspector');
        try { inspector.open(9229, '127.0.0.1'); } catch {}
        const session = new inspector.Session();
        session.connect();
        const answer = await new Promise((done) => session.post('Runtime.evaluate', { expression: '1 + 1' }, (e,
          r) => done(r)));
        return [answer.result.value, inspector.url() === undefined];
        """,
        result=[2, True],
    ),
    Case(
        "a worker thread is in the same jail",
        """
        const { Worker } = real('worker_threads');
        const source = `const fs = require('fs');
          const code = (f) => { try { return f(); } catch (e) { return e.code; } };
          require('worker_threads').parentPort.postMessage([code(() => fs.readFileSync('/etc/shadow')),
            code(() => fs.writeFileSync('/x', '')), code(() => require('child_process').fork('/boot/boot.js')),
            fs.readFileSync('/proc/thread-self/status', 'utf8').match(/Seccomp:\\\\s(\\\\d)/)[1]])`;
        return new Promise((done) => new Worker(source, { eval: true }).on('message', done));
        """,
        result=["ENOENT", "EROFS", "EPERM", "2"],
    ),
    Case(
        "files cannot be watched, so that nobody sees when others use the shared ones",
        "return code(() => fs.watch('/bin/node'))",
        result="ENOSYS",
    ),
    Case(
        "no priority can be taken",
        "const before = real('os').getPriority(); const got = code(() => real('os').setPriority(-20));"
        "return [got !== undefined, real('os').getPriority() - before]",
        result=[True, 0],
    ),
    Case(
        "a set-user-id file in scratch is worth nothing",
        """
        fs.writeFileSync('/tmp/x', '#!/bin/node', { mode: 0o6755 }); fs.chmodSync('/tmp/x', 0o6755);
        const mount = fs.readFileSync('/proc/self/mountinfo',
          'utf8').split('\\n').find((line) => line.includes(' /tmp '));
        return ['nosuid', 'nodev', 'noexec'].map((option) => mount.includes(option));
        """,
        result=[True, True, True],
    ),
    Case("an abort is a crash", "process.abort()", kind="crash"),
    Case("an end without a word is no result", "process.reallyExit(0)", kind="no_result"),
    Case("an end with a code of its own is an exit", "process.reallyExit(7)", kind="exit"),
    Case(
        "a code that looks like a kill by the kernel is no memory limit",
        "process.reallyExit(137)",
        kind="killed",
        shows=lambda ran: "memory" not in ran.message,
    ),
    Case(
        "WebAssembly computes and does no more",
        "const code = Uint8Array.from([0,97,115,109,1,0,0,0,1,5,1,96,0,1,127,3,2,1,0,"
        "7,5,1,1,102,0,0,10,6,1,4,0,65,42,11]);"
        "return new WebAssembly.Instance(new WebAssembly.Module(code)).exports.f()",
        result=42,
    ),
)  # fmt: skip
def test_escape(arena: Arena, case: Case) -> None:
    arena.face(case)


@pytest.fixture(scope="module")
def answers() -> dict[str, int]:
    """How each call of the table ended in a jail of its own."""
    command = [sys.executable, "-m", "tests.sandbox.hostile.syscalls"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("call", syscalls.CALLS, ids=lambda call: f"{call.name} {call.shown}")
def test_system_calls_of_native_code(answers: dict[str, int], call: syscalls.Call) -> None:
    assert answers[call.name] == call.code


def test_runs_after_native_code_are_unharmed(arena: Arena, answers: dict[str, int]) -> None:
    assert len(answers) == len(syscalls.CALLS)
    arena.check_next_run()
