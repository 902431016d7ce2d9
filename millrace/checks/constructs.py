"""Forbidden constructs: code from text, ways to the process and the module loader, the prototype chain."""

from tree_sitter import Node

from millrace.checks import constants, grammar, names
from millrace.checks.context import FUNCTIONS, Context
from millrace.checks.grammar import Handler
from millrace.checks.modules import Available
from millrace.checks.references import Reference

_ENDS = names.words("exit kill abort reallyExit _kill")
_PROCESS = _ENDS | names.words(
    "binding dlopen _linkedBinding _debugProcess _startProfilerIdleNotifier "
    "mainModule getBuiltinModule setuid setgid seteuid setegid setgroups initgroups"
)
_MODULE = names.words("require constructor parent children load _compile _load")

_CODE_FROM_TEXT = "code from text is forbidden"
_FUNCTION_CALLS = ("call", "apply", "bind", "constructor")
_TIMERS = ("setTimeout", "setInterval", "setImmediate")
_LITERALS = FUNCTIONS | {"class"}
_WATCHED = frozenset((b"constructor", b"__proto__", b"createRequire"))


class Constructs:
    """Finds forbidden properties, and imports, wherever they stand."""

    def __init__(self, context: Context, available: Available) -> None:
        self.context = context
        self.available = available
        self.enter: dict[str, Handler] = {
            "property_identifier": self._name,
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
        if text in _WATCHED and self.context.parents[-1].type == "member_expression":
            self._property(self.context.parents[-1], text.decode(), self.context.parents[-2])

    def _subscript(self, node: Node) -> None:
        index = grammar.child(node, "index")
        text = None if index is None else constants.text(index, self.context.source)
        if text is not None and text.encode("utf-8", "replace") in _WATCHED:
            self._property(node, text, self.context.parents[-1])

    def _property(self, member: Node, name: str, owner: Node) -> None:
        if name == "__proto__":
            self._refuse(member, "'__proto__' reaches the prototype chain, which is forbidden.")
        elif name == "createRequire":
            self._refuse(member, "'createRequire' makes another require, which is forbidden.")
        elif self._reaches_function_constructor(member, owner):
            self._refuse(member, f"'{self.context.show(member)}' reaches the Function constructor: {_CODE_FROM_TEXT}.")

    def _reaches_function_constructor(self, member: Node, owner: Node) -> bool:
        held = grammar.child(member, "object")
        if held is None:
            return False
        value = grammar.unwrap(held)
        if value.type in _LITERALS or self._is_constructor(value) or self._is_prototype_of_function(value):
            return True
        called = owner.type == "call_expression" and owner.start_byte == member.start_byte
        arguments = grammar.child(owner, "arguments") if called else None
        first = grammar.inner(arguments)[:1] if arguments is not None else []
        return bool(first) and constants.looks_like_text(first[0])

    def _is_constructor(self, value: Node) -> bool:
        if value.type == "member_expression":
            name = grammar.child(value, "property")
            return name is not None and self.context.name(name) == b"constructor"
        index = grammar.child(value, "index") if value.type == "subscript_expression" else None
        return index is not None and constants.text(index, self.context.source) == "constructor"

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
        key, value = grammar.child(node, "key"), grammar.child(node, "value")
        name = None if key is None else constants.key(key, self.context.source)
        if name == "__proto__":
            self._refuse(node, "'__proto__' reaches the prototype chain, which is forbidden.")
        elif name == "constructor" and value is not None and value.type == "object_pattern":
            inner = [grammar.child(part, "key") for part in grammar.inner(value)]
            keys = [constants.key(part, self.context.source) for part in inner if part is not None]
            if "constructor" in keys:
                self._refuse(node, f"'{self.context.show(node)}' reaches the Function constructor: {_CODE_FROM_TEXT}.")

    # modules

    def _import(self, node: Node) -> None:
        owner = self.context.parents[-1]
        arguments = grammar.child(owner, "arguments") if owner.type == "call_expression" else None
        if arguments is not None:
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

    def check_reference(self, reference: Reference) -> None:
        """Refuse a use of a global that is forbidden."""
        path = reference.path
        root, rest = path[0], path[1:]
        if reference.bare and reference.use in ("assign", "pattern"):
            return  # a name that takes another value
        if root == "eval":
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
        extended = reference.owner.type == "class_heritage"
        made = not rest and (extended or reference.use in ("call", "new", "alias"))
        called = bool(rest) and (rest[0] in _FUNCTION_CALLS or rest[:2] == ("prototype", "constructor"))
        reflected = not rest and self._is_argument_of_reflect(reference)
        if made or called or reflected:
            self._refuse(
                reference.node,
                f"{self._called(reference, 1)} as a constructor is forbidden: {_CODE_FROM_TEXT}.",
            )

    def _is_argument_of_reflect(self, reference: Reference) -> bool:
        callee = grammar.child(reference.call, "function") if reference.call is not None else None
        return callee is not None and self.context.source.startswith(b"Reflect", callee.start_byte)

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
