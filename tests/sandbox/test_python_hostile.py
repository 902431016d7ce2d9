"""Python scripts that mean harm. Whatever they do, the host stays whole and the next run is unharmed.

They start where the import statement ends: code that exec() runs in a namespace of its own imports what it likes.
What holds from there on is the jail.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.job import Limits
from tests.sandbox.python_support import Python
from tests.sandbox.support import Ran, Runner

RAW = """
import errno, os, struct, sys, threading, time
boot = {name[7:]: module for name, module in sys.modules.items() if name.startswith("<boot>.")}

def free(statement):
    space = {}
    exec(statement, space)
    return space

def code(step, *arguments):
    try:
        return step(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]

def write(fd, data):
    while data:
        data = data[os.write(fd, data):]

def frame(kind, header, data):
    head, data = [each.encode() if isinstance(each, str) else each for each in (header, data)]
    return struct.pack(">IcI", 5 + len(head) + len(data), kind.encode(), len(head)) + head + data
"""


@pytest.fixture
def python(run: Runner) -> Python:
    return Python(run)


@pytest.fixture(autouse=True)
def unharmed(python: Python) -> Iterator[None]:
    yield
    ran = python("def handler(payload, context):\n    print('well')\n    return 'fine'")
    assert (ran.result, ran.texts) == ("fine", ["well"])


def attack(python: Python, statements: str, payload: Any = None, **fields: Any) -> Ran:
    """Run `statements` as a handler's body, with raw access to modules and descriptors."""
    lines = "\n".join(f"    {line}" for line in statements.strip("\n").splitlines())
    return python({"main.py": f"{RAW}\ndef handler(payload, context):\n{lines}\n"}, payload, **fields)


# Escapes


def test_the_identity_inside_is_nobodys(python: Python) -> None:
    status, *numbers = attack(python, "return [open('/proc/self/status').read(), os.getuid(), os.getpid()]").result
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert numbers == [65534, 1]
    assert {lines[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (lines["NoNewPrivs"], lines["Seccomp"]) == ("1", "2")


def test_the_root_holds_nothing_of_the_hosts(python: Python) -> None:
    roots, etc, proc, homes = attack(
        python, "return [os.listdir('/'), os.listdir('/etc'), os.listdir('/proc'), os.listdir('/tmp')]"
    ).result
    assert set(roots) <= {"bin", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "tmp", "usr"}
    assert sorted(etc) == ["group", "passwd"]
    assert sorted(proc) == ["1", "self", "thread-self"]
    assert homes == []


@pytest.mark.parametrize(
    "path",
    ["/x", "/boot/boot.py", "/boot/packages/x", "/usr/lib/x", "/etc/passwd", "/run/x", "/dev/x",
     "/proc/self/oom_score_adj", "/proc/self/uid_map", "/proc/self/mem"],
)  # fmt: skip
def test_nothing_outside_of_tmp_can_be_written(python: Python, path: str) -> None:
    statements = f"def put():\n    with open('{path}', 'w') as file: file.write('-1000')\nreturn code(put)"
    assert attack(python, statements).result in ("EROFS", "EACCES", "EPERM")


@pytest.mark.parametrize(
    "path", ["/etc/shadow", "/proc/1/root/etc/shadow", "/proc/kcore", "/proc/sys/kernel/hostname", "/root/x"]
)
def test_host_files_cannot_be_read_not_even_by_a_link(python: Python, path: str) -> None:
    statements = f"os.symlink('{path}', '/tmp/link')\nreturn [code(open, '{path}'), code(open, '/tmp/link')]"
    assert set(attack(python, statements).result) <= {"ENOENT", "EACCES", "EPERM"}


@pytest.mark.parametrize(
    "statements",
    [
        "return code(os.fork)",
        "return code(os.forkpty)",
        "return code(os.posix_spawn, '/usr/bin/python3', ['python3', '-V'], {})",
        "return code(free('import subprocess')['subprocess'].run, ['/usr/bin/python3', '-V'])",
        "return code(os.system, 'true') if os.system('true') == 0 else 'EPERM'",
        "process = free('import multiprocessing')['multiprocessing'].Process(target=print)\nreturn code(process.start)",
    ],
)
def test_no_process_can_be_started(python: Python, statements: str) -> None:
    assert attack(python, statements).result in ("EPERM", "ENOENT")


def test_another_program_in_its_own_place_is_the_end_of_the_run(python: Python) -> None:
    ran = attack(python, "os.execv('/usr/bin/python3', ['python3', '-I', '-S', '-c', 'import time; time.sleep(0.1)'])")
    assert ran.kind in ("no_result", "exit", "crash")


def test_there_is_no_ctypes_to_call_the_kernel_with(python: Python) -> None:
    statements = """
for name in ("ctypes", "_ctypes", "cffi", "_testcapi"):
    try:
        free(f"import {name}")
        return name
    except ImportError:
        pass
"""
    assert attack(python, statements).result is None


def test_native_code_from_scratch_space_is_not_loaded(python: Python) -> None:
    statements = """
import glob, shutil
found = glob.glob("/usr/lib/python3*/lib-dynload/*.so")
shutil.copy(found[0], "/tmp/" + os.path.basename(found[0]).split(".")[0] + ".so")
sys.path.insert(0, "/tmp")
machinery = free("from importlib.machinery import ExtensionFileLoader as L; from importlib.util import *")
name = os.path.basename(found[0]).split(".")[0]
spec = machinery["spec_from_file_location"](name, f"/tmp/{name}.so")
try:
    return str(machinery["module_from_spec"](spec))
except ImportError as error:
    return str(error)
"""
    assert "failed to map segment" in attack(python, statements).result


@pytest.mark.parametrize(
    "statements",
    [
        "os.chroot('/tmp')",
        "time.clock_settime(time.CLOCK_REALTIME, 0)",
        "import socket\nsocket.sethostname('x')",
        "os.unshare(0x10000000)",
        "os.setns(0, 0)",
    ],
)
def test_a_forbidden_call_is_killed(python: Python, statements: str) -> None:
    ran = attack(python, statements)
    if "shar" in statements or "setns" in statements:
        # Python 3.12 brings these.
        assert ran.kind == "killed" or "has no attribute" in ran.message
    else:
        assert ran.kind == "killed"


def test_byte_code_that_makes_no_sense_is_a_crash_at_most(python: Python) -> None:
    statements = "def f(): pass\nf.__code__ = f.__code__.replace(co_code=bytes(range(256)) * 4, co_stacksize=1)\nf()"
    assert attack(python, statements, limits=Limits(timeout_ms=3000)).kind in ("crash", "exception", "timeout")


@pytest.mark.parametrize("statements", ["os.setuid(0)", "os.setgroups([0])", "os.nice(-20)"])
def test_no_right_can_be_taken(python: Python, statements: str) -> None:
    function, _, arguments = statements.partition("(")
    assert attack(python, f"return code({function}, {arguments}").result in ("EPERM", "EACCES", "ENOSYS")


def test_no_limit_can_be_raised(python: Python) -> None:
    statements = """
import resource
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
except (ValueError, OSError):
    return resource.getrlimit(resource.RLIMIT_NOFILE)
"""
    assert attack(python, statements).result == [256, 256]


def test_only_the_promised_descriptors_are_open(python: Python) -> None:
    statements = "return [code(os.readlink, f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')]"
    links = attack(python, statements).result
    assert all(link.split(":")[0] in ("pipe", "/dev/null", "ENOENT") for link in links), links
    assert len(links) == 7


def test_mounts_and_environment_name_no_run_and_no_secret(python: Python) -> None:
    statements = "return [open('/proc/self/mountinfo').read(), open('/proc/self/environ').read()]"
    mounts, environ = attack(python, statements, secrets={"KEY": "hunter2"}).result
    assert "run-1" not in mounts
    assert "hunter2" not in environ


def test_the_bootstraps_frames_and_objects_hold_nothing_of_anybody_else(python: Python) -> None:
    assert python.body("return 1", secrets={"KEY": "hunter2"}).result == 1
    statements = """
import gc
frame, names = sys._getframe(), []
while frame:
    names.append(frame.f_code.co_name)
    frame = frame.f_back
needle = "hunter" + "2"
texts = [each for each in gc.get_objects() if isinstance(each, dict) and needle in map(str, list(each.values()))]
return [names[-1], len(texts)]
"""
    assert attack(python, statements).result == ["<module>", 0]


# Forging


@pytest.mark.parametrize("fd", [1, 2, 3, 4, 5])
def test_junk_on_a_descriptor_harms_only_its_own_run(python: Python, fd: int) -> None:
    ran = attack(python, f"code(write, {fd}, b'\\xff' * 5000)\nreturn 'mine'")
    assert ran.kind in ("succeeded", "crash")


def test_a_frame_that_claims_gigabytes_is_refused_at_once(python: Python) -> None:
    ran = attack(python, "write(4, b'\\xff' * 4 + frame('C', '{}', '')[4:])\nwhile True: pass")
    assert ran.kind == "crash"
    assert ran.outcome.duration_ms < 5000


@pytest.mark.parametrize(
    ("forged", "kind"),
    [
        ("frame('R', '{\"left\":[]}', '[1,')", "bad_result"),
        ("frame('R', '{\"left\":[]}', 'NaN')", "bad_result"),
        ("frame('R', '{\"left\":[]}', '[' * 100000)", "bad_result"),
        ("frame('R', '{\"left\":[]}', '1' * 100000)", "bad_result"),
        ("frame('R', '{\"left\":[]}', b'\"\\xff\"')", "bad_result"),
        ("frame('R', '[]', '1')", "crash"),
        ("frame('R', '{}', b'1' * 7_000_000)", "result_too_large"),
        ("frame('Z', '{}', '')", "crash"),
        ("frame('E', '{\"kind\":\"timeout\"}', '')", "crash"),
        ("frame('C', '{\"id\":\"x\"}', '{}')", "crash"),
        ("frame('C', '{\"id\":1,\"method\":\"m\"}', '{oops')", "crash"),
        ("frame('C', '{\"id\":1,\"method\":\"m\"}', '[' * 100000)", "succeeded"),  # refused
        ('frame(\'A\', \'{"id":1,"name":"../../x","content_type":"a"}\', \'x\')', "succeeded"),
    ],
)
def test_a_forged_frame_is_judged_as_data(python: Python, forged: str, kind: str) -> None:
    ran = attack(python, f"write(4, {forged})\nreturn 'after'")
    assert ran.kind == kind
    assert ran.sink.artifacts == []


def test_the_bootstrap_changed_by_a_script_lies_for_that_script_only(python: Python) -> None:
    statements = """
send = boot["channel"].send
boot["channel"].send = lambda kind, header, data=b"": send(kind, {**header, "left": [], "sdk_calls": -5}, b'"forged"')
boot["logs"].line = boot["result"].encode = None
return "true"
"""
    assert attack(python, statements).kind in ("succeeded", "exception", "crash")


def test_tampered_builtins_change_only_what_the_script_sees(python: Python) -> None:
    statements = """
import builtins, json
json.dumps = json.loads = os.write = os.read = os.listdir = lambda *a, **k: "forged"
builtins.len = builtins.isinstance = builtins.type = builtins.hasattr = lambda *a: None
os.environ.clear(), sys.meta_path.clear(), sys.path.clear(), sys.modules.clear()
return 7
"""
    ran = attack(python, statements)
    assert ran.kind in ("succeeded", "exception", "exit", "bad_result")
    assert ran.sink.starts == 1


@pytest.mark.parametrize(
    ("statements", "kinds"),
    [
        ("os.closerange(0, 256)", {"exit", "crash", "no_result"}),
        ("os.dup2(os.open('/dev/null', os.O_RDWR), 4)", {"timeout"}),
        ("os.close(3)", {"succeeded"}),
        (
            "os.set_blocking(4, False), os.set_blocking(5, False)\nprint('x' * 3_000_000)\nreturn 'y' * 3_000_000",
            {"succeeded"},
        ),
        ("os.close(5)\nprint('x')", {"exception", "exit", "crash"}),
    ],
)
def test_games_with_descriptors_end_the_own_run_at_most(python: Python, statements: str, kinds: set[str]) -> None:
    ran = attack(python, statements, limits=Limits(timeout_ms=2000))
    assert ran.kind in kinds


# Hostile objects, and hooks of the interpreter


HOSTILE_ERRORS = {
    "str raises": "class E(Exception):\n    def __str__(self): raise SystemExit(3)\nraise E",
    "str returns no str": "class E(Exception):\n    def __str__(self): return 5\nraise E",
    "repr raises": "class E(Exception):\n    def __repr__(self): raise KeyboardInterrupt\nraise KeyError(E())",
    "metaclass": "class M(type):\n    def __getattribute__(cls, name): raise ValueError(name)\n"
    "class E(Exception, metaclass=M): pass\nraise E()",
    "cause loop": "a, b = ValueError('a'), ValueError('b')\na.__cause__, b.__cause__ = b, a\nraise a",
    "notes": "error = ValueError('noted')\nerror.__notes__ = 5\nraise error",
    "deep groups": "error = ValueError('x')\nfor _ in range(300): error = ExceptionGroup('g', [error])\nraise error",
    "wide group": "raise ExceptionGroup('g', [ValueError(n) for n in range(20_000)])",
    "syntax error": "raise SyntaxError('x', ('main.py', 10**9, -5, 7, 'z', -1))",
    "attributes": "class E(Exception):\n    def __getattribute__(self, name): raise MemoryError\nraise E",
    "name": "E = type('\\ud800' * 10, (Exception,), {})\nraise E('\\udfff')",
    "filename": "exec(compile('1/0', 'main.py\\n', 'exec'))",
}


@pytest.mark.parametrize("statements", HOSTILE_ERRORS.values(), ids=HOSTILE_ERRORS)
def test_an_error_that_resists_being_told_is_told_somehow(python: Python, statements: str) -> None:
    ran = attack(python, statements)
    assert ran.kind == "exception"
    assert ran.outcome.error is not None
    assert ran.outcome.error.name
    (ran.outcome.error.name + ran.message + ran.outcome.error.stack).encode()


def test_an_error_that_hangs_while_it_is_told_ends_by_the_clock(python: Python) -> None:
    statements = "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E"
    assert attack(python, statements, limits=Limits(timeout_ms=500)).kind == "timeout"


HOOKS = {
    "trace": "sys.settrace(lambda *a: 1 / 0)",
    "profile": "sys.setprofile(lambda *a: None)",
    "trace of threads": "threading.settrace(lambda *a: 1 / 0)",
    "audit": "sys.addaudithook(lambda *a: 1 / 0)",
    "exception hooks": "sys.excepthook = threading.excepthook = sys.unraisablehook = 5",
    "at exit": "free('import atexit')['atexit'].register(lambda: time.sleep(60))",
    "streams": "sys.stdout = sys.stderr = sys.__stdout__ = None",
    "recursion": "sys.setrecursionlimit(60)",
    "digits": "sys.set_int_max_str_digits(0)",
    "garbage": "import gc\ngc.disable(), gc.freeze(), gc.set_threshold(0)\ngc.callbacks.append(lambda *a: 1 / 0)",
    "finalizer": "class F:\n    def __del__(self): raise SystemExit\nkept = F()",
    "switching": "sys.setswitchinterval(1000)",
    "frames": "frame = sys._getframe(1)\nframe.f_trace = lambda *a: 1 / 0\nframe.f_trace_opcodes = True",
    "signals": "import signal\nfor n in (1, 2, 13, 15): signal.signal(n, lambda *a: 1 / 0)\nsignal.raise_signal(1)",
    "exit in a thread": "t = threading.Thread(target=sys.exit, args=(3,))\nt.start(), t.join()",
    "interrupt": "free('import _thread; _thread.interrupt_main()')",
}


@pytest.mark.parametrize("statements", HOOKS.values(), ids=HOOKS)
def test_a_hook_of_the_interpreter_reaches_its_own_run_at_most(python: Python, statements: str) -> None:
    ran = attack(python, f"{statements}\nreturn 7")
    assert ran.kind in ("succeeded", "exception", "exit")
    assert ran.outcome.duration_ms < 10_000
    assert ran.sink.starts == 1


def test_an_interpreter_that_faults_is_a_crash(python: Python) -> None:
    assert attack(python, "import faulthandler\nfaulthandler._read_null()").kind == "crash"


def test_an_exit_from_a_thread_is_seen(python: Python) -> None:
    assert attack(python, "threading.Thread(target=os._exit, args=(9,)).start()\ntime.sleep(60)").kind == "exit"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP", "SIGSEGV", "SIGTERM"])
def test_signals_to_itself_do_not_end_or_stop_the_jail_early(python: Python, name: str) -> None:
    statements = f"import signal\ncode(os.kill, os.getpid(), signal.{name})\ncode(os.kill, -1, signal.{name})\nreturn 1"
    assert attack(python, statements).result == 1


def test_handlers_of_signals_do_not_delay_the_end(python: Python) -> None:
    statements = "import signal\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: pass"
    began = time.monotonic()
    assert attack(python, statements, limits=Limits(timeout_ms=300)).kind == "timeout"
    assert time.monotonic() - began < 10


# Exhaustion


def test_more_threads_than_allowed_cannot_be_started(python: Python) -> None:
    statements = """
started = 0
try:
    while started < 100:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        started += 1
except RuntimeError as error:
    return [started, str(error)]
"""
    started, message = attack(python, statements, limits=Limits(pids=24, timeout_ms=20_000)).result
    assert 10 < started < 24
    assert message == "can't start new thread"


EXHAUSTION = {
    "recursion without a limit": (
        "sys.setrecursionlimit(10**9)\ndef again(n): return again(n + 1)\nagain(0)",
        {"memory", "crash", "exception"},
    ),
    "recursion in C": (
        "sys.setrecursionlimit(10**9)\nkept = []\nfor _ in range(10**6): kept = [kept]\nrepr(kept)",
        {"crash", "exception", "memory", "timeout"},
    ),
    "digits": ("sys.set_int_max_str_digits(0)\nreturn len(str(10 ** 40_000_000))", {"timeout"}),
    "a number": ("return 9 ** 9 ** 9", {"timeout", "memory", "exception"}),
    "a pattern": ("import re\nre.match('(x+x+)+y', 'x' * 60)", {"timeout"}),
    "a lock": ("lock = threading.Lock()\nlock.acquire(), lock.acquire()", {"timeout"}),
    "a list": ("kept = [0]\nwhile True: kept += kept", {"memory", "exception"}),
    "unpacking": ("import zlib\npacker = zlib.compressobj(1)\n"
                  "packed = b''.join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()\n"
                  "return len(zlib.decompress(packed))", {"memory", "timeout"}),
    "reserving": ("kept = [bytearray(1 << 40)]", {"exception", "memory"}),
    "threads that spin": ("for _ in range(8): threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()\n"
                          "while True: pass", {"timeout", "memory"}),
    "modules": ("while True: sys.modules[str(time.monotonic_ns())] = bytearray(100_000)", {"memory"}),
}  # fmt: skip


@pytest.mark.parametrize(("statements", "kinds"), EXHAUSTION.values(), ids=EXHAUSTION)
def test_exhaustion_costs_the_run_and_nobody_else(python: Python, statements: str, kinds: set[str]) -> None:
    ran = attack(python, statements, limits=Limits(memory_mb=128, timeout_ms=3000))
    assert ran.kind in kinds


def test_scratch_space_is_bounded_in_bytes_and_in_files(python: Python) -> None:
    statements = """
def fill(size, count):
    for number in range(count):
        with open(f"/tmp/{number}", "wb") as file:
            file.write(bytes(size))
full = code(fill, 16_000_000, 10)
for name in os.listdir("/tmp"): os.unlink(f"/tmp/{name}")
return [full, code(fill, 0, 9000), code(lambda: open("/dev/shm/x", "w"))]
"""
    assert attack(python, statements).result == ["ENOSPC", "ENOSPC", "ENOENT"]


def test_descriptors_are_bounded(python: Python) -> None:
    statements = "kept = []\nreturn code(lambda: [kept.append(os.pipe()) for _ in range(1000)])"
    assert attack(python, statements).result == "EMFILE"


@pytest.mark.parametrize("fd", [1, 5])
def test_a_flood_is_cut_and_ends_with_its_time(python: Python, fd: int) -> None:
    record = "b'I0000000000001\\0' + b'x' * 1000 + b'\\0'"
    data = "b'\\n' * 65536" if fd == 1 else f"({record}) * 60"
    ran = attack(
        python, f"data = {data}\nwhile True: write({fd}, data)", limits=Limits(timeout_ms=2000, log_bytes=1_000_000)
    )
    assert ran.kind == "timeout"
    assert ran.outcome.usage.log_truncated
    assert ran.outcome.usage.log_bytes <= 1_000_000


def test_so_many_calls_that_nobody_could_answer_end_the_run(python: Python) -> None:
    ran = attack(python, "call = frame('C', '{\"id\":1,\"method\":\"m\"}', '{}') * 100\nwhile True: write(4, call)")
    assert ran.kind == "crash"
    assert "more calls" in ran.message


def test_a_thread_that_goes_on_after_the_result_reaches_no_later_run(python: Python) -> None:
    source = """
    import threading
    def shout():
        while True:
            print("late")
    def handler(payload, context):
        if payload == "first":
            threading.Thread(target=shout, daemon=True).start()
        return payload
    """
    assert python(source, "first", reuse_key="shout").result == "first"
    second = python(source, "second", reuse_key="shout")
    assert (second.result, second.texts) == ("second", [])
    assert second.outcome.usage.jail != "reused"
