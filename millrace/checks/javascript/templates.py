"""Templates with a tag, which may hold backslashes that no other string may: the grammar reads none of these.

`String.raw` takes `C:\\users` as it stands. Such an escape is replaced by a text of the same length before the
source is parsed again, so that every place in it stays where it is.
"""

import bisect
import re

from tree_sitter import Node, Tree

from millrace.checks.javascript import grammar

# Pairs of a backslash and what follows, so that an escaped backslash does not begin another escape.
_PAIR = re.compile(rb"\\(?s:.)")
_VALID = re.compile(rb"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|u\{[0-9a-fA-F]+\})")
_PLAIN = b"__"


def readable(source: bytes, tree: Tree) -> tuple[bytes, Tree]:
    """The source and its tree; where it only failed for escapes in tagged templates, without these."""
    found = [match.start() for match in _PAIR.finditer(source) if _is_bad(source, match.start())]
    if not found:
        return source, tree
    spans = _tagged_fragments(grammar.parse(_without(source, found)))
    starts = [start for start, _ in spans]
    tagged = [at for at in found if _is_within(at, spans, starts)]
    if not tagged:
        return source, tree
    plain = _without(source, tagged)
    return plain, grammar.parse(plain)


def _is_bad(source: bytes, at: int) -> bool:
    return source[at + 1 : at + 2] in (b"x", b"u") and _VALID.match(source, at) is None


def _without(source: bytes, places: list[int]) -> bytes:
    changed = bytearray(source)
    for at in places:
        changed[at : at + len(_PLAIN)] = _PLAIN
    return bytes(changed)


def _tagged_fragments(tree: Tree) -> list[tuple[int, int]]:
    """Where the texts of tagged templates begin and end, in the order of the source."""
    spans: list[tuple[int, int]] = []
    cursor = tree.walk()
    parents: list[Node] = []
    while True:
        node = cursor.node
        assert node is not None
        if node.type == "string_fragment" and len(parents) > 1 and is_tagged(parents[-1], parents[-2]):
            spans.append((node.start_byte, node.end_byte))
        if cursor.goto_first_child():
            parents.append(node)
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return spans
            parents.pop()


def is_tagged(template: Node, owner: Node) -> bool:
    """Whether a node is a template with a tag: not one that is called itself."""
    if template.type != "template_string" or owner.type != "call_expression":
        return False
    return template.start_byte != owner.start_byte


def _is_within(at: int, spans: list[tuple[int, int]], starts: list[int]) -> bool:
    index = bisect.bisect_right(starts, at) - 1
    return index >= 0 and at < spans[index][1]
