"""Encodings that a text may hold, decoded so that it can be searched once more, and where in the text a hit stands."""

import binascii
import functools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

BETWEEN = "\x1e\x00\x1e"  # stands between texts that are searched together
BASE64_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"


@dataclass(frozen=True)
class Coding:
    """An encoding that a text may hold.

    `split` gives by turns what is left as it is and what `decode` turns into what it stands for. `within` is
    looked for in the decoded text.
    """

    split: Callable[[bytes], list[bytes]]
    decode: Callable[[bytes], bytes]
    within: "tuple[Coding, ...]" = ()
    is_base64: bool = False

    def read(self, data: bytes) -> "Reading | None":
        """The text decoded; None if there is nothing to decode."""
        parts = self.split(data)
        return Reading(parts, self) if len(parts) > 1 else None


class Reading:
    """A text as one coding reads it, and where in the text each part of that stands."""

    def __init__(self, parts: list[bytes], coding: Coding) -> None:
        """`parts` are what the coding's `split` gives."""
        self._parts = parts
        self._decoded = parts.copy()
        self._decoded[1::2] = map(coding.decode, parts[1::2])
        self._is_base64 = coding.is_base64
        if coding.is_base64:  # what is around it has been searched
            self._decoded[::2] = [BETWEEN.encode()] * len(parts[::2])
        self.data = b"".join(self._decoded)

    @functools.cached_property
    def _ends(self) -> tuple[list[int], list[int]]:
        return list(accumulate(map(len, self._decoded))), list(accumulate(map(len, self._parts)))

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Where in the text what stands from `start` to `end` of `data` is written."""
        ends, ends_there = self._ends
        first, last = bisect_right(ends, start), bisect_left(ends, end)
        start_there = ends_there[first] - len(self._parts[first])
        end_there = ends_there[last]
        if self._is_base64:
            start_there += (start - ends[first] + len(self._decoded[first])) * 4 // 3
            if end < ends[last]:
                end_within = end - ends[last] + len(self._decoded[last])
                end_there += -(-end_within * 4 // 3) - len(self._parts[last])
            return start_there, end_there
        # What was decoded is one whole; what was left as it is has its letters at the same places.
        if first % 2 == 0:
            start_there += start - ends[first] + len(self._decoded[first])
        if last % 2 == 0:
            end_there += end - ends[last]
        return start_there, end_there


def _split_percents(data: bytes) -> list[bytes]:
    return _PERCENTS.split(data) if b"%" in data else []


def _decode_percent(escape: bytes) -> bytes:
    return _PERCENT_ESCAPES[escape]


def _split_backslashes(data: bytes) -> list[bytes]:
    return _BACKSLASHES.split(data) if b"\\" in data else []


@functools.lru_cache(maxsize=4096)
def _decode_backslash(escape: bytes) -> bytes:
    if escape[1:2] not in b"ux":
        # A longer one joins the lines of a string that util.inspect has broken after a line break.
        return _BACKSLASH_ESCAPES[escape[:2]]
    units = [int(digits, 16) for digits in re.split(rb"\\[ux]", escape)[1:]]
    utf_16 = b"".join(unit.to_bytes(2, "little") for unit in units)
    return utf_16.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")


def _split_lines(data: bytes) -> list[bytes]:
    if b"\n" not in data or _LONG_LINE not in data.translate(_LETTERS_ALIKE):
        return []
    return _LINE_BREAKS.split(data)


def _split_base64(data: bytes) -> list[bytes]:
    """Cheaper than a regular expression, which tries at every word."""
    alike = data.translate(_LETTERS_ALIKE)
    parts = []
    at, start = 0, alike.find(_RUN)
    while start >= 0:
        end = alike.find(b"-", start)
        end = end if end >= 0 else len(data)
        end += len(data[end : end + 2]) - len(data[end : end + 2].lstrip(b"="))
        parts += [data[at:start], data[start:end]]
        at, start = end, alike.find(_RUN, end)
    return [*parts, data[at:]] if parts else []


def _decode_base64(run: bytes) -> bytes:
    letters = run.rstrip(b"=")
    whole = letters[: -1 if len(letters) % 4 == 1 else None]
    return binascii.a2b_base64(whole.translate(_TO_STANDARD) + b"==")


_PERCENTS = re.compile(rb"(%[0-9A-Fa-f]{2})")
_PERCENT_ESCAPES = {
    f"%{high}{low}".encode(): bytes([int(high + low, 16)])
    for high in "0123456789abcdefABCDEF"
    for low in "0123456789abcdefABCDEF"
}
_BACKSLASHES = re.compile(
    rb"(\\n[\"'`] \+\n *[\"'`]"
    rb"|\\u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}"
    rb"|\\[\"'\\/bfnrt])"
)
_BACKSLASH_ESCAPES = {
    rb"\b": b"\b", rb"\t": b"\t", rb"\n": b"\n", rb"\f": b"\f", rb"\r": b"\r",
    rb"\"": b'"', rb"\'": b"'", rb"\/": b"/", b"\\\\": b"\\",
}  # fmt: skip
# The break after a line of base64, perhaps indented: 64 letters (PEM), 76 (MIME) or the like.
_LINE_BREAKS = re.compile(
    rb"((?:\r\n(?<=[A-Za-z0-9+/_-]{48}\r\n)|\n(?<=[A-Za-z0-9+/_-]{48}\n))[ \t]*)(?=[A-Za-z0-9+/_-]{2})"
)
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_LETTERS_ALIKE = bytes(0x61 if code in BASE64_LETTERS else 0x2D for code in range(256))
_LONG_LINE = b"a" * 48 + b"-"
# Shorter ones are no base64 of the base64 of a value.
_RUN = b"a" * 11

_IN_BASE64 = Coding(_split_base64, _decode_base64, is_base64=True)
_IN_LINES = Coding(_split_lines, lambda _: b"", within=(_IN_BASE64,))
_IN_URL = Coding(_split_percents, _decode_percent, within=(_IN_LINES,))
_ESCAPED = Coding(_split_backslashes, _decode_backslash, within=(_IN_LINES,))
CODINGS = (_IN_URL, _ESCAPED, _IN_LINES, _IN_BASE64)
