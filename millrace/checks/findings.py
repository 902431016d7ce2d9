"""What a check found, and where, in the line and column that an editor and a stack trace show."""

import bisect
import re
from dataclasses import dataclass
from typing import Literal

Rule = Literal[
    "syntax",
    "entry-point",
    "forbidden-module",
    "unknown-module",
    "forbidden-construct",
    "encoding",
]

_LINE_END = re.compile(rb"\r\n|\n|\r|\xe2\x80[\xa8\xa9]")
MAX_FINDINGS = 50
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong with a source.

    `line` and `column` count from 1. Lines end as in JavaScript (LF, CRLF, CR, U+2028, U+2029) and columns
    count UTF-16 units, as editors and V8's stack traces do; a byte order mark has no column.
    """

    line: int
    column: int
    rule: Rule
    message: str
    severity: Literal["error"] = "error"


class Positions:
    """Turns byte offsets of a source into lines and columns."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        first = len(BOM) if source.startswith(BOM) else 0
        self._starts = [first, *(end.end() for end in _LINE_END.finditer(source))]

    def at(self, offset: int) -> tuple[int, int]:
        """The line and column of the byte at `offset`."""
        line = max(bisect.bisect_right(self._starts, offset), 1)
        before = self._source[self._starts[line - 1] : offset].decode("utf-8", "replace")
        return line, len(before.encode("utf-16-le")) // 2 + 1
