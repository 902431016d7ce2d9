"""Strings that the source spells out: literals, templates of constants, and sums of them."""

import re

from tree_sitter import Node

from millrace.checks import grammar

_MAX_PARTS = 1000
_ESCAPE = re.compile(r"\\(?:u\{([0-9a-fA-F]+)\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([0-7]{1,3})|(\r\n|[\s\S]))")
_SINGLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v"}
_LINE_ENDS = ("\n", "\r", "\r\n", "\u2028", "\u2029")


def text(node: Node, source: bytes) -> str | None:
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
        elif kind in ("string", "template_string", "template_substitution"):
            waiting += reversed(here.named_children)
        elif kind == "binary_expression" and _is_sum(here):
            sides = (grammar.child(here, "left"), grammar.child(here, "right"))
            waiting += [side for side in reversed(sides) if side is not None]
        elif not here.is_extra:
            return None
    return "".join(parts)


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


def key(node: Node, source: bytes) -> str | None:
    """The name of a property key of an object, class or pattern; None when it is only known in a run."""
    if node.type == "computed_property_name":
        parts = grammar.inner(node)
        return text(parts[0], source) if len(parts) == 1 else None
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
