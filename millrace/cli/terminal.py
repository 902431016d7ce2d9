"""What a terminal is given: text that cannot steer it, JSON, and tables that never cut an id."""

import json
import re
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.cells import cell_len, set_cell_size

# C0 and C1 controls, halves of characters that no output can encode, and what turns the direction of reading.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_ABOVE_ASCII = re.compile(r"[\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_GAP = "  "
_LEAST_LAST = 20


def shown(text: str, keep: str = "") -> str:
    """The text with each control character spelled out, as `\\x1b`, but for those to keep."""
    return _INVISIBLE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), text
    )


def as_json(value: Any) -> str:
    """JSON for people and programs; what could steer a terminal is escaped, which means the same to a parser."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _ABOVE_ASCII.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One line for each row. On a terminal the last column takes what room there is; no other is ever cut."""
    cells = [[shown(cell.replace("\n", " ")) for cell in row] for row in (heads, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty():
        before = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
        widths[-1] = min(widths[-1], max(_LEAST_LAST, shutil.get_terminal_size().columns - before))
    for row in cells:
        click.echo(_GAP.join(map(_fitted, row, widths)).rstrip())


def _fitted(cell: str, width: int) -> str:
    return set_cell_size(cell, width - 1) + "…" if cell_len(cell) > width else set_cell_size(cell, width)
