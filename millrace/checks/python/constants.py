"""Strings that the source spells out: literals, sums of them, and f-strings without anything to work out."""

import ast
from collections.abc import Callable

# What a name stands for, when it is a constant string.
Lookup = Callable[[ast.Name], str | None]

_MAX_PARTS = 64
_LONGEST = 200  # no name of a module or an attribute is longer


def text(node: ast.expr, lookup: Lookup) -> str | None:
    """The value of an expression that is a short string whatever happens; None for any other."""
    parts: list[str] = []
    waiting = [node]
    for _ in range(_MAX_PARTS):
        if not waiting:
            whole = "".join(parts)
            return whole if len(whole) <= _LONGEST else None
        here = waiting.pop()
        if isinstance(here, ast.BinOp) and isinstance(here.op, ast.Add):
            waiting += [here.right, here.left]
        elif isinstance(here, ast.JoinedStr):
            waiting += reversed(here.values)
        elif isinstance(here, ast.FormattedValue) and here.format_spec is None and here.conversion == -1:
            waiting.append(here.value)
        else:
            value = lookup(here) if isinstance(here, ast.Name) else getattr(here, "value", None)
            if not isinstance(value, str) or len(value) > _LONGEST:
                return None
            parts.append(value)
    return None
