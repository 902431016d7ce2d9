"""What a run says, made safe to keep: log lines within their limit, texts without lone surrogates, checked
results."""

from __future__ import annotations

import codecs
import json
import re
import time
from collections.abc import Sequence
from typing import TypeGuard, cast

from sandbox import protocol
from sandbox.job import LogLevel, LogLine

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_ARTIFACT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CONTENT_TYPE = re.compile(r"[\x20-\x7e]{1,200}")
LINE_OVERHEAD = 16
"""What every line counts beside its text: endless empty lines cost as much as others."""


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
    return clean(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode()


def is_artifact_name(name: object) -> TypeGuard[str]:
    """One plain file name: no folder, no hidden file, nothing that needs quoting."""
    return isinstance(name, str) and _ARTIFACT_NAME.fullmatch(name) is not None


def is_content_type(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and _CONTENT_TYPE.fullmatch(text) is not None


class RawLines:
    """Cuts what was written to a raw descriptor into lines."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._partial = ""

    def feed(self, chunk: bytes) -> list[str]:
        *lines, self._partial = (self._partial + self._decoder.decode(chunk)).split("\n")
        if len(self._partial) > protocol.RAW_LINE_BYTES:
            lines.append(self._partial)
            self._partial = ""
        return lines

    def end(self) -> list[str]:
        rest, self._partial = self._partial + self._decoder.decode(b"", final=True), ""
        return [rest] if rest else []


class LogFeed:
    """Collects the lines of one run, in order, until they are taken, and holds the run's log limit."""

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

    def add_records(self, records: Sequence[tuple[str, float, bytes]]) -> None:
        """Keep records of the log channel; their time is the jail's word."""
        now = _now()
        for level, time_ms, text in records:
            said = int(time_ms) if 0 <= time_ms <= now else now
            self._add(level, text.decode("utf-8", "replace"), len(text), said)

    def add_raw(self, level: str, lines: Sequence[str]) -> None:
        now = _now()
        for line in lines:
            self._add(level, line, len(line.encode("utf-8", "replace")), now)

    def _add(self, level: str, text: str, size: int, time_ms: int) -> None:
        size += LINE_OVERHEAD
        if size > self._left or self.dropped_bytes:
            self.dropped_bytes += size
            return
        self._left -= size
        self.kept_bytes += size
        self.pending_bytes += size
        if time_ms > self._latest_ms:
            self._latest_ms = time_ms
        self._pending.append(LogLine(self._latest_ms, cast(LogLevel, level), text))

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
