"""The languages that scripts are written in, known by the name of their runtime: nodejs20 runs JavaScript."""

import re
from dataclasses import dataclass
from typing import Final, Literal

LanguageName = Literal["javascript", "python"]


@dataclass(frozen=True)
class Language:
    """What differs from one language to another for whoever stores, checks and starts scripts."""

    name: LanguageName
    main: str
    """The file of a script that has only one."""
    entry_point: str
    """What is called unless the script says otherwise."""
    suffix: str
    content_type: str


JAVASCRIPT: Final = Language("javascript", "index.js", "exports.handler", ".js", "text/javascript")
PYTHON: Final = Language("python", "main.py", "handler", ".py", "text/x-python")


def named(name: LanguageName) -> Language:
    """The language of this name."""
    return PYTHON if name == PYTHON.name else JAVASCRIPT


def of(runtime: str) -> Language:
    """The language of a runtime, whether or not it is offered here."""
    return PYTHON if runtime.startswith("python") else JAVASCRIPT


# What a source has that exports something by whatever way; or a name that hides behind an escape of a Latin letter.
_EXPORTS = re.compile(rb"\b(?:exports|module|export)\b|\\u(?:\{0*|00)[4-7]")
BODY_START = b"exports.handler = async (input) => {"
_BODY_END = b"\n};\n"


def is_body(language: LanguageName, source: bytes) -> bool:
    """Whether a source is the body of a handler, as the console takes it: JavaScript that exports nothing.

    Whatever has passed the checks as a handler exports it, so that it is never taken for one.
    """
    return language == JAVASCRIPT.name and _EXPORTS.search(source) is None


def whole(runtime: str, source: bytes) -> bytes:
    """The source as it runs: a body becomes that of the handler, and its lines keep their numbers."""
    return BODY_START + source + _BODY_END if is_body(of(runtime).name, source) else source
