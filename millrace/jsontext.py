"""JSON text as it is stored and sent: ASCII, compact, and nothing that JSON does not have."""

import json
from typing import Any

from millrace.errors import Invalid


def dump(value: Any, field: str) -> str:
    """The text of a value. Raises Invalid, naming the field, for NaN, infinities and what is nested too deeply.

    ASCII, so that NUL and lone surrogates travel as escapes: no database or file takes them as they are.
    """
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise Invalid(f"{field} is nested too deeply.", field=field) from None
    except (TypeError, ValueError) as error:
        raise Invalid(f"{field} is not JSON: {error}.", field=field) from None


def storable(text: str) -> str:
    """A text of anybody's making as both databases can keep it: without NUL and lone surrogates."""
    return text.replace("\x00", "\\0").encode("utf-8", "replace").decode()


def is_deeper(value: Any, limit: int) -> bool:
    """Whether lists and objects lie more than `limit` deep in each other. No depth is too much for this."""
    level = [value]
    for _ in range(limit):
        level = [
            item
            for container in level
            if isinstance(container, list | dict)
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    return any(isinstance(item, list | dict) for item in level)
