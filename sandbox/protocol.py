"""What travels over the descriptors: frames and log records of a jail, messages of the launcher.

Frame, both ways:  u32 length of the rest | u8 type | u32 header length | header (JSON object) | data
Log record, out:   u32 length of the rest | u8 level | f64 epoch milliseconds | text (UTF-8)

All numbers are big-endian. Everything that comes out of a jail is hostile: a length is checked against the
bound of its type before one further byte is kept, and only then is anything parsed.
runtimes/node/channel.js is the other side.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
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

_LEVELS = {letter.encode(): level for letter, level in LEVELS.items()}
_FRAME_START = struct.Struct(">IcI")
_LOG_START = struct.Struct(">Icd")


class ProtocolError(Exception):
    """A jail sent what no bootstrap sends."""


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

    Refuses NaN and Infinity, numbers of thousands of digits and nesting deeper than the interpreter's stack.
    """
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ProtocolError("it is nested too deeply") from None
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


class LogReader:
    """Cuts a jail's log channel into records."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self.damage: str | None = None
        """Why nothing more can be read: no bootstrap writes such a record."""

    def feed(self, chunk: bytes) -> list[tuple[str, float, bytes]]:
        """The (level, time, text) that `chunk` completes; none after the damage."""
        if self.damage is not None:
            return []
        if self._rest:
            self._rest += chunk
            if self._lacks_more():
                return []
            chunk, self._rest = bytes(self._rest), bytearray()
        records, offset = self._cut(chunk)
        self._rest += memoryview(chunk)[offset:]
        return records

    def _lacks_more(self) -> bool:
        """Whether not even the first record is whole: then nothing is copied, however small the pieces are."""
        if len(self._rest) < _LOG_START.size:
            return True
        length = int.from_bytes(self._rest[:4], "big")
        return length <= 9 + LOG_RECORD_BYTES and len(self._rest) < 4 + length

    def _cut(self, data: bytes) -> tuple[list[tuple[str, float, bytes]], int]:
        """The records that are whole, and where they end."""
        records: list[tuple[str, float, bytes]] = []
        unpack_from, head, levels, most = _LOG_START.unpack_from, _LOG_START.size, _LEVELS, 9 + LOG_RECORD_BYTES
        offset, size = 0, len(data)
        while size - offset >= head:
            length, level, time_ms = unpack_from(data, offset)
            if level not in levels or not 9 <= length <= most:
                self.damage = f"a record of level {level!r} and {length} bytes"
                break
            end = offset + 4 + length
            if size < end:
                break
            records.append((levels[level], time_ms, data[offset + head : end]))
            offset = end
        return records, offset


# Messages between worker and launcher: one JSON object per packet of a SOCK_SEQPACKET connection.
MESSAGE_BYTES = 64 * KIB


def encode_message(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def decode_message(packet: bytes) -> dict[str, Any]:
    message = json.loads(packet)
    if not isinstance(message, dict):
        raise ProtocolError("a message is not an object")
    return message
