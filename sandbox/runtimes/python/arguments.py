"""Whether what a script hands to its SDK is what the SDK takes. Values are not shown, since they may be secret."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EVENT_TYPE = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_EVENT_TYPE_CHARS = 255


def kind_of(value: object) -> str:
    """What `value` is, in words."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    return "an empty str" if value == "" else f"a {type(value).__name__}"


def wrong(label: str, name: str, rule: str, value: object) -> TypeError:
    return TypeError(f"{label}: {name} must be {rule}, not {kind_of(value)}")


def text(label: str, name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise wrong(label, name, "a str that is not empty", value)
    return value


def integer(label: str, name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        rule = "a whole number" if low == -high else f"a whole number from {low} to {high}"
        raise wrong(label, name, f"{rule} of at most 53 bits" if low == -high else rule, value)
    return value


def mapping(label: str, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(label, name, "a dict", value)
    if not all(isinstance(key, str) for key in value):
        raise TypeError(f"{label}: the keys of {name} must be str")
    return value


def params(label: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise wrong(label, "params", "a list", value)
    return list(value)


def event_type(label: str, value: Any) -> str:
    text(label, "type", value)
    if len(value) > _EVENT_TYPE_CHARS or _EVENT_TYPE.fullmatch(value) is None:
        raise TypeError(
            f"{label}: type must be 1 to {_EVENT_TYPE_CHARS} characters: words of letters, digits, _ and - with dots "
            "between them, such as order.item.created"
        )
    return str(value)
