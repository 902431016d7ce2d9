"""Tiny static programs for the self-test: they make one system call and exit with its error number.

Hand-made x86-64 machine code, since a jail's root has no tools, and a runtime offers no way to make a
forbidden call.
"""

from __future__ import annotations

import struct

_BASE = 0x400000
_HEADERS = 64 + 56
_EXIT_GROUP = 231


def executable(code: bytes) -> bytes:
    """A static ELF file of one segment that runs `code`."""
    size = _HEADERS + len(code)
    identification = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return identification + header + segment + code


def errno_of(number: int, *arguments: int) -> bytes:
    """Code that makes the system call `number` and exits with its errno (a success exits with something
    else)."""
    registers = (b"\xbf", b"\xbe", b"\xba", b"\x41\xba", b"\x41\xb8", b"\x41\xb9")
    loads = b"".join(
        register + struct.pack("<I", value & 0xFFFFFFFF)
        for register, value in zip(registers, (*arguments, *[0] * (6 - len(arguments))), strict=True)
    )
    negate_into_edi = b"\x48\xf7\xd8\x89\xc7"
    return b"\xb8" + struct.pack("<I", number) + loads + b"\x0f\x05" + negate_into_edi + _exit()


def fill_memory(size: int) -> bytes:
    """Code that maps and touches `size` bytes, and exits with 0 if it may."""
    private_anonymous_populate, read_write = 0x8022, 3
    # A success returns an address, whose low byte is 0.
    return errno_of(9, 0, size, read_write, private_anonymous_populate, -1, 0)


def count_threads(most: int) -> bytes:
    """Code that starts idle threads until it may not, or `most` run, and exits with their number (at most
    255)."""
    flags = 0x50F00  # VM, FS, FILES, SIGHAND, THREAD, SYSVSEM
    call = b"\xb8\x38\x00\x00\x00\xbf" + struct.pack("<I", flags)
    # The threads share one stack, which none of them touches.
    call += b"\x48\x89\xe6\x31\xd2\x45\x31\xd2\x45\x31\xc0\x0f\x05"
    count = b"\xff\xc3\x81\xfb" + struct.pack("<I", most)
    done = b"\x89\xdf" + _exit()
    pause = b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7"
    to_done = len(count) + 2
    to_child = 2 + to_done + len(done)
    branch = b"\x85\xc0\x74" + struct.pack("<b", to_child) + b"\x78" + struct.pack("<b", to_done)
    loop = call + branch + count
    return b"\x31\xdb" + loop + b"\x7c" + struct.pack("<b", -(len(loop) + 2)) + done + pause


def _exit() -> bytes:
    return b"\xb8" + struct.pack("<I", _EXIT_GROUP) + b"\x0f\x05"
