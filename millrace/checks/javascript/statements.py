"""Statements and operators that the grammar lets pass and an engine refuses."""

import re

from tree_sitter import Node

from millrace.checks.javascript import grammar
from millrace.checks.javascript.context import Context
from millrace.checks.javascript.grammar import Handler

_UNNAMED = re.compile(rb"(?:(?:async[ \t]+)?function|class)(?![\w$\\\x80-\xff])")
_SINGLE_BODY = (
    "if_statement",
    "else_clause",
    "while_statement",
    "do_statement",
    "with_statement",
    "labeled_statement",
)
_LOOP_BODY = ("for_statement", "for_in_statement")
_OPERATORS = ("binary_expression", "unary_expression", "await_expression", "update_expression")
_LOGICAL = (b"||", b"&&")
_EMPTY_PLACE = re.compile(rb"[({,](?:\s|/\*|//)*+,|,(?:\s)*+/[*/]|[({]\s*+/[*/]")
_NO_HOLES = ("arguments", "object", "object_pattern")
_LINE_END = re.compile(rb"[\r\n]|\xe2\x80[\xa8\xa9]")


class Statements:
    """Early errors of statements, arrows, optional chains and operators."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._chained: set[int] = set()
        self.enter: dict[str, Handler] = {
            "expression_statement": self._expression,
            "lexical_declaration": self._declaration,
            "class_declaration": self._declaration,
            "function_declaration": self._function,
            "generator_function_declaration": self._declaration,
            "using_declaration": self._using,
            "try_statement": self._try,
            "throw_statement": self._throw,
            "switch_body": self._switch,
            "with_statement": self._with,
            "decorator": self._decorator,
            **dict.fromkeys(("jsx_element", "jsx_self_closing_element", "jsx_expression"), self._jsx),
            "hash_bang_line": self._hash_bang,
            "arrow_function": self._arrow,
            **dict.fromkeys(("assignment_expression", "augmented_assignment_expression"), self._loose),
            "yield_expression": self._loose,
            '"=>"': self._arrow_sign,
            '"**"': self._power,
            '"??"': self._nullish,
            '"delete"': self._delete,
            "optional_chain": self._chain,
            "import": self._import,
        }
        if _EMPTY_PLACE.search(context.source):  # commas are many, and this is rare
            self.enter |= {'","': self._comma, **dict.fromkeys(_NO_HOLES, self._first_place)}
        self.leave: dict[str, Handler] = {
            "member_expression": self._leave_link,
            "subscript_expression": self._leave_link,
            "call_expression": self._leave_link,
        }

    # statements

    def _expression(self, node: Node) -> None:
        start = self.context.source[node.start_byte : node.start_byte + 64]
        if start.startswith(b"{") and not self._reads_as_block(node.named_children[0]):
            self.context.report(
                node, "A '{' that begins a statement opens a block: put an object literal in parentheses."
            )
        elif _UNNAMED.match(start):
            self.context.report(node, "A function or class that begins a statement needs a name, or parentheses.")

    def _reads_as_block(self, node: Node) -> bool:
        """Whether what the grammar took for an object literal is a block: of a label, or of names."""
        while node.type == "object":
            members = grammar.inner(node)
            if any(member.type != "shorthand_property_identifier" for member in members[1:]):
                return False
            if not members or members[0].type == "shorthand_property_identifier":
                return bool(members)
            key, value = grammar.child(members[0], "key"), grammar.child(members[0], "value")
            if key is None or key.type != "property_identifier" or value is None:
                return False
            if value.type != "object":
                return True
            node = value
        return False

    def _declaration(self, node: Node) -> None:
        owner = self.context.parents[-1].type
        alone = owner in _SINGLE_BODY or (owner in _LOOP_BODY and self.context.field_name() == "body")
        if alone:
            word = self.context.text(node.children[0]).decode()
            self.context.report(node, f"A '{word}' declaration cannot be the whole body of a statement: use braces.")

    def _function(self, node: Node) -> None:
        owner = self.context.parents[-1].type
        sloppy_exception = owner in ("if_statement", "else_clause", "labeled_statement") and not self.context.strict
        if not sloppy_exception or node.children[0].type == "async":
            self._declaration(node)
        elif owner == "labeled_statement" and self._labelled_body():
            self.context.report(node, "A labelled function cannot be the whole body of a statement: use braces.")

    def _labelled_body(self) -> bool:
        for parent in reversed(self.context.parents):
            if parent.type != "labeled_statement":
                return parent.type in _SINGLE_BODY or parent.type in _LOOP_BODY
        return False

    def _using(self, node: Node) -> None:
        self.context.report(node, "'using' declarations are not available in this version of JavaScript.")

    def _try(self, node: Node) -> None:
        if grammar.child(node, "handler") is None and grammar.child(node, "finalizer") is None:
            self.context.report(node, "'try' needs a 'catch' or a 'finally'.")

    def _throw(self, node: Node) -> None:
        between = self.context.source[node.children[0].end_byte : node.children[-1].start_byte]
        first = grammar.inner(node)
        if first:
            between = self.context.source[node.children[0].end_byte : first[0].start_byte]
        if _LINE_END.search(between):
            self.context.report(node, "What is thrown must begin on the line of 'throw'.")

    def _switch(self, node: Node) -> None:
        defaults = [part for part in node.named_children if part.type == "switch_default"]
        for extra in defaults[1:]:
            self.context.report(extra, "A switch has one 'default' at most.")

    def _with(self, node: Node) -> None:
        if self.context.strict:
            self.context.report(node, "'with' is not allowed in strict mode, nor in classes.")

    def _decorator(self, node: Node) -> None:
        self.context.report(node, "Decorators are not available in this version of JavaScript.")

    def _jsx(self, node: Node) -> None:
        if not self.context.parents[-1].type.startswith("jsx"):
            self.context.report(node, "JSX is no JavaScript: compile it before the upload.")

    def _hash_bang(self, node: Node) -> None:
        if node.start_byte not in (0, 3) or self.context.source[: node.start_byte].strip(b"\xef\xbb\xbf"):
            self.context.report(node, "'#!' may only begin the first line.")

    # operators

    def _loose(self, node: Node) -> None:
        """Arrows, assignments and yield bind loosest, so as an operand they need parentheses."""
        owner = self.context.parents[-1].type
        field_name = self.context.field_name()
        is_condition = owner == "ternary_expression" and field_name == "condition"
        is_operand = owner in _OPERATORS or is_condition or field_name in ("function", "object")
        if is_operand and not self._ends_its_statement(node):
            self._report_loose(node)

    def _arrow(self, node: Node) -> None:
        self._loose(node)
        body = grammar.child(node, "body")
        if body is not None and body.type != "statement_block" and self.context.source[body.start_byte] == ord("{"):
            self.context.report(body, "A '{' after '=>' opens the function's body, and nothing can follow that body.")

    def _ends_its_statement(self, node: Node) -> bool:
        """Whether a semicolon is implied after an arrow's closing brace, since the next sign is on another line."""
        if node.type != "arrow_function" or node.end_byte == self.context.parents[-1].end_byte:
            return False
        gap = self.context.source[node.end_byte : grammar.skip_gap(self.context.source, node.end_byte)]
        return self.context.source[node.end_byte - 1 : node.end_byte] == b"}" and bool(_LINE_END.search(gap))

    def _report_loose(self, node: Node) -> None:
        left = grammar.child(node, "left")
        if left is not None:
            self.context.report(
                node, f"'{self.context.show(node)}' is an assignment within an operation: use parentheses."
            )
        else:
            self.context.report(node, f"'{self.context.show(node)}' needs parentheses here.")

    def _arrow_sign(self, node: Node) -> None:
        arrow = self.context.parents[-1]
        parameters = grammar.child(arrow, "parameters") or grammar.child(arrow, "parameter")
        if parameters is not None and _LINE_END.search(self.context.source, parameters.end_byte, node.start_byte):
            self.context.report(node, "'=>' must stand on the line where the parameters end.")

    def _power(self, node: Node) -> None:
        left = grammar.child(self.context.parents[-1], "left")
        if left is not None and left.type in ("unary_expression", "await_expression"):
            self.context.report(left, "A unary operator before '**' is ambiguous: use parentheses.")

    def _nullish(self, node: Node) -> None:
        owner = self.context.parents[-1]
        sides = (grammar.child(owner, "left"), grammar.child(owner, "right"))
        mixed = any(side is not None and self._operator(side) in _LOGICAL for side in sides)
        above = self.context.parents[-2]
        if mixed or self._operator(above) in _LOGICAL:
            self.context.report(node, "'??' cannot be mixed with '||' or '&&' without parentheses.")

    def _operator(self, node: Node) -> bytes:
        operator = grammar.child(node, "operator") if node.type == "binary_expression" else None
        return b"" if operator is None else self.context.text(operator)

    def _delete(self, node: Node) -> None:
        argument = grammar.child(self.context.parents[-1], "argument")
        if argument is None:
            return
        target = grammar.unwrap(argument)
        if target.type == "identifier" and self.context.strict:
            self.context.report(target, "A variable cannot be deleted in strict mode.")
        member = grammar.child(target, "property") if target.type == "member_expression" else None
        if member is not None and member.type == "private_property_identifier":
            self.context.report(member, "A private member cannot be deleted.")

    def _comma(self, node: Node) -> None:
        if self.context.parents[-1].type in _NO_HOLES and self.context.next_sign(node.end_byte) == b",":
            self.context.report(node, "Something is missing after this comma.")

    def _first_place(self, node: Node) -> None:
        if self.context.next_sign(node.start_byte + 1) == b",":
            self.context.report(node, "Something is missing before the first comma.")

    def _import(self, node: Node) -> None:
        owner = self.context.parents[-1]
        if owner.type != "call_expression":
            return
        if len(self.context.parents) > 1 and self.context.parents[-2].type == "new_expression":
            self.context.report(node, "'import()' cannot be constructed by 'new'.")
        arguments = grammar.child(owner, "arguments")
        parts = [] if arguments is None else grammar.inner(arguments)
        if not 1 <= len(parts) <= 2 or any(part.type == "spread_element" for part in parts):
            self.context.report(node, "'import()' takes the name of one module.")

    # optional chains: a link that is optional makes the whole chain one that can't be constructed or assigned

    def _chain(self, node: Node) -> None:
        owner = self.context.parents[-1]
        self._chained.add(owner.id)
        if self.context.source.startswith(b"super", owner.start_byte):
            first = owner.named_children[0]
            if first.type == "super":
                self.context.report(node, "'super' cannot begin an optional chain.")
        arguments = grammar.child(owner, "arguments")
        if arguments is not None and arguments.type == "template_string":
            self.context.report(node, "An optional chain cannot be the tag of a template.")

    def _leave_link(self, node: Node) -> None:
        if not self._chained or node.id not in self._chained:
            return
        self._chained.discard(node.id)
        owner = self.context.parents[-1]
        kind = owner.type
        leftmost = owner.start_byte == node.start_byte
        if kind in ("member_expression", "subscript_expression", "call_expression") and leftmost:
            self._chained.add(owner.id)
            arguments = grammar.child(owner, "arguments") if kind == "call_expression" else None
            if arguments is not None and arguments.type == "template_string":
                self.context.report(arguments, "An optional chain cannot be the tag of a template.")
        elif kind == "new_expression":
            self.context.report(node, "An optional chain cannot be constructed by 'new': use parentheses.")
        elif kind == "update_expression" or (
            kind
            in (
                "assignment_expression",
                "augmented_assignment_expression",
                "for_in_statement",
                "array_pattern",
                "pair_pattern",
            )
            and self.context.field_name() != "right"
        ):
            self.context.report(node, f"'{self.context.show(node)}' is an optional chain and cannot be assigned to.")
