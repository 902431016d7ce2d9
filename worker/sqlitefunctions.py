"""Functions of SQLite that take the square of their arguments, made anew so that they take no longer than these are.

SQLite looks at the clock between two steps of its machine, and a call is one step: `trim` of two megabytes takes hours.
The prover has scripts call these in their place, see `millrace.sql.dialects`; what the schema itself calls is as ever.
"""

import sqlite3
from collections.abc import Callable

from millrace.sql.dialects import TIMED

Value = str | bytes | int | float | None


def register(connection: sqlite3.Connection, longest: int) -> None:
    """Make them known, with results of at most so many characters."""

    def replace(text: Value, old: Value, new: Value) -> Value:
        if text is None or old is None or new is None:
            return None
        where, what, by = _text(text), _text(old), _text(new)
        if not what:
            return where
        if len(where) + where.count(what) * (len(by) - len(what)) > longest:
            raise ValueError("too long")
        return where.replace(what, by)

    made: dict[tuple[str, int], Callable[..., Value]] = {
        ("replace", 3): replace, ("instr", 2): _instr,
        **{(name, count): _trimming(name) for name in ("trim", "ltrim", "rtrim") for count in (1, 2)},
    }  # fmt: skip
    for (name, count), function in made.items():
        connection.create_function(TIMED[name], count, function, deterministic=True)


def _instr(where: Value, what: Value) -> Value:
    if where is None or what is None:
        return None
    if isinstance(where, bytes) and isinstance(what, bytes):
        return where.find(what) + 1
    return _text(where).find(_text(what)) + 1


def _trimming(name: str) -> Callable[..., Value]:
    from_left, from_right = name != "rtrim", name != "ltrim"

    def trim(value: Value, characters: Value = " ") -> Value:
        if value is None or characters is None:
            return None
        text, cut = _text(value), frozenset(_text(characters))
        start, end = 0, len(text)
        while from_left and start < end and text[start] in cut:
            start += 1
        while from_right and end > start and text[end - 1] in cut:
            end -= 1
        return text[start:end]

    return trim


def _text(value: Value) -> str:
    """As SQLite makes a text of it."""
    match value:
        case bytes():
            return value.decode("utf-8", "replace")
        case float():
            text = f"{value:.15g}"
            return text if "e" in text or "n" in text or "." in text else f"{text}.0"
    return str(value)
