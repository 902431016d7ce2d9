"""Frames, records, results and errors that no honest bootstrap makes: judged as data, and about this run alone."""

from __future__ import annotations

import time

from sandbox.job import Limits
from tests.sandbox.hostile.arena import Arena, Case, cases
from tests.sandbox.support import Ran, Recorder

RESULT = "frame('R', '{\"left\":[]}', '\"forged\"')"
BRIEF = Limits(timeout_ms=1500)


# As root the pipes are another user's, and cannot be opened anew at all: then there is nothing to see.
REOPEN = "const reopen = (fd, how) => { try { return fs.openSync('/proc/self/fd/' + fd, how); } catch { return -1; } };"


def is_text(ran: Ran) -> bool:
    """Whatever is kept is valid Unicode, without lone surrogates."""
    if ran.outcome.result is not None:
        ran.outcome.result.decode()
    if ran.outcome.error is not None:
        (ran.outcome.error.name + ran.outcome.error.message + ran.outcome.error.stack).encode()
    "".join(ran.texts).encode()
    return ran.sink.artifacts == []


def name(ran: Ran) -> str:
    return ran.outcome.error.name if ran.outcome.error is not None else ""


def stack(ran: Ran) -> str:
    return ran.outcome.error.stack if ran.outcome.error is not None else ""


def has_sane_times(ran: Ran) -> bool:
    now = int(time.time() * 1000)
    times = [line.time_ms for line in ran.sink.lines]
    return times == sorted(times) and now - 60_000 < times[0] <= times[-1] <= now and len(times) == 8


def forged(what: str, frame: str, kind: str) -> Case:
    return Case(what, f"write(4, {frame}); return 'after'", kind=kind, shows=is_text)


def result(what: str, text: str, kind: str) -> Case:
    return forged(f"a result of {what} is judged as data", f"frame('R', '{{\"left\":[]}}', {text})", kind)


@cases(
    result("broken JSON", "'[1,'", "bad_result"),
    result("nothing", "''", "bad_result"),
    result("two values", "'1 2'", "bad_result"),
    result("NaN", "'NaN'", "bad_result"),
    result("-Infinity", "'[-Infinity]'", "bad_result"),
    result("a number beyond all doubles", "'1e999'", "bad_result"),
    result("a number of 100,000 digits", "'1'.repeat(100000)", "bad_result"),
    result("100,000 nested lists", "'['.repeat(100000)", "bad_result"),
    result("100,000 nested objects", "'{\"a\":'.repeat(100000)", "bad_result"),
    result("bytes that are no UTF-8", "Buffer.from([0x22, 0xff, 0x22])", "bad_result"),
    result("a byte order mark", "'\\ufeff1'", "bad_result"),
    result("a raw NUL", "Buffer.from([0x22, 0, 0x22])", "bad_result"),
    result("a lone surrogate", "'\"\\\\ud800\"'", "succeeded"),
    result("a lone surrogate 200 lists deep", "'['.repeat(200) + '\"\\\\udfff\"' + ']'.repeat(200)", "succeeded"),
    result("keys that name prototypes", "'{\"__proto__\":{\"polluted\":1},\"constructor\":2}'", "succeeded"),
    result("one key twice", "'{\"a\":1,\"a\":2}'", "succeeded"),
    forged("a result over its bound is too large", "frame('R', '{}', Buffer.alloc(7e6, 0x31))", "result_too_large"),
    forged("a header that is no object breaks the channel", "frame('R', '[]', '1')", "crash"),
    forged("a header nested without end breaks the channel", "frame('R', '['.repeat(100000), '1')", "crash"),
    forged("a header of a megabyte breaks the channel", "frame('C', ' '.repeat(1 << 20), '1')", "crash"),
    forged("a type that nobody knows breaks the channel", "frame('Z', '{}', '')", "crash"),
    forged("a type of the platform's own breaks the channel", "frame('J', '{}', '')", "crash"),
    forged("a jail cannot say again that it has booted", "frame('B', '{}', '')", "crash"),
    forged("a handler is entered once", "frame('S', '{}', '')", "crash"),
    forged("a script cannot say that its time was up", "frame('E', '{\"kind\":\"timeout\"}', '')", "crash"),
    forged("a script cannot say that it was cancelled", "frame('E', '{\"kind\":\"cancelled\"}', '')", "crash"),
    forged("a script cannot say that its error is a success", "frame('E', '{\"kind\":\"succeeded\"}', '')", "crash"),
    forged("a kind that is no text breaks the channel", "frame('E', '{\"kind\":{\"a\":1}}', '')", "crash"),
    forged(
        "an error of wrong types is kept as text",
        "frame('E', '{\"kind\":\"exception\",\"name\":5,\"message\":[\"\\\\ud800\"],\"stack\":null}', '')",
        "exception",
    ),
    forged(
        "an error of nested lists is kept as text",
        "frame('E', '{\"kind\":\"exception\",\"message\":' + '['.repeat(900) + ']'.repeat(900) + '}', '')",
        "exception",
    ),
    forged("a call with a number beyond all doubles breaks the channel", "frame('C', '{\"id\":1e400}', '{}')", "crash"),
    forged("a call whose number is a text breaks the channel", "frame('C', '{\"id\":\"x\"}', '{}')", "crash"),
    forged("a call with data that cannot be parsed breaks the channel",
           "frame('C', '{\"id\":1,\"method\":\"m\"}', '{oops')", "crash"),
    forged("a call with data that is nested beyond reading is refused",
           "frame('C', '{\"id\":1,\"method\":\"m\"}', '['.repeat(100000))", "succeeded"),
    forged("a call without a method is refused", "frame('C', '{\"id\":1}', '{}')", "succeeded"),
    forged("a call with a method of many letters is refused",
           "frame('C', JSON.stringify({ id: 1, method: 'm'.repeat(400000) }), '{}')", "succeeded"),
    forged("a call with listed parameters is refused", "frame('C', '{\"id\":1,\"method\":\"m\"}', '[]')", "succeeded"),
    forged("a call of two megabytes breaks the channel",
           "frame('C', '{\"id\":1,\"method\":\"m\"}', Buffer.alloc(2 << 20, 0x20))", "crash"),
    *(
        forged(
            f"an artifact is not called {name}",
            f"frame('A', JSON.stringify({{ id: 1, name: {name}, content_type: 'text/plain' }}), 'x')",
            "succeeded",
        )
        for name in (
            "'../../x'", "'a/b'", "'/etc/passwd'", "'.hidden'", "''", "'a\\0b'", "'a\\nb'", "'\\u202egnp'", "'\\ud800'",
            "'a'.repeat(129)", "['a']", "null", "'-rf'", "'a b'", "'..'",
        )
    ),
    forged("an artifact's content type is no header of its own",
           "frame('A', JSON.stringify({ id: 1, name: 'a', content_type: 'a\\r\\nSet-Cookie: b' }), 'x')", "succeeded"),
)  # fmt: skip
def test_a_forged_frame(arena: Arena, case: Case) -> None:
    arena.face(case)


@cases(
    *(
        Case(
            f"junk on descriptor {fd} harms only its own run",
            f"code(() => write({fd}, Buffer.alloc(5000, 0xff))); return 'mine'",
            kind=("succeeded", "crash"),
        )
        for fd in range(1, 9)
    ),
    *(
        Case(
            f"a frame of type {letter} that claims four gigabytes is refused at once",
            f"const b = frame('{letter}', '{{}}', ''); b.writeUInt32BE(0xffffffff, 0); write(4, b); for (;;);",
            kind=("crash", "result_too_large"),
        )
        for letter in "RECAS"
    ),
    Case(
        "a header longer than its frame is refused at once",
        "const b = frame('C', '{}', ''); b.writeUInt32BE(1e5, 5); write(4, b); for (;;);",
        kind="crash",
    ),
    Case(
        "a frame shorter than any is refused at once",
        "const b = frame('C', '{}', ''); b.writeUInt32BE(1, 0); write(4, b); for (;;);",
        kind="crash",
    ),
    Case(
        "half a frame before the answer spoils the answer, and only that",
        "write(4, frame('A', '{\"id\":1,\"name\":\"a\",\"content_type\":\"a\"}', 'x'.repeat(90)).subarray(0, 70));"
        " return 1",
        kind=("crash", "timeout"),
        limits=BRIEF,
    ),
    Case(
        "half a frame and an end is an end",
        f"write(4, {RESULT}.subarray(0, 20)); process.reallyExit(3)",
        kind="exit",
    ),
    Case(
        "half a frame and silence is a timeout",
        f"write(4, {RESULT}.subarray(0, 20)); for (;;);",
        kind="timeout",
        limits=BRIEF,
    ),
    Case(
        "junk before the handler breaks the channel before the handler was reached",
        "return 1",
        top="write(4, Buffer.alloc(64, 0xff));",
        kind="crash",
        shows=lambda ran: not ran.outcome.reached_handler,
    ),
    Case(
        "a result before the handler is the result",
        "return 1",
        top=f"write(4, {RESULT});",
        result="forged",
        shows=lambda ran: ran.outcome.reached_handler,
    ),
    Case(
        "of two results the first counts",
        f"write(4, {RESULT}); write(4, frame('R', '{{}}', '2')); return 3",
        result="forged",
    ),
    Case(
        "a result that an error follows is a result",
        f"write(4, {RESULT}); throw new Error('too late')",
        result="forged",
    ),
    Case(
        "an error that a result follows is an error",
        f"write(4, Buffer.concat([frame('E', '{{\"kind\":\"exception\",\"message\":\"m\"}}', ''), {RESULT}]))",
        kind="exception",
    ),
    Case(
        "a thread that answers while the handler runs answers for its own run",
        f"""
        const {{ Worker }} = real('worker_threads');
        const bytes = {RESULT};
        new Worker(`require('fs').writeSync(4, Buffer.from('${{bytes.toString('hex')}}', 'hex'))`, {{ eval: true }});
        for (;;);
        """,
        result="forged",
    ),
    Case(
        "a channel that is closed cannot be answered on",
        "fs.closeSync(4); for (;;);",
        kind=("crash", "killed", "timeout"),
        limits=BRIEF,
    ),
    Case("an ear that is closed does not hurt the answer", "fs.closeSync(3); return 1", kind=("succeeded", "crash")),
    Case(
        "a log that is closed does not hurt the answer",
        "for (const fd of [1, 2, 5]) fs.closeSync(fd); return 1",
        result=1,
    ),
    Case(
        "a descriptor opened anew is the same channel",
        f"const eye = reopen(4, 'w'); if (eye < 0) return 'forged'; write(eye, {RESULT}); return 1",
        result="forged",
        top=REOPEN,
    ),
    Case(
        "an ear that is filled by the script itself makes nobody wait",
        """
        const ear = reopen(3, fs.constants.O_WRONLY | fs.constants.O_NONBLOCK);
        if (ear < 0) return 'EAGAIN';
        const full = code(() => { for (;;) fs.writeSync(ear, Buffer.alloc(65536)); });
        for (let i = 0; i < 100; i++) write(4, frame('C', '{"id":1,"method":"m"}', '{}'));
        return full;
        """,
        result="EAGAIN",
        top=REOPEN,
    ),
    Case(
        "a script that swallows its own answer has none",
        "const eye = reopen(4, 'r');"
        "new (real('worker_threads').Worker)("
        "'for (;;) try { require(\"fs\").readSync(' + eye + ', Buffer.alloc(65536)) }'"
        " + 'catch {}', { eval: true }); await later(300); return 1",
        kind=("timeout", "succeeded", "crash"),
        limits=BRIEF,
        top=REOPEN,
    ),
    Case(
        "a script that answers itself an SDK call fools itself only",
        "const ear = reopen(3, 'w'); if (ear > 0) write(ear, frame('P', '{\"id\":1,\"ok\":true}', '\"mine\"'));"
        "return context.publish('a', 1).catch((error) => error.message)",
        shows=lambda ran: ran.result in ("mine", "nobody answers here"),
        top=REOPEN,
    ),
    Case(
        "a job that a script sends to itself is its own run",
        """
        const source = 'exports.handler = () => "second"';
        const head = { main: 'index.js', entry_point: 'handler', context: {}, secrets: {}, env: {}, timeout_ms: 1000,
          limits: { result_bytes: 1000, log_bytes: 1000, artifact_bytes: 0, artifacts: 0 }, payload: 4,
          files: [['index.js', source.length]] };
        context.publish('a', 1).catch(() => {});
        const ear = reopen(3, 'w');
        if (ear > 0) write(ear, frame('J', JSON.stringify(head), 'null' + source));
        await later(500);
        return 'first';
        """,
        kind=("succeeded", "crash"),
        shows=lambda ran: ran.kind == "crash" or ran.result in ("first", "second"),
        top=REOPEN,
    ),
)  # fmt: skip
def test_the_channel(arena: Arena, case: Case) -> None:
    arena.face(case)


def damaged(ran: Ran) -> bool:
    return (
        ran.result == 1
        and ran.texts[0] == "one"
        and ran.sink.lines[-1].level == "SYSTEM"
        and "damaged its log channel" in ran.texts[-1]
        and "forged" not in " ".join(ran.texts)
    )


@cases(
    *(
        Case(
            f"{what} ends the log but not the run",
            f"console.log('one'); write(5, {bytes_}); console.log('two'); return 1",
            shows=damaged,
        )
        for what, bytes_ in {
            "junk in the log": "Buffer.alloc(100, 0xff)",
            "a line in the platform's name": "record('S', 0, 'forged')",
            "a record of no level": "record('\\0', 0, 'forged')",
            "a record of no time": "'I\\0forged\\0'",
            "a record of half a time": "'I12345\\0forged\\0'",
            "nothing but ends of records": "Buffer.alloc(100)",
            "a record that never ends": "'I0000000000001\\0' + 'x'.repeat(2e6)",
            "a head that never ends": "'I'.repeat(2e6)",
            "a record over its bound": "record('I', 0, 'x'.repeat(262145))",
            "a JSON text that is none": "record('i', 0, 'forged')",
            "a JSON text that is no string": "record('i', 0, '[\"forged\"]')",
            "a JSON text over its bound": "record('i', 0, JSON.stringify('x'.repeat(262145)))",
        }.items()
    ),
    Case(
        "a time that cannot be is the time of arrival",
        "for (const time of [0, 1, 1e12, Date.now(), 2 * Date.now(), 5e12, '9'.repeat(13), Date.now() + 1e9])"
        " write(5, record('I', time, 'x'));",
        shows=has_sane_times,
    ),
    Case(
        "a log line is data, whatever is in it",
        "for (const text of [[0xff, 0xfe], [0xed, 0xa0, 0x80], [0x1b, 0x5b, 0x32, 0x4a]])"
        " write(5, record('E', Date.now(), Buffer.from(text))); write(1, Buffer.from([0xc3, 0x28, 0xff, 10]));"
        " write(5, record('e', Date.now(), '\"\\\\u0000\\\\ud800\"')); return 1",
        shows=lambda ran: is_text(ran) and len(ran.texts) == 5,
    ),
    Case(
        "half a record at the end is nothing",
        "console.log('one'); write(5, record('I', 0, 'x'.repeat(100)).subarray(0, 50)); return 1",
        shows=lambda ran: ran.texts == ["one"],
    ),
    Case(
        "a script that says it dropped lines is believed about itself",
        "write(4, frame('R', '{\"left\":[],\"log_dropped\":9007199254740991}', '1'))",
        shows=lambda ran: ran.outcome.usage.log_truncated and ran.outcome.usage.log_bytes == 0,
    ),
    Case(
        "a count of dropped lines that cannot be is none",
        "write(4, frame('R', '{\"left\":[],\"log_dropped\":-5}', '1'))",
        shows=lambda ran: not ran.outcome.usage.log_truncated,
    ),
    Case(
        "the number of calls is counted outside",
        "write(4, frame('R', '{\"left\":[],\"sdk_calls\":999}', '1'))",
        shows=lambda ran: ran.outcome.usage.sdk_calls == 0,
    ),
)
def test_the_log(arena: Arena, case: Case) -> None:
    arena.face(case)


BIG = "'x'.repeat(1 << 20)"


@cases(
    Case("a getter that throws is no result", "return { get a() { throw new Error('no') } }", kind="bad_result"),
    Case(
        "a getter that never returns costs the run its time",
        "return { get a() { for (;;); } }",
        kind="timeout",
        limits=BRIEF,
    ),
    Case("a toJSON that throws is no result", "return { toJSON() { throw null } }", kind="bad_result"),
    Case("a toJSON that lies is the result", "return { toJSON: () => ({ a: 1 }) }", result={"a": 1}),
    Case(
        "a proxy whose keys never end costs the run",
        "return new Proxy({}, { ownKeys() { for (;;); } })",
        kind="timeout",
        limits=BRIEF,
    ),
    Case("a revoked proxy is no result",
         "const p = Proxy.revocable({}, {}); p.revoke(); return [p.proxy]", kind="bad_result"),
    Case("a circle is no result", "const a = {}; a.a = a; return a", kind="bad_result"),
    Case("a then that never calls back is no result", "return { then() {} }", kind="no_result"),
    Case("a then that throws is an exception", "return { then() { throw new Error('t') } }", kind="exception"),
    Case("a then that answers twice answers once", "return { then(done) { done(1); done(2); } }", result=1),
    Case(
        "a stack that never ends costs the run its time",
        "const e = new Error('x'); Object.defineProperty(e, 'stack', { get() { for (;;); } }); throw e",
        kind="timeout",
        limits=BRIEF,
    ),
    Case(
        "a stack that throws is none",
        "const e = new Error('x'); Object.defineProperty(e, 'stack', { get() { throw e; } }); throw e",
        kind="exception",
        shows=lambda ran: ran.message == "x",
    ),
    Case(
        "a stack of a script's own making names only the script's files",
        "const e = new Error('x'); e.stack = 'Error: x\\n    at a (/etc/shadow:1:1)\\n    at b (index.js:1:1)';"
        " throw e",
        kind="exception",
        shows=lambda ran: "shadow" not in stack(ran),
    ),
    Case(
        "a proxy that is thrown is an exception",
        "throw new Proxy({}, { get() { throw 1; }, getPrototypeOf() { throw 2; }, has() { throw 3; } })",
        kind="exception",
    ),
    *(
        Case(f"{what} that is thrown is an exception", f"throw {value}", kind="exception", shows=is_text)
        for what, value in {
            "nothing": "undefined", "null": "null", "a symbol": "Symbol('s')", "a function": "() => 1",
            "a bigint": "1n",
            "an object without prototype": "Object.create(null)", "a lone surrogate": "'\\ud800'", "a NUL": "'\\0'",
            "an array of all sorts": "[null, Symbol('a'), { toString() { throw 1; } }]",
        }.items()
    ),
    Case(
        "an error that is its own cause is told once or a few times",
        "const e = new Error('x'); e.cause = e; throw e",
        kind="exception",
        shows=lambda ran: len(stack(ran)) < 2000,
    ),
    Case(
        "an error of many megabytes is cut",
        f"throw Object.assign(new Error({BIG}.repeat(20)), {{ name: {BIG} }})",
        kind="exception",
        shows=lambda ran: len(ran.message) < 400_000 and len(name(ran)) < 400_000,
    ),
    Case(
        "a prepareStackTrace that throws is an exception's own trouble",
        "Error.prepareStackTrace = () => { throw new Error('p') }; throw new Error('x')",
        kind="exception",
    ),
    Case(
        "tampered built-ins change only what the script sees",
        """
        JSON.stringify = () => 'forged'; JSON.parse = () => 'forged'; Date.now = () => 0;
        Object.prototype.toJSON = () => 'forged'; Array.prototype.push = () => 0;
        Buffer.from = () => { throw 1; };
        globalThis.setImmediate = undefined; process.getActiveResourcesInfo = undefined; Promise = undefined;
        console.log('still');
        return 7;
        """,
        kind=("succeeded", "exception", "bad_result"),
        shows=lambda ran: ran.sink.starts == 1,
    ),
    Case(
        "a bootstrap with its functions replaced answers for its own run",
        "fs.writeSync = () => { throw new Error('no') }; process.reallyExit = () => {}; Buffer.concat = () => 1;"
        "Function.prototype.call = () => 1; Reflect.apply = () => 1; return 7",
        kind=("succeeded", "exception", "crash", "timeout", "no_result"),
        limits=BRIEF,
    ),
    Case(
        "polluted prototypes do not reach what the platform keeps",
        "Object.prototype.kind = 'timeout'; Object.prototype.left = ['x']; Object.prototype.log_dropped = 5;"
        " return { a: 1 }",
        shows=lambda ran: ran.result == {"a": 1} and not ran.outcome.usage.log_truncated,
    ),
)  # fmt: skip
def test_results_and_errors(arena: Arena, case: Case) -> None:
    arena.face(case)


def test_artifacts_over_their_limits_are_refused_one_by_one(arena: Arena) -> None:
    sink = Recorder()
    arena.face(
        Case(
            "",
            """
            const art = (id, size) => frame('A', JSON.stringify({ id, name: 'a' + id, content_type: 'a' }),
              Buffer.alloc(size));
            for (let id = 1; id <= 5; id++) write(4, art(id, id === 2 ? 900 : 10));
            return 1;
            """,
            limits=Limits(artifacts=3, artifact_bytes=1000),
        ),
        sink,
    )
    assert [name for name, _, _ in sink.artifacts] == ["a1", "a2", "a3"]
