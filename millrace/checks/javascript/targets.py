"""What stands left of `=` and in patterns: what can be assigned, rest elements last, values where due."""

from tree_sitter import Node

from millrace.checks.javascript import grammar, names
from millrace.checks.javascript.context import Context
from millrace.checks.javascript.grammar import Handler

_PATTERNS = ("array_pattern", "object_pattern")


class Targets:
    """Refuses assignments to what cannot be assigned, and declarations that lack their value."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.enter: dict[str, Handler] = {
            "assignment_expression": self._assignment,
            "augmented_assignment_expression": self._augmented,
            "update_expression": self._update,
            "for_in_statement": self._for_in,
            "rest_pattern": self._rest,
            "variable_declarator": self._declarator,
        }
        self.leave: dict[str, Handler] = {}

    def _assignment(self, node: Node) -> None:
        left = grammar.child(node, "left")
        if left is not None:
            self._check(left)

    def _augmented(self, node: Node) -> None:
        left = grammar.child(node, "left")
        if left is not None:
            self._check(left, patterns=False)

    def _update(self, node: Node) -> None:
        argument = grammar.child(node, "argument")
        if argument is not None:
            self._check(argument, patterns=False)

    def _check(self, target: Node, *, patterns: bool = True) -> None:
        waiting = [target]
        while waiting:
            node = waiting.pop()
            kind = node.type
            if kind in _PATTERNS and patterns:
                waiting += reversed(grammar.inner(node))
            elif kind in ("assignment_pattern", "object_assignment_pattern", "pair_pattern"):
                part = grammar.child(node, "value" if kind == "pair_pattern" else "left")
                waiting += [part] if part is not None else []
            elif kind == "rest_pattern":
                waiting += grammar.inner(node)
            else:
                self._check_simple(node)

    def _check_simple(self, node: Node) -> None:
        target = grammar.unwrap(node)
        kind = target.type
        if kind in ("identifier", "shorthand_property_identifier_pattern"):
            text = self.context.name(target)
            if self.context.strict and text in names.NOT_ASSIGNABLE_IN_STRICT:
                self.context.report(target, f"'{text.decode()}' cannot be assigned in strict mode.")
        elif kind not in ("member_expression", "subscript_expression", "undefined"):
            self.context.report(node, f"'{self.context.show(node)}' cannot be assigned to.")

    def _for_in(self, node: Node) -> None:
        keyword, left = grammar.child(node, "kind"), grammar.child(node, "left")
        operator, right = grammar.child(node, "operator"), grammar.child(node, "right")
        if left is None or right is None or operator is None:
            return
        if keyword is None:
            self._check(left)
        elif grammar.child(node, "value") is not None and not self._may_have_value(keyword, left, operator):
            self.context.report(left, f"The variable of a for-{operator.type} loop cannot have an initial value.")
        if operator.type == "of":
            if right.type == "sequence_expression":
                self.context.report(right, "A for-of loop takes one expression after 'of': put a list in parentheses.")
            self._check_first_word(node, left, keyword)

    def _may_have_value(self, keyword: Node, left: Node, operator: Node) -> bool:
        plain_var = keyword.type == "var" and left.type == "identifier"
        return plain_var and operator.type == "in" and not self.context.strict

    def _check_first_word(self, node: Node, left: Node, keyword: Node | None) -> None:
        awaited = any(part.type == "await" for part in node.children[:3])
        word = self.context.source[left.start_byte : left.start_byte + 6]
        if keyword is None and left.type == "identifier":
            text = self.context.text(left)
            if text == b"let" or (text == b"async" and not awaited):
                self.context.report(left, f"A for-of loop cannot begin with '{text.decode()}'.")
        elif keyword is None and word[:3] == b"let" and word[3:4] in (b".", b"["):
            self.context.report(left, "A for-of loop cannot begin with 'let' as a name.")

    def _rest(self, node: Node) -> None:
        part = grammar.inner(node)
        if self.context.parents[-1].type == "object_pattern" and part and part[0].type in _PATTERNS:
            self.context.report(node, "The rest of an object pattern must be one name.")
        if part and part[0].type == "assignment_pattern":
            self.context.report(node, "A rest element cannot have a default value.")
        if self.context.next_sign(node.end_byte) == b",":
            self.context.report(node, "A rest element must come last, without a comma after it.")

    def _declarator(self, node: Node) -> None:
        if grammar.child(node, "value") is not None:
            return
        pattern = grammar.child(node, "name")
        declaration = self.context.parents[-1]
        if pattern is None:
            return
        if pattern.type in _PATTERNS:
            self.context.report(pattern, "A destructuring declaration must have an initial value.")
        elif declaration.type == "lexical_declaration" and declaration.children[0].type == "const":
            self.context.report(pattern, f"The constant '{self.context.show(pattern)}' must have an initial value.")
