"""The syntax of regular expressions in ECMAScript 2024; without the flags u and v as lenient as its Annex B."""

import re

from millrace.checks import wording

_FLAGS = frozenset("dgimsuvy")
_SYNTAX = frozenset("^$\\.*+?()[]{}|/")
_QUANTIFIER = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_GROUP_NAME = re.compile(r"<((?:[^\W\d]|[$_]|\\u)(?:\w|[$\u200c\u200d]|\\u(?:\{[0-9a-fA-F]+\}|[0-9a-fA-F]{4}))*)>")
_HEX = re.compile(r"x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|u\{([0-9a-fA-F]+)\}")
_PROPERTY = re.compile(r"[pP]\{[A-Za-z_]+(?:=[A-Za-z0-9_]+)?\}|[pP]\{[A-Za-z0-9_]+\}")
# The properties that an engine knows by one name, and the values of General_Category, which may stand alone too.
_PROPERTIES = wording.words(
    "ASCII ASCII_Hex_Digit AHex Alphabetic Alpha Any Assigned Bidi_Control Bidi_C Bidi_Mirrored Bidi_M "
    "Case_Ignorable CI Cased Changes_When_Casefolded CWCF Changes_When_Casemapped CWCM Changes_When_Lowercased CWL "
    "Changes_When_NFKC_Casefolded CWKCF Changes_When_Titlecased CWT Changes_When_Uppercased CWU Dash "
    "Default_Ignorable_Code_Point DI Deprecated Dep Diacritic Dia Emoji Emoji_Component EComp Emoji_Modifier EMod "
    "Emoji_Modifier_Base EBase Emoji_Presentation EPres Extended_Pictographic ExtPict Extender Ext Grapheme_Base "
    "Gr_Base Grapheme_Extend Gr_Ext Hex_Digit Hex IDS_Binary_Operator IDSB IDS_Trinary_Operator IDST ID_Continue IDC "
    "ID_Start IDS Ideographic Ideo Join_Control Join_C Logical_Order_Exception LOE Lowercase Lower Math "
    "Noncharacter_Code_Point NChar Pattern_Syntax Pat_Syn Pattern_White_Space Pat_WS Quotation_Mark QMark Radical "
    "Regional_Indicator RI Sentence_Terminal STerm Soft_Dotted SD Terminal_Punctuation Term Unified_Ideograph UIdeo "
    "Uppercase Upper Variation_Selector VS White_Space space XID_Continue XIDC XID_Start XIDS"
)
_CATEGORIES = wording.words(
    "Cased_Letter LC Close_Punctuation Pe Connector_Punctuation Pc Control Cc cntrl Currency_Symbol Sc "
    "Dash_Punctuation Pd Decimal_Number Nd digit Enclosing_Mark Me Final_Punctuation Pf Format Cf "
    "Initial_Punctuation Pi Letter L Letter_Number Nl Line_Separator Zl Lowercase_Letter Ll Mark M Combining_Mark "
    "Math_Symbol Sm Modifier_Letter Lm Modifier_Symbol Sk Nonspacing_Mark Mn Number N Open_Punctuation Ps Other C "
    "Other_Letter Lo Other_Number No Other_Punctuation Po Other_Symbol So Paragraph_Separator Zp Private_Use Co "
    "Punctuation P punct Separator Z Space_Separator Zs Spacing_Mark Mc Surrogate Cs Symbol S Titlecase_Letter Lt "
    "Unassigned Cn Uppercase_Letter Lu"
)
_STRING_PROPERTIES = wording.words(
    "Basic_Emoji Emoji_Keycap_Sequence RGI_Emoji RGI_Emoji_Flag_Sequence RGI_Emoji_Modifier_Sequence "
    "RGI_Emoji_Tag_Sequence RGI_Emoji_ZWJ_Sequence"
)
_CATEGORY_NAMES = ("General_Category", "gc")
_SCRIPT_NAMES = ("Script", "sc", "Script_Extensions", "scx")
_CLASS_ESCAPES = "dDsSwW"
_MAX_CODE_POINT = 0x10FFFF
_DOUBLED = re.compile(r"&&|!!|##|\$\$|%%|\*\*|\+\+|,,|\.\.|::|;;|<<|==|>>|\?\?|@@|\^\^|``|~~")


class _Bad(Exception):
    """What is wrong, as a clause of a sentence."""


def problem(pattern: str, flags: str) -> str | None:
    """What is wrong with a regular expression, as a clause; None when nothing is."""
    stray = next((flag for flag in flags if flag not in _FLAGS), None)
    if stray is not None:
        return f"there is no flag '{stray}'"
    if len(set(flags)) != len(flags):
        return "a flag stands twice"
    if "u" in flags and "v" in flags:
        return "the flags u and v exclude each other"
    try:
        _Pattern(pattern, unicode="u" in flags or "v" in flags, sets="v" in flags).check()
    except _Bad as bad:
        return str(bad)
    return None


class _Pattern:
    """One pass over a pattern. Groups are kept on a list, so depth costs no recursion."""

    def __init__(self, pattern: str, *, unicode: bool, sets: bool) -> None:
        self.pattern = pattern
        self.unicode = unicode
        self.sets = sets
        self.at = 0
        self.groups = 0
        self.names: set[str] = set()
        self.name_uses: list[str] = []
        self.number_uses: list[int] = []
        self.has_names = "(?<" in pattern and re.search(r"\(\?<[^=!]", pattern) is not None

    def check(self) -> None:
        open_groups: list[bool] = []  # may a closing parenthesis here be repeated?
        repeatable = False
        while self.at < len(self.pattern):
            character = self.pattern[self.at]
            if character == "(":
                open_groups.append(self._open_group())
                repeatable = False
            elif character == ")":
                if not open_groups:
                    raise _Bad("a ')' closes nothing")
                repeatable = open_groups.pop()
                self.at += 1
            elif character in "*+?" or (character == "{" and self._is_quantifier()):
                if not repeatable:
                    raise _Bad(f"there is nothing for '{character}' to repeat")
                self._quantifier(character)
                repeatable = False
            else:
                repeatable = self._atom(character)
        if open_groups:
            raise _Bad("a '(' is not closed")
        self._check_references()

    def _atom(self, character: str) -> bool:
        self.at += 1
        if character in "|^$":
            return False
        if character == "\\":
            return self._escape()
        if character == "[":
            self._set() if self.sets else self._class()
        elif self.unicode and character in "{}]":
            raise _Bad(f"a lone '{character}' must be escaped with this flag")
        return True

    def _open_group(self) -> bool:
        rest = self.pattern[self.at : self.at + 4]
        if not rest.startswith("(?"):
            self.groups += 1
            self.at += 1
            return True
        if rest.startswith(("(?:", "(?=", "(?!")):
            self.at += 3
            return rest[2] == ":" or not self.unicode
        if rest.startswith(("(?<=", "(?<!")):
            self.at += 4
            return False
        name = _GROUP_NAME.match(self.pattern, self.at + 2)
        if name is None:
            raise _Bad("'(?' is followed by no known kind of group")
        if name.group(1) in self.names:
            raise _Bad(f"the group name '{name.group(1)}' stands twice")
        self.names.add(name.group(1))
        self.groups += 1
        self.at = name.end()
        return True

    def _is_quantifier(self) -> bool:
        return _QUANTIFIER.match(self.pattern, self.at) is not None

    def _quantifier(self, character: str) -> None:
        bounds = _QUANTIFIER.match(self.pattern, self.at) if character == "{" else None
        if bounds is None:
            self.at += 1
        else:
            low, high = bounds.group(1).lstrip("0"), (bounds.group(3) or "").lstrip("0")
            if bounds.group(3) and (len(low), low) > (len(high), high):
                raise _Bad("the numbers of a quantifier are out of order")
            self.at = bounds.end()
        if self.pattern[self.at : self.at + 1] == "?":
            self.at += 1

    def _escape(self) -> bool:
        """An escape outside of a class; false when it asserts and so cannot be repeated."""
        following = self.pattern[self.at : self.at + 1]
        if following in ("b", "B"):
            self.at += 1
            return False
        if following == "k":
            self._named_reference()
        elif following.isdigit() and following != "0":
            digits = re.compile(r"[0-9]+").match(self.pattern, self.at)
            assert digits is not None
            self.number_uses.append(int(digits.group()[:9]))
            self.at = digits.end()
        else:
            self._character_escape(in_class=False)
        return True

    def _named_reference(self) -> None:
        name = _GROUP_NAME.match(self.pattern, self.at + 1)
        if name is not None:
            self.name_uses.append(name.group(1))
            self.at = name.end()
        elif self.unicode or self.has_names:
            raise _Bad("'\\k' must be followed by the name of a group")
        else:
            self.at += 1

    def _character_escape(self, *, in_class: bool) -> int | None:
        """Step over what follows a backslash; its code point if it is one character."""
        following = self.pattern[self.at : self.at + 1]
        if not following:
            raise _Bad("it ends in a backslash")
        number = _HEX.match(self.pattern, self.at)
        if number is not None and (self.unicode or number.group(1) is None):
            value = int((number.group(1) or number.group()[1:])[-9:], 16)
            if value > _MAX_CODE_POINT:
                raise _Bad("a code point is above 10FFFF")
            self.at = number.end()
            return value
        if following in _CLASS_ESCAPES:
            self.at += 1
            return None
        if self.unicode:
            return self._strict_escape(following, in_class=in_class)
        self.at += 1
        return {"b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13}.get(following, ord(following))

    def _strict_escape(self, following: str, *, in_class: bool) -> int | None:
        property_escape = _PROPERTY.match(self.pattern, self.at)
        if following in "pP":
            if property_escape is None:
                raise _Bad("'\\p' must be followed by a property in braces")
            if not self._is_property(following, property_escape.group()[2:-1]):
                raise _Bad(f"'\\{property_escape.group()}' names no property")
            self.at = property_escape.end()
            return None
        rest = self.pattern[self.at : self.at + 2]
        if following == "c" and rest[1:].isascii() and rest[1:].isalpha():
            self.at += 2
            return ord(rest[1]) % 32
        allowed = following in _SYNTAX or following in "fnrtv" or (in_class and following in "b-")
        allowed = allowed or (following == "0" and not rest[1:].isdigit())
        if in_class and self.sets:
            allowed = allowed or following in "&!#%,:;<=>@`~q"
        if not allowed:
            raise _Bad(f"'\\{following}' is no escape with this flag")
        self.at += 1
        return {"b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}.get(following, ord(following))

    def _is_property(self, sign: str, text: str) -> bool:
        """Whether a property exists; any script does, as every edition of Unicode adds some."""
        name, equals, value = text.partition("=")
        if equals:
            return name in _SCRIPT_NAMES or (name in _CATEGORY_NAMES and value in _CATEGORIES)
        of_strings = self.sets and sign == "p" and name in _STRING_PROPERTIES
        return of_strings or name in _PROPERTIES or name in _CATEGORIES

    def _class(self) -> None:
        if self.pattern[self.at : self.at + 1] == "^":
            self.at += 1
        while True:
            if self.pattern[self.at : self.at + 1] == "]":
                self.at += 1
                return
            low, low_is_set = self._class_atom()
            following = self.pattern[self.at : self.at + 2]
            if following[:1] != "-" or following[1:] in ("]", ""):
                continue
            self.at += 1
            high, high_is_set = self._class_atom()
            if low_is_set or high_is_set:
                if self.unicode:
                    raise _Bad("a range in a class begins or ends in a set")
            elif low > high:
                raise _Bad("a range in a class is out of order")

    def _class_atom(self) -> tuple[int, bool]:
        character = self.pattern[self.at : self.at + 1]
        if not character:
            raise _Bad("a '[' is not closed")
        self.at += 1
        if character != "\\":
            return self._code_point(character), False
        value = self._character_escape(in_class=True)
        return (0, True) if value is None else (value, False)

    def _code_point(self, character: str) -> int:
        """Without u, what lies beyond the first plane is two characters: the first one counts here."""
        number = ord(character)
        return number if self.unicode or number <= 0xFFFF else 0xD800 + ((number - 0x10000) >> 10)

    def _set(self) -> None:
        """A class with the flag v: classes nest, and doubled signs are reserved."""
        operators = [""]  # of each class that is open
        while operators:
            character = self.pattern[self.at : self.at + 1]
            pair = self.pattern[self.at : self.at + 2]
            if not character:
                raise _Bad("a '[' is not closed")
            self.at += 1
            if character == "[":
                operators.append("")
            elif character == "]":
                operators.pop()
            elif character == "\\":
                if pair == "\\q" and self.pattern[self.at + 1 : self.at + 2] == "{":
                    self.at = self._end_of_strings()
                else:
                    self._character_escape(in_class=True)
            elif pair in ("--", "&&"):
                if operators[-1] not in ("", pair):
                    raise _Bad("'--' and '&&' cannot be mixed in one class")
                operators[-1] = pair
                self.at += 1
            elif _DOUBLED.match(pair) or character in "(){}/|":
                raise _Bad(f"'{character}' must be escaped in a class with the flag v")

    def _end_of_strings(self) -> int:
        end = self.pattern.find("}", self.at)
        if end < 0:
            raise _Bad("'\\q{' is not closed")
        return end + 1

    def _check_references(self) -> None:
        if self.name_uses and not self.names and not self.unicode:
            return
        unknown = next((name for name in self.name_uses if name not in self.names), None)
        if unknown is not None:
            raise _Bad(f"no group is named '{unknown}'")
        if self.unicode and any(number > self.groups for number in self.number_uses):
            raise _Bad("a back reference names a group that is not there")
