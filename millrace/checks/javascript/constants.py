"""Strings that the source spells out: literals, templates of constants, sums of them, and names for them."""

import re
from collections.abc import Callable

from tree_sitter import Node

from millrace.checks.javascript import grammar

# What a name stands for, when it is a constant string.
Lookup = Callable[[Node], str | None]

_MAX_PARTS = 1000
_TRANSPARENT = ("string", "template_string", "template_substitution", "computed_property_name")
_ESCAPE = re.compile(r"\\(?:u\{([0-9a-fA-F]+)\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([0-7]{1,3})|(\r\n|[\s\S]))")
_SINGLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v"}
_LINE_ENDS = ("\n", "\r", "\r\n", "\u2028", "\u2029")


def text(node: Node, source: bytes, lookup: Lookup | None = None) -> str | None:
    """The value of an expression that is a string whatever happens; None for any other."""
    parts: list[str] = []
    waiting = [node]
    budget = _MAX_PARTS
    while waiting:
        budget -= 1
        here = grammar.unwrap(waiting.pop())
        kind = here.type
        if budget < 0:
            return None
        if kind in ("string_fragment", "escape_sequence"):
            parts.append(_unescape(source[here.start_byte : here.end_byte].decode("utf-8", "replace")))
        elif kind in _TRANSPARENT:
            waiting += reversed(here.named_children)
        elif kind == "binary_expression" and _is_sum(here):
            sides = (grammar.child(here, "left"), grammar.child(here, "right"))
            waiting += [side for side in reversed(sides) if side is not None]
        elif kind == "identifier" and lookup is not None:
            value = lookup(here)
            if value is None:
                return None
            parts.append(value)
        elif kind == "call_expression" and (joined := _joined(here, source)) is not None:
            waiting += reversed(joined)
        elif not here.is_extra:
            return None
    return "".join(parts)


def may_depend_on_names(node: Node) -> bool:
    """Whether an expression may be a constant string once it is known what its names stand for."""
    return grammar.unwrap(node).type in ("identifier", "binary_expression", "template_string", "call_expression")


def looks_like_text(node: Node) -> bool:
    """Whether an expression is a string for sure, constant or not: a template, or a sum with a string."""
    here = grammar.unwrap(node)
    for _ in range(_MAX_PARTS):
        if not (here.type == "binary_expression" and _is_sum(here)):
            break
        sides = (grammar.child(here, "right"), grammar.child(here, "left"))
        if sides[0] is not None and sides[0].type in ("string", "template_string"):
            return True
        here = grammar.unwrap(sides[1]) if sides[1] is not None else here
    return here.type in ("string", "template_string")


def _joined(call: Node, source: bytes) -> list[Node] | None:
    """The parts of `'a'.concat(b)` and `['a', b].join('')`, in order."""
    function, arguments = grammar.child(call, "function"), grammar.child(call, "arguments")
    if function is None or arguments is None or function.type != "member_expression" or arguments.type != "arguments":
        return None
    held, name = grammar.child(function, "object"), grammar.child(function, "property")
    if held is None or name is None:
        return None
    word, passed, held = source[name.start_byte : name.end_byte], grammar.inner(arguments), grammar.unwrap(held)
    if word == b"concat":
        return [held, *passed]
    if word != b"join" or held.type != "array" or len(passed) != 1:
        return None
    parts = [part for element in grammar.inner(held) for part in (passed[0], element)]
    return parts[1:]


def key(node: Node, source: bytes, lookup: Lookup | None = None) -> str | None:
    """The name of a property key of an object, class or pattern; None when it is only known in a run."""
    if node.type == "computed_property_name":
        parts = grammar.inner(node)
        return text(parts[0], source, lookup) if len(parts) == 1 else None
    if node.type == "string":
        return text(node, source)
    return source[node.start_byte : node.end_byte].decode("utf-8", "replace")


def _is_sum(node: Node) -> bool:
    operator = grammar.child(node, "operator")
    return operator is not None and operator.type == "+"


def _unescape(raw: str) -> str:
    return _ESCAPE.sub(_replace, raw) if "\\" in raw else raw


def _replace(match: re.Match[str]) -> str:
    point, four, two, octal, other = match.groups()
    if point or four or two:
        number = int((point or four or two)[-8:], 16)
        return chr(number) if number <= 0x10FFFF else "\ufffd"
    if octal:
        return chr(int(octal, 8))
    return "" if other in _LINE_ENDS else _SINGLE.get(other, other)
