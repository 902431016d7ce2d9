"""Makes tiny static programs that make system calls, one after the other, and report what each answered.

Hand-made x86-64 machine code, since a jail's root has no tools, and a runtime offers no way to make a
forbidden call.

What a program writes to its standard output: the answers as signed 64-bit numbers, the last one first, then the
buffer that its calls were given.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

BUFFER_BYTES = 1024

_BASE = 0x400000
_HEADERS = 64 + 56
_WRITE, _PAUSE, _CLONE, _EXIT_GROUP = 1, 34, 56, 231
_THREAD = 0x50F00
"""Flags of clone: VM, FS, FILES, SIGHAND, THREAD, SYSVSEM."""

# The registers of a call's arguments: rdi, rsi, rdx, r10, r8, r9.
_LOAD_NUMBER = (b"\xbf", b"\xbe", b"\xba", b"\x41\xba", b"\x41\xb8", b"\x41\xb9")
_FROM_FRAME = (b"\x48\x8b\xbd", b"\x48\x8b\xb5", b"\x48\x8b\x95", b"\x4c\x8b\x95", b"\x4c\x8b\x85", b"\x4c\x8b\x8d")
_FRAME_ADDRESS = tuple(code.replace(b"\x8b", b"\x8d") for code in _FROM_FRAME)
_PUSH_RAX, _PUSH_RBX = b"\x50", b"\x53"
_SYSCALL, _INT_80 = b"\x0f\x05", b"\xcd\x80"
_CLEAR_RBX, _COUNT_IN_RBX, _COMPARE_RBX = b"\x31\xdb", b"\xff\xc3", b"\x81\xfb"
_TEST_RAX = b"\x48\x85\xc0"
_JUMP, _IF_ZERO, _IF_NEGATIVE, _IF_LESS = b"\xe9", b"\x0f\x84", b"\x0f\x88", b"\x0f\x8c"


@dataclass(frozen=True, slots=True)
class Answer:
    """An argument: what the call of this name answered."""

    name: str


@dataclass(frozen=True, slots=True)
class Buffer:
    """An argument: the address of the program's buffer, `offset` bytes in."""

    offset: int = 0


Argument = int | bytes | Answer | Buffer
"""Bytes stand for the address of a copy of them, with a NUL at the end."""
Call = tuple[int, *tuple[Argument, ...]]
"""The number of a system call and its arguments."""


@dataclass(frozen=True, slots=True)
class Report:
    answers: Mapping[str, int]
    """By name: what the kernel answered; errors are negative."""
    buffer: bytes


class Program:
    """Calls to make. Each has a name, by which later ones may use its answer and the report shows it."""

    def __init__(self, then: Literal["exit", "pause", "spin"] = "exit") -> None:
        """`then`: once it has reported it ends with code 0, or waits or spins until it is killed."""
        self._then = then
        # rbp points to the buffer; answers are pushed below it.
        self._code = bytearray(b"\x48\x81\xec" + struct.pack("<I", BUFFER_BYTES) + b"\x48\x89\xe5")
        self._names: list[str] = []
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []
        self._texts: list[tuple[int, bytes]] = []

    def call(self, name: str, number: int, *arguments: Argument) -> None:
        self._make(number, *arguments)
        self._keep(name, _PUSH_RAX)

    def call_of_32_bits(self, name: str, number: int) -> None:
        """Enter the kernel as a program of the i386 would."""
        self._code += b"\xb8" + struct.pack("<I", number) + _INT_80
        self._keep(name, _PUSH_RAX)

    def repeat(self, name: str, most: int, *calls: Call) -> None:
        """Make the calls over and over until one fails, at most this often. Under `name` stands what the last call
        answered, under `name + " count"` how many rounds went well."""
        again, done = self._label("again"), self._label("done")
        self._code += _CLEAR_RBX
        self._place(again)
        for call in calls:
            self._make(*call)
            self._code += _TEST_RAX
            self._jump(_IF_NEGATIVE, done)
        self._code += _COUNT_IN_RBX + _COMPARE_RBX + struct.pack("<I", most)
        self._jump(_IF_LESS, again)
        self._place(done)
        self._keep(name, _PUSH_RAX)
        self._keep(f"{name} count", _PUSH_RBX)

    def start_threads(self, name: str, most: int) -> None:
        """Start idle threads until one can't be started, at most this many; reports as `repeat` does."""
        again, idle, done = self._label("again"), self._label("idle"), self._label("done")
        self._code += _CLEAR_RBX
        self._place(again)
        # They share one stack, which none of them touches.
        self._code += b"\x48\x89\xe6" + b"\xb8" + struct.pack("<I", _CLONE) + b"\xbf" + struct.pack("<I", _THREAD)
        self._code += b"\x31\xd2\x45\x31\xd2\x45\x31\xc0" + _SYSCALL + _TEST_RAX
        self._jump(_IF_ZERO, idle)
        self._jump(_IF_NEGATIVE, done)
        self._code += _COUNT_IN_RBX + _COMPARE_RBX + struct.pack("<I", most)
        self._jump(_IF_LESS, again)
        self._jump(_JUMP, done)
        self._pause(idle)
        self._place(done)
        self._keep(name, _PUSH_RAX)
        self._keep(f"{name} count", _PUSH_RBX)

    def executable(self) -> bytes:
        """The program as a static ELF file of one segment. To be called once, after all calls."""
        self._write_report()
        end = self._label("end")
        if self._then == "exit":
            self._make(_EXIT_GROUP, 0)
        elif self._then == "pause":
            self._pause(end)
        else:
            self._place(end)
            self._jump(_JUMP, end)
        return _elf(self._linked())

    def read(self, output: bytes) -> Report | None:
        """The report in what the program wrote; None if it did not come to that."""
        size = 8 * len(self._names)
        if len(output) < size + BUFFER_BYTES:
            return None
        numbers = struct.unpack_from(f"<{len(self._names)}q", output)
        return Report(dict(zip(reversed(self._names), numbers, strict=True)), output[size : size + BUFFER_BYTES])

    def _make(self, number: int, *arguments: Argument) -> None:
        for position, argument in enumerate(arguments):
            self._load(position, argument)
        for position in range(len(arguments), len(_LOAD_NUMBER)):
            self._load(position, 0)
        self._code += b"\xb8" + struct.pack("<I", number) + _SYSCALL

    def _load(self, position: int, argument: Argument) -> None:
        if isinstance(argument, int):
            self._code += _LOAD_NUMBER[position] + struct.pack("<I", argument & 0xFFFFFFFF)
        elif isinstance(argument, bytes):
            self._code += _LOAD_NUMBER[position]
            self._texts.append((len(self._code), argument))
            self._code += bytes(4)
        elif isinstance(argument, Answer):
            below = -8 * (self._names.index(argument.name) + 1)
            self._code += _FROM_FRAME[position] + struct.pack("<i", below)
        else:
            self._code += _FRAME_ADDRESS[position] + struct.pack("<i", argument.offset)

    def _keep(self, name: str, push: bytes) -> None:
        self._code += push
        self._names.append(name)

    def _write_report(self) -> None:
        """write(1, rsp, all): the stack holds the answers, and above them the buffer."""
        self._code += b"\xb8" + struct.pack("<I", _WRITE) + b"\xbf" + struct.pack("<I", 1) + b"\x48\x89\xe6"
        self._code += b"\xba" + struct.pack("<I", 8 * len(self._names) + BUFFER_BYTES) + _SYSCALL

    def _pause(self, label: str) -> None:
        self._place(label)
        self._code += b"\xb8" + struct.pack("<I", _PAUSE) + _SYSCALL
        self._jump(_JUMP, label)

    def _label(self, name: str) -> str:
        return f"{name} {len(self._code)}"

    def _place(self, label: str) -> None:
        self._labels[label] = len(self._code)

    def _jump(self, jump: bytes, label: str) -> None:
        self._code += jump
        self._jumps.append((len(self._code), label))
        self._code += bytes(4)

    def _linked(self) -> bytes:
        """The code with all addresses in place, and the texts after it."""
        code, texts = bytearray(self._code), bytearray()
        for place, label in self._jumps:
            struct.pack_into("<i", code, place, self._labels[label] - (place + 4))
        for place, text in self._texts:
            struct.pack_into("<I", code, place, _BASE + _HEADERS + len(code) + len(texts))
            texts += text + b"\0"
        return bytes(code + texts)


def _elf(code: bytes) -> bytes:
    size = _HEADERS + len(code)
    identification = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return identification + header + segment + code
