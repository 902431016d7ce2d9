"""Names as the language sees them: escapes undone, reserved words, the characters of an identifier."""

import functools
import re
import unicodedata


def byte_words(text: str) -> frozenset[bytes]:
    """The words of a text as a source has them: a set that reads as a list."""
    return frozenset(text.encode().split())


RESERVED = byte_words(
    "break case catch class const continue debugger default delete do else enum export extends false finally "
    "for function if import in instanceof new null return super switch this throw true try typeof var void "
    "while with"
)
RESERVED_IN_STRICT = byte_words("implements interface let package private protected public static yield")
NOT_ASSIGNABLE_IN_STRICT = frozenset((b"eval", b"arguments"))

_ESCAPE = re.compile(r"\\u(?:\{([0-9a-fA-F]+)\}|([0-9a-fA-F]{4}))")
_START = frozenset(("Lu", "Ll", "Lt", "Lm", "Lo", "Nl"))
_CONTINUE = _START | {"Mn", "Mc", "Nd", "Pc"}
# Unassigned in the Unicode of this Python, perhaps assigned in the one of the engine.
_UNKNOWN = "Cn"
_OTHER_ID_START = frozenset("\u1885\u1886\u2118\u212e\u309b\u309c$_")
_OTHER_ID_CONTINUE = frozenset("\u00b7\u0387\u1369\u136a\u136b\u136c\u136d\u136e\u136f\u1370\u1371\u19da\u200c\u200d")


def canonical(text: bytes) -> bytes:
    """An identifier with its unicode escapes undone: `\\u0065val` is `eval`."""
    if b"\\" not in text:
        return text
    plain = _ESCAPE.sub(_character, text.decode("utf-8", "replace"))
    return plain.encode("utf-8", "surrogatepass")


def _character(match: re.Match[str]) -> str:
    number = int((match.group(1) or match.group(2))[-8:], 16)
    return chr(number) if number <= 0x10FFFF else "\ufffd"


def stray_character(text: bytes) -> str | None:
    """The first character of an identifier that may not stand there, escapes undone; None when all may."""
    plain = canonical(text).decode("utf-8", "replace").removeprefix("#")
    for index, character in enumerate(plain):
        if not _allowed(character, first=index == 0):
            return character
    return None


@functools.lru_cache(maxsize=4096)
def _allowed(character: str, *, first: bool) -> bool:
    category = unicodedata.category(character)
    if character in _OTHER_ID_START or category in _START or category == _UNKNOWN:
        return True
    return not first and (category in _CONTINUE or character in _OTHER_ID_CONTINUE)
