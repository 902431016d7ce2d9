"""What a run says, made safe to keep: log lines within their limit, texts without lone surrogates, checked
results."""

from __future__ import annotations

import codecs
import functools
import itertools
import json
import re
import time
from collections.abc import Callable, Sequence
from typing import TypeGuard, cast

from sandbox import protocol
from sandbox.job import LogLevel, LogLine

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_ARTIFACT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CONTENT_TYPE = re.compile(r"[\x20-\x7e]{1,200}")
RECORD_BYTES = 33
"""What every record takes in a stored log beside its text: time, level, blanks and a line end."""
_BREAK_BYTES = 5
"""What a line break within a text becomes: a line end and an indent."""
_LAST_PIECE_BYTES = protocol.LOG_RECORD_BYTES - 4
"""Of a long line the last piece has at most this size, and the others more."""
_BREAKS = b"\n\r\x0b\x0c\x1c\x1d\x1e"
_SEPARATOR = "\x01"
"""Between texts that are looked at together: one byte that counts as one."""
_log_line: Callable[[tuple[int, str, str]], LogLine] = functools.partial(tuple.__new__, LogLine)
"""What LogLine's own constructor does, without a call of Python's for each line."""
_RETURN = ord("\r")
_NEXT_LINE, _LINE_SEPARATOR, _PARAGRAPH_SEPARATOR = (each.encode() for each in "\x85\u2028\u2029")


def stored_bytes(text: str) -> int:
    """What a record of this text takes in a stored log, or a little more; never less."""
    return RECORD_BYTES + _text_bytes(text.encode("utf-8", "replace"))


def _text_bytes(data: bytes) -> int:
    # To look for a byte costs next to nothing, to count bytes or to look for two of them fifty times as much; and they
    # are hardly ever there.
    nuls = data.count(0) if 0 in data else 0  # NUL is stored as two letters
    return len(data) + nuls + _break_bytes(data)


def _break_bytes(data: bytes) -> int:
    """What line breaks take beyond their own bytes."""
    size = _ascii_break_bytes(data)
    if not data.isascii():
        size += (_BREAK_BYTES - 2) * data.count(_NEXT_LINE)
        size += (_BREAK_BYTES - 3) * (data.count(_LINE_SEPARATOR) + data.count(_PARAGRAPH_SEPARATOR))
    return size


def _ascii_break_bytes(data: bytes) -> int:
    size = 0
    if any(each in data for each in _BREAKS):
        size += (_BREAK_BYTES - 1) * (len(data) - len(data.translate(None, _BREAKS)))
        if _RETURN in data:
            size -= _BREAK_BYTES * data.count(b"\r\n")
    return size


def clean(text: str, limit: int | None = None) -> str:
    """`text` as valid Unicode (pairs joined, lone surrogates as U+FFFD), cut to `limit` characters."""
    if limit is not None and len(text) > limit:
        text = text[:limit]
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def checked_result(data: bytes) -> bytes:
    """`data` as JSON text in valid UTF-8 without lone surrogates; raises ProtocolError when it is no JSON."""
    value = protocol.parse_json(data)
    if _SURROGATE_ESCAPE.search(data) is None:
        return data
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        # What can just be parsed can be too deep to be written.
        raise protocol.ProtocolError("it is nested too deeply") from None
    return clean(text).encode()


def is_artifact_name(name: object) -> TypeGuard[str]:
    """One plain file name: no folder, no hidden file, nothing that needs quoting."""
    return isinstance(name, str) and _ARTIFACT_NAME.fullmatch(name) is not None


def is_content_type(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and _CONTENT_TYPE.fullmatch(text) is not None


def goes_on(text: str) -> bool:
    """Whether this is a piece of a long line, so that the next record of its level goes on with it.

    The jail's bootstrap cuts as `_pieces` does: a record of nearly the largest size is never the last piece.
    """
    return 4 * len(text) > _LAST_PIECE_BYTES and len(text.encode("utf-8", "replace")) > _LAST_PIECE_BYTES


def _pieces(line: str) -> list[str]:
    """A line as records: pieces that go on, cut between characters, and at last one that does not."""
    if 4 * len(line) <= _LAST_PIECE_BYTES:
        return [line]
    pieces = []
    data = line.encode()
    start = 0
    while len(data) - start > _LAST_PIECE_BYTES:
        end = start + protocol.LOG_RECORD_BYTES
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(data[start:end].decode())
        start = end
    return [*pieces, data[start:].decode()]


class RawLines:
    """Cuts what was written to a raw descriptor into lines, and long lines into pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._partial: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[str]:
        first, *others = self._decoder.decode(chunk).split("\n")
        self._partial.append(first)
        self._size += len(first)
        lines: list[str] = []
        if others:
            lines, last = ["".join(self._partial), *others[:-1]], others[-1]
            self._partial, self._size = [last], len(last)
        pieces = lines
        # One look at all spares one call for each: a flood of short lines is what costs most.
        if 4 * max(map(len, lines), default=0) > _LAST_PIECE_BYTES:
            pieces = [piece for line in lines for piece in _pieces(line)]
        if self._size >= protocol.LOG_RECORD_BYTES:
            *whole, last = _pieces("".join(self._partial))
            pieces += whole
            self._partial, self._size = [last], len(last)
        return pieces

    def end(self) -> list[str]:
        rest = "".join([*self._partial, self._decoder.decode(b"", final=True)])
        self._partial, self._size = [], 0
        return _pieces(rest) if rest else []


class LogFeed:
    """Collects the lines of one run, in order, until they are taken, and holds the run's log limit.

    The limit is one of bytes as they are stored, and so are `kept_bytes` and `pending_bytes`.
    """

    def __init__(self, limit_bytes: int, started_ms: int) -> None:
        self._left = limit_bytes
        self._limit = limit_bytes
        self._latest_ms = started_ms
        self._pending: list[LogLine] = []
        self.pending_bytes = 0
        self.kept_bytes = 0
        self.dropped_bytes = 0

    @property
    def is_full(self) -> bool:
        return self.dropped_bytes > 0

    def add_records(self, records: protocol.Records) -> None:
        """Keep records of the log channel; their time is the jail's word."""
        if not records.texts:
            return
        now, times_ms = _now(), records.times_ms
        if max(times_ms) > now:
            times_ms = [min(each, now) for each in times_ms]
        size = None
        if (data := records.ascii_bytes) is not None:
            size = len(data) - records.ascii_beside + _ascii_break_bytes(data)
        self._add_all(records.levels, records.texts, times_ms, size)

    def add_raw(self, level: str, lines: Sequence[str]) -> None:
        self._add_all([level] * len(lines), lines, [_now()] * len(lines))

    def _add_all(
        self, levels: Sequence[str], texts: Sequence[str], times_ms: Sequence[int], size: int | None = None
    ) -> None:
        """All at once if there is room for all, which costs half of one after the other.

        `size` is what the texts take when they are stored, if somebody knows that already.
        """
        if not texts:
            return
        if size is None:
            # What is no UTF-8 becomes longer than it was, so it is not the jail's bytes that count.
            size = _text_bytes(_SEPARATOR.join(texts).encode("utf-8", "replace")) - (len(texts) - 1)
        size += RECORD_BYTES * len(texts)
        if self.dropped_bytes or size > self._left:
            for level, text, time_ms in zip(levels, texts, times_ms, strict=True):
                self._add(level, text, time_ms)
            return
        self._count(size)
        times = [self._latest_ms, *times_ms]
        if times != sorted(times):
            times = list(itertools.accumulate(times, max))
        self._latest_ms = times[-1]
        self._pending += map(_log_line, zip(times[1:], levels, texts, strict=True))

    def _add(self, level: str, text: str, time_ms: int) -> None:
        size = stored_bytes(text)
        if size > self._left or self.dropped_bytes:
            self.dropped_bytes += size
            return
        self._count(size)
        if time_ms > self._latest_ms:
            self._latest_ms = time_ms
        self._pending.append(LogLine(self._latest_ms, cast(LogLevel, level), text))

    def _count(self, size: int) -> None:
        self._left -= size
        self.kept_bytes += size
        self.pending_bytes += size

    def drop(self, size: int) -> None:
        """`size` bytes were lost, in the jail or unread."""
        self.dropped_bytes += size

    def note(self, text: str) -> None:
        """A line of the platform's own, which no limit drops."""
        self._latest_ms = max(self._latest_ms, _now())
        self._pending.append(LogLine(self._latest_ms, "SYSTEM", text))

    def end(self) -> None:
        if self.dropped_bytes:
            self.note(f"The log was cut at its limit of {self._limit} bytes: {self.dropped_bytes} bytes were dropped")

    def take(self) -> list[LogLine]:
        lines, self._pending = self._pending, []
        self.pending_bytes = 0
        return lines

    @property
    def has_lines(self) -> bool:
        return bool(self._pending)


def _now() -> int:
    return int(time.time() * 1000)
