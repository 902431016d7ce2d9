"""What a CommonJS source exports, as far as it can be read off without running it."""

from dataclasses import dataclass, field

from tree_sitter import Node

from millrace.checks import wording
from millrace.checks.javascript import constants, grammar
from millrace.checks.javascript.context import Context
from millrace.checks.javascript.references import EXPORTS, Reference, References, Symbol

_SHOWN = 20
_NO_KEYS = wording.words(
    "function_expression function_declaration generator_function generator_function_declaration "
    "arrow_function string template_string number regex array null undefined true false binary_expression "
    "unary_expression"
)
_READ_ONLY_CALLS = frozenset((b"Object.keys", b"Object.values", b"Object.entries", b"Object.seal", b"Object.freeze"))
# What is never a function, in the words of a message; what has no properties besides is never an object with one.
_NO_FUNCTION = {
    **dict.fromkeys(("object", "array", "regex"), "an object"),
    "string": "a string",
    "template_string": "a string",
    "number": "a number",
    "null": "null",
    "undefined": "undefined",
    "true": "a boolean",
    "false": "a boolean",
}
_MAX_CHAIN = 8  # of a = b = c
_OBJECTS = ("object", "array", "regex")
# What stands for nothing but itself: whatever it replaces is gone.
_FRESH = wording.words("object function_expression generator_function arrow_function string number null undefined")
_OWN_ROOTS = (b"module", b"exports", b"this")
_NAMED_MEMBERS = ("pair", "method_definition", "shorthand_property_identifier")


@dataclass(frozen=True, slots=True)
class _Put:
    """One place that gives an export its value, or takes it away."""

    name: str
    value: Node | None  # when it shows
    reference: Reference | None = None  # when it is of module.exports by its own name
    deletes: bool = False


@dataclass
class Exports:
    """The names exported, and whether others may be that cannot be seen.

    Places count in the order of the source only where every load comes to them in that order: at the top level,
    outside of conditions, loops and functions. Any other place may be reached last.
    """

    references: References
    open_ended: bool = False
    replaced_locally: bool = False
    _puts: list[_Put] = field(default_factory=list)
    _wholes: list[Reference] = field(default_factory=list)
    _relinked: bool = False  # 'exports' may be another object than at the start
    _seen: set[int] = field(default_factory=set)
    same_object: set[Symbol] = field(default_factory=set)

    @property
    def context(self) -> Context:
        return self.references.context

    def read(self, found: list[Reference]) -> None:
        """Take in every use of module.exports."""
        for reference in found:
            path = reference.path
            if path == ("module",):
                self.open_ended |= reference.use in ("argument", "value", "pattern")
            elif path[:2] == EXPORTS and len(path) == 2:
                self._whole(reference)
            elif path[:2] == EXPORTS and len(path) == 3:
                self._member(reference, path[2])
        self._relinked |= self.references.takes_exports
        for symbol in self.references.wanted:
            self._initial(self.references.initials.get(symbol))

    def _initial(self, value: Node | None) -> None:
        """The first value of a local that is module.exports."""
        if value is None:
            self.open_ended = True
        else:
            self._value(value)

    def _member(self, reference: Reference, name: str | None) -> None:
        """A use of one export."""
        owner, own = reference.owner, reference if self._is_own(reference) else None
        if reference.use in ("assign", "pattern"):
            assigns = owner.type in ("assignment_expression", "augmented_assignment_expression")
            value = grammar.child(owner, "right") if assigns else None
            self._add(name, value, own if owner.type == "assignment_expression" else None)
        elif owner.type == "unary_expression" and name is not None:
            operator = grammar.child(owner, "operator")
            if operator is not None and operator.type == "delete" and own is not None and own.straight:
                self._puts.append(_Put(name, None, own, deletes=True))

    def _is_own(self, reference: Reference) -> bool:
        """Whether it goes by the names that every module has, and not by a local for the same object."""
        return reference.name in _OWN_ROOTS and self.references.symbol(reference.scope, reference.name) is None

    def problem(self, entry_point: str, name: str) -> str | None:
        """The sentence that says that the entry point is not exported; None when it is, or may be."""
        first, _, deeper = name.partition(".")
        left = self._left()
        of_name = [put for put in left if put.name == first]
        kinds = {self._kind(put.value, deeper=bool(deeper)) for put in of_name}
        if self.open_ended or None in kinds:
            return None
        shown_entry = wording.show(entry_point.encode("utf-8", "replace"), 200)
        if kinds:
            wanted = f"an object with '{deeper}'" if deeper else "a function"
            found = " or ".join(sorted(kind for kind in kinds if kind is not None))
            return f"The entry point '{shown_entry}' must be {wanted}, and the source exports {found} as '{first}'."
        listed = sorted({put.name for put in left})
        shown = ", ".join(f"'{wording.show(one.encode('utf-8', 'replace'))}'" for one in listed[:_SHOWN])
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        exported = f"the source exports {shown}{more}" if listed else "the source exports nothing"
        hint = " (assigning to 'exports' itself exports nothing: assign to module.exports)"
        lost = self._lost(first)
        return (
            f"The entry point '{shown_entry}' is not exported: "
            f"{exported}{hint if self.replaced_locally else ''}{lost}. "
            f"Add {'module.' if lost else ''}exports.{first} = ..."
        )

    def _lost(self, name: str) -> str:
        """Why what the source did export is not there in the end."""
        puts = [put for put in self._puts if put.name == name]
        if any(put.deletes for put in puts):
            return f" (it deletes '{name}' again)"
        return f" (its '{name}' is lost, as module.exports is replaced as a whole)" if puts else ""

    def _kind(self, value: Node | None, *, deeper: bool) -> str | None:
        """What a value is that is no function (or, for a deeper entry point, no object either); None for others."""
        if value is None:
            return None
        for _ in range(_MAX_CHAIN):
            right = grammar.child(value, "right") if value.type == "assignment_expression" else None
            value = value if right is None else right
        node = grammar.unwrap(value)
        if node.type == "unary_expression":
            operator = grammar.child(node, "operator")
            return "undefined" if operator is not None and operator.type == "void" else None
        return None if deeper and node.type in _OBJECTS else _NO_FUNCTION.get(node.type)

    def _left(self) -> list[_Put]:
        """What is there once the source has been loaded, as far as that is certain."""
        if self.references.returns_early:
            return [put for put in self._puts if not put.deletes]
        replaced = self._replaced()
        left: dict[int, _Put] = {}
        last: dict[str, int] = {}
        for index, put in enumerate(self._puts):
            own = put.reference
            if own is not None and replaced is not None and self._is_lost(own, replaced):
                continue
            if own is not None and own.straight and (not self._wholes or (replaced and own.name == b"module")):
                left.pop(last.get(put.name, -1), None)
                last[put.name] = index
            if not put.deletes:
                left[index] = put
        return list(left.values())

    def _replaced(self) -> Reference | None:
        """Where module.exports gets its last value, if that is one that nothing was exported on before."""
        wholes = [whole for whole in self._wholes if whole.name != b"exports"]
        if not wholes or not all(whole.straight for whole in wholes):
            return None
        value = grammar.child(wholes[-1].owner, "right")
        node = None if value is None else grammar.unwrap(value)
        if node is None or node.type not in _FRESH:
            return None
        spreads = node.type == "object" and any(part.type == "spread_element" for part in node.named_children)
        return None if spreads else wholes[-1]

    def _is_lost(self, reference: Reference, replaced: Reference) -> bool:
        """Whether a place belongs to the object that module.exports was before it was replaced."""
        before = reference.node.start_byte < replaced.node.start_byte
        if reference.name == b"module":
            return before and reference.straight
        return not (reference.name == b"exports" and self._relinked)

    def _add(self, name: str | None, value: Node | None = None, reference: Reference | None = None) -> None:
        if name is None:
            self.open_ended = True
        else:
            self._puts.append(_Put(name, value, reference))

    def _whole(self, reference: Reference) -> None:
        """A use of module.exports itself."""
        use, owner = reference.use, reference.owner
        if use == "assign":
            self._assigned(reference)
        elif use == "argument" and reference.call is not None:
            self._argument(reference, reference.call)
        elif use == "harmless":
            self._relinked |= owner.type == "variable_declarator"
        elif use in ("value", "pattern", "new", "call", "argument"):
            self.open_ended = True
        elif use == "alias":
            target = grammar.child(owner, "name") or grammar.child(owner, "left")
            held = target is not None and (target.type in ("identifier", "object_pattern") or self._is_exports(target))
            self.open_ended |= not held and owner.type in ("variable_declarator", "assignment_expression")

    def _is_exports(self, target: Node) -> bool:
        return self.context.short_text(target) in (b"module.exports", b"exports")

    def _assigned(self, reference: Reference) -> None:
        right = grammar.child(reference.owner, "right")
        self._wholes.append(reference)
        self._relinked |= reference.name == b"exports"
        if right is None or reference.owner.type != "assignment_expression":
            self.open_ended = True
        elif reference.name == b"exports" and not self._is_chained(right):
            self.replaced_locally = True
        else:
            self._value(right, reference)

    def _is_chained(self, right: Node) -> bool:
        return right.type == "assignment_expression" or self._is_exports(right)

    def _argument(self, reference: Reference, call: Node) -> None:
        callee, arguments = grammar.child(call, "function"), grammar.child(call, "arguments")
        word = b"" if callee is None or callee.type != "member_expression" else self.context.short_text(callee)
        parts = [] if arguments is None else grammar.inner(arguments)
        is_first = bool(parts) and parts[0].id == reference.node.id
        if word == b"Object.assign" and is_first:
            for part in parts[1:]:
                self._value(part, reference)
        elif word == b"Object.defineProperty" and is_first and len(parts) > 1:
            self._add(constants.text(parts[1], self.context.source))
        elif word == b"Object.defineProperties" and is_first and len(parts) > 1:
            first = len(self._puts)
            self._value(parts[1], reference)
            self._puts[first:] = [_Put(put.name, None) for put in self._puts[first:]]  # these were descriptors
        elif word not in _READ_ONLY_CALLS and not word.startswith(b"console."):
            self.open_ended = True

    def _value(self, value: Node, reference: Reference | None = None) -> None:
        """Take in the keys of an object that is, or is copied into, module.exports."""
        waiting = [value]
        while waiting:
            node = grammar.unwrap(waiting.pop())
            kind = node.type
            if node.id in self._seen:
                continue
            self._seen.add(node.id)
            if kind == "object":
                waiting += self._object(node)
            elif kind in ("class", "class_declaration"):
                self._class(node)
            elif kind == "assignment_expression":
                right = grammar.child(node, "right")
                waiting += [right] if right is not None else []
            elif kind == "ternary_expression":
                sides = (grammar.child(node, "consequence"), grammar.child(node, "alternative"))
                waiting += [side for side in sides if side is not None]
            elif kind == "sequence_expression":
                waiting += grammar.inner(node)[-1:]
            elif kind == "call_expression" and self._merges(node):
                waiting += grammar.inner(node.named_children[-1])
            elif kind == "identifier" and reference is not None:
                self._named(node, reference)
            elif kind not in _NO_KEYS and not self._is_exports(node):
                self.open_ended = True

    def _merges(self, call: Node) -> bool:
        callee = grammar.child(call, "function")
        known = callee is not None and self.context.short_text(callee) in (
            b"Object.assign",
            b"Object.freeze",
            b"Object.seal",
        )
        return known and call.named_children[-1].type == "arguments"

    def _object(self, node: Node) -> list[Node]:
        """Add the keys of an object literal; the objects that it spreads are left to look at."""
        spread: list[Node] = []
        for part in grammar.inner(node):
            if part.type == "spread_element":
                spread += grammar.inner(part)
            elif part.type in _NAMED_MEMBERS:
                key = grammar.child(part, "key") or grammar.child(part, "name") or part
                self._add(constants.key(key, self.context.source), grammar.child(part, "value"))
        return spread

    def _class(self, node: Node) -> None:
        """A class exports its static members."""
        self.open_ended |= any(part.type == "class_heritage" for part in node.named_children)
        body = grammar.child(node, "body")
        for member in grammar.inner(body) if body is not None else []:
            key = grammar.child(member, "name") or grammar.child(member, "property")
            if key is not None and any(part.type == "static" for part in member.children[:2]):
                self._add(constants.key(key, self.context.source))

    def _named(self, node: Node, reference: Reference) -> None:
        """A local that is module.exports: its own uses are looked at in the next walk."""
        symbol = self.references.symbol(reference.scope, self.context.name(node))
        if symbol is None:
            self.open_ended |= not self._is_exports(node)
        elif symbol in self.references.aliases:
            self.open_ended |= self.references.aliases[symbol] != EXPORTS
        else:
            self.same_object.add(symbol)
