"""Members of classes and objects: private names, constructors, getters and setters."""

from dataclasses import dataclass, field

from tree_sitter import Node

from millrace.checks import wording
from millrace.checks.javascript import grammar
from millrace.checks.javascript.context import Context, has_token
from millrace.checks.javascript.grammar import Handler


@dataclass(slots=True)
class _Class:
    declared: dict[bytes, str] = field(default_factory=dict)  # private name: "field", "get", "set", "both", ...
    used: list[tuple[bytes, int]] = field(default_factory=list)
    constructors: int = 0


class Classes:
    """Refuses members that no class or object may have."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._classes: list[_Class] = []
        self._prototypes: set[int] = set()
        self.enter: dict[str, Handler] = {
            "class_body": self._class,
            "method_definition": self._method,
            "field_definition": self._field,
            "private_property_identifier": self._private,
            "pair": self._pair,
        }
        self.leave: dict[str, Handler] = {"class_body": self._leave_class}

    def _class(self, node: Node) -> None:
        self._classes.append(_Class())

    def _leave_class(self, node: Node) -> None:
        done = self._classes.pop()
        missing = [(name, offset) for name, offset in done.used if name not in done.declared]
        if self._classes:
            self._classes[-1].used += missing
        else:
            for name, offset in missing:
                self._report_undeclared(name, offset)

    def _report_undeclared(self, name: bytes, offset: int) -> None:
        text = name.decode("utf-8", "replace")
        self.context.report(offset, f"The private name '{text}' is not declared in an enclosing class.")

    def _method(self, node: Node) -> None:
        name = grammar.child(node, "name")
        if name is None:
            return
        accessor = "get" if has_token(node, "get") else "set" if has_token(node, "set") else ""
        if accessor and has_token(node, "async", "*"):
            self.context.report(node, f"A '{accessor}' accessor can be neither async nor a generator.")
        self._check_accessor(node, accessor)
        if self.context.parents[-1].type != "class_body":
            return
        is_static = has_token(node, "static")
        special = bool(accessor) or has_token(node, "async", "*")
        text = self._plain_name(name)
        if text == b"constructor" and not is_static:
            self._constructor(node, special)
        if text == b"prototype" and is_static:
            self.context.report(name, "A static member cannot be named 'prototype'.")
        if name.type == "private_property_identifier":
            self._declare_private(name, f"{'static ' if is_static else ''}{accessor or 'method'}")

    def _check_accessor(self, node: Node, accessor: str) -> None:
        parameters = grammar.child(node, "parameters")
        if not accessor or parameters is None:
            return
        parts = grammar.inner(parameters)
        if accessor == "get" and parts:
            self.context.report(parts[0], "A getter takes no parameters.")
        if accessor == "set" and (len(parts) != 1 or parts[0].type == "rest_pattern"):
            self.context.report(parameters, "A setter takes exactly one parameter, and no rest parameter.")

    def _constructor(self, node: Node, special: bool) -> None:
        self._classes[-1].constructors += 1
        if special:
            self.context.report(node, "A constructor can be neither async, nor a generator, nor an accessor.")
        if self._classes[-1].constructors > 1:
            self.context.report(node, "A class has one constructor at most.")

    def _field(self, node: Node) -> None:
        name = grammar.child(node, "property")
        if name is None:
            return
        text = self._plain_name(name)
        if text == b"constructor" or (text == b"prototype" and has_token(node, "static")):
            self.context.report(name, f"A field cannot be named '{text.decode()}'.")
        if name.type == "private_property_identifier":
            self._declare_private(name, "field")

    def _plain_name(self, name: Node) -> bytes:
        """The name of a member; empty when it is computed or private."""
        if name.type == "string":
            return self.context.text(name)[1:-1]
        return self.context.name(name) if name.type == "property_identifier" else b""

    def _declare_private(self, node: Node, kind: str) -> None:
        name = self.context.name(node)
        declared = self._classes[-1].declared
        before = declared.get(name)
        accessors = {"get", "set", "static get", "static set"}
        pair = before in accessors and kind in accessors and before != kind
        same_side = before is not None and before.startswith("static") == kind.startswith("static")
        if name == b"#constructor":
            self.context.report(node, "A private member cannot be named '#constructor'.")
        if before is None:
            declared[name] = kind
        elif pair and same_side:
            declared[name] = "both"
        else:
            self.context.report(node, f"The private name '{name.decode('utf-8', 'replace')}' is declared twice.")

    def _private(self, node: Node) -> None:
        field_name = self.context.field_name()
        parent = self.context.parents[-1]
        if parent.type in ("method_definition", "field_definition"):
            return
        if parent.type == "binary_expression":
            operator = grammar.child(parent, "operator")
            well_placed = field_name == "left" and operator is not None and operator.type == "in"
        else:
            well_placed = parent.type == "member_expression" and field_name == "property"
        name = self.context.name(node)
        if not well_placed:
            self.context.report(
                node,
                f"The private name '{wording.show(name)}' must follow a dot or stand before 'in'.",
            )
        elif self._classes:
            self._classes[-1].used.append((name, node.start_byte))
        else:
            self._report_undeclared(name, node.start_byte)

    def _pair(self, node: Node) -> None:
        key = grammar.child(node, "key")
        if key is None or self.context.short_text(key).strip(b"'\"") != b"__proto__":
            return
        owner = self.context.parents[-1].id
        if owner in self._prototypes:
            self.context.report(key, "An object literal sets '__proto__' twice.")
        self._prototypes.add(owner)
