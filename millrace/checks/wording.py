"""Source text, characters and modules in the words of a message."""

import difflib
import unicodedata
from collections.abc import Collection, Sequence

# What word processors and other keyboards put in place of the signs of a language.
_TYPOGRAPHIC = dict.fromkeys(
    "\u00ab\u00bb\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f", "a plain quotation mark: ' or \""
) | {
    "\uff0c": "a plain comma",
    "\uff1b": "a plain semicolon",
    "\uff1a": "a plain colon",
    "\uff08": "a plain parenthesis",
    "\uff09": "a plain parenthesis",
    "\u2013": "a plain minus sign",
    "\u2014": "a plain minus sign",
    "\u2026": "three plain dots",
}
_LONGEST_NAME = 100  # to look for near ones
_MOST_LISTED = 60  # of names in a message


def words(text: str) -> frozenset[str]:
    """The words of a text: a set that reads as a list."""
    return frozenset(text.split())


def show(text: bytes, limit: int = 40) -> str:
    """Source text for a message: on one line, shortened."""
    plain = " ".join(text[: limit * 8].decode("utf-8", "replace").split())
    plain = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in plain)
    return plain if len(plain) <= limit else plain[:limit] + "..."


def describe(character: str) -> str:
    """A character for a message: itself when it shows, and its number when it is not plain ASCII."""
    if character.isascii() and character.isprintable():
        return f"'{character}'"
    shown = f"'{character}' " if character.isprintable() else ""
    return f"{shown}(U+{ord(character):04X} {unicodedata.name(character, 'unnamed')})"


def advice(character: str) -> str:
    """What to write in place of a sign that only looks like the language's; begins with a colon, or is empty."""
    return f": write {_TYPOGRAPHIC[character]}" if character in _TYPOGRAPHIC else ""


def near(name: str, known: Collection[str], most: int = 1) -> str:
    """`Did you mean 'lodash'?`, when something is known by nearly that name; else nothing."""
    found = difflib.get_close_matches(name[:_LONGEST_NAME], sorted(known), n=most)
    return f"Did you mean {either(found)}?" if found else ""


def offer(name: str, modules: Collection[str]) -> str:
    """What is available instead of the module of this name."""
    hint = near(name, modules, 2)
    if len(modules) > _MOST_LISTED:
        listed = "GET /runtimes lists the libraries; of the standard library most can be imported."
    else:
        listed = f"Available: {', '.join(sorted(modules))}." if modules else "No module is available."
    return f"{hint} {listed}".lstrip()


def either(found: Sequence[str]) -> str:
    """Names in a sentence: 'a' or 'b'."""
    return " or ".join(f"'{name}'" for name in found)
