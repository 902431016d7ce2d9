"""The handler's world: context, console, modules, environment."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sandbox import output
from sandbox.job import Limits
from tests.sandbox.support import Recorder, Runner


def test_the_context_has_what_the_job_gave_it(run: Runner) -> None:
    context = {
        "runId": "r",
        "workspaceId": "w",
        "scriptUuid": "u",
        "scriptId": "s",
        "attempt": 2,
        "trigger": {"type": "api"},
    }
    ran = run.body("return [context, context.secrets.API_KEY]", context=context, secrets={"API_KEY": "k"})
    assert ran.result == [{**context, "secrets": {"API_KEY": "k"}}, "k"]


def test_printing_the_context_does_not_print_secrets(run: Runner) -> None:
    ran = run.body("console.log(context, context.secrets)", secrets={"API_KEY": "hunter2"})
    assert "hunter2" not in ran.texts[0]
    assert "API_KEY" in ran.texts[0]


def test_the_remaining_time_falls_and_warns_in_the_last_tenth(run: Runner) -> None:
    source = """
        const at = [context.getRemainingTimeMs(), context.isTimingOut()];
        await new Promise((r) => setTimeout(r, 1900));
        return [...at, context.getRemainingTimeMs(), context.isTimingOut()];
    """
    first, early, second, late = run.body(source, limits=Limits(timeout_ms=2000)).result
    assert 1500 < first <= 2000
    assert 0 <= second <= 100
    assert (early, late) == (False, True)


def test_artifacts_arrive_whole_with_their_type(run: Runner) -> None:
    ran = run.body(
        """
        await context.writeArtifact('a.txt', 'text é');
        await context.writeArtifact('b.json', { x: [1] });
        await context.writeArtifact('c.bin', Buffer.from([0, 255]));
        await context.writeArtifact('d.csv', 'a,b', 'text/csv');
        await context.writeArtifact('e.bin', new Uint16Array([1]));
        await context.writeArtifact('f.txt', 'z'.repeat(3e6));
        """
    )
    assert ran.kind == "succeeded"
    assert [(name, content_type) for name, content_type, _ in ran.sink.artifacts] == [
        ("a.txt", "text/plain; charset=utf-8"),
        ("b.json", "application/json"),
        ("c.bin", "application/octet-stream"),
        ("d.csv", "text/csv"),
        ("e.bin", "application/octet-stream"),
        ("f.txt", "text/plain; charset=utf-8"),
    ]
    contents = [data for _, _, data in ran.sink.artifacts]
    assert contents[0] == "text é".encode()
    assert json.loads(contents[1]) == {"x": [1]}
    assert contents[2:5] == [b"\x00\xff", b"a,b", b"\x01\x00"]
    assert contents[5] == b"z" * 3_000_000


@pytest.mark.parametrize(
    ("call", "part"),
    [
        ("writeArtifact('../up', 'x')", "name is '../up'"),
        ("writeArtifact('', 'x')", "name is ''"),
        ("writeArtifact(5, 'x')", "name is 5"),
        ("writeArtifact('a', 'x', 'bad\\ntype')", "contentType"),
        ("writeArtifact('a', () => 1)", "data must be"),
        ("writeArtifact('a', 'x'.repeat(2000))", "bytes of a run are left"),
        ("publish('', 1)", "name must be a string"),
        ("publish('x', 1n)", "not JSON"),
        ("publish('x', 'y'.repeat(2e6))", "at most 1048576"),
        ("publish('x', 1)", "nobody answers here"),
    ],
)
def test_a_call_with_a_wrong_argument_is_rejected_and_the_run_goes_on(run: Runner, call: str, part: str) -> None:
    ran = run.body(
        f"return await context.{call}.then(() => 'taken', (e) => e.message)",
        limits=Limits(artifact_bytes=1000),
    )
    assert part in ran.result


def test_a_run_may_write_only_so_many_artifacts(run: Runner) -> None:
    ran = run.body("for (const n of ['a', 'b', 'c']) await context.writeArtifact(n, '1')", limits=Limits(artifacts=2))
    assert "at most 2 artifacts" in ran.message
    assert len(ran.sink.artifacts) == 2


def test_events_are_published_through_the_sink(run: Runner) -> None:
    def answer(method: str, params: dict[str, Any]) -> Any:
        return {"id": params["name"].upper()}

    ran = run.body(
        "return Promise.all([context.publish('a.b', { n: 1 }), context.publish('c')])",
        sink=Recorder(answer=answer),
    )
    assert ran.result == [{"id": "A.B"}, {"id": "C"}]
    assert ran.sink.calls == [
        ("events.publish", {"name": "a.b", "data": {"n": 1}}),
        ("events.publish", {"name": "c", "data": None}),
    ]
    assert ran.outcome.usage.sdk_calls == 2


def test_console_methods_have_levels_and_format_as_in_node(run: Runner) -> None:
    ran = run.body(
        """
        console.log('a %s %d %j', 'b', 1.5, { c: 1 }, [2]);
        console.info('info'); console.debug('debug'); console.warn('warn'); console.error('error');
        console.dir({ deep: { er: { still: { more: 1 } } } }, { depth: 0 });
        console.assert(1 === 2, 'not %s', 'equal'); console.assert(true, 'silent');
        console.group('outer'); console.log('inner\\nsecond'); console.groupEnd();
        console.count(); console.time('t'); console.timeEnd('t');
        console.table([{ n: 1 }]);
        console.log();
        """
    )
    levels = ran.sink.levels
    assert levels[:5] == [
        ("INFO", 'a b 1.5 {"c":1} [ 2 ]'),
        ("INFO", "info"),
        ("DEBUG", "debug"),
        ("WARN", "warn"),
        ("ERROR", "error"),
    ]
    assert levels[5:10] == [
        ("INFO", "{ deep: [Object] }"),
        ("ERROR", "Assertion failed: not equal"),
        ("INFO", "outer"),
        ("INFO", "  inner\n  second"),
        ("INFO", "default: 1"),
    ]
    assert levels[10][1].startswith("t: ")
    assert "│ (index) │ n │" in levels[11][1]
    assert levels[12] == ("INFO", "")


def test_console_trace_shows_the_scripts_lines_only(run: Runner) -> None:
    ran = run("exports.handler = () => {\n  console.trace('here %d', 1);\n}")
    assert ran.sink.levels == [("DEBUG", "Trace: here 1\n    at exports.handler (index.js:2:11)")]


def test_raw_writes_become_lines_in_order(run: Runner) -> None:
    ran = run.body(
        "const { stdout, stderr } = process;"
        "stdout.write('a\\nb'); console.log('c'); stdout.write('d\\n'); stderr.write('e')"
    )
    assert ran.sink.levels == [("STDOUT", "a"), ("INFO", "c"), ("STDOUT", "bd"), ("STDERR", "e")]


def test_lines_carry_the_time_at_which_they_were_written(run: Runner) -> None:
    began = int(time.time() * 1000)
    ran = run.body("console.log(1); await new Promise((r) => setTimeout(r, 120)); console.log(2)")
    first, second = (line.time_ms for line in ran.sink.lines)
    assert began <= first <= second <= time.time() * 1000
    assert second - first >= 100


def test_lines_arrive_while_the_run_goes_on(run: Runner) -> None:
    ran = run.body("for (let i = 0; i < 6; i++) { console.log(i); await new Promise((r) => setTimeout(r, 150)); }")
    assert len(ran.sink.batches) >= 3


def test_a_line_of_a_megabyte_is_kept_whole_in_parts(run: Runner) -> None:
    ran = run.body("console.log('é'.repeat(5e5))")
    assert "".join(ran.texts) == "é" * 500_000


def test_a_line_written_in_parts_is_kept_whole_in_pieces(run: Runner) -> None:
    ran = run.body(
        "for (let n = 0; n < 40; n += 1) process.stdout.write('é€'.repeat(5000)); process.stdout.write('\\nnext\\n');"
    )
    assert "".join(ran.texts) == "é€" * 200_000 + "next"
    assert ran.texts[-1] == "next"
    assert [output.goes_on(text) for text in ran.texts] == [True] * (len(ran.texts) - 2) + [False] * 2


@pytest.mark.parametrize("size", [262_139, 262_140, 262_141, 262_144, 262_145, 524_288, 0])
def test_the_last_piece_of_a_line_is_known_by_its_size(run: Runner, size: int) -> None:
    ran = run.body(f"console.log('x'.repeat({size})); console.log('next')")
    *pieces, last, following = ran.texts
    assert ("".join([*pieces, last]), following) == ("x" * size, "next")
    assert all(output.goes_on(piece) for piece in pieces)
    assert not output.goes_on(last)


def test_long_strings_are_printed_whole(run: Runner) -> None:
    ran = run.body("const text = 'x'.repeat(20000); console.log({ text }); console.log('%o', [text]); throw { text }")
    assert ran.texts == ["{\n  text: '" + "x" * 20_000 + "'\n}", "[\n  '" + "x" * 20_000 + "',\n  [length]: 1\n]"]
    assert ran.message == "{ text: '" + "x" * 20_000 + "' } was thrown"


def test_lone_surrogates_and_control_characters_are_data(run: Runner) -> None:
    ran = run.body("console.log('\\ud800\\0\\x1b[31m')")
    assert ran.texts == ["\ufffd\0\x1b[31m"]


def test_the_environment_is_the_jobs_and_nothing_of_the_hosts(run: Runner) -> None:
    ran = run.body("return { ...process.env }", env={"REGION": "eu"})
    assert ran.result == {"HOME": "/tmp", "NODE_ENV": "production", "TZ": "UTC", "REGION": "eu"}


@pytest.mark.parametrize(
    "name",
    ["axios", "node-fetch", "lodash", "lodash/get", "dayjs", "dayjs/plugin/utc", "uuid", "smartsuite-sdk",
     "crypto", "node:crypto", "util", "url", "path", "events", "stream", "zlib", "assert",
     "timers/promises", "os"],
)  # fmt: skip
def test_the_promised_modules_load(run: Runner, name: str) -> None:
    assert run.body(f"return typeof require('{name}')").result in ("object", "function")


def test_the_libraries_do_what_they_are_for(run: Runner) -> None:
    ran = run.body(
        """
        const utc = require('dayjs/plugin/utc'); const dayjs = require('dayjs'); dayjs.extend(utc);
        return [require('lodash').chunk([1, 2, 3], 2), dayjs.utc(0).format('YYYY'),
                require('uuid').v4().length,
                typeof require('axios').get, typeof require('node-fetch'), typeof fetch];
        """
    )
    assert ran.result == [[[1, 2], [3]], "1970", 36, "function", "function", "function"]


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("require('fs')", "Module 'fs' is not available to scripts"),
        ("require('node:fs/promises')", "Module 'node:fs/promises' is not available to scripts"),
        ("require('child_process')", "'child_process' is not available"),
        ("require('node:test')", "'node:test' is not available"),
        ("require('left-pad')", "Cannot find module 'left-pad'"),
        ("require('lodash/none')", "Cannot find module 'lodash/none'"),
        ("require('./none')", "Cannot find module './none' beside index.js"),
        ("require('../../../boot/boot.js')", "Cannot find module"),
        ("require('')", "a string that is not empty"),
        ("require(5)", "a string that is not empty"),
        ("process.getBuiltinModule('fs')", "'fs' is not available"),
        ("process.mainModule.require('fs')", "undefined"),
        ("import('fs')", "dynamic import"),
    ],
)
def test_a_module_that_is_not_offered_is_named(run: Runner, expression: str, part: str) -> None:
    ran = run.body(f"try {{ await {expression}; return 'loaded'; }} catch (e) {{ return e.message; }}")
    assert part in ran.result


def test_files_of_a_project_require_each_other(run: Runner) -> None:
    files = {
        "index.js": "exports.handler = () => [require('./a').name(), require('./lib').x,"
        " require('./b.json').y, __filename]",
        "a.js": "exports.name = () => require('./lib/c').c + require('./a').z; exports.z = 1",
        "lib/index.js": "module.exports = { x: require('../b').y }",
        "lib/c.js": "exports.c = 41",
        "b.json": '{"y": 7}',
    }
    assert run(files).result == [42, 7, 7, "/script/index.js"]
