"""What databases answer, as JSON.

    whole numbers     numbers, and text beyond 2^53 - 1, where JavaScript would round
    decimals          text, which loses nothing
    floats            numbers; NaN and Infinity as text
    dates and times   ISO 8601; those with a time zone in UTC
    bytes             base64
    JSON, arrays      as they are
    anything else     the database's own text
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_ROWS = 1_000
MAX_ANSWER = 8 * 1024 * 1024
_MAX_PARTS = 200_000  # lists and objects in JSON, or values of an array: each takes twenty times its size in memory
_MAX_EXACT = 2**53 - 1


class TooMuch(Exception):
    """The answer has too many rows or bytes; the text says so to the script's author."""


def collect(names: Sequence[str], rows: Iterable[Sequence[Any]], most: int) -> list[dict[str, Any]]:
    """The rows as objects. Raises TooMuch for one row more than `most`, or more bytes than an answer can have.

    Of two columns with one name the last one counts.
    """
    found: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        if len(found) >= most:
            raise TooMuch(f"Row limit exceeded: the query returned more than {most} rows.")
        try:
            values = {name: of_value(value) for name, value in zip(names, row, strict=True)}
            size += len(json.dumps(values))
        except RecursionError:
            raise _too_deep() from None
        if size > MAX_ANSWER:
            raise TooMuch(f"The answer has more than {MAX_ANSWER} bytes.")
        found.append(values)
    return found


def check_lists(values: Iterable[bytes | None]) -> None:
    """Raises TooMuch for an answer of PostgreSQL, as it sent it, with arrays that would fill the memory."""
    if sum(value.count(b",") for value in values if value is not None and value[:1] == b"{") > _MAX_PARTS:
        raise TooMuch(f"The answer has more than {_MAX_PARTS} values in lists.")


def of_json(text: str | bytes) -> Any:
    """JSON that a database sent. Raises TooMuch for what would fill the memory, though its text would not."""
    data = text.encode() if isinstance(text, str) else text
    if data.count(b"[") + data.count(b"{") > _MAX_PARTS:
        raise TooMuch(f"The answer has JSON with more than {_MAX_PARTS} lists and objects in it.")
    try:
        return json.loads(data, parse_int=_whole)
    except RecursionError:
        raise _too_deep() from None


def _whole(digits: str) -> int | str:
    """Python refuses to read very long ones."""
    return int(digits) if len(digits) < 20 else digits


def _too_deep() -> TooMuch:
    return TooMuch("The answer has JSON that is nested too deeply.")


def of_value(value: Any) -> Any:
    """One value as JSON."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -_MAX_EXACT <= value <= _MAX_EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): of_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [of_value(inner) for inner in value]
    return str(value)
