"""Forbidden constructs: code from text, ways to the process and the module loader, the prototype chain."""

import dataclasses
from collections.abc import Sequence

from tree_sitter import Node

from millrace.checks import wording
from millrace.checks.javascript import constants, grammar, names
from millrace.checks.javascript.context import FUNCTIONS, Context, Scope
from millrace.checks.javascript.grammar import Handler
from millrace.checks.javascript.modules import Available
from millrace.checks.javascript.references import BUILT_IN_NAMES, GLOBAL_OBJECTS, Path, Reference, References, normal

_ENDS = wording.words("exit kill abort reallyExit _kill")
_PROCESS = _ENDS | wording.words(
    "binding dlopen _linkedBinding _debugProcess _startProfilerIdleNotifier "
    "mainModule getBuiltinModule setuid setgid seteuid setegid setgroups initgroups"
)
_MODULE = wording.words("require constructor parent children load _compile _load")

_CODE_FROM_TEXT = "code from text is forbidden"
_FUNCTION_CALLS = ("call", "apply", "bind", "constructor")
_TIMERS = ("setTimeout", "setInterval", "setImmediate")
_LITERALS = FUNCTIONS | {"class"}
_ACCESSORS = wording.words("__defineGetter__ __defineSetter__ __lookupGetter__ __lookupSetter__")
_WATCHED = wording.words("constructor __proto__ createRequire") | _ACCESSORS
_WATCHED_BYTES = frozenset(name.encode() for name in _WATCHED)
# Calls that read the property of their first argument that the second one names, and calls that change the first.
_READERS: frozenset[Path] = frozenset(
    (("Reflect", "get"), ("Reflect", "getOwnPropertyDescriptor"), ("Object", "getOwnPropertyDescriptor"))
)
_WRITERS: frozenset[Path] = frozenset(
    (
        *(("Object", name) for name in ("assign", "defineProperty", "defineProperties")),
        *(("Reflect", name) for name in ("set", "defineProperty", "deleteProperty")),
    )
)
_LISTS = ("Object", "getOwnPropertyDescriptors")


class Constructs:
    """Finds forbidden properties, and imports, wherever they stand."""

    def __init__(self, context: Context, available: Available) -> None:
        self.context = context
        self.available = available
        self._members: list[tuple[Node, Node, Scope]] = []  # each with what contains it
        self._patterns: list[tuple[Node, Scope]] = []
        self.enter: dict[str, Handler] = {
            "property_identifier": self._name,
            "shorthand_property_identifier_pattern": self._shorthand,
            "subscript_expression": self._subscript,
            "pair": self._pair,
            "pair_pattern": self._pair_pattern,
            "import": self._import,
        }
        self.leave: dict[str, Handler] = {}

    # properties

    def _name(self, node: Node) -> None:
        text = self.context.source[node.start_byte : node.end_byte]
        if b"\\" in text:
            text = names.canonical(text)
        if text in _WATCHED_BYTES and self.context.parents[-1].type == "member_expression":
            self._members.append((self.context.parents[-1], self.context.parents[-2], self.context.scope))

    def _subscript(self, node: Node) -> None:
        index = grammar.child(node, "index")
        text = None if index is None else constants.text(index, self.context.source)
        if text in _WATCHED or (text is None and index is not None and constants.may_depend_on_names(index)):
            self._members.append((node, self.context.parents[-1], self.context.scope))

    def _shorthand(self, node: Node) -> None:
        name = self.context.name(node).decode("utf-8", "replace")
        owner = self.context.parents[-1].type
        if owner in ("object_pattern", "object_assignment_pattern"):
            self._refuse_prototype(node, name)

    def check_members(self, references: References) -> None:
        """Refuse forbidden properties, once the walk has seen which names stand for constant strings."""
        for member, owner, scope in self._members:
            lookup = references.lookup(scope)
            name = self._property_name(member, lookup)
            if name in _WATCHED:
                self._property(member, name, owner, lookup)
        for pattern, scope in self._patterns:
            self._check_pattern(pattern, references.lookup(scope))

    def _property_name(self, member: Node, lookup: constants.Lookup) -> str | None:
        name = grammar.child(member, "property")
        if name is not None:
            return self.context.name(name).decode("utf-8", "replace")
        index = grammar.child(member, "index")
        return None if index is None else constants.text(index, self.context.source, lookup)

    def _refuse_prototype(self, where: Node, name: str | None) -> None:
        if name == "__proto__" or name in _ACCESSORS:
            self._refuse(where, f"'{name}' reaches the prototype chain, which is forbidden.")

    def _property(self, member: Node, name: str, owner: Node, lookup: constants.Lookup) -> None:
        self._refuse_prototype(member, name)
        if name == "createRequire":
            self._refuse(member, "'createRequire' makes another require, which is forbidden.")
        elif name == "constructor" and self._reaches_function_constructor(member, owner, lookup):
            self._refuse(member, f"'{self.context.show(member)}' reaches the Function constructor: {_CODE_FROM_TEXT}.")

    def _reaches_function_constructor(self, member: Node, owner: Node, lookup: constants.Lookup) -> bool:
        held = grammar.child(member, "object")
        if held is None:
            return False
        value = grammar.unwrap(held)
        if value.type in _LITERALS or self._is_constructor(value, lookup):
            return True
        if self._is_prototype_of_function(value):
            return True
        called = owner.type == "call_expression" and owner.start_byte == member.start_byte
        arguments = grammar.child(owner, "arguments") if called else None
        first = grammar.inner(arguments)[:1] if arguments is not None else []
        if not first:
            return False
        return constants.looks_like_text(first[0]) or constants.text(first[0], self.context.source, lookup) is not None

    def _is_constructor(self, value: Node, lookup: constants.Lookup) -> bool:
        is_member = value.type in ("member_expression", "subscript_expression")
        return is_member and self._property_name(value, lookup) == "constructor"

    def _is_prototype_of_function(self, value: Node) -> bool:
        """`Object.getPrototypeOf(async () => {})`, whose constructor makes functions from text."""
        arguments = grammar.child(value, "arguments") if value.type == "call_expression" else None
        function = grammar.child(value, "function")
        if arguments is None or function is None or function.type != "member_expression":
            return False
        name = grammar.child(function, "property")
        first = grammar.inner(arguments)[:1]
        wanted = name is not None and self.context.name(name) == b"getPrototypeOf"
        return wanted and bool(first) and grammar.unwrap(first[0]).type in _LITERALS

    def _pair(self, node: Node) -> None:
        key, value = grammar.child(node, "key"), grammar.child(node, "value")
        if key is None or value is None or value.type == "null":
            return
        if key.type != "computed_property_name" and constants.key(key, self.context.source) == "__proto__":
            self._refuse(key, "'__proto__' sets the prototype chain, which is forbidden (null is allowed).")

    def _pair_pattern(self, node: Node) -> None:
        self._patterns.append((node, self.context.scope))

    def _check_pattern(self, node: Node, lookup: constants.Lookup) -> None:
        key, value = grammar.child(node, "key"), grammar.child(node, "value")
        name = None if key is None else constants.key(key, self.context.source, lookup)
        self._refuse_prototype(node, name)
        if name == "constructor" and value is not None and value.type == "object_pattern":
            inner = [grammar.child(part, "key") for part in grammar.inner(value)]
            keys = [constants.key(part, self.context.source, lookup) for part in inner if part is not None]
            if "constructor" in keys:
                self._refuse(node, f"'{self.context.show(node)}' reaches the Function constructor: {_CODE_FROM_TEXT}.")

    # modules

    def _import(self, node: Node) -> None:
        owner = self.context.parents[-1]
        arguments = grammar.child(owner, "arguments") if owner.type == "call_expression" else None
        if arguments is None:
            return
        first = grammar.inner(arguments)[:1]
        name = constants.text(first[0], self.context.source) if first else None
        if name is None or self.available.problem(name) is None:
            shown = wording.show(repr(name).encode("utf-8", "replace"), 80) if name is not None else "'name'"
            self._refuse(owner, f"import() does not work in a script, which is CommonJS: write require({shown}).")
        else:
            self._check_module(owner, arguments, "import()")

    def _check_module(self, call: Node, arguments: Node, word: str) -> None:
        first = grammar.inner(arguments)[:1] if arguments.type == "arguments" else [arguments]
        name = constants.text(first[0], self.context.source) if first else None
        if name is None:
            shown = self.context.show(first[0]) if first else ""
            self._refuse(call, f"{word} takes the name of a module as a literal string, not '{shown}'.")
            return
        problem = self.available.problem(name)
        if problem is not None:
            self.context.report(first[0], problem[1], problem[0])

    # globals

    def check_references(self, found: Sequence[Reference], references: References) -> None:
        """Refuse the uses of globals that are forbidden."""
        called = {
            reference.owner.id: reference.path
            for reference in found
            if reference.use == "call" and reference.path in _READERS | _WRITERS | {_LISTS}
        }
        for reference in found:
            self._check_reference(reference)
            if reference.call is not None and reference.call.id in called:
                # Only the first of a call's references can be its first argument; the others may be many.
                self._check_first_argument(reference, called.pop(reference.call.id), references)
            elif reference.use == "call" and reference.path in _READERS:
                self._check_reader(reference, references)

    def _check_first_argument(self, reference: Reference, callee: Path, references: References) -> None:
        parts = grammar.inner(reference.owner)
        if parts[0].id != reference.node.id:
            return
        if callee in _WRITERS and _is_prototype(reference.path):
            self._refuse_change(reference)
        elif callee == _LISTS and reference.path[0] in GLOBAL_OBJECTS and len(reference.path) == 1:
            self._refuse(reference.node, f"'{'.'.join(_LISTS)}' of every global reaches 'eval': {_CODE_FROM_TEXT}.")
        elif callee in _READERS and len(parts) > 1:
            key = constants.text(parts[1], self.context.source, references.lookup(reference.scope))
            path = normal((*reference.path, key))
            self._check_reference(dataclasses.replace(reference, path=path, use="value", bare=False))

    def _check_reader(self, reference: Reference, references: References) -> None:
        """`Reflect.get(x, '__proto__')` is `x.__proto__`."""
        arguments = grammar.child(reference.owner, "arguments")
        parts = grammar.inner(arguments)[:2] if arguments is not None else []
        key = constants.text(parts[1], self.context.source, references.lookup(reference.scope)) if parts[1:] else None
        self._refuse_prototype(reference.owner, key)
        if key == "constructor" and grammar.unwrap(parts[0]).type in _LITERALS:
            shown = self.context.show(reference.owner)
            self._refuse(reference.owner, f"'{shown}' reaches the Function constructor: {_CODE_FROM_TEXT}.")

    def _check_reference(self, reference: Reference) -> None:
        path = reference.path
        root, rest = path[0], path[1:]
        if reference.bare and reference.use in ("assign", "pattern"):
            return  # a name that takes another value
        if _is_prototype(path[:2]) and len(path) > 2 and self._is_changed(reference):
            self._refuse_change(reference)
        elif root == "eval":
            self._eval(reference)
        elif root == "Function":
            self._function(reference, rest)
        elif root == "process" and rest and rest[0] in _PROCESS:
            reason = "a script ends by returning or throwing" if rest[0] in _ENDS else "it reaches into the runtime"
            self._refuse(reference.node, f"{self._called(reference, 2)} is forbidden: {reason}.")
        elif root in ("Object", "Reflect") and rest[:1] == ("setPrototypeOf",):
            self._refuse(
                reference.node,
                f"{self._called(reference, 2)} changes the prototype chain, which is forbidden.",
            )
        elif root == "module" and rest and rest[0] in _MODULE:
            self._refuse(reference.node, f"{self._called(reference, 2)} reaches the module loader, which is forbidden.")
        elif root == "createRequire":
            self._refuse(reference.node, "'createRequire' makes another require, which is forbidden.")
        elif root in _TIMERS:
            self._timer(reference, rest)
        elif root == "require":
            self._require(reference, rest)

    def _eval(self, reference: Reference) -> None:
        if not self._only_asks_type(reference):
            self._refuse(reference.node, f"{self._called(reference, 1)} is forbidden: {_CODE_FROM_TEXT}.")

    def _function(self, reference: Reference, rest: tuple[str | None, ...]) -> None:
        made = not rest and (reference.owner.type == "class_heritage" or reference.use in ("call", "new"))
        called = bool(rest) and (rest[0] in _FUNCTION_CALLS or rest[:2] == ("prototype", "constructor"))
        if made or called:
            self._refuse(
                reference.node, f"{self._called(reference, 1)} as a constructor is forbidden: {_CODE_FROM_TEXT}."
            )
        elif not rest and reference.use != "harmless" and reference.owner.type != "switch_case":
            self._refuse(
                reference.node,
                f"{self._called(reference, 1)} as a value is forbidden: {_CODE_FROM_TEXT}. "
                "To ask for a function, write typeof x === 'function'.",
            )

    def _is_changed(self, reference: Reference) -> bool:
        owner = reference.owner
        if owner.type == "unary_expression":
            operator = grammar.child(owner, "operator")
            return operator is not None and operator.type == "delete"
        if owner.type == "for_in_statement":
            left = grammar.child(owner, "left")
            return left is not None and left.id == reference.node.id
        return reference.use in ("assign", "pattern")

    def _refuse_change(self, reference: Reference) -> None:
        self._refuse(
            reference.node,
            f"{self._called(reference, 2)} belongs to every script that runs here, so it cannot be changed: "
            "write a function of your own.",
        )

    def _timer(self, reference: Reference, rest: tuple[str | None, ...]) -> None:
        arguments = grammar.child(reference.owner, "arguments") if reference.use == "call" and not rest else None
        first = grammar.inner(arguments)[:1] if arguments is not None else []
        if first and constants.looks_like_text(first[0]):
            self._refuse(
                reference.node,
                f"'{reference.path[0]}' takes a function here, not a string: {_CODE_FROM_TEXT}.",
            )

    def _require(self, reference: Reference, rest: tuple[str | None, ...]) -> None:
        arguments = grammar.child(reference.owner, "arguments") if reference.use == "call" else None
        if rest in ((), ("resolve",)) and arguments is not None:
            self._check_module(reference.node, arguments, ".".join(("require", *(name or "" for name in rest))) + "()")
        elif rest:
            self._refuse(reference.node, f"{self._called(reference, 2)} reaches the module loader, which is forbidden.")
        elif not self._only_asks_type(reference):
            self._refuse(reference.node, "'require' may only be called, not passed on or renamed: require('name').")

    def _called(self, reference: Reference, length: int) -> str:
        """The global's own name, and the one that the source has for it."""
        path = ".".join(part or "[...]" for part in reference.path[:length])
        shown = self.context.show(reference.node)
        return f"'{path}'" if shown == path else f"'{path}' (here '{shown}')"

    def _only_asks_type(self, reference: Reference) -> bool:
        operator = grammar.child(reference.owner, "operator") if reference.owner.type == "unary_expression" else None
        return operator is not None and operator.type == "typeof"

    def _refuse(self, where: Node, message: str) -> None:
        self.context.report(where, message, "forbidden-construct")


def _is_prototype(path: Path) -> bool:
    """Whether a path is the prototype of something built in."""
    return len(path) == 2 and path[1] == "prototype" and path[0] in BUILT_IN_NAMES
