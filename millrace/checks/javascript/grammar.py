"""The parser, and one walk over its tree that calls handlers by kind of node.

The walk keeps its own stack, so that a hundred thousand nested brackets cost memory and no recursion.
Handlers are named by the grammar's kind of node (`call_expression`), and by the token in double quotes for
punctuation and keywords (`"=>"`).
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping

import tree_sitter
import tree_sitter_javascript
from tree_sitter import Node, Tree, TreeCursor

_GAP = re.compile(rb"(?:\s++|\xc2\xa0|\xef\xbb\xbf|\xe2\x80[\xa8\xa9]|/\*(?s:.*?)\*/|//[^\r\n]*+)*+")

Handler = Callable[[Node], None]


@functools.cache
def language() -> tree_sitter.Language:
    return tree_sitter.Language(tree_sitter_javascript.language())


def parse(source: bytes) -> Tree:
    """A tree for any bytes; `has_error` of its root says whether it is JavaScript to the grammar."""
    return tree_sitter.Parser(language()).parse(source)


@functools.cache
def field(name: str) -> int:
    """The number of a field, for `Node.child_by_field_id`."""
    number = language().field_id_for_name(name)
    if number is None:
        raise LookupError(f"the grammar has no field {name!r}")
    return number


def child(node: Node, name: str) -> Node | None:
    return node.child_by_field_id(field(name))


def inner(node: Node) -> list[Node]:
    """The named children without comments, which may stand between any two tokens."""
    return [part for part in node.named_children if not part.is_extra]


def unwrap(node: Node) -> Node:
    """The expression inside of parentheses."""
    while node.type == "parenthesized_expression":
        parts = inner(node)
        if len(parts) != 1:
            break
        node = parts[0]
    return node


def skip_gap(source: bytes, offset: int) -> int:
    """The first place from `offset` on that is neither space nor comment."""
    gap = _GAP.match(source, offset)
    return gap.end() if gap else offset


class Table:
    """Handlers by number of kind, for the walk."""

    def __init__(self, handlers: Iterable[Mapping[str, Handler]]) -> None:
        numbers = _numbers()
        self.by_kind: list[tuple[Handler, ...]] = [()] * language().node_kind_count
        for mapping in handlers:
            for kind, handler in mapping.items():
                for number in numbers[kind]:
                    self.by_kind[number] += (handler,)


@functools.cache
def _numbers() -> dict[str, list[int]]:
    """The numbers of each kind: an alias in the grammar gives several numbers one name."""
    numbers: dict[str, list[int]] = {}
    grammar = language()
    for number in range(grammar.node_kind_count):
        name = grammar.node_kind_for_id(number)
        if name:
            key = name if grammar.node_kind_is_named(number) else f'"{name}"'
            numbers.setdefault(key, []).append(number)
    return numbers


# Looked at as a whole by their handlers.
_WHOLE = ("string", "regex")


def walk(cursor: TreeCursor, parents: list[Node], enter: Table, leave: Table) -> None:
    """Visit every node below the cursor's start in the order of the source.

    `parents` holds the ancestors of the node at hand, outermost first, while handlers run. Leave handlers are
    called for nodes that have children.
    """
    entering, leaving = enter.by_kind, leave.by_kind
    first_child, next_sibling, parent = cursor.goto_first_child, cursor.goto_next_sibling, cursor.goto_parent
    whole = {number for kind in _WHOLE for number in _numbers()[kind]}
    while True:
        node = cursor.node
        assert node is not None
        kind = node.kind_id
        for handler in entering[kind]:
            handler(node)
        if kind not in whole and first_child():
            parents.append(node)
            continue
        while not next_sibling():
            if not parent():
                return
            node = parents.pop()
            for handler in leaving[node.kind_id]:
                handler(node)
