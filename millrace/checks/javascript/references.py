"""Uses of the globals that matter: which property of which global, and what is done with it.

A name counts only where no code declares it: a parameter `process` or a local `require` is nobody's concern.
A local that holds a global (`const p = process`) is followed: its uses are uses of the global.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from tree_sitter import Node

from millrace.checks.javascript import constants, grammar, names
from millrace.checks.javascript.context import Binding, Context, Scope, resolve
from millrace.checks.javascript.grammar import Handler

Use = Literal["call", "new", "assign", "alias", "argument", "harmless", "pattern", "value"]
Path = tuple[str | None, ...]
Symbol = tuple[int, bytes]  # the number of the declaring scope, and the name

EXPORTS: Path = ("module", "exports")
# Whose prototypes everything inherits from. Those of arrays and texts are what polyfills add to, and bundles hold many.
BUILT_IN = names.byte_words("Object Function")
BUILT_IN_NAMES = frozenset(name.decode() for name in BUILT_IN)
WATCHED = names.byte_words(
    "eval Function require module exports process globalThis global window self Object Reflect "
    "setTimeout setInterval setImmediate createRequire"
)
GLOBAL_OBJECTS = ("globalThis", "global", "window", "self")
# Worth following into a local: what is forbidden itself is refused where it is taken.
_FOLLOWED: frozenset[Path] = frozenset(
    (EXPORTS, *((name,) for name in ("process", "Object", "Reflect", "module", "globalThis", "global")))
)
_MAX_STEPS = 8  # of a local that holds a local, and of a = b = c
_MAX_PATH = 6
_MAX_TEXT = 256  # of a constant that can name a property worth a look
_MEMBERS = ("member_expression", "subscript_expression")
_PLAIN_STATEMENTS = ("expression_statement", "variable_declaration", "lexical_declaration")
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
    straight: bool = False  # an assignment or deletion that every load of the source comes to, in order
    keys: tuple[tuple[int, Node], ...] = ()  # what stands for None in `path`, and may be a constant by its name

    def with_path(self, path: Path) -> "Reference":
        return Reference(
            self.scope, self.name, path, self.use, self.node, self.owner, self.call, self.bare, self.straight
        )


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
        self.returns_early = False  # a load may end before the end of the source
        self.takes_exports = False  # `var { exports } = x`
        self._constants: dict[Symbol, tuple[Node, Scope]] = {}
        self._constant_names: set[bytes] = set()
        self._texts: dict[Symbol, str | None] = {}
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
            "return_statement": self._return,
            "shorthand_property_identifier_pattern": self._shorthand,
        }
        self.leave: dict[str, Handler] = {}

    def resolved(self) -> list[Reference]:
        """The uses of globals, each with its full path, in the order of the source."""
        self._found = [self._with_keys(reference) for reference in self._found]
        for _ in range(_MAX_STEPS):
            found = [
                reference.with_path(normal((*base, *reference.path)))
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
        is_global = reference.name in WATCHED or reference.name in BUILT_IN
        return (reference.name.decode(),) if is_global else None

    def lookup(self, scope: Scope) -> constants.Lookup:
        """What the names of constant strings stand for, as seen from a scope; to be asked after the walk."""
        return lambda node: self._text(scope, self.context.name(node), _MAX_STEPS)

    def _text(self, scope: Scope, name: bytes, steps: int) -> str | None:
        symbol = self._constant(scope, name) if steps else None
        if symbol is None:
            return None
        if symbol not in self._texts:
            self._texts[symbol] = None  # to itself
            value, home = self._constants[symbol]
            text = constants.text(
                value, self.context.source, lambda node: self._text(home, self.context.name(node), steps - 1)
            )
            self._texts[symbol] = text if text is not None and len(text) <= _MAX_TEXT else None
        return self._texts[symbol]

    def _constant(self, scope: Scope, name: bytes) -> Symbol | None:
        """The constant that a name means. Unlike `resolve`, it keeps nothing: the names asked for are many."""
        if name not in self._constant_names:
            return None
        here: Scope | None = scope
        while here is not None and name not in here.names:
            here = here.parent
        symbol = None if here is None else (here.number, name)
        return symbol if symbol in self._constants else None

    def _with_keys(self, reference: Reference) -> Reference:
        """The reference with those keys that are constants by their names."""
        if not reference.keys:
            return reference
        path = list(reference.path)
        for index, node in reference.keys:
            path[index] = constants.text(node, self.context.source, self.lookup(reference.scope))
        return reference.with_path(tuple(path))

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
            followed = reference.use == "alias" and (reference.path in _FOLLOWED or _is_kept_prototype(reference))
            target = _target(reference.owner) if followed else None
            symbol = None if target is None else self.symbol(reference.scope, self.context.name(target))
            if symbol is not None:
                held.setdefault(symbol, reference.path)
        return held

    # collecting

    def _return(self, node: Node) -> None:
        self.returns_early |= self.context.function.kind == "script"

    def _shorthand(self, node: Node) -> None:
        self.takes_exports |= self.context.source[node.start_byte : node.end_byte] == b"exports"

    def _declarator(self, node: Node) -> None:
        name = grammar.child(node, "name")
        if name is not None and name.type == "identifier":
            value, scope = grammar.child(node, "value"), self.context.scope
            self._keep_initial(name, value, scope)
            if value is not None and _is_const(self.context.parents[-1]) and _may_be_text(value):
                self._constants[(scope.number, self.context.name(name))] = value, scope
                self._constant_names.add(self.context.name(name))

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
            return
        self._first_seen.setdefault(text, node.start_byte)
        if text in BUILT_IN and self.context.parents[-1].type in _MEMBERS:
            self._keep(node, text)

    def _this(self, node: Node) -> None:
        function = self.context.function
        while function.is_arrow and function.parent is not None:
            function = function.parent
        if function.kind == "script":
            self._keep(node, b"this")

    def _keep(self, node: Node, name: bytes) -> None:
        parents = self.context.parents
        path: list[str | None] = []
        keys: tuple[tuple[int, Node], ...] = ()
        here, index = node, len(parents) - 1
        while index > 0 and len(path) < _MAX_PATH:
            parent = parents[index]
            kind = parent.type
            if kind in _MEMBERS and parent.start_byte == here.start_byte:
                path.append(self._property(parent))
                unknown = grammar.child(parent, "index") if path[-1] is None else None
                if unknown is not None and constants.may_depend_on_names(unknown):
                    keys += ((len(path) - 1, unknown),)
            elif not (
                kind == "parenthesized_expression"
                or (kind == "sequence_expression" and parent.end_byte == here.end_byte)
            ):
                break
            here, index = parent, index - 1
        owner = parents[index]
        call = parents[index - 1] if owner.type == "arguments" else None
        use = self._use(here, owner)
        straight = (use == "assign" or owner.type == "unary_expression") and self._is_straight(index)
        reference = Reference(self.context.scope, name, tuple(path), use, here, owner, call, not path, straight, keys)
        self._found.append(reference)
        if use == "alias":
            self._expand(reference)
            self._watch(owner)
        elif use == "assign" and len(path) <= 1:
            self._chain(reference, index)

    def _is_straight(self, index: int) -> bool:
        """Whether the node at `index` of the parents is a statement of the top level, or `a = ` before one."""
        parents = self.context.parents
        if index < 2 or index > _MAX_STEPS or parents[0].type != "program":
            return False
        return parents[1].type in _PLAIN_STATEMENTS and all(
            parent.type in ("assignment_expression", "variable_declarator") for parent in parents[2:index]
        )

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
        waiting = [(target, reference.path, reference.keys)] if target is not None else []
        while waiting:
            pattern, path, keys = waiting.pop()
            if pattern.type != "object_pattern" or len(path) >= _MAX_PATH:
                continue
            for part in grammar.inner(pattern):
                name, value = self._member(part)
                longer, more = (*path, name), keys
                unknown = grammar.child(part, "key") if name is None else None
                if unknown is not None and unknown.type == "computed_property_name":
                    more = (*keys, (len(path), unknown))
                self._found.append(
                    Reference(
                        reference.scope, reference.name, longer, "alias", part, value or part, None, False, keys=more
                    )
                )
                if value is not None:
                    waiting.append((value, longer, more))

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


def _is_const(declaration: Node) -> bool:
    return declaration.type == "lexical_declaration" and declaration.children[0].type == "const"


def _may_be_text(value: Node) -> bool:
    return grammar.unwrap(value).type == "string" or constants.may_depend_on_names(value)


def _is_kept_prototype(reference: Reference) -> bool:
    """`const p = Array.prototype`: a variable may hold another prototype when something is assigned to it."""
    if len(reference.path) != 2 or reference.path[1] != "prototype" or reference.owner.type != "variable_declarator":
        return False
    declaration = reference.owner.parent
    return reference.path[0] in BUILT_IN_NAMES and declaration is not None and _is_const(declaration)


def normal(path: Path) -> Path:
    while len(path) > 1 and path[0] in GLOBAL_OBJECTS:
        path = path[1:]
    return (*EXPORTS, *path[1:]) if path[:1] == ("exports",) else path
