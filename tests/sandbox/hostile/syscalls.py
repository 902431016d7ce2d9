"""System calls that no runtime offers but native code can make: what each gets in a jail.

As a program it tries all of them, each as the only thing in a jail of its own, and prints how they ended.
"""

from __future__ import annotations

import json
import select
import struct
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sandbox import cgroups, jail, nsjail, place, rootfs

KILL = nsjail.FILTERED_CODE
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
HIGH = 1 << 32
"""Bits that the kernel ignores in an argument of 32 bits, and a filter must ignore as well."""


@dataclass(frozen=True)
class Call:
    name: str
    code: int
    number: int
    arguments: tuple[int, ...] = ()

    @property
    def shown(self) -> str:
        words = {KILL: "kills", EPERM: "is not permitted", ENOSYS: "does not exist", EAFNOSUPPORT: "has no such family"}
        return words.get(self.code, "does nothing")


CALLS = (
    # To take over another process, or to watch it.
    Call("ptrace", KILL, 101),
    Call("process_vm_readv", KILL, 310, (1,)),
    Call("process_vm_writev", KILL, 311, (1,)),
    Call("pidfd_getfd", KILL, 438),
    Call("pidfd_open", ENOSYS, 434, (1,)),
    Call("perf_event_open", KILL, 298),
    Call("kcmp", KILL, 312),
    # To build another view of the machine.
    Call("unshare of a user namespace", KILL, 272, (0x10000000,)),
    Call("setns", KILL, 308),
    Call("mount", KILL, 165),
    Call("umount", KILL, 166),
    Call("pivot_root", KILL, 155),
    Call("chroot", KILL, 161),
    Call("fsopen", KILL, 430),
    Call("open_tree", KILL, 428),
    Call("open_by_handle_at", KILL, 304),
    # To reach deep into the kernel.
    Call("bpf", KILL, 321),
    Call("io_uring_setup", ENOSYS, 425, (8,)),
    Call("io_uring_enter", KILL, 426),
    Call("io_uring_register", KILL, 427),
    Call("userfaultfd", KILL, 323),
    Call("add_key", KILL, 248),
    Call("keyctl", KILL, 250),
    Call("init_module", KILL, 175),
    Call("kexec_load", KILL, 246),
    Call("syslog", KILL, 103),
    Call("vmsplice", KILL, 278),
    Call("settimeofday", KILL, 164),
    Call("modify_ldt", KILL, 154),
    Call("seccomp", KILL, 317),
    # To start something, or to become somebody.
    Call("fork", EPERM, 57),
    Call("vfork", EPERM, 58),
    Call("clone of a process", EPERM, 56, (17,)),
    Call("clone of a thread in a new user namespace", EPERM, 56, (0x10050F00,)),
    Call("clone3", ENOSYS, 435),
    Call("execveat", EPERM, 322),
    Call("setresuid", EPERM, 117),
    Call("capset", EPERM, 126),
    Call("mknod", EPERM, 133),
    Call("kill of everything", EPERM, 62, (-1, 9)),
    Call("setting a limit", EPERM, 302, (0, 7, 0x400000, 0)),
    Call("outliving the jail's parent", EPERM, 157, (1, 0)),
    Call("becoming traceable", EPERM, 157, (4, 1)),
    # To talk to others.
    Call("an IPv4 socket", EAFNOSUPPORT, 41, (2, 1, 0)),
    Call("an IPv6 socket", EAFNOSUPPORT, 41, (10, 1, 0)),
    Call("a netlink socket", EAFNOSUPPORT, 41, (16, 3, 0)),
    Call("a packet socket", EAFNOSUPPORT, 41, (17, 3, 0)),
    Call("a vsock socket", EAFNOSUPPORT, 41, (40, 1, 0)),
    Call("an IPv4 socket with high bits", EAFNOSUPPORT, 41, (2 + HIGH, 1, 0)),
    Call("shmget", ENOSYS, 29, (1, 4096, 0o1600)),
    Call("msgget", ENOSYS, 68, (1, 0o1600)),
    Call("semget", ENOSYS, 64, (1, 1, 0o1600)),
    Call("mq_open", ENOSYS, 240),
    Call("memfd_create", ENOSYS, 319),
    Call("memfd_secret", KILL, 447),
    Call("inotify_init1", ENOSYS, 294),
    Call("fanotify_init", KILL, 300),
    Call("typing into a terminal", EPERM, 16, (0, 0x5412)),
    Call("typing into a terminal with high bits", EPERM, 16, (0, 0x5412 + HIGH)),
    Call("an exclusive lock", 0, 73, (0, 2)),
    Call("a record lock", 0, 72, (0, 6)),
    Call("a record lock with high bits", 0, 72, (0, 6 + HIGH)),
    Call("an open file lock", 0, 72, (0, 37)),
    Call("a lease", EPERM, 72, (0, 1024)),
    Call("a pipe as large as one likes", EPERM, 72, (0, 1031, 1 << 20)),
    Call("splice", ENOSYS, 275),
    Call("sched_setscheduler", ENOSYS, 144),
    Call("sched_setaffinity", ENOSYS, 203),
    Call("a call of another architecture", ENOSYS, 0x40000000 + 39),
)


def main() -> None:
    programs = {f"bin/p{index}": _program(call) for index, call in enumerate(CALLS)}
    with tempfile.TemporaryDirectory(prefix="millrace-probes-") as name:
        folder = Path(name)
        rootfs.furnish_bare(folder / "root", programs)
        (folder / "run").mkdir(mode=0o755)
        seen = place.open_to_jails(folder)
        config = folder / "nsjail.cfg"
        config.write_text(nsjail.render_config(seen / "root", seen / "run"))
        codes = {call.name: _try(config, f"/bin/p{index}") for index, call in enumerate(CALLS)}
    json.dump(codes, sys.stdout)


def _program(call: Call) -> bytes:
    """A static ELF file of one segment that makes the call and exits with its error number, or 0."""
    code = _code(call)
    base, headers = 0x400000, 64 + 56
    size = headers + len(code)
    kind = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 2, 62, 1)
    header = struct.pack("<QQQIHHHHHH", base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return kind + header + segment + code


def _code(call: Call) -> bytes:
    registers = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")
    values = (*call.arguments, *[0] * (6 - len(call.arguments)))
    loads = b"".join(
        register + struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF)
        for register, value in zip(registers, values, strict=True)
    )
    errno_or_zero = b"\x31\xff\x48\x85\xc0\x79\x05\x48\xf7\xd8\x89\xc7"
    return b"\xb8" + struct.pack("<I", call.number) + loads + b"\x0f\x05" + errno_or_zero + b"\xb8\xe7\0\0\0\x0f\x05"


def _try(config: Path, program: str) -> int:
    command = nsjail.arguments(nsjail.find_binary(), config, [program], nsjail.FIRST_OUTER_ID)
    process = jail.start(command, cgroups.NoTree().create("probe"))
    waiting = select.poll()
    waiting.register(process.pidfd, select.POLLIN)
    if not waiting.poll(10_000):
        process.kill_hard()
    code = process.reap()
    log = process.boot_log()
    process.close()
    if code == 255:
        raise RuntimeError(f"{program} could not be tried: {log}")
    return code


if __name__ == "__main__":
    main()
