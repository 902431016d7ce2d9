"""What Python itself refuses: the parser's verdict, and that of the symbol table on what the parser lets pass."""

import ast
import re
import symtable
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from millrace.checks import wording
from millrace.checks.python.report import Report

_RUNTIME = re.compile(r"python3\.(\d{1,3})")
_FILE: Final = "<script>"
_HERE: Final = (sys.version_info.major, sys.version_info.minor)
_CHARACTER = re.compile(r"invalid (?:non-printable )?character .*U\+([0-9A-F]{4,6})\)?")
_LONGEST = 200
# Python's list of warning filters belongs to the whole process.
_filters = threading.Lock()


def parse(report: Report, runtime: str) -> ast.Module | None:
    """The tree of a source, or None and a finding.

    Syntax that is newer than the runtime is refused as far as the parser knows to: it knows statements and operators,
    and not how strings may be nested within f-strings. Syntax that is newer than the Python that checks is refused,
    too, by a message that says so.
    """
    version = _version(runtime)
    try:
        with _unheard():
            return ast.parse(report.text.code, _FILE, feature_version=None if version is None else min(version, _HERE))
    except SyntaxError as error:
        _add(report, error, runtime)
    except (RecursionError, MemoryError):
        report.add((1, 0), "syntax", "The source is nested too deeply, or too large, for Python's parser.")
    return None


def check_names(report: Report, runtime: str) -> None:
    """Report what Python refuses in the names of a source that parses: `nonlocal`, `global`, equal parameters.

    It is not compiled: nested comprehensions crash the compilers of Python 3.12 and 3.13, and a `finally` grows there
    with each way out of it. What the compiler alone refuses is in `placement`.
    """
    try:
        with _unheard():
            symtable.symtable(report.text.code, _FILE, "exec")
    except SyntaxError as error:
        _add(report, error, runtime, in_bytes=True)
    except (RecursionError, MemoryError):
        return  # the parser found room for it, and so may the runtime


@contextmanager
def _unheard() -> Iterator[None]:
    """Warnings about a stranger's source are for nobody here."""
    with _filters, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=re.escape(_FILE))
        yield


def _add(report: Report, error: SyntaxError, runtime: str, *, in_bytes: bool = False) -> None:
    """Keep Python's words. The parser counts characters in a line, the symbol table bytes."""
    text, line = report.text, min(max(error.lineno or 1, 1), len(report.text.lines))
    column = max((error.offset or 1) - 1, 0)
    offset = column if in_bytes else text.offset(line, column)
    report.add((line, offset), "syntax", _sentence(report, error, line, offset) + _newer(runtime))


def _sentence(report: Report, error: SyntaxError, line: int, offset: int) -> str:
    said = " ".join(error.msg.split())
    said = said if len(said) <= _LONGEST else said[:_LONGEST] + "..."
    stray = _CHARACTER.fullmatch(said)
    if stray is not None:
        character = chr(int(stray[1], 16))
        return f"The character {wording.describe(character)} must not stand in code{wording.advice(character)}."
    if said == "invalid syntax":
        shown = report.text.show(line, offset, offset + 20)
        return f"Invalid syntax at '{shown}'." if shown else "Invalid syntax at the end of the line."
    return _capital(said) + ("" if said.endswith((".", "?", "!")) else ".")


def _capital(said: str) -> str:
    return said if said.startswith("f-string") else said[:1].upper() + said[1:]


def _newer(runtime: str) -> str:
    """The doubt about a refusal by an older Python than the one of the runtime."""
    version = _version(runtime)
    if version is None or version <= _HERE:
        return ""
    here = ".".join(map(str, _HERE))
    return (
        f" (The check reads Python {here}. If this is newer syntax that {runtime} knows, it cannot be checked: write "
        f"it as Python {here} does, or ask the operator to run Millrace on Python {version[0]}.{version[1]}.)"
    )


def _version(runtime: str) -> tuple[int, int] | None:
    """The version that the name of a runtime tells."""
    named = _RUNTIME.match(runtime)
    return (3, int(named[1])) if named else None
