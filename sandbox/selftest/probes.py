"""What is tried from inside a jail: each layer by the calls that it is there to stop.

`look` makes most of them in one jail. Calls that kill need a jail each, and so do the limits.
"""

from __future__ import annotations

import errno
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sandbox.selftest.program import Answer, Argument, Buffer, Call, Program

MOST_THREADS = 1000
MOST_FILES = 4096
MOST_DESCRIPTORS = 256
TMP_MB = 32

HOST_NAME = Buffer(0)
"""Where uname writes, 390 bytes."""
PROC_ENTRIES = Buffer(400)
PROC_ENTRIES_BYTES = 600
EGRESS_ANSWER_BYTES = 500

EGRESS_TARGETS = ("127.0.0.1:22", "169.254.169.254:80")
"""What no script may reach: this host, and the metadata service of clouds."""

_MB = 1 << 20
_CREATE, _READ_WRITE, _CREATE_TO_WRITE, _DIRECTORY = 0x42, 3, 0x41, 0x10000
_PRIVATE, _PRIVATE_ANONYMOUS_POPULATE = 0x2, 0x8022
_NEW_USER, _NEW_NET, _THREAD, _SHARE_FS, _SHARE_SIGNALS = 0x10000000, 0x40000000, 0x10000, 0x200, 0x800
_X32 = 0x40000000

_OPEN, _MMAP, _IOCTL, _DUP, _GETPID, _SOCKET, _CONNECT, _CLONE, _FORK = 2, 9, 16, 32, 39, 41, 42, 56, 57
_READ, _WRITE, _RT_SIGPROCMASK, _KILL, _UNAME = 0, 1, 14, 62, 63
_FTRUNCATE, _CHDIR, _MKDIR, _RMDIR, _UNLINK = 77, 80, 83, 84, 87
_SETUID, _PRCTL, _GETDENTS64, _FALLOCATE = 105, 157, 217, 285
_SHMGET, _MSGGET, _INOTIFY_INIT1, _MEMFD_CREATE, _EXECVEAT, _CLONE3 = 29, 68, 294, 319, 322, 435
_GETPID_I386 = 20


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call that a layer answers with an error."""

    layer: str
    what: str
    expected: int
    """The error number. Without the layer the kernel answers otherwise, if only with another error."""
    call: Call


def _attempts(layer: str, expected: int, calls: Mapping[str, Call]) -> list[Attempt]:
    return [Attempt(layer, what, expected, call) for what, call in calls.items()]


def _open(path: str) -> Call:
    return (_OPEN, path.encode(), 0)


def _socket(family: int) -> Call:
    return (_SOCKET, family, socket.SOCK_RAW if family in (16, 17) else socket.SOCK_STREAM, 0)


ATTEMPTS: Sequence[Attempt] = (
    *_attempts(
        "root",
        errno.EROFS,
        {
            "mkdir /selftest": (_MKDIR, b"/selftest", 0o700),
            "create /selftest": (_OPEN, b"/selftest", _CREATE_TO_WRITE, 0o600),
            "mkdir in /bin": (_MKDIR, b"/bin/selftest", 0o700),
            "mkdir in /dev": (_MKDIR, b"/dev/selftest", 0o700),
            "mkdir in /run": (_MKDIR, b"/run/selftest", 0o700),
        },
    ),
    *_attempts(
        "files",
        errno.ENOENT,
        {path: _open(path) for path in ("/etc/shadow", "/root", "/home", "/var", "/usr", "/sys", "/proc/sys",
                                        "/proc/kcore", "/proc/keys", "/proc/kallsyms", "/proc/sysrq-trigger")},
    ),
    *_attempts(
        "sockets",
        errno.EAFNOSUPPORT,
        {
            "inet": _socket(2),
            "inet6": _socket(10),
            "netlink": _socket(16),
            "packet": _socket(17),
            "alg": _socket(38),
            "vsock": _socket(40),
        },
    ),
    # The kernel itself would answer EINVAL to these flags, and make no process.
    *_attempts(
        "forks",
        errno.EPERM,
        {
            "clone without a thread": (_CLONE, _SHARE_SIGNALS),
            "clone with a user namespace": (_CLONE, _NEW_USER | _SHARE_FS),
            "thread with a network namespace": (_CLONE, _NEW_NET | _THREAD),
            "execveat": (_EXECVEAT, -1, 0, 0, 0, 0),
        },
    ),
    *_attempts("forks", errno.ENOSYS, {"clone3": (_CLONE3, 0, 0)}),
    *_attempts(
        "syscalls",
        errno.EPERM,
        {
            "kill of all": (_KILL, -1, 0),
            "setuid 0": (_SETUID, 0),
            "making itself undumpable": (_PRCTL, 4, 0),
            "outliving nsjail": (_PRCTL, 1, 0),
            "typing into a terminal": (_IOCTL, 0, 0x5412, b""),
        },
    ),
    *_attempts(
        "syscalls",
        errno.ENOSYS,
        {
            "shmget": (_SHMGET, 0, 4096, 0o1600),
            "msgget": (_MSGGET, 0, 0o1600),
            "inotify_init1": (_INOTIFY_INIT1, 0),
            "memfd_create": (_MEMFD_CREATE, b"selftest", 0),
            "call 600": (600,),
            "x32 getpid": (_X32 | _GETPID,),
        },
    ),
)  # fmt: skip

KILLING: Mapping[str, Call] = {
    "ptrace": (101,),
    "process_vm_readv": (310, 1),
    "mount": (165, 0, b"/tmp", 0, 0, 0),
    "unshare": (272, _NEW_USER),
    "bpf": (321, -1),
    "io_uring_enter": (426, -1, 0, 0),
    "keyctl": (250, 0, -1),
    "perf_event_open": (298, 0, 0, -1, -1),
    "userfaultfd": (323, 1),
}
"""Calls that the policy answers with death."""


def build() -> dict[str, Program]:
    """The programs by name. All but `stay` and `spin` end by themselves."""
    return {
        "look": _look(),
        "stay": _stay(),
        "spin": Program(then="spin"),
        "memory": _single("filled", (_MMAP, 0, 1 << 30, _READ_WRITE, _PRIVATE_ANONYMOUS_POPULATE, -1, 0)),
        "i386": _i386(),
        **{name: _single(name, call) for name, call in KILLING.items()},
        "egress": _egress(),
    }


def _single(name: str, call: Call) -> Program:
    program = Program()
    program.call(name, *call)
    return program


def _look() -> Program:
    program = Program()
    for attempt in ATTEMPTS:
        program.call(attempt.what, *attempt.call)
    # If the root is not read-only, what was made there must not stay.
    program.call("unlink", _UNLINK, b"/selftest")
    program.call("rmdir", _RMDIR, b"/selftest")
    program.call("getpid", _GETPID)
    program.call("unix socket", _SOCKET, 1, 1, 0)
    program.call("uname", _UNAME, HOST_NAME)
    program.call("/proc", _OPEN, b"/proc", _DIRECTORY)
    program.call("entries", _GETDENTS64, Answer("/proc"), PROC_ENTRIES, PROC_ENTRIES_BYTES)
    _fill_tmp(program)
    program.repeat("descriptors", 4 * MOST_DESCRIPTORS, (_DUP, 0))
    return program


def _fill_tmp(program: Program) -> None:
    program.call("first", _OPEN, b"/tmp/first", _CREATE, 0o600)
    program.call("second", _OPEN, b"/tmp/second", _CREATE, 0o600)
    # Outside a process namespace of its own it would die of the signal that comes with the error.
    program.call("block", _RT_SIGPROCMASK, 0, struct.pack("<Q", 1 << signal.SIGXFSZ - 1), 0, 8)
    program.call("long file", _FTRUNCATE, Answer("first"), (TMP_MB + 1) * _MB)
    program.call("page", _FTRUNCATE, Answer("first"), 4096)
    program.call("executable file", _MMAP, 0, 4096, 5, _PRIVATE, Answer("first"), 0)
    program.call("half", _FALLOCATE, Answer("first"), 0, 0, TMP_MB // 2 * _MB)
    program.call("whole", _FALLOCATE, Answer("second"), 0, 0, TMP_MB * _MB)
    program.call("chdir", _CHDIR, b"/tmp")
    program.repeat("folders", 2 * MOST_FILES, (_MKDIR, b"d", 0o700), (_CHDIR, b"d"))


def _stay() -> Program:
    """What it starts must end with it."""
    program = Program(then="pause")
    program.call("fork", _FORK)
    program.start_threads("threads", MOST_THREADS)
    return program


def _i386() -> Program:
    program = Program()
    program.call_of_32_bits("getpid", _GETPID_I386)
    return program


def _egress() -> Program:
    program = Program()
    address = struct.pack("<H", 1) + b"/run/egress.sock"
    for number, target in enumerate(EGRESS_TARGETS):
        head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
        proxy = f"socket {number}"
        program.call(proxy, _SOCKET, 1, 1, 0)
        program.call(f"connect {number}", _CONNECT, Answer(proxy), address, len(address) + 1)
        program.call(f"write {number}", _WRITE, Answer(proxy), head, len(head))
        answer: Argument = Buffer(number * EGRESS_ANSWER_BYTES)
        program.call(f"read {number}", _READ, Answer(proxy), answer, EGRESS_ANSWER_BYTES)
    return program
