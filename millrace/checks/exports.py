"""What a CommonJS source exports, as far as it can be read off without running it."""

from dataclasses import dataclass, field

from tree_sitter import Node

from millrace.checks import constants, grammar, names
from millrace.checks.context import Context
from millrace.checks.references import EXPORTS, Reference, References, Symbol

_SHOWN = 20
_NO_KEYS = names.words(
    "function_expression function_declaration generator_function generator_function_declaration "
    "arrow_function string template_string number regex array null undefined true false binary_expression "
    "unary_expression"
)
_READ_ONLY_CALLS = frozenset((b"Object.keys", b"Object.values", b"Object.entries", b"Object.seal", b"Object.freeze"))
_NAMED_MEMBERS = ("pair", "method_definition", "shorthand_property_identifier")


@dataclass
class Exports:
    """The names exported, and whether others may be that cannot be seen."""

    references: References
    names: set[str] = field(default_factory=set)
    open_ended: bool = False
    replaced_locally: bool = False
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
            elif path[:2] == EXPORTS and len(path) == 3 and reference.use in ("assign", "pattern"):
                self._add(path[2])
        for symbol in self.references.wanted:
            self._initial(self.references.initials.get(symbol))

    def _initial(self, value: Node | None) -> None:
        """The first value of a local that is module.exports."""
        if value is None:
            self.open_ended = True
        else:
            self._value(value)

    def problem(self, entry_point: str, name: str) -> str | None:
        """The sentence that says that the entry point is not exported; None when it is, or may be."""
        first = name.split(".", 1)[0]
        if self.open_ended or first in self.names:
            return None
        listed = sorted(self.names)
        shown = ", ".join(f"'{names.show(one.encode('utf-8', 'replace'))}'" for one in listed[:_SHOWN])
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        exported = f"the source exports {shown}{more}" if listed else "the source exports nothing"
        hint = " (assigning to 'exports' itself exports nothing: assign to module.exports)"
        return (
            f"The entry point '{names.show(entry_point.encode('utf-8', 'replace'), 200)}' is not exported: "
            f"{exported}{hint if self.replaced_locally else ''}. Add exports.{first} = ..."
        )

    def _add(self, name: str | None) -> None:
        if name is None:
            self.open_ended = True
        else:
            self.names.add(name)

    def _whole(self, reference: Reference) -> None:
        """A use of module.exports itself."""
        use, owner = reference.use, reference.owner
        if use == "assign":
            self._assigned(reference)
        elif use == "argument" and reference.call is not None:
            self._argument(reference, reference.call)
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
            self._value(parts[1], reference)
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
                self._add(constants.key(key, self.context.source))
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
