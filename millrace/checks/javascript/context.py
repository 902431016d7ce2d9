"""What is known at one point of the walk: functions, scopes, strictness, and what was found so far."""

import heapq
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

from tree_sitter import Node, Tree

from millrace.checks import wording
from millrace.checks.findings import Finding, Positions, Rule
from millrace.checks.javascript import grammar, names

# The parameters of the function that Node wraps around a CommonJS file.
WRAPPER_NAMES = (b"exports", b"require", b"module", b"__filename", b"__dirname")

_LONGEST_WORD = 64

FunctionKind = Literal["script", "function", "arrow", "method", "field", "static"]


class Binding(Enum):
    """How a name was declared: it decides which second declaration is an error."""

    LEXICAL = auto()
    VAR = auto()
    PARAMETER = auto()
    BLOCK_FUNCTION = auto()
    CATCH = auto()
    CATCH_PATTERN = auto()
    OWN_NAME = auto()  # of a function or class expression, within itself


@dataclass(slots=True, eq=False)
class Scope:
    """One region of names. Numbers follow the source, so they are the same in every walk over it."""

    number: int
    parent: "Scope | None"
    start: int
    is_function: bool
    names: dict[bytes, tuple[Binding, int]] = field(default_factory=dict)
    resolved: "dict[bytes, Scope]" = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Function:
    """The function at hand, and what may stand in it."""

    kind: FunctionKind
    parent: "Function | None"
    scope: Scope
    outer_strict: bool = False
    is_async: bool = False
    is_generator: bool = False
    super_property: bool = False
    super_call: bool = False
    in_parameters: bool = False
    loops: int = 0
    switches: int = 0
    labels: dict[bytes, bool] = field(default_factory=dict)  # name: is it a loop's
    last_var: dict[bytes, int] = field(default_factory=dict)

    @property
    def is_arrow(self) -> bool:
        return self.kind == "arrow"


class Context:
    """The state of one walk. Groups of handlers read it; `scoping` alone changes functions and scopes."""

    def __init__(self, source: bytes, tree: Tree, limit: int) -> None:
        self.source = source
        self.cursor = tree.walk()
        self.parents: list[Node] = []
        self.strict = False
        self.scopes = 1
        self.scope = Scope(0, None, 0, is_function=True)
        self.function = Function("script", None, self.scope)
        for name in WRAPPER_NAMES:
            self.scope.names[name] = (Binding.PARAMETER, 0)
        self._found: dict[tuple[int, Rule], str] = {}
        self._limit = limit

    def report(self, where: Node | int, message: str, rule: Rule = "syntax") -> None:
        """Keep a finding: the first of each rule at each place."""
        offset = where if isinstance(where, int) else where.start_byte
        self._found.setdefault((offset, rule), message)

    def findings(self, positions: Positions) -> list[Finding]:
        """What was found, in the order of the source."""
        first = heapq.nsmallest(self._limit, self._found.items())
        return [Finding(*positions.at(offset), rule, message) for (offset, rule), message in first]

    @property
    def has_syntax_errors(self) -> bool:
        return any(rule == "syntax" for _, rule in self._found)

    def text(self, node: Node) -> bytes:
        return self.source[node.start_byte : node.end_byte]

    def short_text(self, node: Node) -> bytes:
        """The text of a node to compare with a word; empty when it is too long to be one.

        A node may be most of the source, and another of the same kind may stand within it, again and again.
        """
        short = node.end_byte - node.start_byte <= _LONGEST_WORD
        return self.source[node.start_byte : node.end_byte] if short else b""

    def name(self, node: Node) -> bytes:
        """The name that an identifier spells, escapes undone."""
        return names.canonical(self.text(node))

    def show(self, node: Node) -> str:
        return wording.show(self.source[node.start_byte : min(node.end_byte, node.start_byte + 400)])

    def next_sign(self, offset: int) -> bytes:
        """The first byte from `offset` on that is neither space nor comment."""
        end = grammar.skip_gap(self.source, offset)
        return self.source[end : end + 1]

    def field_name(self) -> str | None:
        """The field that the node at hand has in its parent."""
        return self.cursor.field_name

    def open_scope(self, start: int, *, is_function: bool = False) -> Scope:
        self.scope = Scope(self.scopes, self.scope, start, is_function)
        self.scopes += 1
        return self.scope

    def close_scope(self) -> None:
        assert self.scope.parent is not None
        self.scope = self.scope.parent


def resolve(scope: Scope, name: bytes) -> Scope | None:
    """The scope that declares `name` as seen from `scope`; None when no code does, so it is a global's."""
    path: list[Scope] = []
    here: Scope | None = scope
    found: Scope | None = None
    while here is not None:
        if name in here.names:
            found = here
            break
        if name in here.resolved:
            found = here.resolved[name]
            found = None if found is _NOWHERE else found
            break
        path.append(here)
        here = here.parent
    for passed in path:
        passed.resolved[name] = found or _NOWHERE
    return found


_NOWHERE = Scope(-1, None, 0, is_function=True)

FUNCTIONS = frozenset(
    (
        "function_expression",
        "function_declaration",
        "generator_function",
        "generator_function_declaration",
        "method_definition",
        "arrow_function",
    )
)


def starts_with_directive(context: Context, body: Node) -> bool:
    """Whether a body begins with the directive 'use strict'."""
    for statement in body.named_children[:64]:
        if statement.is_extra or statement.type == "hash_bang_line":
            continue
        if statement.type != "expression_statement":
            return False
        expression = statement.named_children[0]
        if expression.type != "string":
            return False
        if context.text(expression)[1:-1] == b"use strict":
            return True
    return False


def has_token(node: Node, *tokens: str) -> bool:
    """Whether one of the node's first tokens, before its body, is one of these keywords or signs."""
    return any(part.type in tokens and not part.is_named for part in node.children[:6])
