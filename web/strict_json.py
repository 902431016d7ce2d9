"""Reading JSON from strangers: what is no JSON by the standard, or could harm us further in, is refused here."""

import json
import math
from typing import Any

from millrace.errors import Invalid

MAX_DEPTH = 100
MAX_DIGITS = 308


def parse(data: bytes) -> Any:
    """The value. Raises Invalid for bad UTF-8, bad JSON, NaN and Infinity, numbers and nesting beyond all use."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(f"The body must be JSON in UTF-8; byte {error.start} is neither.", field="body") from None
    try:
        # A raw line break within a text is let through: `base64` without -w0 makes them, and they do no harm.
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_bounded, strict=False)
    except json.JSONDecodeError as error:
        raise Invalid(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.", field="body"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise _too_deep()
    return value


def _too_deep() -> Invalid:
    return Invalid(f"The body is nested more than {MAX_DEPTH} levels deep.", field="body")


def _refuse_constant(name: str) -> Any:
    raise Invalid(f"The body is not JSON: {name} is no JSON number.", field="body")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Invalid(f"The body has a number that is too large: {text[:40]}.", field="body")
    return number


def _bounded(text: str) -> int:
    # JavaScript would take it for Infinity, as it does a float of that size.
    if len(text) > MAX_DIGITS:
        raise Invalid(f"The body has a number that is too large: {text[:40]}...", field="body")
    return int(text)


def _is_deeper(value: Any, limit: int) -> bool:
    """Level by level, since the depth is what a recursion could not bear."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True
