"""What travels over the descriptors: frames and log records of a jail, messages of the launcher.

Frame, both ways:  u32 length of the rest | u8 type | u32 header length | header (JSON object) | data
Log record, out:   level | epoch milliseconds, 13 digits | NUL | text (UTF-8) | NUL
                   A text that has a NUL itself comes as a JSON string, with the level in lower case.

A reply's header has the call's `id` and whether it is `ok`; of one that is refused `code` and `retry_after_ms` too, if
there are any, and the message as data.
Numbers of frames are big-endian. Everything that comes out of a jail is hostile: a length is checked against the
bound of its type before one further byte is kept, and only then is anything parsed.
runtimes/node/channel.js is the other side.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KIB = 1024
MIB = 1024 * KIB

# Types of frames into the jail.
JOB, REPLY = b"J", b"P"
# Types of frames out of the jail.
BOOTED, STARTED, RESULT, ERROR, ARTIFACT, CALL = b"B", b"S", b"R", b"E", b"A", b"C"

HEADER_BYTES = 512 * KIB
ERROR_TEXT_CHARS = 290 * KIB
"""Of an error's name, message and stack, each: far more than is kept, so that what is secret in them is whole
when it is masked."""
ERROR_HEADER_BYTES = 6 * MIB
CALL_BYTES = MIB
REPLY_BYTES = 8 * MIB
JOB_BYTES = 256 * MIB
CALLS = 100_000
LOG_RECORD_BYTES = 256 * KIB
"""A longer line becomes several records: all but the last one have this size, or up to three bytes less."""

LEVELS = {"D": "DEBUG", "I": "INFO", "W": "WARN", "E": "ERROR", "O": "STDOUT", "R": "STDERR"}

_FRAME_START = struct.Struct(">IcI")
_LOG_HEAD = re.compile(f"([{''.join(LEVELS)}])([0-9]{{13}})", re.IGNORECASE)
_LOG_FRAME_BYTES = 16
"""What a log record has beside its text."""
_LONGEST_RECORD_BYTES = _LOG_FRAME_BYTES + 2 + 6 * LOG_RECORD_BYTES
"""As a JSON string a byte takes six at most."""


class ProtocolError(Exception):
    """A jail sent what no bootstrap sends."""


class TooDeep(ProtocolError):
    """JSON is nested deeper than this interpreter reads. A bootstrap can write such a text."""

    def __init__(self) -> None:
        super().__init__("it is nested too deeply")


class TooLarge(ProtocolError):
    """The data of a frame is above the bound of its type."""

    def __init__(self, frame_type: bytes, size: int, bound: int) -> None:
        super().__init__(f"a frame of type {frame_type!r} has {size} bytes; at most {bound} are allowed")
        self.frame_type = frame_type
        self.size = size
        self.bound = bound


@dataclass(frozen=True, slots=True)
class Frame:
    type: bytes
    header: dict[str, Any]
    data: bytes


def encode_frame(frame_type: bytes, header: Mapping[str, Any], data: bytes = b"") -> bytes:
    head = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((_FRAME_START.pack(5 + len(head) + len(data), frame_type, len(head)), head, data))


BOOTED_FRAME = encode_frame(BOOTED, {})


def parse_json(text: bytes) -> Any:
    """Parse JSON that a jail made, already bounded in size; raises ProtocolError for whatever is none.

    Refuses NaN and Infinity, numbers of thousands of digits and (as TooDeep) nesting beyond the interpreter's stack.
    """
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise TooDeep from None
    except ValueError as error:
        raise ProtocolError(str(error)[:200]) from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


class FrameReader:
    """Cuts a jail's control channel into frames. `bounds` gives the largest data per type; others are
    refused."""

    def __init__(self, bounds: Mapping[bytes, int]) -> None:
        self._bounds = bounds
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Yield the frames that `chunk` completes; raises ProtocolError, after which no more may be fed."""
        self._buffer += chunk
        while len(self._buffer) >= _FRAME_START.size:
            length, frame_type, head_length = _FRAME_START.unpack_from(self._buffer)
            self._check(length, frame_type, head_length)
            end = 4 + length
            if len(self._buffer) < end:
                return
            start = _FRAME_START.size
            head = parse_json(bytes(self._buffer[start : start + head_length]))
            data = bytes(self._buffer[start + head_length : end])
            del self._buffer[:end]
            if not isinstance(head, dict):
                raise ProtocolError("a frame's header is not an object")
            yield Frame(frame_type, head, data)

    def _check(self, length: int, frame_type: bytes, head_length: int) -> None:
        if frame_type not in self._bounds:
            raise ProtocolError(f"there is no frame of type {frame_type!r}")
        if head_length > (ERROR_HEADER_BYTES if frame_type == ERROR else HEADER_BYTES) or length < 5 + head_length:
            raise ProtocolError("a frame's header is longer than allowed")
        size = length - 5 - head_length
        if size > self._bounds[frame_type]:
            raise TooLarge(frame_type, size, self._bounds[frame_type])


@dataclass(frozen=True, slots=True)
class Records:
    """Log records, column by column: a loud run writes tens of thousands in a second."""

    levels: Sequence[str] = ()
    times_ms: Sequence[int] = ()
    """What the jail says."""
    texts: Sequence[str] = ()
    ascii_bytes: bytes | None = None
    """Where all texts are ASCII and without NUL: bytes that hold them, and beside them only `ascii_beside` others."""

    @property
    def ascii_beside(self) -> int:
        return _LOG_FRAME_BYTES * len(self.texts)


NO_RECORDS = Records()


class _Heads(dict[str, tuple[str, int]]):
    """Level and time by head. Most heads of one read are the same few."""

    def __missing__(self, head: str) -> tuple[str, int]:
        found = _LOG_HEAD.fullmatch(head)
        if found is None:
            raise ProtocolError(f"a record begins with {head[:40]!r}")
        self[head] = (LEVELS[found[1].upper()], int(found[2]))
        return self[head]


class LogReader:
    """Cuts a jail's log channel into records."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self.damage: str | None = None
        """Why nothing more can be read: no bootstrap writes such a record."""

    def feed(self, chunk: bytes) -> Records:
        """The records that `chunk` completes; none after the damage."""
        if self.damage is not None:
            return NO_RECORDS
        end = chunk.rfind(0) + 1
        if not end:
            self._rest += chunk
            if len(self._rest) > _LONGEST_RECORD_BYTES:
                self.damage = f"a record of more than {_LONGEST_RECORD_BYTES} bytes"
            return NO_RECORDS
        data = b"".join((self._rest, memoryview(chunk)[:end])) if self._rest else chunk[:end]
        self._rest = bytearray(memoryview(chunk)[end:])
        return self._cut(data)

    def _cut(self, data: bytes) -> Records:
        """All that `data` holds. It ends with a NUL: that of a text, or of a head whose text is to come."""
        text = data.decode("utf-8", "replace")
        parts = text.split("\0")
        parts.pop()
        if len(parts) % 2:
            start = data.rfind(0, 0, -1) + 1
            self._rest[:0] = data[start:]
            data = data[:start]
        heads, texts = parts[::2], parts[1::2]
        known = _Heads()
        try:
            found = list(map(known.__getitem__, heads))
        except ProtocolError:
            return self._one_by_one(heads, texts)
        if not all(map(_is_plain, known)) or (len(data) > LOG_RECORD_BYTES and any(map(_is_too_long, texts))):
            return self._one_by_one(heads, texts)
        if not texts:
            return NO_RECORDS
        levels, times_ms = zip(*found[: len(texts)], strict=True)
        return Records(levels, times_ms, texts, data if text.isascii() else None)

    def _one_by_one(self, heads: Sequence[str], texts: Sequence[str]) -> Records:
        """The same for what is hardly ever there: texts with a NUL, and damage."""
        known = _Heads()
        levels, times_ms, kept = [], [], []
        try:
            for head, text in zip(heads, texts, strict=False):
                level, time_ms = known[head]
                kept.append(_checked(text if _is_plain(head) else _decoded(text)))
                levels.append(level)
                times_ms.append(time_ms)
            known[heads[-1]]
        except ProtocolError as error:
            self.damage = str(error)
        return Records(levels, times_ms, kept)


def _is_plain(head: str) -> bool:
    return head[0].isupper()


def _is_too_long(text: str) -> bool:
    return 4 * len(text) > LOG_RECORD_BYTES and len(text.encode("utf-8", "replace")) > LOG_RECORD_BYTES


def _checked(text: str) -> str:
    if _is_too_long(text):
        raise ProtocolError(f"a record of more than {LOG_RECORD_BYTES} bytes")
    return text


def _decoded(text: str) -> str:
    value = parse_json(text.encode())
    if not isinstance(value, str):
        raise ProtocolError("a record whose text is no string")
    return value.encode("utf-8", "replace").decode()


# Messages between worker and launcher: one JSON object per packet of a SOCK_SEQPACKET connection.
MESSAGE_BYTES = 64 * KIB


def encode_message(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def decode_message(packet: bytes) -> dict[str, Any]:
    message = json.loads(packet)
    if not isinstance(message, dict):
        raise ProtocolError("a message is not an object")
    return message
