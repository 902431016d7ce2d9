"""Whatever is uploaded: an answer, in order, bounded, the same each time."""

import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.checks import MAX_FINDINGS, Finding, check_source
from millrace.checks.apart import Checker, Limits
from tests.millrace.checks.python import corpus, test_constructs, test_syntax
from tests.millrace.checks.python.support import HANDLER, HERE, MODULES, check

# Python's parser bounds its own recursion: it needs up to 1 MiB of a thread's stack, which holds 8 MiB as a rule.
STACK_BYTES = 2 * 1024 * 1024
DEEP = 32_000
RULES = {"syntax", "entry-point", "forbidden-module", "unknown-module", "forbidden-construct", "encoding"}


def assert_sound(source: bytes) -> None:
    found = check_source(source, runtime=HERE, entry_point="handler", modules=MODULES, language="python")
    assert len(found) <= MAX_FINDINGS
    assert found == sorted(found)
    lines = source.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1
    for finding in found:
        assert finding.rule in RULES
        assert finding.message.encode()
        assert finding.column >= 1
        if finding.rule != "encoding":
            assert 1 <= finding.line <= lines


@pytest.mark.parametrize(
    "source",
    [
        "(" * DEEP,
        ")" * DEEP,
        "(" * 199 + "eval" + ")" * 199,
        "x = " + "-" * DEEP + "1",
        "x = " + "not " * DEEP + "1",
        "lambda:" * DEEP + "1",
        "x = 1" + "+1" * DEEP,
        "x = 1" + "+1" * 2000,
        "x" + ".a" * DEEP,
        "x" + ".a" * 2000,
        "x" + "[0]" * DEEP,
        "x" + "['a']" * 2000,
        "x" + "()" * DEEP,
        "x" + ".get('a')" * 1000,
        "x = " * DEEP + "1",
        "[" * 150 + "a" + " for a in b]" * 150,
        "[a for a in b if " * 150 + "b" + "]" * 150,
        "1 if a else " * DEEP + "2",
        "if a: b\n" + "elif a: b\n" * 2000,
        "".join(" " * depth + "def f():\n" for depth in range(99)) + " " * 99 + "eval(1)",
        "".join(" " * depth + "try: a\n" + " " * depth + "finally:\n" for depth in range(40)) + " " * 40 + "a",
        "def f():\n try:\n" + "  return\n" * 2000 + " finally:\n" + "  a\n" * 2000,
        "a0 = eval\n" + "".join(f"a{n + 1} = a{n}\n" for n in range(2000)),
        "a0 = 'x'\n" + "".join(f"a{n + 1} = a{n} + a{n}\n" for n in range(2000)) + "getattr(x, a2000)",
        "a = b\nb = a\na.system()",
        "x = " + "1" * 1_000_000,
        "x = 0x" + "f" * 1_000_000,
        "f'{" * DEEP,
        "x = 1\\\n" * DEEP,
        "\f" * DEEP,
        "from " + "." * DEEP + " import x",
        f"import {'x' * DEEP}",
    ],
    ids=lambda source: source[:24],
)
def test_deep_and_long_sources_neither_crash_nor_hang(source: str) -> None:
    before = threading.stack_size(STACK_BYTES)
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(assert_sound, source.encode()).result()
    finally:
        threading.stack_size(before)


def test_no_more_than_fifty_findings_are_given_and_they_are_the_first() -> None:
    found = check("eval(1)\n" * 20_000 + HANDLER)
    assert [finding.line for finding in found] == list(range(1, MAX_FINDINGS + 1))


def test_only_messages_that_are_shown_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def offer(name: str, modules: frozenset[str]) -> str:
        made.append(name)
        return "Available: nothing."

    monkeypatch.setattr("millrace.checks.wording.offer", offer)
    assert len(check("".join(f"import nothing{n}\n" for n in range(5000)) + HANDLER)) == MAX_FINDINGS
    assert len(made) == MAX_FINDINGS


def test_the_same_source_gives_the_same_findings() -> None:
    source = "eval(1)\nimport nothing\nreturn\nx.__globals__\ndef f(a, a): ...\n"
    assert check(source) == check(source)
    assert len(check(source)) == 6


def test_a_long_value_is_shortened_in_a_message() -> None:
    for source in (f"import {'x' * 100_000}", f"__import__('{'x' * 100_000}')", f"def {'x' * 100_000}(): ..."):
        assert all(len(finding.message) < 900 for finding in check(source))


@pytest.mark.parametrize("source", [b"a\xff", b"a\0b", b"\xed\xa0\x80", b"# coding: latin-1\n\xe9"])
def test_a_source_that_is_no_text_is_refused(source: bytes) -> None:
    found = check_source(source, runtime=HERE, entry_point="handler", modules=MODULES, language="python")
    assert [finding.rule for finding in found] == ["encoding"]


@pytest.mark.parametrize(
    "source", ["", HANDLER, "eval(1)\n" * 100, "é = '😀'; import nothing; x.__globals__", "x y", "# coding: x"]
)
def test_a_child_finds_the_same(source: str) -> None:
    checker = Checker(Limits(in_process_bytes=-1))
    in_child = checker.check(
        source.encode(), runtime=HERE, entry_point="main.handler", modules=MODULES, language="python"
    )
    assert in_child == check(source, entry_point="main.handler")


def test_a_source_that_is_too_large_for_the_parser_is_refused_within_the_memory_of_a_child() -> None:
    checker = Checker(Limits(memory_bytes=160 * 1024 * 1024))
    found = checker.check(b"a;" * 500_000, runtime=HERE, entry_point="handler", modules=MODULES, language="python")
    assert [finding.rule for finding in found] == ["syntax"]
    assert "nested too deeply, or too large" in found[0].message


def test_the_standard_library_is_python() -> None:
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [*sorted(folder.glob("*.py"))[::4], *sorted((folder / "asyncio").glob("*.py"))[::4]]
    assert len(files) > 20
    for file in files:
        found: list[Finding] = check(file.read_text(encoding="utf-8"))
        assert [finding for finding in found if finding.rule in ("syntax", "encoding")] == [], file.name


PROGRAMS = corpus.HANDLERS + test_constructs.FORBIDDEN + test_constructs.FINE + test_syntax.REFUSED
PIECES = st.sampled_from([piece for program in PROGRAMS for piece in program.split(" ")])


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_get_an_answer(source: bytes) -> None:
    assert_sound(source)


@given(st.lists(PIECES, max_size=20).map(" ".join))
@settings(max_examples=150, deadline=None)
def test_any_mix_of_code_gets_an_answer(source: str) -> None:
    assert_sound(source.encode("utf-8", "replace"))


@given(st.lists(st.sampled_from(PROGRAMS), max_size=6).map("\n".join))
@settings(max_examples=150, deadline=None)
def test_any_sequence_of_programs_gets_an_answer(source: str) -> None:
    assert_sound(source.encode("utf-8", "replace"))
