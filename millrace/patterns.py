"""Event names, the patterns that subscribe to them, and filters on the fields of an event.

A name is dotted segments of letters, digits, `_` and `-`, such as `order.created`. In a pattern `*` stands
for exactly one segment and `**` for any number of them, also none: `order.**` takes `order` itself.

A filter is a JSON object in the manner of EventBridge's content filters. Every key must hold, and any one of
the conditions listed for a key is enough:

    {"source": ["shop", {"prefix": "x"}], "data": {"total": [{"numeric": [">", 100]}]}}

Nested objects follow the event's nesting; as a comfort a dotted key (`"data.total"`) is the same as nesting,
and a bare value is the same as a list of it. A dot always separates, so a key of the event's own that has a
dot in it is out of reach. As on EventBridge, a list in the event holds if one of its elements does. A nested
filter over a list of objects must hold within one element.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeGuard

from millrace import errors

MAX_NAME_LENGTH = 255
MAX_FILTER_DEPTH = 10
MAX_FILTER_CONDITIONS = 200
MAX_FILTER_TEXT = 1024

_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
_OPERATORS = ("prefix", "suffix", "equals-ignore-case", "anything-but", "numeric", "exists")
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "=": lambda value, bound: value == bound,
    "<": lambda value, bound: value < bound,
    "<=": lambda value, bound: value <= bound,
    ">": lambda value, bound: value > bound,
    ">=": lambda value, bound: value >= bound,
}

Test = Callable[[Any], bool]


def validate_name(name: object, field: str = "name") -> str:
    """The name itself if it is an event name; raises Invalid otherwise."""
    return _validate_dotted(name, field, "event name", wildcards=())


def validate_pattern(pattern: object, field: str = "pattern") -> str:
    """The pattern itself if it is one; raises Invalid otherwise."""
    return _validate_dotted(pattern, field, "event pattern", wildcards=("*", "**"))


def _validate_dotted(value: object, field: str, noun: str, wildcards: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise errors.Invalid(f"{noun} must be a string", field=field, value=value)
    if not 1 <= len(value) <= MAX_NAME_LENGTH:
        raise errors.Invalid(
            f"{noun} must have 1 to {MAX_NAME_LENGTH} characters, this one has {len(value)}",
            field=field,
            value=value,
        )
    for segment in value.split("."):
        if segment not in wildcards and not _SEGMENT.fullmatch(segment):
            rule = "letters, digits, '_' and '-'" + (", or * or ** alone" if wildcards else "")
            raise errors.Invalid(
                f"{noun} {errors.shorten(value)!r}: the segment {errors.shorten(segment)!r} must be {rule}",
                field=field,
                value=value,
            )
    return value


def matches(pattern: str, name: str) -> bool:
    """Whether an event of this name goes to a subscriber of this pattern; both are valid ones.

    Takes one step per segment of the name, however many `**` there are.
    """
    machine = _compile_pattern(pattern)
    states = machine.start
    for segment in name.split("."):
        moving = states & (machine.literals.get(segment, 0) | machine.any_one)
        states = moving << 1 | states & machine.any_many
        states |= (states & machine.any_many) << 1
    return bool(states & machine.end)


@dataclass(frozen=True)
class _Machine:
    """A pattern as sets of positions, one bit for each segment: all alternatives advance together."""

    literals: dict[str, int]
    any_one: int
    any_many: int
    start: int
    end: int


@lru_cache(maxsize=1024)
def _compile_pattern(pattern: str) -> _Machine:
    literals: dict[str, int] = {}
    any_one = any_many = position = 0
    previous = ""
    for segment in pattern.split("."):
        # Two `**` in a row mean the same as one; dropping them leaves no chain of empty steps to follow.
        if segment == previous == "**":
            continue
        bit = 1 << position
        if segment == "**":
            any_many |= bit
        elif segment == "*":
            any_one |= bit
        else:
            literals[segment] = literals.get(segment, 0) | bit
        position += 1
        previous = segment
    return _Machine(literals, any_one, any_many, start=1 | (any_many & 1) << 1, end=1 << position)


@dataclass(frozen=True)
class _Leaf:
    """The conditions of one field, of which one must hold."""

    tests: tuple[Test, ...]
    present: bool
    absent: bool

    def holds(self, found: bool, value: Any) -> bool:
        if not found:
            return self.absent
        if self.present:
            return True
        values = value if isinstance(value, list) else [value]
        return any(test(item) for item in values for test in self.tests)


@dataclass(frozen=True)
class Filter:
    """A checked filter, ready to be asked about many events."""

    root: "_Node"

    def matches(self, event: object) -> bool:
        """Whether the event passes; never raises, and an empty filter takes everything."""
        return _node_holds(self.root, event)


_Node = dict[str, "_Leaf | _Node"]


def compile_filter(value: object, field: str = "filter") -> Filter:
    """Check a filter and make it ready; raises Invalid that names the path, the value and the rule."""
    if not isinstance(value, dict):
        raise errors.Invalid(f"{field} must be a JSON object", field=field, value=value)
    return Filter(_Compiler(field).node(value, path=()))


def validate_filter(value: object, field: str = "filter") -> None:
    """Raises Invalid, naming the path, the value and the rule, unless the value is a filter."""
    compile_filter(value, field)


def matches_filter(filter: dict[str, Any], event: object) -> bool:
    """Whether the event passes a valid filter. For many events keep `compile_filter(filter)` instead."""
    return compile_filter(filter).matches(event)


def _node_holds(node: _Node, value: object) -> bool:
    if isinstance(value, list):
        # Lists in lists are not entered: the depth of the walk is the filter's, never the event's.
        candidates = [item for item in value if isinstance(item, dict)]
    else:
        candidates = [value] if isinstance(value, dict) else []
    # Where there is no object there is no field either, and `{"exists": false}` has to see that.
    return any(_object_holds(node, candidate) for candidate in candidates or [{}])


def _object_holds(node: _Node, candidate: dict[str, Any]) -> bool:
    for key, child in node.items():
        value = candidate.get(key)
        holds = child.holds(key in candidate, value) if isinstance(child, _Leaf) else _node_holds(child, value)
        if not holds:
            return False
    return True


class _Compiler:
    """Turns a filter into nodes and leaves, counting what it costs to match."""

    def __init__(self, field: str) -> None:
        self.field = field
        self.conditions = 0

    def node(self, value: dict[Any, Any], path: tuple[str, ...]) -> _Node:
        node: _Node = {}
        for key, child in value.items():
            segments = self.segments(key, path)
            here = (*path, *segments)
            if len(here) > MAX_FILTER_DEPTH:
                raise self.invalid(here, f"must not be nested deeper than {MAX_FILTER_DEPTH}")
            self.graft(node, segments, self.child(child, here), path)
        return node

    def segments(self, key: object, path: tuple[str, ...]) -> list[str]:
        if not isinstance(key, str) or len(key) > MAX_FILTER_TEXT:
            raise self.invalid(path, f"must have keys of up to {MAX_FILTER_TEXT} characters")
        segments = key.split(".")
        if not all(segments):
            raise self.invalid((*path, key), "must be a key without empty segments")
        if key.startswith("$"):
            raise self.invalid((*path, key), "is not supported: keys must not start with '$'")
        return segments

    def child(self, value: object, path: tuple[str, ...]) -> "_Leaf | _Node":
        if not isinstance(value, dict):
            return self.leaf(value if isinstance(value, list) else [value], path)
        if not value:
            raise self.invalid(path, "must not be an empty object", value)
        if len(value) == 1 and next(iter(value)) in _OPERATORS:
            # Else the forgotten brackets would silently look for a field called "prefix".
            operator = next(iter(value))
            raise self.invalid(
                path,
                f"must have the condition {operator!r} in a list: [{{{operator!r}: ...}}]"
                f" (a field of that name is written as a dotted key)",
                value,
            )
        return self.node(value, path)

    def graft(self, node: _Node, segments: list[str], child: "_Leaf | _Node", path: tuple[str, ...]) -> None:
        """Put the child below the node at `path`; dotted and nested keys of one object grow together."""
        for segment in reversed(segments[1:]):
            child = {segment: child}
        present = node.setdefault(segments[0], child)
        if present is child:
            return
        here = (*path, segments[0])
        if isinstance(present, _Leaf) or isinstance(child, _Leaf):
            raise self.invalid(here, "must not be given twice")
        for key, grandchild in child.items():
            self.graft(present, [key], grandchild, here)

    def leaf(self, conditions: list[Any], path: tuple[str, ...]) -> _Leaf:
        if not conditions:
            raise self.invalid(path, "must list at least one condition", conditions)
        tests: list[Test] = []
        present = absent = False
        for condition in conditions:
            self.count(path)
            if isinstance(condition, dict) and tuple(condition) == ("exists",):
                wanted = condition["exists"]
                if not isinstance(wanted, bool):
                    raise self.invalid(path, "must have true or false for 'exists'", wanted)
                present, absent = present or wanted, absent or not wanted
            else:
                tests.append(self.test(condition, path))
        return _Leaf(tuple(tests), present, absent)

    def count(self, path: tuple[str, ...]) -> None:
        self.conditions += 1
        if self.conditions > MAX_FILTER_CONDITIONS:
            raise self.invalid(path, f"is one too many: at most {MAX_FILTER_CONDITIONS} conditions in all")

    def test(self, condition: object, path: tuple[str, ...]) -> Test:
        if not isinstance(condition, dict):
            return _equals(self.scalar(condition, path))
        if len(condition) != 1 or next(iter(condition)) not in _OPERATORS:
            raise self.invalid(
                path, f"must be a value or an object with one operator of {', '.join(_OPERATORS)}", condition
            )
        ((operator, operand),) = condition.items()
        if operator == "numeric":
            return self.numeric(operand, path)
        if operator == "anything-but":
            return self.anything_but(operand, path)
        return self.text_test(operator, operand, path)

    def text_test(self, operator: str, operand: object, path: tuple[str, ...]) -> Test:
        if operator in ("prefix", "suffix"):
            if isinstance(operand, dict) and tuple(operand) == ("equals-ignore-case",):
                return _text(operator, self.text(operand["equals-ignore-case"], operator, path), fold=True)
            return _text(operator, self.text(operand, operator, path), fold=False)
        if operator == "equals-ignore-case":
            return _text(operator, self.text(operand, operator, path), fold=True)
        raise self.invalid(path, "must have a value, prefix, suffix or equals-ignore-case in anything-but", operator)

    def anything_but(self, operand: object, path: tuple[str, ...]) -> Test:
        if isinstance(operand, dict):
            if len(operand) != 1:
                raise self.invalid(path, "must have one operator in 'anything-but'", operand)
            ((operator, inner),) = operand.items()
            refused = [self.text_test(operator, item, path) for item in self.alternatives(inner, path)]
        else:
            refused = [_equals(self.scalar(item, path)) for item in self.alternatives(operand, path)]
        return lambda value: _is_scalar(value) and not any(test(value) for test in refused)

    def alternatives(self, operand: object, path: tuple[str, ...]) -> list[Any]:
        items = operand if isinstance(operand, list) else [operand]
        if not items:
            raise self.invalid(path, "must list at least one value in 'anything-but'", operand)
        for _ in items[1:]:
            self.count(path)
        return items

    def numeric(self, operand: object, path: tuple[str, ...]) -> Test:
        if not isinstance(operand, list) or len(operand) not in (2, 4):
            raise self.invalid(path, "must have one or two pairs such as ['>', 0, '<=', 5] in 'numeric'", operand)
        bounds = []
        for sign, bound in zip(operand[::2], operand[1::2], strict=True):
            if not isinstance(sign, str) or sign not in _COMPARISONS:
                raise self.invalid(path, f"must have one of {' '.join(_COMPARISONS)} in 'numeric'", sign)
            if not _is_number(bound):
                raise self.invalid(path, "must compare with a finite number in 'numeric'", bound)
            bounds.append((_COMPARISONS[sign], bound))
        return lambda value: _is_number(value) and all(compare(value, bound) for compare, bound in bounds)

    def scalar(self, value: object, path: tuple[str, ...]) -> Any:
        if isinstance(value, str):
            return self.text(value, "equality", path)
        if value is None or isinstance(value, bool) or _is_number(value):
            return value
        raise self.invalid(path, "must be a string, a finite number, true, false or null", value)

    def text(self, value: object, operator: str, path: tuple[str, ...]) -> str:
        if not isinstance(value, str) or len(value) > MAX_FILTER_TEXT:
            raise self.invalid(path, f"must have a string of up to {MAX_FILTER_TEXT} characters in {operator!r}", value)
        return value

    def invalid(self, path: tuple[str, ...], rule: str, value: object = None) -> errors.Invalid:
        where = str(errors.shorten(".".join((self.field, *path))))
        shown = "" if value is None else f" (got {errors.shorten(value)!r})"
        return errors.Invalid(f"{where} {rule}{shown}", field=where, value=value)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | bool | int | float)


def _is_number(value: object) -> TypeGuard[float]:
    """JSON's numbers; Python counts True as 1, and JSON text may carry NaN and Infinity past the standard."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and not (isinstance(value, float) and not math.isfinite(value))
    )


def _equals(expected: Any) -> Test:
    if isinstance(expected, bool) or expected is None:
        return lambda value: value is expected
    if isinstance(expected, str):
        return lambda value: isinstance(value, str) and value == expected
    return lambda value: _is_number(value) and value == expected


def _text(operator: str, expected: str, *, fold: bool) -> Test:
    wanted = expected.casefold() if fold else expected
    compare: Callable[[str], bool] = {
        "prefix": lambda text: text.startswith(wanted),
        "suffix": lambda text: text.endswith(wanted),
        "equals-ignore-case": lambda text: text == wanted,
    }[operator]
    return lambda value: isinstance(value, str) and compare(value.casefold() if fold else value)
