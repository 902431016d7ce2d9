"""Identifiers, numbers, strings and regular expressions: what they may be made of."""

import re

from tree_sitter import Node

from millrace.checks import wording
from millrace.checks.javascript import names, regexes, templates
from millrace.checks.javascript.context import Context
from millrace.checks.javascript.grammar import Handler

_NUMBER = re.compile(
    rb"(?:0[xX][0-9a-fA-F](?:_?[0-9a-fA-F])*|0[oO][0-7](?:_?[0-7])*|0[bB][01](?:_?[01])*|0|[1-9](?:_?[0-9])*)"
    rb"n?|(?:(?:0|[1-9](?:_?[0-9])*)(?:\.(?:[0-9](?:_?[0-9])*)?)?|\.[0-9](?:_?[0-9])*)"
    rb"(?:[eE][+-]?[0-9](?:_?[0-9])*)?"
)
_LEGACY_NUMBER = re.compile(rb"0[0-7]+|0[0-9]*[89][0-9]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")
_STRING = re.compile(rb"['\"](?:[^\\\r\n]|\\(?:\r\n|(?s:.)))*+")
_ANY_ESCAPE = re.compile(rb"\\(?:u\{[^}'\"]{0,40}\}?|u.{0,4}|x.{0,2}|[0-9]{1,3}|(?s:.))")
_BAD_HEX = re.compile(rb"\\x(?![0-9a-fA-F]{2})|\\u(?!\{[0-9a-fA-F]+\}|[0-9a-fA-F]{4})")
_CODE_POINT = re.compile(rb"\\u\{([0-9a-fA-F]+)\}")
_OCTAL = re.compile(rb"\\(?:[1-9]|0[0-9])")
_INVISIBLE_SPACE = re.compile("|".join("\u200b\u2060\u180e\x85").encode())
_MAX_CODE_POINT = 0x10FFFF
_OPERAND_SIGNS = (b"(", b"[", b"`", b"+", b"-", b"/")
_TEXT = (
    "string_fragment",
    "escape_sequence",
    "comment",
    "html_comment",
    "regex_pattern",
    "string",
    "template_string",
)
_WATCHED = names.RESERVED | names.RESERVED_IN_STRICT | {b"await", b"arguments"}


class Literals:
    """Refuses names and literals that no engine reads."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._unusual = not context.source.isascii()
        self.enter: dict[str, Handler] = {
            "identifier": self._identifier,
            "shorthand_property_identifier": self._identifier,
            "shorthand_property_identifier_pattern": self._identifier,
            "statement_identifier": self._identifier,
            "number": self._number,
            "string": self._string,
            "escape_sequence": self._escape,
            "regex": self._regex,
        }
        if self._unusual or b"\\" in context.source:
            self.enter |= dict.fromkeys(("property_identifier", "private_property_identifier"), self._property)
        self.leave: dict[str, Handler] = {}

    def _identifier(self, node: Node) -> None:
        context = self.context
        text = context.source[node.start_byte : node.end_byte]
        if text in _WATCHED:
            self._reserved(text, node)
        elif b"\\" in text:
            self._check_characters(text, node)
            self._reserved(names.canonical(text), node)
        elif self._unusual and not text.isascii():
            self._check_characters(text, node)

    def _property(self, node: Node) -> None:
        text = self.context.text(node)
        if b"\\" in text or not text.isascii():
            self._check_characters(text, node)

    def _check_characters(self, text: bytes, node: Node) -> None:
        stray = names.stray_character(text)
        if stray is not None:
            shown = wording.show(text)
            where = f"The character {wording.describe(stray)} cannot stand in a name, as in '{shown}'"
            self.context.report(node, f"{where}{wording.advice(stray)}.")

    def _reserved(self, text: bytes, node: Node) -> None:
        context, function = self.context, self.context.function
        shown = text.decode("utf-8", "replace")
        if text in names.RESERVED:
            context.report(node, f"'{shown}' is a reserved word and cannot be a name.")
        elif context.strict and text in names.RESERVED_IN_STRICT:
            context.report(node, f"'{shown}' is a reserved word in strict mode and cannot be a name.")
        elif text == b"await" and self._is_lone_await(node):
            context.report(node, "'await' must be followed by an expression, and cannot be a name here.")
        elif text == b"yield" and function.is_generator:
            context.report(node, "'yield' cannot be a name in a generator.")
        elif text == b"arguments" and self._in_class_element():
            context.report(node, "'arguments' is not available in class fields and static blocks.")

    def _is_lone_await(self, node: Node) -> bool:
        """The grammar takes `await (x)` for a call and `await -x` for a difference."""
        function = self.context.function
        if function.is_async and not function.in_parameters:
            return self.context.next_sign(node.end_byte) not in _OPERAND_SIGNS
        return function.is_async or function.kind == "static"

    def _in_class_element(self) -> bool:
        function = self.context.function
        while function.is_arrow and function.parent is not None:
            function = function.parent
        return function.kind in ("field", "static")

    def _number(self, node: Node) -> None:
        text = self.context.text(node)
        following = self.context.source[node.end_byte : node.end_byte + 4].decode("utf-8", "ignore")[:1]
        if following and names.stray_character(following.encode()) is None:
            self.context.report(node, f"A space is missing after the number '{wording.show(text)}'.")
        if _NUMBER.fullmatch(text):
            return
        if not _LEGACY_NUMBER.fullmatch(text):
            self.context.report(node, f"'{wording.show(text)}' is not a number.")
        elif self.context.strict:
            self.context.report(
                node,
                f"'{wording.show(text)}': a leading zero is not allowed in strict mode (octal: 0o17).",
            )

    def _string(self, node: Node) -> None:
        if not _STRING.fullmatch(self.context.source, node.start_byte, node.end_byte):
            self.context.report(node, "This string is not closed on its line.")
        text = self.context.text(node)
        if b"\\" in text:
            for escape in _ANY_ESCAPE.finditer(text):
                self._check_escape(escape.group(), node.start_byte + escape.start(), "string")

    def _escape(self, node: Node) -> None:
        owner = self.context.parents[-1].type
        if owner == "template_string" and not self._is_tagged():
            self._check_escape(self.context.source[node.start_byte : node.start_byte + 16], node.start_byte, owner)

    def _check_escape(self, text: bytes, offset: int, owner: str) -> None:
        point = _CODE_POINT.match(text)
        bad_point = point is not None and int(point.group(1)[-9:].lstrip(b"0") or b"0", 16) > _MAX_CODE_POINT
        if bad_point or _BAD_HEX.match(text):
            self.context.report(offset, f"'{wording.show(text)}' is not a valid escape in a string.")
        elif _OCTAL.match(text) and (owner == "template_string" or self.context.strict):
            self.context.report(
                offset,
                f"'{wording.show(text)}': octal escapes are not allowed in templates and in strict mode.",
            )

    def _is_tagged(self) -> bool:
        parents = self.context.parents
        return len(parents) > 1 and templates.is_tagged(parents[-1], parents[-2])

    def _regex(self, node: Node) -> None:
        text = self.context.text(node)
        end = text.rindex(b"/")
        problem = regexes.problem(text[1:end].decode("utf-8", "replace"), text[end + 1 :].decode("utf-8", "replace"))
        if problem:
            self.context.report(node, f"The regular expression '{wording.show(text)}' is invalid: {problem}.")


def check_invisible(context: Context, root: Node) -> None:
    """Report a character outside of texts that only the grammar takes for space."""
    if context.source.isascii():
        return
    for match in _INVISIBLE_SPACE.finditer(context.source):
        node = root.descendant_for_byte_range(match.start(), match.end())
        if node is not None and node.type not in _TEXT and not node.type.endswith("identifier"):
            character = match.group().decode()
            context.report(
                match.start(), f"The invisible character {wording.describe(character)} must not stand in code."
            )
            return
