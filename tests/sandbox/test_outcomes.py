"""Every way in which a run can end, in real jails."""

from __future__ import annotations

import threading
import time

import pytest

from sandbox.job import Limits
from tests.sandbox.support import Recorder, Runner


def test_a_handler_gets_its_payload_and_its_result_comes_back(run: Runner) -> None:
    ran = run("exports.handler = async (payload) => ({ hello: payload.name })", {"name": "x"})
    assert (ran.kind, ran.result, ran.outcome.error) == ("succeeded", {"hello": "x"}, None)
    assert ran.outcome.reached_handler
    assert ran.sink.starts == 1


@pytest.mark.parametrize(
    ("source", "entry_point"),
    [
        ("exports.handler = () => 1", "exports.handler"),
        ("exports.handler = () => 1", "handler"),
        ("module.exports.handler = () => 1", "module.exports.handler"),
        ("module.exports = { handler() { return 1; } }", "handler"),
        ("exports.other = () => 1", "exports.other"),
    ],
)
def test_each_way_to_export_and_to_name_a_handler_works(run: Runner, source: str, entry_point: str) -> None:
    assert run(source, entry_point=entry_point).result == 1


def test_usage_is_measured_from_outside(run: Runner) -> None:
    ran = run.body("const end = Date.now() + 300; while (Date.now() < end); Buffer.alloc(50e6, 1); return 1")
    assert ran.outcome.usage.cpu_ms > 20
    assert 50e6 < ran.outcome.usage.peak_memory_bytes < 288 * 1024 * 1024
    assert ran.outcome.duration_ms >= 300


def test_an_exception_has_name_message_and_the_scripts_own_lines(run: Runner) -> None:
    source = "function deep() {\n  throw new TypeError('boom');\n}\nexports.handler = async () => {\n  deep();\n};\n"
    ran = run(source)
    assert ran.kind == "exception"
    error = ran.outcome.error
    assert error is not None
    assert (error.name, error.message) == ("TypeError", "boom")
    assert error.stack.splitlines() == [
        "TypeError: boom",
        "    at deep (index.js:2:9)",
        "    at exports.handler (index.js:5:3)",
    ]


def test_an_exception_names_the_file_of_the_project_in_which_it_was_thrown(run: Runner) -> None:
    files = {
        "index.js": "const { parse } = require('./lib/parse');\nexports.handler = (p) => parse(p);",
        "lib/parse.js": "exports.parse = () => {\n  throw new RangeError('too far');\n};",
    }
    error = run(files).outcome.error
    assert error is not None
    assert "    at exports.parse (lib/parse.js:2:9)" in error.stack
    assert "/boot" not in error.stack
    assert "node:" not in error.stack


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("throw 'plain text'", "plain text"),
        ("throw undefined", "undefined was thrown"),
        ("throw { code: 7 }", "{ code: 7 } was thrown"),
        ("throw Object.create(null, { message: { get() { throw 1; } } })", None),
        ("throw new Proxy({}, { get() { throw new Error('trap'); } })", None),
        ("const e = new Error('x'); Object.defineProperty(e, 'stack', { get() { throw 1; } }); throw e", "x"),
        ("throw Object.assign(new Error('y'), { name: 5n })", "y"),
        ("throw Object.assign(new Error('y'), { message: { a: 1 } })", "{ a: 1 }"),
        ("throw Object.assign(new Error('y'), { message: new Error('inner') })", "Error: inner"),
        ("throw Object.assign(new Error('y'), { message: undefined })", ""),
        ("const e = new Error('y'); Object.defineProperty(e, 'message', { get() { throw 1; } }); throw e", ""),
        ("await Promise.reject(new Error('rejected'))", "rejected"),
        ("setTimeout(() => { throw new Error('later') }, 1); await new Promise(() => {})", "later"),
        (
            "Promise.reject(new Error('unhandled')); await new Promise((r) => setTimeout(r, 5000))",
            "unhandled",
        ),
    ],
)
def test_whatever_is_thrown_is_described(run: Runner, statement: str, message: str | None) -> None:
    ran = run.body(statement)
    assert ran.kind == "exception"
    if message is not None:
        assert ran.message == message


@pytest.mark.parametrize(
    ("declared", "thrown", "name"),
    [
        ("class ValidationError extends Error {}", "new ValidationError('x')", "ValidationError"),
        ("class Wrong extends TypeError {}; class Deep extends Wrong {}", "new Deep('x')", "Deep"),
        ("class A extends Error { get name() { return 'Named'; } }", "new A('x')", "Named"),
        ("class A extends Error { name = 'Mine'; }", "new A('x')", "Mine"),
        ("class A extends Error {}; A.prototype.name = 'Given'", "new A('x')", "Given"),
        ("const A = { ['no name']: class extends Error {} }['no name']", "new A('x')", "Error"),
        ("class A extends Error { static name = 5; }", "new A('x')", "Error"),
        ("class A extends Error { static get name() { throw 1; } }", "new A('x')", "Error"),
        ("", "Object.assign(new RangeError('x'), { constructor: null })", "RangeError"),
        ("", "new AggregateError([], 'x')", "AggregateError"),
        ("", "Object.assign(new Error('x'), { name: '' })", "Error"),
        ("", "new DOMException('x', 'AbortError')", "AbortError"),
        ("", "{ message: 'x' }", "Error"),
    ],
)
def test_an_error_without_a_name_of_its_own_has_its_classs(run: Runner, declared: str, thrown: str, name: str) -> None:
    ran = run(f"{declared};\nexports.handler = () => {{\n  throw {thrown};\n}}")
    assert ran.outcome.error is not None
    assert (ran.outcome.error.name, ran.message) == (name, "x")
    assert ran.outcome.error.stack.splitlines()[0] == f"{name}: x"


def test_far_more_of_an_error_comes_out_than_is_kept_and_its_place_with_it(run: Runner) -> None:
    ran = run.body("throw Object.assign(new Error('\\0'.repeat(1e6)), { name: '\\x01'.repeat(1e6) })")
    assert ran.kind == "exception"
    assert ran.outcome.error is not None
    assert 270_000 < len(ran.message) < 290_000
    assert 270_000 < len(ran.outcome.error.name) < 290_000
    ran = run("exports.handler = () => {\n  throw new Error('y'.repeat(1e6));\n}")
    assert ran.outcome.error is not None
    assert ran.outcome.error.stack.endswith("\n    at exports.handler (index.js:2:9)")


def test_a_syntax_error_is_a_load_error_with_its_place(run: Runner) -> None:
    ran = run("exports.handler = () => {\n  retrun 3;\n};")
    assert ran.kind == "load_error"
    assert ran.outcome.error is not None
    assert "index.js:2" in ran.outcome.error.stack
    assert not ran.outcome.reached_handler
    assert ran.sink.starts == 0


def test_an_error_at_the_top_level_is_a_load_error(run: Runner) -> None:
    ran = run("null.x;")
    assert ran.kind == "load_error"
    assert not ran.outcome.reached_handler


@pytest.mark.parametrize("source", ["", "exports.other = () => 1", "module.exports = null", "exports.handler = 'text'"])
def test_a_script_without_its_handler_is_told_what_it_exports(run: Runner, source: str) -> None:
    ran = run(source)
    assert ran.kind == "no_handler"
    assert "does not export a function named handler" in ran.message
    assert not ran.outcome.reached_handler


@pytest.mark.parametrize(
    "source",
    [
        "exports.handler = () => { for (;;); }",
        "exports.handler = () => new Promise((r) => setTimeout(r, 60000))",
        "for (;;);",
    ],
)
def test_a_run_over_its_time_is_ended(run: Runner, source: str) -> None:
    began = time.monotonic()
    ran = run(source, limits=Limits(timeout_ms=300))
    assert ran.kind == "timeout"
    assert ran.message == "The run took longer than its time limit of 0.3 s"
    assert time.monotonic() - began < 5


def test_lines_written_before_a_timeout_are_kept(run: Runner) -> None:
    ran = run("exports.handler = () => { console.log('before'); for (;;); }", limits=Limits(timeout_ms=300))
    assert ran.kind == "timeout"
    assert ran.texts == ["before"]


def test_a_cancelled_run_ends_within_a_second(run: Runner) -> None:
    cancel = threading.Event()
    cancelled_at: list[float] = []

    def press() -> None:
        cancelled_at.append(time.monotonic())
        cancel.set()

    ran = run(
        "exports.handler = () => { console.log('x'); for (;;); }",
        cancel=cancel,
        sink=Recorder(on_first_line=press),
    )
    assert ran.kind == "cancelled"
    assert time.monotonic() - cancelled_at[0] < 1.5


def test_a_run_that_is_cancelled_before_it_starts_does_not_start(run: Runner) -> None:
    cancel = threading.Event()
    cancel.set()
    ran = run.body("return 1", cancel=cancel)
    assert ran.kind == "cancelled"
    assert ran.sink.starts == 0


@pytest.mark.parametrize(
    "statement",
    [
        "const kept = []; for (;;) kept.push(Buffer.alloc(8e6, 1))",
        "const kept = []; for (;;) kept.push(new Array(1e5).fill({}).map((x) => ({ ...x })))",
    ],
)
def test_a_hog_ends_by_memory_and_the_next_run_is_unharmed(run: Runner, statement: str) -> None:
    ran = run.body(statement, limits=Limits(memory_mb=128, timeout_ms=20_000))
    assert ran.kind == "memory"
    assert ran.message == "The script needed more than its limit of 128 MB of memory"
    assert run.body("return 2", limits=Limits(memory_mb=128)).result == 2


def test_process_exit_is_told_as_such(run: Runner) -> None:
    ran = run.body("process.exit(3)")
    assert ran.kind == "exit"
    assert "process.exit(3)" in ran.message


def test_an_exit_behind_the_bootstraps_back_is_seen_all_the_same(run: Runner) -> None:
    ran = run.body("process.reallyExit(9)")
    assert ran.kind == "exit"
    assert "code 9" in ran.message


def test_an_abort_is_a_crash(run: Runner) -> None:
    assert run.body("process.abort()").kind == "crash"


def test_a_promise_that_nothing_can_settle_is_no_result(run: Runner) -> None:
    began = time.monotonic()
    ran = run.body("await new Promise(() => {})")
    assert ran.kind == "no_result"
    assert "never settled" in ran.message
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("expression", "json"),
    [
        ("undefined", b"null"),
        ("null", b"null"),
        ("0", b"0"),
        ("''", b'""'),
        ("[1, 'a', null, undefined]", b'[1,"a",null,null]'),
        ("({ a: undefined, b: 1 })", b'{"b":1}'),
        ("'\\u00e9\\u{1F600}'", '"\u00e9\U0001f600"'.encode()),
        ("'\\0'", b'"\\u0000"'),
        ("'\\ud800x'", '"\ufffdx"'.encode()),
        ("1e21", b"1e+21"),
        ("new Date(0)", b'"1970-01-01T00:00:00.000Z"'),
    ],
)
def test_any_json_comes_through(run: Runner, expression: str, json: bytes) -> None:
    assert run.body(f"return {expression}").outcome.result == json


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("return 1n", "a bigint"),
        ("return { a: 1n }", "BigInt"),
        ("return () => 1", "a function"),
        ("return Symbol('s')", "a symbol"),
        ("return NaN", "NaN"),
        ("return -Infinity", "-Infinity"),
        ("const a = {}; a.a = a; return a", "circular"),
        ("return { toJSON() { throw new Error('no json') } }", "no json"),
        ("let a = []; for (let i = 0; i < 50000; i++) a = [a]; return a", "nested too deeply"),
    ],
)
def test_what_is_no_json_is_a_bad_result_that_says_why(run: Runner, statement: str, part: str) -> None:
    ran = run.body(statement)
    assert ran.kind == "bad_result"
    assert part in ran.message
    assert ran.outcome.result is None


def test_a_result_over_its_limit_is_refused_with_both_sizes(run: Runner) -> None:
    ran = run.body("return 'x'.repeat(2000)", limits=Limits(result_bytes=1000))
    assert ran.kind == "result_too_large"
    assert ran.message == "The result is 2002 bytes; at most 1000 are allowed"


def test_a_result_of_many_megabytes_comes_through(run: Runner) -> None:
    assert run.body("return 'x'.repeat(6 * 1024 * 1024 - 2)").result == "x" * (6 * 1024 * 1024 - 2)


def test_a_large_payload_and_many_files_reach_the_script(run: Runner) -> None:
    files = {"index.js": "exports.handler = (p) => [p.length, require('./data.json').length, require('./m199')]"}
    files["data.json"] = '"' + "y" * 3_000_000 + '"'
    files.update({f"m{number}.js": f"module.exports = {number}" for number in range(200)})
    assert run(files, "z" * 5_000_000).result == [5_000_000, 3_000_000, 199]
