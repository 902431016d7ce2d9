"""Whatever is uploaded: an answer, in order, bounded, the same each time."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace.checks import MAX_FINDINGS, Finding, check_source
from tests.millrace.checks.javascript import corpus
from tests.millrace.checks.javascript.support import check, check_body

# A thread's stack holds 8 MiB as a rule. In one of an 8th of that, 32,000 levels find a recursion that 250,000 levels
# find there, in a fraction of the time. Less is not enough for what newer Pythons bound by themselves.
STACK_BYTES = 1024 * 1024
DEEP = 32_000
HALF = 12_000
RULES = {"syntax", "entry-point", "forbidden-module", "unknown-module", "forbidden-construct", "encoding"}


def findings_of(source: bytes) -> list[Finding]:
    return check_source(source, runtime="nodejs20", entry_point="handler", modules=frozenset(("lodash",)))


def assert_sound(source: bytes) -> None:
    found = findings_of(source)
    assert len(found) <= MAX_FINDINGS
    assert found == sorted(found)
    lines = source.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    count = sum(lines.count(end) for end in "\n\u2028\u2029") + 1
    for finding in found:
        assert finding.rule in RULES
        assert finding.message
        assert finding.severity == "error"
        assert 1 <= finding.line <= count
        assert finding.column >= 1
        finding.message.encode("utf-8")


@pytest.mark.parametrize(
    "source",
    [
        b"(" * DEEP + b"1" + b")" * DEEP,
        b"(" * DEEP + b"eval" + b")" * DEEP,
        b"(" * DEEP,
        b")" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b"x = " + b"{a:" * DEEP + b"1" + b"}" * DEEP,
        b"{" * DEEP + b"}" * DEEP,
        b"`${" * DEEP + b"1" + b"}`" * DEEP,
        b"x = " + b"!" * DEEP + b"1",
        b"x = 'a'" + b"+'a'" * DEEP,
        b"require('a'" + b"+'a'" * DEEP + b")",
        b"a" + b"?.b" * DEEP,
        b"process" + b".a" * DEEP,
        b"a => " * HALF + b"1",
        b"if (a);else " * HALF + b";",
        b"var " + b"[" * DEEP + b"a" + b"]" * DEEP + b" = 1",
        b"[" + b"[..." * HALF + b"a" + b"]" * HALF + b"] = 1",
        b"module.exports = " * HALF + b"{}",
        b"/" + b"(" * DEEP + b"a" + b")" * DEEP + b"/",
        b"a: " * DEEP + b";",
        b"async (" * HALF,
        b"x = " + b"{[" * HALF + b"1" + b"]: 1}" * HALF,
        b"x = " + b"a[" * HALF + b"1" + b"]" * HALF,
        b"f(" * HALF + b"exports" + b")" * HALF,
        b"class A { #a() {" * HALF + b"}}" * HALF,
        b"(function () {" * HALF + b"})()" * HALF,
    ],
    ids=lambda source: source[:24].decode(),
)
def test_deep_nesting_neither_crashes_nor_recurses(source: bytes) -> None:
    before = threading.stack_size(STACK_BYTES)
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(assert_sound, source).result()
    finally:
        threading.stack_size(before)


def test_no_more_than_fifty_findings_are_given_and_they_are_the_first() -> None:
    found = check("eval(1);\n" * 1000 + "exports.handler = f;")
    assert [finding.line for finding in found] == list(range(1, MAX_FINDINGS + 1))


def test_the_same_source_gives_the_same_findings() -> None:
    source = "let a; let a; eval(1); require('fs'); await x; require('nothing'); x.__proto__;"
    assert check(source) == check(source)
    assert len(check(source)) == 6


def test_a_long_value_is_shortened_in_a_message() -> None:
    (finding,) = check_body(f"require('{'x' * 100_000}')")
    assert len(finding.message) < 500


PIECES = st.sampled_from([piece for program in corpus.VALID + corpus.INVALID for piece in program.split(" ")])


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_get_an_answer(source: bytes) -> None:
    assert_sound(source)


@given(st.lists(PIECES, max_size=30).map(" ".join))
@settings(max_examples=120, deadline=None)
def test_any_mix_of_code_gets_an_answer(source: str) -> None:
    assert_sound(source.encode())


@given(st.sampled_from(corpus.VALID), st.randoms(use_true_random=False), st.integers(1, 5))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_damage_to_code_gets_an_answer(program: str, choose: random.Random, times: int) -> None:
    damaged = bytearray(program.encode())
    for _ in range(times):
        at = choose.randrange(len(damaged) + 1)
        damaged[at : at + choose.randrange(3)] = bytes(choose.randrange(256) for _ in range(choose.randrange(3)))
    assert_sound(bytes(damaged))
