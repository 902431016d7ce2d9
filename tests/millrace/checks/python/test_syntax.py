"""What Python refuses is refused, in its words, where an editor shows it."""

import sys
import warnings

import pytest

from tests.millrace.checks.python.support import HERE, check, check_body

REFUSED = [
    "return 1",
    "class A:\n    return 1",
    "yield 1",
    "await x",
    "def f():\n    await x",
    "async def f():\n    lambda: await x",
    "async def f():\n    yield from x",
    "def f():\n    async with x: ...",
    "def f():\n    async for x in y: ...",
    "break",
    "for x in y:\n    def f(): break",
    "for x in y: ...\nelse:\n    continue",
    "while x:\n    class A:\n        continue",
    "try: ...\nexcept: ...\nexcept E: ...",
    "*a, *b = c",
    "for *a, *b in c: ...",
    "f(a=1, a=2)",
    "def f(a, a): ...",
    "def f():\n    nonlocal x",
    "def f():\n    x = 1\n    global x",
    "def f():\n    from x import *",
    "from __future__ import nothing",
    "x = 1\nfrom __future__ import annotations",
    "[(yield x) for x in y]",
    "f() = 1",
    "if x",
    "print 'x'",
    "x = (1,",
    "'open",
    "  x = 1",
    "if x:\n\ty\n        z",
    "def f(a=1, b): ...",
    "x = 01",
    "x = 1\u200b",
]

CODE_FIRST = "x = 1\n# coding: latin-1"

ACCEPTED = [
    "for x in y:\n    if z: break\n    else: continue",
    "while x:\n    try: break\n    finally: continue",
    "for x in y:\n    for z in x: ...\n    else:\n        break",
    "async def f():\n    async with x, y: ...\n    async for z in y:\n        await z\n    return [await a for a in b]",
    "async def f():\n    return (await a for a in b)",
    "lambda: (yield)",
    "def f(): return (yield)",
    "def f(a, b): f(a, *b, **b, **a, c=1)",
    "try: ...\nexcept E: ...\nexcept: ...",
    "try: ...\nexcept* E: ...",
    "a, *b = c",
    "(a, *b), *c = d",
    "def f():\n    x = 1\n    def g():\n        nonlocal x\n        x = 2",
    "x = '\u200b\u202e'  # \u202e",
    "x = '\\d'",
    "x = 0x" + "f" * 100_000,
    "x = 1\f\ny = 2",
]


@pytest.mark.parametrize("source", REFUSED)
def test_what_python_refuses_is_a_syntax_error(source: str) -> None:
    with pytest.raises(SyntaxError):
        compile(source, "x", "exec")
    found = check_body(source)
    assert [finding.rule for finding in found if finding.rule == "syntax"] == ["syntax"]


@pytest.mark.parametrize("source", ACCEPTED)
def test_what_python_accepts_is_none(source: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compile(source, "x", "exec")
    assert check_body(source) == []


@pytest.mark.parametrize(
    ("source", "line", "column", "part"),
    [
        ("x = 1\ny = 2 3", 2, 7, "Invalid syntax at '3'."),
        ("x = '😀' 3", 1, 10, "Invalid syntax at '3'."),
        ("é = 1; return 5", 1, 8, "'return' stands outside of a function."),
        ("def f(é, a, a): ...", 1, 13, "Duplicate argument 'a'"),
        ("\ufeffx y", 1, 3, "Invalid syntax at 'y'."),
        ("x\r\ny\rz w", 3, 3, "Invalid syntax at 'w'."),
        ("f(1", 1, 2, "'(' was never closed."),
        ("print 'x'", 1, 1, "Did you mean print(...)?"),
        ("x = \u201ca\u201d", 1, 5, "write a plain quotation mark"),
        ("x = \u200b1", 1, 5, "ZERO WIDTH SPACE"),
        ("x\u202e = 1", 1, 2, "RIGHT-TO-LEFT OVERRIDE"),
    ],
)
def test_an_error_says_where_and_what(source: str, line: int, column: int, part: str) -> None:
    found = [finding for finding in check(source) if finding.rule == "syntax"]
    assert [(each.line, each.column) for each in found] == [(line, column)]
    assert part in found[0].message


def test_a_source_that_does_not_parse_has_only_the_place_where_it_stops() -> None:
    assert [finding.rule for finding in check("eval(1); import nothing; (")] == ["syntax"]


def test_syntax_that_the_runtime_does_not_know_is_refused() -> None:
    (found,) = check_body("match x:\n    case 1: ...", runtime="python3.9")
    assert "3.10" in found.message


def test_a_refusal_by_an_older_python_than_the_runtime_admits_its_doubt() -> None:
    runtime = f"python3.{sys.version_info.minor + 1}"
    (found,) = check_body("x y", runtime=runtime)
    assert f"The check reads Python {HERE.removeprefix('python')}." in found.message
    assert f"newer syntax that {runtime} knows" in found.message
    assert check_body("x = 1", runtime=runtime) == []
    (found,) = check_body("x y", runtime=HERE)
    assert "newer" not in found.message


def test_a_warning_about_a_source_is_neither_shown_nor_an_error() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("error")
        assert check_body("x = '\\d'\ny = 1if x else 2") == []
        assert warnings.filters[0][0] == "error"
    assert shown == []


@pytest.mark.parametrize("name", ["latin-1", "cp1252", "utf-16", "nonsense"])
@pytest.mark.parametrize("before", ["", "#!/usr/bin/python\n", "\n"])
def test_an_encoding_other_than_utf_8_is_refused(name: str, before: str) -> None:
    (found,) = check(f"{before}# -*- coding: {name} -*-\nx = 1")
    assert (found.rule, found.line) == ("encoding", before.count("\n") + 1)
    assert f"'{name}'" in found.message


@pytest.mark.parametrize("line", ["# coding: utf-8", "# vim: set fileencoding=UTF8 :", "# encoding=utf_8", CODE_FIRST])
def test_utf_8_may_be_declared(line: str) -> None:
    assert check_body(f"{line}\nx = 1") == []
    assert check_body(f"x = 1\n\n# coding: latin-1\n{line}") == []
