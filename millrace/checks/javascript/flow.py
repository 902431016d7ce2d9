"""Words that are valid only in some places: await, yield, return, super, break, continue, import, export."""

from tree_sitter import Node

from millrace.checks.javascript import grammar
from millrace.checks.javascript.context import Context
from millrace.checks.javascript.grammar import Handler

_LOOPS = ("for_statement", "for_in_statement", "while_statement", "do_statement")
_COMMONJS = "A script is a CommonJS module"
_AWAIT_OUTSIDE = (
    "'await' is only valid in an async function: make the enclosing function async, and at the top level "
    "move the code into the handler."
)


class Flow:
    """Refuses what an engine refuses for where it stands."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.enter: dict[str, Handler] = {
            **dict.fromkeys(_LOOPS, self._loop),
            "switch_statement": self._switch,
            "labeled_statement": self._label,
            "break_statement": self._break,
            "continue_statement": self._continue,
            "return_statement": self._return,
            "await_expression": self._await,
            "yield_expression": self._yield,
            "super": self._super,
            "import_statement": self._import,
            "export_statement": self._export,
            "meta_property": self._meta,
        }
        self.leave: dict[str, Handler] = {
            **dict.fromkeys(_LOOPS, self._leave_loop),
            "switch_statement": self._leave_switch,
            "labeled_statement": self._leave_label,
        }

    # loops and labels

    def _loop(self, node: Node) -> None:
        function = self.context.function
        function.loops += 1
        for parent in reversed(self.context.parents):
            if parent.type != "labeled_statement":
                break
            function.labels[self._label_of(parent)] = True
        if node.type == "for_in_statement":
            self._for_await(node)

    def _leave_loop(self, node: Node) -> None:
        self.context.function.loops -= 1

    def _switch(self, node: Node) -> None:
        self.context.function.switches += 1

    def _leave_switch(self, node: Node) -> None:
        self.context.function.switches -= 1

    def _label_of(self, node: Node) -> bytes:
        label = grammar.child(node, "label")
        return b"" if label is None else self.context.name(label)

    def _label(self, node: Node) -> None:
        label = self._label_of(node)
        if label in self.context.function.labels:
            self.context.report(node, f"The label '{label.decode()}' stands within itself.")
        else:
            self.context.function.labels[label] = False

    def _leave_label(self, node: Node) -> None:
        self.context.function.labels.pop(self._label_of(node), None)

    def _break(self, node: Node) -> None:
        function = self.context.function
        if self._jump_target(node, "break") is None and not (function.loops or function.switches):
            self.context.report(node, "'break' stands outside of a loop or switch.")

    def _continue(self, node: Node) -> None:
        label = self._jump_target(node, "continue")
        if label is None and not self.context.function.loops:
            self.context.report(node, "'continue' stands outside of a loop.")
        elif label is not None and self.context.function.labels.get(label) is False:
            self.context.report(node, f"'continue {label.decode()}': the label '{label.decode()}' is not of a loop.")

    def _jump_target(self, node: Node, word: str) -> bytes | None:
        if grammar.child(node, "label") is None:
            return None
        label = self._label_of(node)
        if label not in self.context.function.labels:
            self.context.report(node, f"'{word} {label.decode()}': no enclosing label is named '{label.decode()}'.")
        return label

    # functions

    def _return(self, node: Node) -> None:
        if self.context.function.kind == "static":
            self.context.report(node, "'return' cannot stand in a class's static block.")

    def _await(self, node: Node) -> None:
        function = self.context.function
        if not function.is_async:
            self.context.report(node, _AWAIT_OUTSIDE)
        elif function.in_parameters:
            self.context.report(node, "'await' cannot stand in the parameters of an async function.")

    def _for_await(self, node: Node) -> None:
        words = [part for part in node.children[:3] if part.type == "await"]
        if not words:
            return
        if not self.context.function.is_async:
            self.context.report(words[0], _AWAIT_OUTSIDE)
        operator = grammar.child(node, "operator")
        if operator is not None and operator.type == "in":
            self.context.report(words[0], "'for await' goes with 'of', not with 'in'.")

    def _yield(self, node: Node) -> None:
        function = self.context.function
        if function.is_generator:
            if function.in_parameters:
                self.context.report(node, "'yield' cannot stand in the parameters of a generator.")
        elif node.named_child_count or self.context.strict:
            self.context.report(node, "'yield' is only valid in a generator function (function*).")

    def _super(self, node: Node) -> None:
        function, parent = self.context.function, self.context.parents[-1].type
        if parent == "call_expression" and self.context.field_name() == "function":
            if not function.super_call:
                self.context.report(node, "'super()' is only valid in the constructor of a class that extends another.")
        elif parent in ("member_expression", "subscript_expression") and self.context.field_name() == "object":
            if not function.super_property:
                self.context.report(node, "'super' is only valid in a method.")
        else:
            self.context.report(node, "'super' must be called or followed by a property.")

    # modules

    def _import(self, node: Node) -> None:
        source = grammar.child(node, "source")
        name = self.context.show(source) if source is not None else "'...'"
        self.context.report(
            node, f"{_COMMONJS}: 'import' statements are not available. Use const ... = require({name})."
        )

    def _export(self, node: Node) -> None:
        self.context.report(
            node, f"{_COMMONJS}: 'export' statements are not available. Use exports.name = ... instead."
        )

    def _meta(self, node: Node) -> None:
        if node.children[0].type == "import":
            self.context.report(node, f"{_COMMONJS}: 'import.meta' is not available.")
