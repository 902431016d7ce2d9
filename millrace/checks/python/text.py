"""The text of a Python source: its encoding, its lines, and places in it."""

import re
from dataclasses import dataclass

from millrace.checks import wording
from millrace.checks.findings import BOM

# The declaration of an encoding (PEP 263), in one of the first two lines.
_COOKIE = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_BLANK = re.compile(rb"[ \t\f]*(?:#.*)?")
_UTF_8 = re.compile(rb"utf[-_]?8(?:[-_].*)?|u8", re.IGNORECASE)


@dataclass(frozen=True)
class Text:
    """A source as Python's parser reads it: no byte order mark, and lines that end in LF."""

    code: str
    lines: list[bytes]

    def at(self, line: int, offset: int) -> tuple[int, int]:
        """The line and column of a byte of a line, both counted from 1; columns count UTF-16 units."""
        line = min(max(line, 1), len(self.lines))
        before = self.lines[line - 1][: max(offset, 0)].decode("utf-8", "replace")
        return line, len(before.encode("utf-16-le")) // 2 + 1

    def offset(self, line: int, characters: int) -> int:
        """The byte of a line at which this many characters of it have passed."""
        shown = self.lines[line - 1] if 1 <= line <= len(self.lines) else b""
        return len(shown.decode("utf-8", "replace")[: max(characters, 0)].encode())

    def show(self, line: int, start: int, end: int | None) -> str:
        """A part of a line for a message."""
        return wording.show(self.lines[line - 1][start:end]) if 1 <= line <= len(self.lines) else ""


def read(source: bytes) -> Text:
    """The text of a source that is UTF-8."""
    plain = source.removeprefix(BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return Text(plain.decode(), plain.split(b"\n"))


def foreign_encoding(text: Text) -> tuple[int, int, str] | None:
    """Line, offset and name of the encoding that a source declares, when that is not UTF-8."""
    for number, line in enumerate(text.lines[:2], 1):
        declared = _COOKIE.match(line)
        if declared is not None:
            known = _UTF_8.fullmatch(declared[1])
            return None if known else (number, declared.start(1), wording.show(declared[1]))
        if not _BLANK.fullmatch(line):
            return None
    return None
