"""The syntax check against the real engine, over a corpus, and what it says to people."""

from pathlib import Path

import pytest

from tests.millrace.checks.javascript import corpus
from tests.millrace.checks.javascript.support import check, node_check, node_verdicts, syntax_errors


def test_nothing_that_node_accepts_is_refused() -> None:
    verdicts = node_verdicts(corpus.VALID)
    assert [program for program, verdict in zip(corpus.VALID, verdicts, strict=True) if verdict] == []
    assert [(program, found) for program in corpus.VALID if (found := syntax_errors(program))] == []


def test_everything_that_node_refuses_is_refused_on_the_same_line_or_where_it_was_opened() -> None:
    verdicts = node_verdicts(corpus.INVALID)
    assert [program for program, verdict in zip(corpus.INVALID, verdicts, strict=True) if not verdict] == []
    assert [program for program in corpus.INVALID if not syntax_errors(program)] == []
    for program, verdict in zip(corpus.INVALID, verdicts, strict=True):
        assert verdict is not None
        assert str(syntax_errors(program)[0].line) == verdict.rpartition(" at ")[2], program


def test_what_the_grammar_cannot_read_is_known() -> None:
    """When a newer grammar reads one of these, it belongs to the valid programs."""
    assert node_verdicts(corpus.UNUSUAL) == [None] * len(corpus.UNUSUAL)
    assert [program for program in corpus.UNUSUAL if not syntax_errors(program)] == []


def test_the_verdicts_are_those_of_node_check(tmp_path: Path) -> None:
    for program in [*corpus.VALID[5::80], *corpus.INVALID[7::180]]:
        assert node_check(tmp_path, program) == (not syntax_errors(program)), program


@pytest.mark.parametrize(
    ("program", "line", "column", "part"),
    [
        ("exports.handler = async () => {\n  const a = { b: 1, c 2 };\n};", 2, 23, "Unexpected '2' after 'c'"),
        ("exports.handler = () => {\n  if (a) {\n  return 1;\n};\n", 5, 1, "the '{' opened on line 1 is not closed"),
        ("f(function () {\n  g([1, 2);\n});", 2, 10, "Unexpected ')' after '2': the '[' opened on line 2"),
        ("let s = 'it is\nopen';", 1, 9, "This string is not closed on its line"),
        ("const s = \u201chello\u201d;", 1, 11, "write a plain quotation mark"),
        ("/* never closed", 1, 1, "This comment is not closed"),
        ("const html = `a ${b}\n\n", 3, 1, "the template opened on line 1 is not closed"),
        ("const data = await load();", 1, 14, "'await' is only valid in an async function"),
        ("import axios from 'axios';", 1, 1, "Use const ... = require('axios')"),
        ("export default async () => {};", 1, 1, "Use exports.name = ..."),
        ("let a = 1;\nlet b = 2;\nlet a = 3;", 3, 5, "'a' has already been declared"),
        ("const exports = {};", 1, 7, "every script has it from the start"),
        ("for (;;) {}\ncontinue;", 2, 1, "'continue' stands outside of a loop"),
        ("while (a) { break there; }", 1, 13, "no enclosing label is named 'there'"),
        ("class A { m() { return this.#secret; } }", 1, 29, "'#secret' is not declared"),
        ("a?.b = 1", 1, 1, "'a?.b' is an optional chain and cannot be assigned to"),
        ("const re = /(abc/;", 1, 12, "a '(' is not closed"),
        ("a ?? b || c", 1, 3, "'??' cannot be mixed with '||' or '&&'"),
        ("return <p>hi</p>;", 1, 8, "JSX is no JavaScript"),
        ("const x = 1;\u200b", 1, 13, "ZERO WIDTH SPACE"),
        ("x = 1\ny = 2 3", 2, 7, "Unexpected '3' after '2'"),
        ("})", 1, 1, "no '{' is open"),
        ("String.raw`C:\\users` + 1 2", 1, 26, "Unexpected '2' after '1'"),
        ("f(`a`, 3in[])", 1, 8, "A space is missing after the number '3'"),
        ("/\\p{Foo}/u", 1, 1, "'\\p{Foo}' names no property"),
    ],
)
def test_an_error_says_where_and_what(program: str, line: int, column: int, part: str) -> None:
    found = syntax_errors(program)[0]
    assert (found.line, found.column) == (line, column), found
    assert part in found.message, found


@pytest.mark.parametrize(
    ("program", "line", "column"),
    [
        ("'😀' 1", 1, 6),  # two UTF-16 units
        ("'é' 1", 1, 5),
        ("a\r\nb\rc\u2028d e", 4, 3),
        ("\ufeffa b", 1, 3),
        ("\ta b", 1, 4),
    ],
)
def test_lines_and_columns_count_as_in_an_editor(program: str, line: int, column: int) -> None:
    found = syntax_errors(program)[0]
    assert (found.line, found.column) == (line, column)


def test_a_source_that_does_not_parse_has_only_the_place_where_it_stops() -> None:
    assert [finding.rule for finding in check("eval(1); require('fs'); (")] == ["syntax"]


def test_early_errors_are_all_listed_in_order() -> None:
    found = syntax_errors("let a; let a;\nawait b;\nbreak;")
    assert [(finding.line, finding.column) for finding in found] == [(1, 12), (2, 1), (3, 1)]
