"""The languages that scripts are written in, known by the name of their runtime: nodejs20 runs JavaScript."""

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
