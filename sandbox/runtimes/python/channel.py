"""The three descriptors to the platform. 3: frames in (job, replies). 4: frames out (result, artifacts, calls).
5: log records out. Writes are synchronous, so that what was written survives any death, and so that a result can
never overtake the log lines that came before it.

Frame: u32 body length | u8 type | u32 header length | header (JSON) | data.    All numbers big-endian.
Log record: level | epoch milliseconds, 13 digits | NUL | text (UTF-8) | NUL. A text that has a NUL itself is sent as a
JSON string, with the level in lower case.
sandbox/protocol.py is the other side.
"""

from __future__ import annotations

import json
import os
from _thread import RLock
from struct import Struct

TYPE_CHECKING = False  # that of typing costs a tenth of a boot
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

JOB_FD, CONTROL_FD, LOG_FD = 3, 4, 5
_LOG_RECORD_BYTES = 256 * 1024
_LAST_PIECE_BYTES = _LOG_RECORD_BYTES - 4
_READ_BYTES = 1024 * 1024

_length = Struct(">I")
_frame_start = Struct(">IcI")
_header = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_parse = json.JSONDecoder().decode
_write, _read, _exit = os.write, os.read, os._exit


class _Writer:
    """Writes to one descriptor, one piece of data after the other."""

    muted = False

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # Threads may write at the same time. A signal's handler or a finalizer may even do so within a write of its
        # own thread, which a plain lock would block for ever.
        self._lock = RLock()

    def write(self, data: bytes) -> None:
        if self.muted:
            return
        rest = memoryview(data)
        with self._lock:
            while rest:
                try:
                    rest = rest[_write(self._fd, rest) :]
                except BlockingIOError:
                    self._wait()

    def _wait(self) -> None:
        """Only a script that meddled with the descriptor makes it non-blocking."""
        from select import select  # noqa: PLC0415  # hardly ever needed

        select([], [self._fd], [])


_control, _log = _Writer(CONTROL_FD), _Writer(LOG_FD)


def mute(on: bool) -> None:
    """While muted nothing is written; for the bootstrap's rehearsal."""
    _Writer.muted = on


def utf8(text: str) -> bytes:
    """`text` as valid UTF-8, with lone surrogates as U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def send(frame_type: bytes, header: Mapping[str, Any], data: bytes = b"") -> None:
    """Send one frame."""
    head = utf8(_header(header))
    start = _frame_start.pack(5 + len(head) + len(data), frame_type, len(head))
    _control.write(b"".join((start, head, data)))


def _send_record(level: bytes, time_ms: float, data: bytes) -> None:
    if 0 in data:
        level, data = level.lower(), utf8(_header(data.decode()))
    _log.write(b"%b%013d\0%b\0" % (level, time_ms, data))


def send_pieces(level: bytes, time_ms: float, data: bytes) -> int:
    """Write all pieces of a long line but its last one, cut between characters; returns where that one begins.

    By their size sandbox/output.py knows that the line goes on.
    """
    start = 0
    while len(data) - start > _LAST_PIECE_BYTES:
        end = start + _LOG_RECORD_BYTES
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        _send_record(level, time_ms, data[start:end])
        start = end
    return start


def send_log(level: bytes, time_ms: float, data: bytes) -> None:
    """Write one log line; a very long one becomes several records."""
    if len(data) > _LAST_PIECE_BYTES:
        data = data[send_pieces(level, time_ms, data) :]
    _send_record(level, time_ms, data)


def _read_exactly(size: int) -> bytes:
    chunks = []
    while size:
        chunk = _read(JOB_FD, min(size, _READ_BYTES))
        if not chunk:
            _exit(0)
        chunks.append(chunk)
        size -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def read_frame() -> tuple[str, dict[str, Any], bytes]:
    """Wait for the platform's next frame: its type, its header and its data. The process ends with the platform."""
    body = _read_exactly(_length.unpack(_read_exactly(4))[0])
    start = 5 + _length.unpack_from(body, 1)[0]
    return chr(body[0]), _parse(body[5:start].decode()), body[start:]
