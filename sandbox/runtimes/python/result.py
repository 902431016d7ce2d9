"""What a handler returned, as JSON text, or why it is none."""

from __future__ import annotations

import json

from . import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_REASON_CHARS = 272 * 1024  # as in errors.py: cut where it is masked
_PATH_CHARS = 200
_DEPTH = 100
_PLAIN = (str, int, float, bool, type(None))


def _refuse(value: object) -> object:
    raise TypeError(f"{_article(value)} is not JSON")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_refuse).encode
_repr_float = float.__repr__


class Unfit(Exception):
    """The result can't be kept."""

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.name = name
        self.message = message


def encode(value: object, max_bytes: int) -> bytes:
    """`value` as JSON text; raises Unfit when it is no JSON, or too much."""
    try:
        data = channel.utf8(_encode(value))
    except RecursionError:
        raise Unfit("bad_result", "BadResult", "The handler's result is not JSON: it is nested too deeply") from None
    except Exception as error:  # whatever the methods of the script's own classes raise
        raise Unfit("bad_result", "BadResult", _complaint(value, error)) from None
    if len(data) > max_bytes:
        message = f"The result is {len(data)} bytes; at most {max_bytes} are allowed"
        raise Unfit("result_too_large", "ResultTooLarge", message)
    return data


def _complaint(value: object, error: Exception) -> str:
    try:
        fault = next(_faults(value, "", ()), None)
    except Exception:  # the script's own classes again
        fault = None
    if fault is None:
        return f"The handler's result is not JSON: {_reason(error)}"
    path, found = fault
    if not path:
        return f"The handler returned {found}, which JSON can not express"
    return f"The handler's result is not JSON: {found} at {_shortened(path)}"


def _reason(error: Exception) -> str:
    try:
        return str(error).split("\n", 1)[0][:_REASON_CHARS]
    except Exception:  # the script's own class
        return "it can not be read"


def _shortened(path: str) -> str:
    return path if len(path) <= _PATH_CHARS else f"{path[:_PATH_CHARS]}…"


def _faults(value: object, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """What JSON can't express within `value`, with the path to it as a script would write it."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        yield path, _repr_float(value)
    elif isinstance(value, dict | list | tuple):
        if id(value) in above:
            yield path or "its root", "a circular reference"
        elif len(above) < _DEPTH:
            yield from _faults_inside(value, path, (*above, id(value)))
    elif not isinstance(value, _PLAIN):
        yield path, _article(value)


def _faults_inside(
    value: dict[object, object] | list[object] | tuple[object, ...], path: str, above: tuple[int, ...]
) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, _PLAIN):
                yield path or "its root", f"{_article(key)} as a key"
            else:
                yield from _faults(member, f"{path}[{key!r}]", above)
    else:
        for index, member in enumerate(value):
            yield from _faults(member, f"{path}[{index}]", above)


def _article(value: object) -> str:
    name = type(value).__name__
    if hasattr(type(value), "__await__"):
        name += " that was not awaited"
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
