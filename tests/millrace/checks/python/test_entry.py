"""The entry point must be defined, and take a payload and a context, as far as that can be read off."""

import pytest

from millrace import errors
from millrace.checks import check_source, entry_name
from tests.millrace.checks.python import corpus
from tests.millrace.checks.python.support import check


@pytest.mark.parametrize("source", corpus.HANDLERS)
def test_an_idiomatic_handler_passes(source: str) -> None:
    assert check(source) == []


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("", "is not defined: the source defines nothing. Add def handler(payload, context)"),
        ("def main(p, c): ...", "the source defines 'main'"),
        ("def handle(p, c): ...", "Did you mean 'handle'?"),
        ("handler: int", "defines nothing"),
        ("def f():\n    def handler(p, c): ...", "defines 'f'"),
        ("class A:\n    def handler(self, p, c): ...", "defines 'A'"),
        ("def f():\n    handler = 1", "defines 'f'"),
        ("# def handler(payload, context): ...", "defines nothing"),
        ("x.handler = 1", "defines nothing"),
        ("[handler for handler in x]", "defines nothing"),
        ("handler = 1", "here it is a number"),
        ("handler = -1.5", "here it is a number"),
        ("handler = 'x'", "here it is a string"),
        ("handler = f'{x}'", "here it is a string"),
        ("handler = b''", "here it is bytes"),
        ("handler = None", "here it is None"),
        ("handler = not x", "here it is a boolean"),
        ("handler = {}", "here it is a dict"),
        ("handler: list = [print]", "here it is a list"),
        ("a, handler = print, ()", "here it is a tuple"),
        ("import json as handler", "here it is a module"),
        ("def handler(p, c): ...\nhandler = None", "here it is None"),
        ("if x:\n    handler = 1\nelse:\n    handler = None", "here it is None"),
        ("other = 1\nhandler = other", "here it is a number"),
        ("def handler(): ...", "this one takes none"),
        ("def handler(payload): ...", "this one takes 1"),
        ("async def handler(payload, **more): ...", "this one takes 1"),
        ("def handler(a, b, c): ...", "this one needs 3"),
        ("def handler(a, b, *, c): ...", "this one needs 'c' by name"),
        ("def handler(*, payload, context): ...", "this one takes none"),
        ("handler = lambda payload: 1", "this one takes 1"),
        ("handler = other\ndef other(x): ...", "this one takes 1"),
    ],
)
def test_an_entry_point_that_certainly_cannot_be_called_is_refused(source: str, part: str) -> None:
    (finding,) = check(source)
    assert finding.rule == "entry-point"
    assert part in finding.message


def test_the_refusal_stands_where_the_definition_is() -> None:
    (finding,) = check("import json\n\ndef handler(payload): ...")
    assert (finding.line, finding.column) == (3, 1)
    assert "two positional arguments, as def handler(payload, context) does" in finding.message


@pytest.mark.parametrize("entry_point", ["handler", "main.handler"])
def test_both_spellings_name_the_same_function(entry_point: str) -> None:
    assert entry_name(entry_point, "python") == "handler"
    assert check("def handler(p, c): ...", entry_point=entry_point) == []
    (finding,) = check("", entry_point=entry_point)
    assert f"'{entry_point}' is not defined" in finding.message


@pytest.mark.parametrize(
    "entry_point",
    ["", "main.", "a.b", "exports.handler", "main.a.b", "1a", "a b", "a()", "def", "é" * 201, "x\ud800", None, 7],
)
def test_an_entry_point_that_names_nothing_is_invalid(entry_point: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        check_source(b"", runtime="python3.11", entry_point=entry_point, modules=frozenset(), language="python")
    assert caught.value.field == "entry_point"


def test_only_the_main_file_of_a_project_has_an_entry_point() -> None:
    assert check("x = 1", path="lib/orders.py", files=("main.py", "lib/orders.py")) == []
