"""Uses of the globals that matter: which property of which global, and what is done with it.

A name counts only where no code declares it: a parameter `process` or a local `require` is nobody's concern.
A local that holds a global (`const p = process`) is followed: its uses are uses of the global.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from tree_sitter import Node

from millrace.checks import constants, grammar, names
from millrace.checks.context import Binding, Context, Scope, resolve
from millrace.checks.grammar import Handler

Use = Literal["call", "new", "assign", "alias", "argument", "harmless", "pattern", "value"]
Path = tuple[str | None, ...]
Symbol = tuple[int, bytes]  # the number of the declaring scope, and the name

EXPORTS: Path = ("module", "exports")
WATCHED = names.byte_words(
    "eval Function require module exports process globalThis global window self Object Reflect "
    "setTimeout setInterval setImmediate createRequire"
)
_GLOBAL_OBJECTS = ("globalThis", "global", "window", "self")
# Worth following into a local: what is forbidden itself is refused where it is taken.
_FOLLOWED: frozenset[Path] = frozenset(
    (EXPORTS, *((name,) for name in ("process", "Object", "Reflect", "module", "globalThis", "global")))
)
_MAX_STEPS = 8  # of a local that holds a local, and of a = b = c
_MAX_PATH = 6
_HARMLESS_UNARY = ("typeof", "!", "void")


@dataclass(frozen=True, slots=True)
class Reference:
    """One use. `path` starts at a global; None in it is a key known only in a run."""

    scope: Scope
    name: bytes
    path: Path
    use: Use
    node: Node  # the whole chain, `process.exit` of `process.exit(1)`
    owner: Node  # what contains it: the call, the assignment, the declarator, the arguments
    call: Node | None  # the call, if it is an argument
    bare: bool  # a name alone, without a property

    def with_path(self, path: Path) -> "Reference":
        return Reference(self.scope, self.name, path, self.use, self.node, self.owner, self.call, self.bare)


class References:
    """Collects uses while the tree is walked; `resolved` says afterwards which of them are of globals."""

    def __init__(
        self,
        context: Context,
        aliases: dict[Symbol, Path] | None = None,
        wanted: frozenset[Symbol] = frozenset(),
    ) -> None:
        self.context = context
        self.aliases = dict(aliases or {})
        self.wanted = wanted  # locals whose first value is kept in `initials`
        self.initials: dict[Symbol, Node | None] = {}
        self._names = {*WATCHED, *(name for _, name in self.aliases)}
        self._first_seen: dict[bytes, int] = {}
        self._found: list[Reference] = []
        self.enter: dict[str, Handler] = {
            "identifier": self._identifier,
            "shorthand_property_identifier": self._identifier,
            "this": self._this,
            "variable_declarator": self._declarator,
            "class_declaration": self._class_declared,
            "function_declaration": self._declared,
            "generator_function_declaration": self._declared,
        }
        self.leave: dict[str, Handler] = {}

    def resolved(self) -> list[Reference]:
        """The uses of globals, each with its full path, in the order of the source."""
        for _ in range(_MAX_STEPS):
            found = [
                reference.with_path(_normal((*base, *reference.path)))
                for reference in self._found
                if (base := self._base(reference)) is not None
            ]
            more = self._held(found)
            if more.keys() <= self.aliases.keys():
                break
            self.aliases = more | self.aliases
        return found

    def unseen(self) -> set[Path]:
        """The globals held by locals that this walk met before it knew what they hold."""
        return {path for (_, name), path in self.aliases.items() if name not in self._names}

    def _base(self, reference: Reference) -> Path | None:
        if reference.name == b"this":
            return EXPORTS
        symbol = self.symbol(reference.scope, reference.name)
        if symbol is not None:
            return self.aliases.get(symbol)
        return (reference.name.decode(),) if reference.name in WATCHED else None

    def symbol(self, scope: Scope, name: bytes) -> Symbol | None:
        """The declaration that a name means; None for a global, and for what Node passes to every module."""
        home = resolve(scope, name)
        if home is None or (home.number == 0 and home.names[name][0] is Binding.PARAMETER):
            return None
        return home.number, name

    def _held(self, found: list[Reference]) -> dict[Symbol, Path]:
        """The locals that hold a global worth following, as far as this walk could see."""
        held: dict[Symbol, Path] = {}
        for reference in found:
            target = _target(reference.owner) if reference.use == "alias" and reference.path in _FOLLOWED else None
            symbol = None if target is None else self.symbol(reference.scope, self.context.name(target))
            if symbol is not None:
                held.setdefault(symbol, reference.path)
        return held

    # collecting

    def _declarator(self, node: Node) -> None:
        name = grammar.child(node, "name")
        if name is not None and name.type == "identifier":
            self._keep_initial(name, grammar.child(node, "value"), self.context.scope)

    def _declared(self, node: Node) -> None:
        name = grammar.child(node, "name")
        if name is not None:
            self._keep_initial(name, node, self.context.scope)

    def _class_declared(self, node: Node) -> None:
        name, within = grammar.child(node, "name"), self.context.scope
        if name is not None and within.parent is not None:
            self._keep_initial(name, node, within.parent)

    def _keep_initial(self, name: Node, value: Node | None, scope: Scope) -> None:
        if not self.wanted:
            return
        symbol = self.symbol(scope, self.context.name(name))
        if symbol in self.wanted and (value is not None or symbol not in self.initials):
            self.initials[symbol] = value

    def _identifier(self, node: Node) -> None:
        text = self.context.source[node.start_byte : node.end_byte]
        if b"\\" in text:
            text = self.context.name(node)
        if text in self._names:
            self._keep(node, text)
        else:
            self._first_seen.setdefault(text, node.start_byte)

    def _this(self, node: Node) -> None:
        function = self.context.function
        while function.is_arrow and function.parent is not None:
            function = function.parent
        if function.kind == "script":
            self._keep(node, b"this")

    def _keep(self, node: Node, name: bytes) -> None:
        parents = self.context.parents
        path: list[str | None] = []
        here, index = node, len(parents) - 1
        while index > 0 and len(path) < _MAX_PATH:
            parent = parents[index]
            kind = parent.type
            if kind in ("member_expression", "subscript_expression") and parent.start_byte == here.start_byte:
                path.append(self._property(parent))
            elif not (
                kind == "parenthesized_expression"
                or (kind == "sequence_expression" and parent.end_byte == here.end_byte)
            ):
                break
            here, index = parent, index - 1
        owner = parents[index]
        call = parents[index - 1] if owner.type == "arguments" else None
        use = self._use(here, owner)
        reference = Reference(self.context.scope, name, tuple(path), use, here, owner, call, not path)
        self._found.append(reference)
        if use == "alias":
            self._expand(reference)
            self._watch(owner)
        elif use == "assign" and len(path) <= 1:
            self._chain(reference, index)

    def _chain(self, reference: Reference, index: int) -> None:
        """In `e = module.exports = {}`, e is module.exports too."""
        for owner in reversed(self.context.parents[max(0, index - _MAX_STEPS) : index]):
            if owner.type in ("assignment_expression", "variable_declarator"):
                target = _target(owner)
                if target is None or self.context.name(target) in WATCHED:
                    continue
                self._found.append(dataclasses.replace(reference, use="alias", owner=owner))
                self._watch(owner)
            elif owner.type != "parenthesized_expression":
                break

    def _watch(self, owner: Node) -> None:
        """From here on, look at the local that takes a global, if this is the first time that it shows."""
        target = _target(owner)
        if target is None:
            return
        name = self.context.name(target)
        if self._first_seen.get(name, target.start_byte) == target.start_byte:
            self._names.add(name)

    def _property(self, member: Node) -> str | None:
        name = grammar.child(member, "property")
        if name is not None:
            return self.context.name(name).decode("utf-8", "replace")
        index = grammar.child(member, "index")
        return None if index is None else constants.text(index, self.context.source)

    def _use(self, here: Node, owner: Node) -> Use:
        kind = owner.type
        first = owner.start_byte == here.start_byte
        if kind == "call_expression" and first:
            return "call"
        simple: dict[str, Use] = {
            "new_expression": "new",
            "arguments": "argument",
            "expression_statement": "harmless",
            "pair_pattern": "pattern",
            "array_pattern": "pattern",
            "rest_pattern": "pattern",
            "update_expression": "assign",
            "augmented_assignment_expression": "assign" if first else "value",
        }
        if kind in simple:
            return simple[kind]
        if kind == "assignment_expression":
            return "assign" if first else "alias"
        if kind == "variable_declarator":
            return "harmless" if first else "alias"
        operator = grammar.child(owner, "operator") if kind in ("unary_expression", "binary_expression") else None
        if operator is not None:
            compares = kind == "binary_expression" and operator.type not in ("||", "&&", "??")
            return "harmless" if compares or operator.type in _HARMLESS_UNARY else "value"
        return "value"

    def _expand(self, reference: Reference) -> None:
        """`const { exit, env: { HOME } } = process` uses process.exit, process.env and process.env.HOME."""
        target = grammar.child(reference.owner, "name") or grammar.child(reference.owner, "left")
        waiting = [(target, reference.path)] if target is not None else []
        while waiting:
            pattern, path = waiting.pop()
            if pattern.type != "object_pattern" or len(path) >= _MAX_PATH:
                continue
            for part in grammar.inner(pattern):
                name, value = self._member(part)
                longer = (*path, name)
                self._found.append(
                    Reference(reference.scope, reference.name, longer, "alias", part, value or part, None, False)
                )
                if value is not None:
                    waiting.append((value, longer))

    def _member(self, part: Node) -> tuple[str | None, Node | None]:
        """The property that a part of an object pattern reads, and the pattern that takes it."""
        if part.type == "pair_pattern":
            name, value = grammar.child(part, "key"), grammar.child(part, "value")
        else:
            left = grammar.child(part, "left") if part.type == "object_assignment_pattern" else part
            name = value = left
        if value is not None and value.type == "assignment_pattern":
            value = grammar.child(value, "left")
        if name is None or part.type == "rest_pattern":
            return None, None
        return constants.key(name, self.context.source), value


def _target(owner: Node) -> Node | None:
    """The plain name that takes the value."""
    if owner.type in ("variable_declarator", "assignment_expression"):
        found = grammar.child(owner, "name") or grammar.child(owner, "left")
    else:
        found = owner
    plain = found is not None and found.type in ("identifier", "shorthand_property_identifier_pattern")
    return found if plain else None


def _normal(path: Path) -> Path:
    while len(path) > 1 and path[0] in _GLOBAL_OBJECTS:
        path = path[1:]
    return (*EXPORTS, *path[1:]) if path[:1] == ("exports",) else path
