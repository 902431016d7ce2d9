"""Where a source stops being JavaScript, and in which words to say it."""

import contextlib
import re

import tree_sitter
from tree_sitter import Node, Tree

from millrace.checks import wording
from millrace.checks.findings import Positions
from millrace.checks.javascript import grammar
from millrace.checks.javascript.context import Context

_CLOSERS = {")": "(", "]": "[", "}": "{"}
_OPENERS = frozenset(("(", "[", "{", "${", "`"))
_TOKEN = re.compile(
    rb"[A-Za-z_$\x80-\xff][\w$\x80-\xff]*|[0-9][\w.]*|=>|\.\.\.|[!=]==?|[-+*/%&|^<>?]{1,3}=?|'[^'\n]*'?|\"[^\"\n]*\"?|\S"
)
_PROCESS = re.compile(r"process version:\d+, version_count:\d+, state:\d+, row:(\d+), col:(\d+)")
# The parser tells its listener every character and step: about ten messages for a word. Beyond this many the
# place of an error is less exact.
_MAX_MESSAGES = 400_000
_CHUNK = 16_384
_MAX_LINE = 10_000


def check(context: Context, tree: Tree) -> None:
    """Report the first place where the source stops being JavaScript to the grammar."""
    broken = _first_broken(tree)
    if broken is None:
        return
    source = context.source
    offset = _Trace(source).refused_at(default=broken.start_byte)
    offset = grammar.skip_gap(source, offset)
    for opened in (_open_string_before(source, tree, offset), _open_comment_before(source, tree, offset)):
        offset = offset if opened is None else opened
    context.report(offset, _explain(source, tree, offset))


def _first_broken(tree: Tree) -> Node | None:
    """The first missing token or broken part of the tree."""
    cursor = tree.walk()
    while True:
        node = cursor.node
        assert node is not None
        if node.is_missing or (node.is_error and node.end_byte > node.start_byte):
            return node
        if node.has_error and cursor.goto_first_child():
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return node


class _Trace:
    """Parses once more and listens where the parser could not go on: a tree only shows how it recovered."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._at = (0, 0)
        self._refused: tuple[int, int] | None = None
        self._recovering = False
        self._heard = 0

    def refused_at(self, default: int) -> int:
        """The offset of the furthest token that no reading of the source allows."""
        parser = tree_sitter.Parser(grammar.language(), logger=self._listen)
        with contextlib.suppress(ValueError):  # which says that the parser was told to stop
            parser.parse(self._read, progress_callback=self._is_done)
        if self._refused is None or not self._recovering:
            return default
        row, column = self._refused
        start = -1
        for _ in range(row):
            start = self._source.index(b"\n", start + 1)
        return start + 1 + column

    def _read(self, offset: int, _: object) -> bytes:
        return self._source[offset : offset + _CHUNK]

    def _is_done(self, offset: int, _: bool) -> bool:
        return self._recovering or self._heard > _MAX_MESSAGES

    def _listen(self, kind: tree_sitter.LogType, message: str) -> None:
        self._heard += 1
        if self._recovering or kind is not tree_sitter.LogType.PARSE:
            return
        place = _PROCESS.match(message)
        if place is not None:
            self._at = (int(place.group(1)), int(place.group(2)))
        elif message.startswith("detect_error"):
            self._refused = max(self._at, self._refused or (0, 0))
        elif message.startswith(("recover", "resume")) and self._refused is not None:
            self._recovering = True


def _explain(source: bytes, tree: Tree, offset: int) -> str:
    token = _TOKEN.match(source, offset)
    if token is None:
        return _explain_end(source, tree, offset)
    found = token.group()
    first = found.decode("utf-8", "replace")[0]
    if source.startswith(b"/*", offset):
        return "This comment is not closed: '*/' is missing."
    if first in "'\"" and (len(found) == 1 or found[-1:] != found[:1]):
        return f"This string is not closed on its line: {wording.show(found)}"
    if first == "`":
        return "Unexpected '`': a template begins or ends here that should not."
    if not first.isascii() and not (first.isalpha() or first == "_"):
        return f"Unexpected character {wording.describe(first)}{wording.advice(first)}."
    if not first.isprintable():
        return f"Unexpected character {wording.describe(first)}{wording.advice(first)}."
    return f"Unexpected '{wording.show(found)}'{_after(source, offset)}{_unclosed_hint(tree, offset, first)}."


def _explain_end(source: bytes, tree: Tree, offset: int) -> str:
    opened = _open_before(tree, offset)
    if opened is None:
        return "The source ends here, but something is still missing."
    line = Positions(source).at(opened.start_byte)[0]
    sort = "template" if opened.type == "`" else f"'{opened.type}'"
    return f"The source ends here, but the {sort} opened on line {line} is not closed."


def _open_string_before(source: bytes, tree: Tree, offset: int) -> int | None:
    """Where a string opens that runs over the end of the last line before `offset`; the grammar lets it run."""
    end = len(source[:offset].rstrip(b" \t\r\n"))
    start = max(source.rfind(b"\n", 0, end) + 1, end - _MAX_LINE)
    tokens = list(_TOKEN.finditer(source, start, end))
    if not tokens or b"\n" not in source[end:offset]:
        return None
    last = tokens[-1]
    quote = tree.root_node.descendant_for_byte_range(last.start(), last.start() + 1)
    is_open = last.group()[:1] in b"'\"" and (len(last.group()) == 1 or last.group()[-1:] != last.group()[:1])
    return last.start() if is_open and quote is not None and quote.type in ("'", '"') else None


def _open_comment_before(source: bytes, tree: Tree, offset: int) -> int | None:
    """Where a comment opens that the source ends in."""
    opened = source.rfind(b"/*", 0, offset + 2)
    if opened < 0 or b"*/" in source[opened + 2 :]:
        return None
    node = tree.root_node.descendant_for_byte_range(opened, opened + 1)
    return None if node is None or node.type in ("string_fragment", "regex_pattern", "comment") else opened


def _after(source: bytes, offset: int) -> str:
    """The word or sign before the unexpected one, which tells a reader where to look."""
    before = source[max(0, offset - 60) : offset].rstrip().rsplit(b"\n", 1)[-1]
    words = _TOKEN.findall(before)
    return f" after '{wording.show(words[-1])}'" if words else ""


def _unclosed_hint(tree: Tree, offset: int, closer: str) -> str:
    wanted = _CLOSERS.get(closer)
    opened = _open_before(tree, offset) if wanted else None
    if wanted is None:
        return ""
    if opened is None:
        return f": no '{wanted}' is open"
    if opened.type.removeprefix("$") == wanted:
        return ""
    return f": the '{opened.type}' opened on line {opened.start_point.row + 1} is not closed"


def _open_before(tree: Tree, offset: int) -> Node | None:
    """The innermost bracket or template that is open at `offset`."""
    cursor = tree.walk()
    opened: list[Node] = []
    while True:
        node = cursor.node
        assert node is not None
        if node.start_byte >= offset and node.child_count == 0:
            break
        if not node.is_named and not node.is_missing:
            _track(node, opened)
        if cursor.goto_first_child():
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return opened[-1] if opened else None
    return opened[-1] if opened else None


def _track(node: Node, opened: list[Node]) -> None:
    kind = node.type
    if kind == "`" and opened and opened[-1].type == "`":
        opened.pop()
    elif kind in _OPENERS:
        opened.append(node)
    elif kind in _CLOSERS and opened and opened[-1].type.removeprefix("$") == _CLOSERS[kind]:
        opened.pop()
