"""Functions, scopes and declared names; refuses what is declared twice or cannot be declared."""

from tree_sitter import Node

from millrace.checks.javascript import grammar, names
from millrace.checks.javascript.context import (
    FUNCTIONS,
    WRAPPER_NAMES,
    Binding,
    Context,
    Function,
    Scope,
    has_token,
    starts_with_directive,
)
from millrace.checks.javascript.grammar import Handler

_LEXICAL_LIKE = (Binding.LEXICAL, Binding.BLOCK_FUNCTION, Binding.CATCH_PATTERN)
_BODY_OWNERS = FUNCTIONS | {"catch_clause", "class_static_block"}


class Scoping:
    """Opens and closes functions and scopes around every other group of handlers."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._strict_before: list[bool] = []
        self.enter: dict[str, Handler] = {
            "formal_parameters": self._parameters,
            "arrow_function": self._arrow,
            '"=>"': self._arrow_body,
            "statement_block": self._block,
            "class_static_block": self._static_block,
            '"="': self._field_value,
            "for_statement": self._open,
            "for_in_statement": self._for_in,
            "switch_body": self._open,
            "catch_clause": self._catch,
            "class": self._class,
            "class_declaration": self._class,
            "function_declaration": self._function_declaration,
            "generator_function_declaration": self._function_declaration,
            "variable_declarator": self._declarator,
        }
        self.leave: dict[str, Handler] = {
            **dict.fromkeys(FUNCTIONS, self._leave_function),
            "class_static_block": self._leave_function,
            "field_definition": self._leave_field,
            "statement_block": self._leave_block,
            "for_statement": self._close,
            "for_in_statement": self._close,
            "switch_body": self._close,
            "catch_clause": self._close,
            "class": self._leave_class,
            "class_declaration": self._leave_class,
        }

    def start(self, root: Node) -> None:
        self.context.strict = starts_with_directive(self.context, root)

    def finish(self) -> None:
        self._check_vars(self.context.function.scope)

    # functions

    def _push(self, function: Function, start: int) -> None:
        function.outer_strict = self.context.strict
        function.scope = self.context.open_scope(start, is_function=True)
        self.context.function = function

    def _leave_function(self, node: Node) -> None:
        function = self.context.function
        assert function.parent is not None
        self._check_vars(function.scope)
        self.context.close_scope()
        self.context.function = function.parent
        self.context.strict = function.outer_strict

    def _parameters(self, node: Node) -> None:
        owner = self.context.parents[-1]
        if owner.type != "arrow_function":
            self._enter_function(owner)
        self._declare_parameters(owner, node)

    def _enter_function(self, owner: Node) -> None:
        context = self.context
        is_method = owner.type == "method_definition"
        derived_constructor = is_method and self._is_constructor(owner) and self._class_has_heritage()
        generator = owner.type.startswith("generator") or (is_method and has_token(owner, "*"))
        function = Function(
            "method" if is_method else "function",
            context.function,
            context.scope,
            is_async=has_token(owner, "async"),
            is_generator=generator,
            super_property=is_method,
            super_call=derived_constructor,
            in_parameters=True,
        )
        name = grammar.child(owner, "name")
        if owner.type in ("function_expression", "generator_function") and name is not None:
            self._check_own_name(name, function)
        self._push(function, owner.start_byte)
        self._read_directive(owner)
        if name is not None and not is_method:
            self._check_strict_name(context.name(name), name)
            if owner.type in ("function_expression", "generator_function"):
                context.scope.names[context.name(name)] = (Binding.OWN_NAME, name.start_byte)

    def _check_own_name(self, name: Node, function: Function) -> None:
        text = self.context.name(name)
        if (text == b"await" and function.is_async) or (text == b"yield" and function.is_generator):
            self.context.report(name, f"'{text.decode()}' cannot name an async function or a generator.")

    def _read_directive(self, owner: Node) -> None:
        body = grammar.child(owner, "body")
        if body is None or body.type != "statement_block" or not starts_with_directive(self.context, body):
            return
        self.context.strict = True
        parameters = grammar.child(owner, "parameters")
        if parameters and any(part.type != "identifier" for part in grammar.inner(parameters)):
            self.context.report(
                body,
                "'use strict' cannot stand in a function whose parameters have defaults, rest or patterns.",
            )

    def _arrow(self, node: Node) -> None:
        outer = self.context.function
        function = Function(
            "arrow",
            outer,
            self.context.scope,
            is_async=has_token(node, "async"),
            super_property=outer.super_property,
            super_call=outer.super_call,
            in_parameters=True,
        )
        self._push(function, node.start_byte)
        self._read_directive(node)
        single = grammar.child(node, "parameter")
        if single is not None:
            self._declare(self.context.name(single), single, Binding.PARAMETER)

    def _arrow_body(self, node: Node) -> None:
        self.context.function.in_parameters = False

    def _static_block(self, node: Node) -> None:
        function = Function("static", self.context.function, self.context.scope, super_property=True)
        self._push(function, node.start_byte)

    def _field_value(self, node: Node) -> None:
        if self.context.parents[-1].type == "field_definition":
            function = Function("field", self.context.function, self.context.scope, super_property=True)
            self._push(function, node.start_byte)

    def _leave_field(self, node: Node) -> None:
        if grammar.child(node, "value") is not None:
            self._leave_function(node)

    def _is_constructor(self, method: Node) -> bool:
        name = grammar.child(method, "name")
        return name is not None and self.context.short_text(name).strip(b"'\"") == b"constructor"

    def _class_has_heritage(self) -> bool:
        if len(self.context.parents) < 3 or self.context.parents[-2].type != "class_body":
            return False
        return any(part.type == "class_heritage" for part in self.context.parents[-3].named_children)

    # scopes

    def _open(self, node: Node) -> None:
        self.context.open_scope(node.start_byte)

    def _close(self, node: Node) -> None:
        self._check_vars(self.context.scope)
        self.context.close_scope()

    def _block(self, node: Node) -> None:
        owner = self.context.parents[-1].type
        if owner in FUNCTIONS:
            self.context.function.in_parameters = False
        if owner not in _BODY_OWNERS:
            self._open(node)

    def _leave_block(self, node: Node) -> None:
        if self.context.parents[-1].type not in _BODY_OWNERS:
            self._close(node)

    def _class(self, node: Node) -> None:
        self._strict_before.append(self.context.strict)
        self.context.strict = True
        name = grammar.child(node, "name")
        text = b"" if name is None else self.context.name(name)
        if name is not None and node.type == "class_declaration":
            self._declare(text, name, Binding.LEXICAL)
        elif name is not None:
            self._check_strict_name(text, name)
        scope = self.context.open_scope(node.start_byte)
        if name is not None:
            scope.names[text] = (Binding.OWN_NAME, name.start_byte)

    def _leave_class(self, node: Node) -> None:
        self.context.close_scope()
        self.context.strict = self._strict_before.pop()

    def _catch(self, node: Node) -> None:
        self._open(node)
        parameter = grammar.child(node, "parameter")
        if parameter is None:
            return
        kind = Binding.CATCH if parameter.type == "identifier" else Binding.CATCH_PATTERN
        for name in self._bound(parameter):
            self._declare(self.context.name(name), name, kind)

    # declarations

    def _declarator(self, node: Node) -> None:
        pattern = grammar.child(node, "name")
        declaration = self.context.parents[-1]
        kind = Binding.VAR if declaration.type == "variable_declaration" else Binding.LEXICAL
        if pattern is not None:
            self._declare_all(pattern, kind)

    def _for_in(self, node: Node) -> None:
        self._open(node)
        keyword = grammar.child(node, "kind")
        left = grammar.child(node, "left")
        if keyword is not None and left is not None:
            self._declare_all(left, Binding.VAR if keyword.type == "var" else Binding.LEXICAL)

    def _function_declaration(self, node: Node) -> None:
        name = grammar.child(node, "name")
        if name is None:
            return
        context = self.context
        text = context.name(name)
        if context.scope is context.function.scope:
            self._declare(text, name, Binding.VAR)
            binding, _ = context.scope.names[text]
            if binding is Binding.PARAMETER:
                context.scope.names[text] = (Binding.VAR, name.start_byte)
        else:
            plain = node.type == "function_declaration" and not has_token(node, "async")
            mergeable = plain and not context.strict
            self._declare(text, name, Binding.BLOCK_FUNCTION if mergeable else Binding.LEXICAL)

    def _declare_parameters(self, owner: Node, parameters: Node) -> None:
        context = self.context
        parts = grammar.inner(parameters)
        repeatable = (
            owner.type in ("function_expression", "function_declaration", "generator_function")
            and not context.strict
            and all(part.type == "identifier" for part in parts)
        )
        seen: set[bytes] = set()
        for part in parts:
            for name in self._bound(part):
                text = context.name(name)
                if text in seen and not repeatable:
                    context.report(name, f"The parameter '{text.decode()}' stands twice in one list.")
                seen.add(text)
                self._declare(text, name, Binding.PARAMETER)

    def _declare_all(self, pattern: Node, kind: Binding) -> None:
        for name in self._bound(pattern):
            self._declare(self.context.name(name), name, kind)

    def _declare(self, text: bytes, name: Node, kind: Binding) -> None:
        self._check_strict_name(text, name)
        context = self.context
        scope = context.function.scope if kind is Binding.VAR else context.scope
        before = scope.names.get(text)
        if kind is Binding.VAR:
            context.function.last_var[text] = name.start_byte
            if before is None or before[0] is Binding.OWN_NAME:
                scope.names[text] = (kind, name.start_byte)
            return
        if kind is Binding.LEXICAL and text == b"let":
            context.report(name, "'let' cannot be declared by let, const or class.")
        if self._conflicts(before, kind):
            self._report_twice(text, name, scope)
        elif before is None or before[0] is not Binding.PARAMETER:
            scope.names[text] = (kind, name.start_byte)

    @staticmethod
    def _conflicts(before: tuple[Binding, int] | None, kind: Binding) -> bool:
        if before is None or before[0] in (Binding.OWN_NAME, Binding.VAR):
            return False  # against var: known when the scope closes
        if kind is Binding.PARAMETER:
            return False
        return not (kind is before[0] is Binding.BLOCK_FUNCTION)

    def _report_twice(self, text: bytes, where: Node | int, scope: Scope) -> None:
        message = f"'{text.decode('utf-8', 'replace')}' has already been declared in this scope"
        if scope.number == 0 and text in WRAPPER_NAMES:
            message += ": every script has it from the start, so choose another name"
        self.context.report(where, message + ".")

    def _check_vars(self, scope: Scope) -> None:
        """A var conflicts with a lexical name of every block that it is lifted out of."""
        last_var = self.context.function.last_var
        for text, (kind, offset) in scope.names.items():
            var = last_var.get(text, -1)
            if kind in _LEXICAL_LIKE and var >= scope.start:
                self._report_twice(text, max(var, offset), scope)

    def _check_strict_name(self, text: bytes, name: Node) -> None:
        if self.context.strict and text in names.NOT_ASSIGNABLE_IN_STRICT:
            self.context.report(name, f"'{text.decode()}' cannot be declared in strict mode.")

    def _bound(self, pattern: Node) -> list[Node]:
        """The identifiers that a pattern declares, in order."""
        found: list[Node] = []
        waiting = [pattern]
        while waiting:
            node = waiting.pop()
            kind = node.type
            if kind in ("identifier", "undefined", "shorthand_property_identifier_pattern"):
                found.append(node)
            elif kind in ("assignment_pattern", "object_assignment_pattern"):
                left = grammar.child(node, "left")
                waiting += [left] if left is not None else []
            elif kind == "pair_pattern":
                value = grammar.child(node, "value")
                waiting += [value] if value is not None else []
            elif kind in ("object_pattern", "array_pattern", "rest_pattern"):
                waiting += reversed(grammar.inner(node))
            else:
                self.context.report(node, f"'{self.context.show(node)}' is no name that can be declared.")
        return found
