"""context, sdk.db, sdk.cache, sdk.log and events in every language: what reaches the platform, and what comes back."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from sandbox.job import CallRefused, Limits, Pending
from tests.sandbox.sdk_support import CONTEXT, DIALECTS, TOLD, Dialect
from tests.sandbox.support import Later, Recorder, Runner

EVERY_DIALECT = pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
STATEMENT = {"sql": "SELECT ?", "params": [1, "a", None, True, 1.5], "source": None, "tx": None}


def echo(method: str, params: dict[str, Any]) -> Any:
    return [method, params]


CALLS = [
    ("db.query", ["SELECT ?", [1, "a", None, True, 1.5]], "db.query", STATEMENT),
    ("db.query_one", ["SELECT ?", [1, "a", None, True, 1.5]], "db.queryOne", STATEMENT),
    ("db.execute", ["SELECT ?", [1, "a", None, True, 1.5]], "db.execute", STATEMENT),
    ("db.query", ["SELECT 1"], "db.query", {"sql": "SELECT 1", "params": [], "source": None, "tx": None}),
    ("cache.get", ["k"], "cache.get", {"key": "k"}),
    ("cache.set", ["k", {"a": [1]}], "cache.set", {"key": "k", "value": {"a": [1]}, "ttl": None}),
    ("cache.set", ["k", None, 60], "cache.set", {"key": "k", "value": None, "ttl": 60}),
    ("cache.delete", ["k"], "cache.delete", {"key": "k"}),
    ("cache.exists", ["k"], "cache.exists", {"key": "k"}),
    ("cache.increment", ["k"], "cache.increment", {"key": "k", "delta": 1}),
    ("cache.increment", ["k", -5], "cache.increment", {"key": "k", "delta": -5}),
    ("cache.expire", ["k", 30], "cache.expire", {"key": "k", "ttl": 30}),
]


@EVERY_DIALECT
@pytest.mark.parametrize(("method", "args", "called", "params"), CALLS)
def test_a_call_reaches_the_platform_and_its_answer_comes_back(
    run: Runner, dialect: Dialect, method: str, args: list[Any], called: str, params: dict[str, Any]
) -> None:
    sink = Recorder(answer=echo)
    assert dialect.call(run, method, *args, sink=sink) == [called, params]
    assert sink.calls == [(called, params)]


@EVERY_DIALECT
def test_publishing_answers_true(run: Runner, dialect: Dialect) -> None:
    sink = Recorder(answer=lambda *_: {"event_id": "e"})
    assert dialect.call(run, "events.publish", "order.item.created", {"n": 1}, sink=sink) is True
    assert sink.calls == [("events.publish", {"name": "order.item.created", "data": {"n": 1}, "sdk": True})]


@EVERY_DIALECT
def test_events_are_found_in_the_sdk_too(run: Runner, dialect: Dialect) -> None:
    sink = Recorder(answer=lambda *_: {"event_id": "e"})
    publish = "sdk.events.publish('a.b')"
    ran = dialect.run(run, f"return await {publish}", f"return AWAIT {publish}", sink=sink)
    assert ran.result is True
    assert sink.calls == [("events.publish", {"name": "a.b", "data": None, "sdk": True})]


WRONG = [
    ("db.query", [""], "sdk.db.query: sql must be a str"),
    ("db.query", [5], "not 5"),
    ("db.execute", ["x", "y"], "sdk.db.execute: params must be a"),
    ("db.source", [""], "sdk.db.source: name must be a str"),
    ("cache.get", [""], "sdk.cache.get: key must be a str"),
    ("cache.get", [None], "sdk.cache.get: key must be a str"),
    ("cache.set", ["k", 1, 0], "must be a whole number from 1 to"),
    ("cache.set", ["k", 1, 1.5], "must be a whole number from 1 to"),
    ("cache.set", ["k", 1, "60"], "must be a whole number from 1 to"),
    ("cache.increment", ["k", 0.5], "sdk.cache.increment: delta must be a whole number"),
    ("cache.increment", ["k", 2**53], "sdk.cache.increment: delta must be a whole number"),
    ("cache.expire", ["k", -1], "must be a whole number from 1 to"),
    ("events.publish", ["", {}], "events.publish: type must be a str"),
    ("events.publish", ["a..b", {}], "with dots between them, such as order.item.created"),
    ("events.publish", ["a b", {}], "with dots between them, such as order.item.created"),
    ("events.publish", ["a" * 256, {}], "1 to 255 characters"),
    ("log.info", [5], "sdk.log.info: message must be a str"),
    ("log.info", ["m", [1]], "sdk.log.info: metadata must be a"),
    ("log.info", ["x" * 300_000], "at most 262140 are allowed"),
]


@EVERY_DIALECT
@pytest.mark.parametrize(("method", "args", "part"), WRONG)
def test_a_wrong_argument_is_a_type_error_in_words_and_nothing_is_sent(
    run: Runner, dialect: Dialect, method: str, args: list[Any], part: str
) -> None:
    sink = Recorder(answer=echo)
    failure = dialect.call(run, method, *args, sink=sink)
    assert (failure.name, part in failure.message) == ("TypeError", True), failure
    assert sink.calls == []
    assert sink.lines == []


@pytest.mark.parametrize(
    ("call", "part"),
    [
        ("db.query('x', [undefined])", "sdk.db.query: params[0] must be a value that JSON has, not undefined"),
        ("db.query('x', [1, NaN])", "params[1] must be a value that JSON has, not NaN"),
        ("db.query('x', [1n])", "params[0] must be a value that JSON has, not a bigint"),
        ("db.transaction()", "sdk.db.transaction: its argument must be a function, not undefined"),
        ("cache.set('k')", "sdk.cache.set: value must be a value that JSON has, not undefined"),
        ("cache.set('k', 1n)", "the data is not JSON"),
        ("log.error('m', new Map())", "metadata must be an object, not an instance of a class"),
        ("log.error('m', new Map())", "metadata must be an object, not an instance of a class"),
    ],
)
def test_what_json_has_not_is_refused(run: Runner, call: str, part: str) -> None:
    ran = run.body(f"try {{ await sdk.{call}; }} catch (e) {{ return [e.name, e.message]; }}", sink=Recorder(echo))
    assert ran.result[0] == "TypeError"
    assert part in ran.result[1]
    assert ran.sink.calls == []


@EVERY_DIALECT
def test_a_call_of_more_than_a_megabyte_is_not_sent(run: Runner, dialect: Dialect) -> None:
    sink = Recorder(answer=echo)
    failure = dialect.call(run, "cache.set", "k", "x" * 1_100_000, sink=sink)
    assert "sdk.cache.set: the data is" in failure.message
    assert "at most 1048576 are allowed" in failure.message
    assert sink.calls == []


@EVERY_DIALECT
@pytest.mark.parametrize("method", ["db.query", "cache.get", "http.get"])
def test_a_refusal_tells_its_code_and_when_to_ask_again(run: Runner, dialect: Dialect, method: str) -> None:
    def refuse(called: str, params: dict[str, Any]) -> Any:
        raise CallRefused("Rate limit exceeded: 60 a minute", code="RATE_LIMITED", retry_after_ms=900)

    failure = dialect.call(run, method, "http://example.com/", sink=Recorder(answer=refuse))
    # In JavaScript it reads "Error: Rate limit exceeded ...", as the seed has it.
    assert failure.name in ("Error", "CallRefused")
    assert failure.message == "Rate limit exceeded: 60 a minute"
    assert (failure.code, failure.retry_after_ms) == ("RATE_LIMITED", 900)


@EVERY_DIALECT
def test_a_refusal_that_ends_a_run_shows_the_scripts_own_line_alone(run: Runner, dialect: Dialect) -> None:
    ran = dialect.run(run, "await sdk.db.query('x');", "AWAIT sdk.db.query('x')")
    assert (ran.kind, ran.message) == ("exception", "nobody answers here")
    assert ran.outcome.error is not None
    stack = ran.outcome.error.stack
    assert "index.js:2:1" in stack or 'File "main.py", line 2' in stack
    assert "boot" not in stack


# Transactions

COMMITTED = """
    const total = await SOURCE.transaction(async (tx) => {
      await tx.execute('INSERT', [1]);
      return (await tx.queryOne('SELECT', [2])).n + (await tx.query('ALL')).length;
    });
    return total;
"""
COMMITTED_PYTHON = """
ASYNC with SOURCE.transaction() as tx:
    AWAIT tx.execute('INSERT', [1])
    return (AWAIT tx.query_one('SELECT', [2]))["n"] + len(AWAIT tx.query('ALL'))
"""


def database(method: str, params: dict[str, Any]) -> Any:
    return {"db.begin": {"tx": "t-1"}, "db.queryOne": {"n": 40}, "db.query": [{}, {}]}.get(method, 1)


@EVERY_DIALECT
@pytest.mark.parametrize(("source", "name"), [("sdk.db", None), ("sdk.db.source('crm')", "crm")])
def test_a_transaction_commits_when_its_body_ends(run: Runner, dialect: Dialect, source: str, name: str | None) -> None:
    bodies = (text.replace("SOURCE", source) for text in (COMMITTED, COMMITTED_PYTHON))
    ran = dialect.run(run, *bodies, sink=Recorder(answer=database))
    assert ran.result == 42
    within = {"source": name, "tx": "t-1"}
    assert ran.sink.calls == [
        ("db.begin", {"source": name}),
        ("db.execute", {"sql": "INSERT", "params": [1], **within}),
        ("db.queryOne", {"sql": "SELECT", "params": [2], **within}),
        ("db.query", {"sql": "ALL", "params": [], **within}),
        ("db.commit", {"tx": "t-1"}),
    ]


@EVERY_DIALECT
def test_a_transaction_rolls_back_when_its_body_throws_and_the_error_is_passed_on(
    run: Runner, dialect: Dialect
) -> None:
    def answer(method: str, params: dict[str, Any]) -> Any:
        if method == "db.rollback":
            raise CallRefused("the database is away")
        return database(method, params)

    ran = dialect.run(
        run,
        "await sdk.db.transaction(async (tx) => { await tx.execute('x'); throw new RangeError('mine'); });",
        "ASYNC with sdk.db.transaction() as tx:\n    AWAIT tx.execute('x')\n    raise KeyError('mine')",
        sink=Recorder(answer=answer),
    )
    assert ran.outcome.error is not None
    assert ran.outcome.error.name in ("RangeError", "KeyError")
    assert [method for method, _ in ran.sink.calls] == ["db.begin", "db.execute", "db.rollback"]


@EVERY_DIALECT
def test_a_transaction_takes_no_statement_after_its_end(run: Runner, dialect: Dialect) -> None:
    ran = dialect.run(
        run,
        """
        let kept;
        await sdk.db.transaction(async (tx) => { kept = tx; });
        return kept.query('x').catch((e) => e.message);
        """,
        """
ASYNC with sdk.db.transaction() as tx:
    pass
try:
    AWAIT tx.query('x')
except RuntimeError as e:
    return str(e)
""",
        sink=Recorder(answer=database),
    )
    assert ran.result.startswith("This transaction has ended")
    assert [method for method, _ in ran.sink.calls] == ["db.begin", "db.commit"]


def test_a_transaction_ends_once_all_of_its_statements_are_answered(run: Runner) -> None:
    sink, seen = Later(), list[list[str]]()

    def answer(_: int, pending: Pending) -> None:
        method = sink.calls[-1][0]
        if method != "db.execute":
            pending.resolve(database(method, {}))

    def answer_the_rest() -> None:
        seen.append([method for method, _ in sink.calls])
        for pending in sink.pending:
            pending.resolve(1)

    sink.on_each, sink.on_first_line = answer, answer_the_rest
    body = "await sdk.db.transaction(async (tx) => { tx.execute('a'); tx.execute('b'); console.log('sent'); });"
    assert run.body(body, sink=sink).kind == "succeeded"
    assert seen == [["db.begin", "db.execute", "db.execute"]]
    assert sink.calls[-1] == ("db.commit", {"tx": "t-1"})


@pytest.mark.parametrize("dialect", DIALECTS[1:], ids=repr)
def test_a_transaction_of_python_says_which_with_it_needs(run: Runner, dialect: Dialect) -> None:
    enter, needed = ("__enter__", "`async with`") if dialect.awaits else ("__aenter__().send", "`with`")
    python = f"""
try:
    sdk.db.transaction().{enter}({'' if dialect.awaits else 'None'})
except TypeError as e:
    return str(e)
"""
    ran = dialect.run(run, "", python, sink=Recorder(answer=database))
    assert needed in ran.result
    assert ran.sink.calls == []


# Context

MEMBERS = ("tenantId", "userId", "organizationId", "scriptId", "executionId")
TRIGGERS = [
    ({"type": "cron", "eventType": None, "cronExpression": "0 9 * * 1"}, {}, {"cronExpression": "0 9 * * 1"}),
    ({"type": "http", "eventType": None}, {"method": "GET"}, {"httpRequest": {"method": "GET"}}),
    (
        {"type": "event", "eventType": "order.created", "cronExpression": None},
        {"id": "e", "data": {"n": 1}},
        {"eventType": "order.created", "eventPayload": {"n": 1}},
    ),
    ({"type": "event", "eventType": "order.created", "cronExpression": None}, "text", {"eventType": "order.created"}),
    ({"type": "manual"}, {"data": 1}, {}),
    ({"type": "api"}, None, {}),
]


@EVERY_DIALECT
@pytest.mark.parametrize(("told", "payload", "expected"), TRIGGERS)
def test_the_context_tells_what_the_run_is_about(
    run: Runner, dialect: Dialect, told: dict[str, Any], payload: Any, expected: dict[str, Any]
) -> None:
    ran = dialect.run(
        run,
        "const { tenantId, userId, organizationId, scriptId, executionId, input, trigger } = context;"
        "return [tenantId, userId, organizationId, scriptId, executionId, input, Object.values(trigger)];",
        "c = context\nreturn [c.tenant_id, c.user_id, c.organization_id, c.script_id, c.execution_id, c.input,"
        " list(c.trigger.values())]",
        payload,
        context={"sdk": {**TOLD, "trigger": told}},
    )
    trigger = {"type": told["type"], **dict.fromkeys(("eventType", "eventPayload", "httpRequest", "cronExpression"))}
    trigger.update(expected)
    assert ran.result == [*(TOLD[name] for name in MEMBERS), payload, list(trigger.values())]


@EVERY_DIALECT
def test_without_the_platforms_word_the_members_are_null(run: Runner, dialect: Dialect) -> None:
    ran = dialect.run(
        run,
        "const { input, ...rest } = context; return [input, Object.values(rest)];",
        "c = context\nreturn [c.input, [c.tenant_id, c.user_id, c.organization_id, c.script_id, c.execution_id,"
        " c.trigger]]",
        {"a": 1},
        context={},
    )
    assert ran.result == [{"a": 1}, [None] * 6]


def test_the_handlers_second_argument_stays_and_gets_what_is_new(run: Runner) -> None:
    ran = run.body("return context;", {"p": 1}, context=CONTEXT, secrets={"K": "v"})
    new = {name: TOLD[name] for name in ("tenantId", "userId", "organizationId", "executionId")}
    older = {"runId": "run-1", "scriptId": "older", "trigger": {"type": "older"}, "secrets": {"K": "v"}}
    assert ran.result == {**older, **new, "input": {"p": 1}}


@pytest.mark.parametrize("dialect", DIALECTS[1:], ids=repr)
def test_the_second_argument_of_python_stays_and_gets_what_is_new(run: Runner, dialect: Dialect) -> None:
    python = """
names = ["run_id", "script_id", "trigger", "tenant_id", "user_id", "organization_id", "execution_id", "input"]
return [[getattr(given, name) for name in names], hasattr(given, "sdk"), "sdk" in repr(given)]
"""
    ran = dialect.run(run, "", python, {"p": 1})
    told = ["tenant-1", 7, "org-1", "run-1"]
    assert ran.result == [["run-1", "older", {"type": "older"}, *told, {"p": 1}], False, False]


@EVERY_DIALECT
def test_what_changes_with_each_run_is_not_told_at_the_top_level(run: Runner, dialect: Dialect) -> None:
    source, fields = dialect.body("return 1", "return 1")
    for name, known in (("userId", False), ("executionId", False), ("input", False), ("trigger", False),
                        ("tenantId", True), ("scriptId", True)):  # fmt: skip
        word = name if dialect.is_javascript else {"userId": "user_id", "executionId": "execution_id"}.get(
            name, name.replace("Id", "_id")
        )
        top = f"{'const kept = ' if dialect.is_javascript else 'kept = '}context.{word}\n"
        ran = run({fields.get("main", "index.js"): top + source}, context=CONTEXT, **fields)
        assert ran.kind == ("succeeded" if known else "load_error")
        if not known:
            assert f"context.{word} is known once the handler runs" in ran.message


@EVERY_DIALECT
def test_a_reused_jail_tells_each_run_of_itself_alone(run: Runner, dialect: Dialect) -> None:
    """Also through what the script kept of the SDK when it was loaded."""
    source, fields = dialect.body(
        "log.info('x'); await db.query('x');"
        "return [kept.userId, context.userId, kept.input, context.trigger.type, kept === context];",
        "log.info('x')\nAWAIT db.query('x')\n"
        "return [kept.user_id, context.user_id, kept.input, context.trigger.type, kept is context]",
    )
    top = "const kept = context; const { db, log } = sdk;\n"
    if not dialect.is_javascript:
        top = "kept, db, log = context, sdk.db, sdk.log\n"
    for number, kind in enumerate(("api", "cron", "manual")):
        told = {**TOLD, "userId": number, "trigger": {"type": kind}}
        ran = run(
            {fields.get("main", "index.js"): top + source}, f"payload {number}", context={"sdk": told},
            reuse_key=f"sdk {dialect}", sink=Recorder(answer=echo), **fields,
        )  # fmt: skip
        assert ran.result == [number, number, f"payload {number}", kind, True]
        assert json.loads(ran.texts[0])["user_id"] == number
        assert len(ran.sink.calls) == 1
        assert number == 0 or ran.outcome.usage.jail == "reused"


# Log

LEVELS = ("debug", "info", "warn", "error")


@EVERY_DIALECT
def test_a_log_line_is_json_of_its_level_with_what_the_run_is_about(run: Runner, dialect: Dialect) -> None:
    calls = [f"sdk.log.{level}('said {level}', {{'n': 1, 'text': 'é'}})" for level in LEVELS]
    ran = dialect.run(run, ";".join([*calls, "sdk.log.info('bare')"]), "\n".join([*calls, "sdk.log.info('bare')"]))
    assert [line.level for line in ran.sink.lines] == ["DEBUG", "INFO", "WARN", "ERROR", "INFO"]
    lines = [json.loads(text) for text in ran.texts]
    about = {"tenant_id": "tenant-1", "user_id": 7, "script_id": "script-1", "execution_id": "run-1"}
    for line, level in zip(lines[:4], LEVELS, strict=True):
        time = line.pop("timestamp")
        assert (len(time), time[-1]) == (24, "Z")
        assert line == {"level": level, "message": f"said {level}", **about, "metadata": {"n": 1, "text": "é"}}
    assert "metadata" not in lines[4]


@EVERY_DIALECT
def test_an_error_may_be_the_metadata_of_a_log_line(run: Runner, dialect: Dialect) -> None:
    ran = dialect.run(
        run,
        "sdk.log.error('bad', new RangeError('too far')); sdk.log.info('none', null);",
        "sdk.log.error('bad', ValueError('too far'))\nsdk.log.info('none', None)",
    )
    first, second = map(json.loads, ran.texts)
    assert first["metadata"]["name"] in ("RangeError", "ValueError") and first["metadata"]["message"] == "too far"
    assert "metadata" not in second


@EVERY_DIALECT
def test_what_may_be_left_out_may_be_null(run: Runner, dialect: Dialect) -> None:
    assert dialect.call(run, "db.query", "SELECT 1", None, sink=Recorder(answer=lambda *_: [])) == []


@EVERY_DIALECT
def test_a_run_may_log_a_hundred_lines_a_minute(run: Runner, dialect: Dialect) -> None:
    ran = dialect.run(
        run,
        """
        let taken = 0;
        try { for (; taken < 200; taken += 1) sdk.log.info('x'); } catch (e) {
          return [taken, e.message, e.code, e.retryAfterMs];
        }
        """,
        """
taken = 0
try:
    for taken in range(200):
        sdk.log.info('x')
except Exception as e:
    return [taken, str(e), e.code, e.retry_after_ms]
""",
    )
    taken, message, code, retry_after_ms = ran.result
    assert taken in range(100, 105)  # one comes back every 600 ms
    assert message == f"Rate limit exceeded: sdk.log takes 100 lines a minute; try again in {retry_after_ms} ms"
    assert code == "RATE_LIMITED"
    assert 0 < retry_after_ms <= 600
    assert len(ran.texts) == taken


@EVERY_DIALECT
def test_each_run_of_a_jail_has_a_log_rate_of_its_own(run: Runner, dialect: Dialect) -> None:
    source, fields = dialect.body(
        "for (let n = 0; n < 90; n += 1) sdk.log.info('x'); return 1", "for _ in range(90):\n    sdk.log.info('x')"
    )
    for _ in range(2):
        files = {fields.get("main", "index.js"): source}
        assert run(files, context=CONTEXT, reuse_key=f"log {dialect}", **fields).kind == "succeeded"


# Frozen

TAMPERING = [
    "globalThis.sdk = 1", "sdk = 1", "globalThis.context = {}", "events = []", "delete globalThis.sdk",
    "Object.defineProperty(globalThis, 'sdk', { value: 1 })", "sdk.db = 1", "sdk.db.query = 1", "delete sdk.db",
    "sdk.cache.extra = 1", "sdk.http.get = 1", "sdk.log.info = 1", "events.publish = 1", "sdk.db.query.call = 1",
    "context.userId = 1", "context.extra = 1", "delete context.userId", "context.trigger.type = 'x'",
    "Object.setPrototypeOf(sdk, {})", "sdk.db.source('x').query = 1",
]  # fmt: skip


@pytest.mark.parametrize("statement", TAMPERING)
def test_what_the_platform_gives_a_script_can_not_be_changed(run: Runner, statement: str) -> None:
    source = f"""
        exports.handler = async () => {{
          const strict = new Function("'use strict'; " + payloadText);
          let thrown = null;
          try {{ strict(); }} catch (e) {{ thrown = e.name; }}
          try {{ new Function(payloadText)(); }} catch {{}}
          return [thrown, typeof sdk.db.query, typeof sdk.http.get, sdk.cache.extra ?? null, typeof sdk.log.info,
                  typeof events.publish, context.userId, context.trigger.type];
        }};
        const payloadText = {json.dumps(statement)};
    """
    ran = run(source, context=CONTEXT)
    assert ran.result == ["TypeError", "function", "function", None, "function", "function", 7, "api"]


@pytest.mark.parametrize(
    "statement",
    ["sdk.db = 1", "sdk.cache.get = 1", "del sdk.log", "events.publish = 1", "context.user_id = 1", "context.new = 1",
     "sdk.db.query = 1", "context.trigger['type'] = 'x'", "context.trigger.type = 'x'", "context.trigger.clear()",
     "sdk.http.get = 1", "del sdk.db._source"],
)  # fmt: skip
def test_what_the_platform_gives_a_script_of_python_can_not_be_changed(run: Runner, statement: str) -> None:
    ran = DIALECTS[1].run(
        run,
        "",
        f"""
try:
    {statement}
except (AttributeError, TypeError) as e:
    pass
else:
    return "changed"
return [callable(sdk.db.query), callable(sdk.cache.get), callable(events.publish), context.user_id,
        context.trigger.type]
""",
    )
    assert ran.result == [True, True, True, 7, "api"]


@pytest.mark.parametrize(
    "source",
    [
        "const context = 1, sdk = 2; let events = 3; exports.handler = () => [context, sdk, events];",
        "var context = 1; function sdk() {} var events; exports.handler = () => [1, 2, 3];",
        "class events {} exports.handler = (context, sdk) => [1, 2, 3];",
        "const events = require('events'); new events.EventEmitter(); exports.handler = () => [1, 2, 3];",
        "const { sdk, events } = { sdk: 2, events: 3 }; exports.handler = (p, context) => [1, sdk, events];",
    ],
)
def test_a_script_may_have_variables_of_its_own_by_these_names(run: Runner, source: str) -> None:
    assert run(source, context=CONTEXT).result == [1, 2, 3]


def test_modules_of_python_may_have_these_names_themselves(run: Runner) -> None:
    files = {
        "main.py": "from package import events, context\nfrom package.helpers import *\nimport sdk as own\nsdk = 2\n"
        "def handler(payload, given):\n    return [events.NAME, context.NAME, sdk, own.NAME]\n",
        "package/__init__.py": "",
        "package/events.py": "NAME = 'events'",
        "package/context.py": "NAME = 'context'",
        "package/helpers.py": "def help():\n    return sdk.cache.get('x')\n",
        "sdk.py": "NAME = 'sdk'",
    }
    ran = run(files, **DIALECTS[1].body("", "")[1])
    assert ran.result == ["events", "context", 2, "sdk"]


def test_files_of_a_project_find_the_names_without_an_import(run: Runner) -> None:
    files = {"index.js": "exports.handler = () => require('./lib').ask()",
             "lib.js": "exports.ask = () => sdk.cache.get('x')"}  # fmt: skip
    assert run(files, sink=Recorder(answer=echo)).result == ["cache.get", {"key": "x"}]
    python = {"main.py": "import lib\ndef handler(p, c):\n    return lib.ask()\n",
              "lib.py": "def ask():\n    return sdk.cache.get('x')\n"}  # fmt: skip
    ran = run(python, sink=Recorder(answer=echo), **DIALECTS[1].body("", "")[1])
    assert ran.result == ["cache.get", {"key": "x"}]


def test_a_first_use_that_finds_no_room_on_the_stack_does_not_spoil_later_ones(run: Runner) -> None:
    source = """
        const sink = () => { try { sink(); } catch {} try { sdk.log; } catch {} };
        exports.handler = () => { sink(); return [typeof sdk.db.query, typeof sdk.http.get, typeof sdk.log.info]; };
    """
    assert run(source).result == ["function"] * 3
    python = """
def sink():
    try:
        sink()
    except RecursionError:
        pass
    try:
        sdk.log, sdk.db, sdk.http
    except RecursionError:
        pass
sink()
return [callable(sdk.db.query), callable(sdk.http.get), callable(sdk.log.info)]
"""
    assert DIALECTS[1].run(run, "", python).result == [True] * 3


def test_printing_the_context_shows_its_values(run: Runner) -> None:
    ran = run("exports.handler = () => { console.log(context); };", context=CONTEXT)
    assert "userId: 7" in ran.texts[0]
    ran = DIALECTS[1].run(run, "", "print(context)")
    assert "user_id=7" in ran.texts[0]


def test_the_context_is_json(run: Runner) -> None:
    ran = run("exports.handler = () => context;", {"p": 1}, context=CONTEXT)
    assert (ran.result["tenantId"], ran.result["input"], ran.result["trigger"]["type"]) == ("tenant-1", {"p": 1}, "api")


@pytest.mark.parametrize("runtime", ["nodejs22", "nodejs24"])
def test_later_versions_of_node_have_the_sdk_too(run: Runner, runtime: str) -> None:
    source = """
        const { db } = sdk;
        exports.handler = async () => [context.userId, await db.query('x', [1]), await events.publish('a.b', {}),
          await sdk.http.get('http://127.0.0.1/').catch((e) => e.message),
          await db.transaction(async (tx) => tx.execute('y'))];
    """

    def answer(method: str, params: dict[str, Any]) -> Any:
        return {"tx": "1"} if method == "db.begin" else 1

    ran = run(source, context=CONTEXT, runtime=runtime, sink=Recorder(answer=answer))
    assert ran.result == [7, 1, True, "SSRF protection: 127.0.0.1:80 was refused: loopback address", 1]


def test_calls_of_a_coroutine_wait_side_by_side_and_are_answered_out_of_order(run: Runner) -> None:
    sink = Later()

    def answer(number: int, _: Pending) -> None:
        for each in range(number, -1, -1) if number == 2 else ():
            sink.pending[each].resolve(each)

    sink.on_each = answer
    python = "import asyncio\nreturn await asyncio.gather(*(sdk.cache.get('x') for _ in range(3)))"
    assert DIALECTS[2].run(run, "", python, sink=sink).result == [0, 1, 2]


@EVERY_DIALECT
def test_the_time_limit_ends_a_call_that_nobody_answers(run: Runner, dialect: Dialect) -> None:
    limits = Limits(timeout_ms=400)
    ran = dialect.run(run, "await sdk.cache.get('x');", "AWAIT sdk.cache.get('x')", sink=Later(), limits=limits)
    assert ran.kind == "timeout"


@EVERY_DIALECT
def test_a_cancel_ends_a_call_that_nobody_answers_within_a_second(run: Runner, dialect: Dialect) -> None:
    cancel = threading.Event()
    cancelled_at = []

    def answer(_: int, pending: Pending) -> None:
        cancelled_at.append(time.monotonic())
        cancel.set()

    sink = Later(on_each=answer)
    ran = dialect.run(run, "await sdk.cache.get('x');", "AWAIT sdk.cache.get('x')", sink=sink, cancel=cancel)
    assert ran.kind == "cancelled"
    assert time.monotonic() - cancelled_at[0] < 1
