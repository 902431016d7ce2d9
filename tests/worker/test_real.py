"""The executor on a real launcher with nsjail and Node, a real S3 store and a real database."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from millrace import runs
from millrace.models import Artifact, Event, Run
from millrace.services import Services
from sandbox import runtimes
from sandbox.client import Sandbox
from tests.launcher import start_launcher
from tests.worker.support import eventually, in_thread, log_text, new_script, reload, submit, worker_on
from worker.executor import Executor

SECRET = "pa$$/w0rd+x y"


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    """One kind is enough where the jail is what is tested."""
    return getattr(request, "param", "sqlite")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A client of a launcher of our own."""
    with start_launcher(tmp_path_factory.mktemp("launcher")) as socket_path:
        client = Sandbox(socket_path)
        yield client
        client.close()


@pytest.fixture
def executor(services: Services, sandbox: Sandbox) -> Iterator[Executor]:
    """An executor on it."""
    with worker_on(services, sandbox) as executor:
        yield executor


def carry(services: Services, executor: Executor, source: str, payload: object = None, **options: object) -> Run:
    """A script of this source, run once."""
    run = submit(services, new_script(services, source.encode(), **options), payload)
    executor.execute(run.id, 1)
    return reload(run)


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
def test_hello_succeeds_with_its_result_and_without_a_log(services: Services, executor: Executor) -> None:
    done = carry(services, executor, "exports.handler = async (p) => ({hello: p.name})", {"name": "Ada"})
    assert (done.status, done.result, done.summary) == ("succeeded", '{"hello":"Ada"}', {"hello": "Ada"})
    assert (done.log_key, done.log_chunks) == (None, 0)
    assert services.objects.list("logs/") == []


def test_the_handler_sees_its_run_its_script_and_its_trigger(services: Services, executor: Executor) -> None:
    done = carry(services, executor, "exports.handler = async (p, c) => JSON.parse(JSON.stringify(c))")
    seen = json.loads(done.result)
    assert seen["runId"] == done.id
    assert (seen["workspaceId"], seen["scriptId"], seen["scriptUuid"]) == ("acme", "hello", done.script_id)
    assert (seen["attempt"], seen["scriptVersion"], seen["trigger"]) == (1, 1, {"type": "api"})


def test_what_the_console_says_is_in_the_log_with_level_and_time(services: Services, executor: Executor) -> None:
    source = """exports.handler = async () => {
        console.log('one', {two: 2}); console.warn('three'); console.error('four\\nfive'); console.debug('six') }"""
    done = carry(services, executor, source)
    lines = log_text(services, done).splitlines()
    assert [line[25:] for line in lines[:3]] == ["INFO   one { two: 2 }", "WARN   three", "ERROR  four"]
    assert lines[3:4] == ["    five"]
    assert lines[4].endswith("DEBUG  six")
    assert services.objects.list(f"logs/acme/{done.id}/") == []


def test_a_log_is_in_the_store_while_the_handler_runs(services: Services, executor: Executor) -> None:
    source = "exports.handler = async () => { console.log('early'); await new Promise(r => setTimeout(r, 20000)) }"
    run = submit(services, new_script(services, source.encode()))
    with in_thread(services, lambda: executor.execute(run.id, 1)):
        eventually(lambda: len(services.objects.list(f"logs/acme/{run.id}/")) == 1)
        runs.cancel(services, reload(run))
    assert "early" in log_text(services, run)


@pytest.mark.parametrize("throws", [False, True])
def test_secrets_are_masked_raw_and_encoded_in_log_and_error(
    services: Services, executor: Executor, throws: bool
) -> None:
    source = """exports.handler = async (p, {secrets: {KEY}}) => {
        const forms = [KEY, Buffer.from(KEY).toString('base64'), encodeURIComponent(KEY), `https://u:${KEY}@h/`];
        for (const form of forms) console.log('is ' + form);
        if (p.throws) throw new Error('used ' + forms.join(' and '));
        return {KEY, length: KEY.length} }"""
    done = carry(services, executor, source, {"throws": throws}, secrets={"KEY": SECRET})
    shown = log_text(services, done) + (done.error or "") + (done.error_stack or "") + json.dumps(done.summary)
    for form in (SECRET, base64.b64encode(SECRET.encode()).decode(), quote(SECRET, safe="")):
        assert form not in shown
    assert log_text(services, done).count("is ***\n") == 3
    if throws:
        assert (done.status, done.error_code) == ("failed", "SCRIPT_ERROR")
        assert done.error == "Error: used *** and *** and *** and https://u:***@h/"
    else:
        assert done.summary == {"KEY": "***", "length": len(SECRET)}
        assert json.loads(done.result)["KEY"] == SECRET


KEY = "".join(f"line{number:02}+of/the=key\n" * 2 for number in range(20))
CREDENTIALS = json.dumps(
    {"type": "service_account", "private_key": f"-----BEGIN PRIVATE KEY-----\n{KEY}-----END-----\n"}
)
ODD = {
    "credentials": CREDENTIALS,
    "indented credentials": json.dumps(json.loads(CREDENTIALS), indent=2),
    "a key of several lines": json.loads(CREDENTIALS)["private_key"],
    "a password": 'Pa"ss\\word9',
    "all quotes": """it's `${"quoted"}` \\ here""",
    "control characters": "ab\x1bcd\x7fef\x85gh\t\b",
    "a long one": "0123456789'\\" * 2000,
}


@pytest.mark.parametrize("name", ODD)
def test_secrets_are_masked_within_whatever_the_console_prints(
    services: Services, executor: Executor, name: str
) -> None:
    source = """const { inspect } = require('util');
        exports.handler = async (p, {secrets: {KEY}}) => {
        console.log({KEY}); console.log('%o %O %j', {KEY}, [KEY], {KEY}); console.log('%s', {KEY}, [[KEY, "it's"]]);
        console.dir({a: {b: {KEY}}}); console.table([{KEY}]); console.trace({KEY}); console.log(new Map([[KEY, KEY]]));
        console.log({text: `it's ${KEY}`, all: "'\\"`" + KEY}); console.log({body: JSON.stringify({KEY})});
        console.error(new Error('x', {cause: {KEY}})); console.log(inspect({KEY})); console.log({e: inspect({KEY})});
        console.log(JSON.stringify({e: inspect({KEY})})); console.log(Object.assign(new Error('m'), {config: {KEY}}));
        console.group('g'); console.log({KEY}); console.groupEnd();
        throw {KEY} }"""
    done = carry(services, executor, source, secrets={"KEY": ODD[name]})
    shown = log_text(services, done) + done.error
    for telling in ("PRIVATE", "line0", "line19", "Pa", "ss\\", "word9", "quoted", "here", "ab\\x", "gh", "0123456"):
        assert telling not in shown
    assert done.error == "Error: { KEY: '***' } was thrown" or name in ("all quotes", "a long one")
    assert shown.count("***") >= 20


@pytest.mark.parametrize("shift", [0, 5, 13])
def test_a_secret_across_a_cut_is_masked(services: Services, executor: Executor, shift: int) -> None:
    source = """exports.handler = async (p, {secrets: {KEY}}) => {
        const upTo = (size) => 'x'.repeat(size - p.shift);
        console.log(upTo(256 * 1024) + KEY + 'end');
        console.log(upTo(512 * 1024) + encodeURIComponent(KEY) + 'end');
        process.stdout.write(upTo(64 * 1024) + KEY.slice(0, p.shift)); console.log('between');
        process.stdout.write(KEY.slice(p.shift) + 'end\\n');
        process.stdout.write(upTo(256 * 1024) + KEY.slice(0, p.shift)); console.log('between');
        process.stdout.write(KEY.slice(p.shift) + 'end\\n');
        for (const letter of upTo(256 * 1024) + KEY + 'end\\n') process.stderr.write(letter);
        throw Object.assign(new Error(upTo(16 * 1024 - 202) + KEY), {name: upTo(200) + KEY}) }"""
    done = carry(services, executor, source, {"shift": shift}, secrets={"KEY": SECRET})
    shown = log_text(services, done) + done.error + done.error_stack
    for telling in (SECRET[:5], SECRET[5:], quote(SECRET[5:]), "w0", "$$", "/"):
        assert telling not in shown
    assert shown.count("***end") == 5
    assert len(done.error) <= 16 * 1024
    assert done.error.startswith("x" * (200 - shift) + "***"[:shift] + ": x")


def test_no_half_of_a_long_secret_shows_where_the_jail_cuts_an_error(services: Services, executor: Executor) -> None:
    source = """exports.handler = async (p, {secrets: {KEY}}) => {
        throw Object.assign(new Error(`<${KEY}>`.repeat(9)), {cause: `<${KEY}>`.repeat(9)}) }"""
    done = carry(services, executor, source, secrets={"KEY": SECRET * 4000})
    assert done.error.startswith("Error: <***>")
    assert done.error_stack.startswith(done.error)
    assert "pa$$" not in done.error + done.error_stack


def test_a_log_of_line_breaks_is_cut_at_what_it_takes_when_it_is_stored(services: Services, executor: Executor) -> None:
    source = r"exports.handler = async () => { for (let n = 0; n < 390; n += 1) console.log('\n'.repeat(250000)) }"
    done = carry(services, executor, source)
    stored = services.objects.get(done.log_key) or b""
    limit = services.settings.run_log_mb * 1024 * 1024
    assert 0.9 * limit < len(stored) < limit + 1000
    assert b"The log was cut at its limit" in stored[-1000:]
    assert done.usage["log_bytes"] <= limit


def test_an_error_is_recorded_with_the_scripts_own_stack_lines(services: Services, executor: Executor) -> None:
    source = "exports.handler = async () => {\n  throw new TypeError('no such thing')\n}"
    done = carry(services, executor, source)
    assert (done.status, done.error_code, done.error) == (
        "failed",
        "SCRIPT_ERROR",
        "TypeError: no such thing",
    )
    assert "index.js:2:9" in done.error_stack
    assert "/boot" not in done.error_stack


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("exports.handler = async () => process.exit(3)", "EXITED", "process.exit(3)"),
        ("exports.handler = async () => new Promise(() => {})", "NO_RESULT", "never settled"),
        ("exports.handler = async () => 10n", "BAD_RESULT", "bigint"),
        ("exports.handler = async () => 'x'.repeat(7 * 1024 * 1024)", "RESULT_TOO_LARGE", "6291456"),
        ("exports.other = 1", "NO_HANDLER", "handler"),
        ("exports.handler = (", "LOAD_ERROR", "SyntaxError"),
        ("exports.handler = require('nothing-like-this')", "LOAD_ERROR", "nothing-like-this"),
    ],
)
def test_every_way_to_fail_has_its_own_code_and_words(
    services: Services, executor: Executor, source: str, code: str, words: str
) -> None:
    done = carry(services, executor, source)
    assert (done.status, done.error_code) == ("failed", code)
    assert words in done.error
    assert done.result is None


def test_a_script_that_takes_too_long_times_out_and_keeps_its_log(services: Services, executor: Executor) -> None:
    source = "exports.handler = async () => { console.log('before'); for (;;) {} }"
    done = carry(services, executor, source, timeout_seconds=5)
    assert (done.status, done.error_code, done.error) == (
        "timed_out", "TIMED_OUT", "The run took longer than its time limit of 5 s."
    )  # fmt: skip
    assert "before" in log_text(services, done)
    assert done.duration_ms >= 5000


def test_a_script_that_takes_too_much_memory_says_how_much_it_had(services: Services, executor: Executor) -> None:
    source = "exports.handler = async () => { const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1)) }"
    done = carry(services, executor, source, memory_mb=128)
    assert (done.status, done.error_code) == ("failed", "OUT_OF_MEMORY")
    assert done.error == "Out of memory: the script needs more than its limit of 128 MB."


def limited(services: Services, executor: Executor, source: str, payload: object = None, **limits: int) -> Run:
    """A script with finer limits, run once."""
    script = new_script(services, source.encode())
    script.limits = limits
    script.save(only=["limits"])
    run = submit(services, script, payload)
    executor.execute(run.id, 1)
    return reload(run)


def test_a_finer_limit_of_time_ends_the_run_and_is_named(services: Services, executor: Executor) -> None:
    done = limited(services, executor, "exports.handler = async () => { for (;;) {} }", timeout_ms=1500)
    assert (done.status, done.error) == ("timed_out", "The run took longer than its time limit of 1.5 s.")
    assert done.duration_ms >= 1500


def test_a_limit_of_the_scripts_own_memory_leaves_the_runtime_out_and_is_named(
    services: Services, executor: Executor
) -> None:
    source = "exports.handler = async (mb) => Buffer.alloc(mb << 20, 1).length"
    fits = limited(services, executor, source, 20, memory_bytes=32 * 2**20)
    assert (fits.status, fits.result) == ("succeeded", str(20 << 20))
    source = "exports.handler = async () => { const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1)) }"
    run = submit(services, new_script(services, source.encode(), slug="hungry", memory_mb=512))
    run.script.limits = {"memory_bytes": 32 * 2**20}
    run.script.save(only=["limits"])
    executor.execute(run.id, 1)
    assert reload(run).error == "Out of memory: the script needs more than its limit of 32 MB."


def test_a_limit_of_output_fails_the_run_and_is_named(services: Services, executor: Executor) -> None:
    source = "exports.handler = async (n) => 'x'.repeat(n)"
    done = limited(services, executor, source, 1023, output_bytes=1024)
    assert (done.status, done.error_code) == ("failed", "RESULT_TOO_LARGE")
    assert done.error == "The result is 1025 bytes; at most 1024 are allowed"
    run = submit(services, done.script, 1022)
    executor.execute(run.id, 1)
    assert reload(run).status == "succeeded"


def test_a_limit_of_api_calls_refuses_the_next_and_is_named(services: Services, executor: Executor) -> None:
    source = """exports.handler = async () => {
        const codes = [];
        for (let n = 0; n < 3; n += 1) {
            try { await sdk.http.get('http://10.0.0.1/'); } catch (error) { codes.push(error) }
        }
        return codes.map((error) => [error.code, error.message, error.retryAfterMs > 25000]) }"""
    done = limited(services, executor, source, api_calls_per_minute=2)
    one, two, three = json.loads(done.result)
    assert "RATE_LIMITED" not in (one[0], two[0])
    assert three[0] == "RATE_LIMITED" and three[2]
    assert three[1].startswith("Rate limit exceeded: at most 2 sdk.http requests a minute; try again in ")
    assert done.usage["api_calls"] == 2


def test_the_sdk_works_from_the_script_to_the_stores(services: Services, executor: Executor) -> None:
    source = """exports.handler = async (payload) => {
        const { tenantId, userId, scriptId, executionId, trigger, input } = context;
        const first = await sdk.cache.get('seen');
        await sdk.cache.set('seen', { by: executionId }, 60);
        const count = await sdk.cache.increment('count', 5);
        let wrong;
        try { await sdk.cache.increment('seen') } catch (error) { wrong = [error.code, error.message] }
        await events.publish('shop.order.made', { n: 1 });
        return { tenantId, userId, scriptId, executionId, type: trigger.type, input, first, count, wrong } }"""
    script = new_script(services, source.encode())
    runs_done = []
    for _ in range(2):
        run = submit(services, script, {"n": 1}, user_id=7)
        executor.execute(run.id, 1)
        runs_done.append(reload(run))
    one, two = (json.loads(each.result or f'"{each.error}"') for each in runs_done)
    assert one == {
        "tenantId": "acme", "userId": 7, "scriptId": script.uuid, "executionId": runs_done[0].id, "type": "api",
        "input": {"n": 1}, "first": None, "count": 5,
        "wrong": ["INVALID_ARGUMENT", "What is cached under 'seen' is not a whole number of 64 bits."],
    }  # fmt: skip
    assert (two["first"], two["count"]) == ({"by": runs_done[0].id}, 10)
    assert {event.name for event in Event.select()} == {"shop.order.made"}
    assert (runs_done[0].usage["cache_calls"], runs_done[0].usage["events_published"]) == (3, 1)
    assert "api_calls" not in runs_done[0].usage


@pytest.mark.parametrize("runtime", ["nodejs20", *sorted(n for n in runtimes.load_all() if n.startswith("python"))[:1]])
def test_the_sdk_has_a_rate_of_events_and_the_older_publish_has_none(
    services: Services, executor: Executor, runtime: str
) -> None:
    javascript = """exports.handler = async (payload, { publish }) => {
        for (let n = 0; n < 30; n += 1) await events.publish('shop.order.made');
        let refused;
        try { for (;;) await events.publish('shop.order.made') } catch (error) { refused = error }
        await publish('shop.order.made');
        return [refused.code, refused.message.slice(0, 66)] }"""
    python = """def handler(payload, context_):
        for n in range(30):
            events.publish('shop.order.made')
        try:
            for n in range(30):
                events.publish('shop.order.made')
        except Exception as error:
            refused = [error.code, str(error)[:66]]
        context_.publish('shop.order.made')
        return refused"""
    source = python if runtimes.named(runtime).language == "python" else javascript
    done = carry(services, executor, source, runtime=runtime)
    words = "Rate limit exceeded: at most 30 events.publish events a minute; tr"
    assert (done.error, json.loads(done.result or "null")) == (None, ["RATE_LIMITED", words])
    assert done.usage["events_published"] >= 31


def test_a_busy_handler_is_cancelled_and_its_process_gone_within_a_second(
    services: Services, executor: Executor
) -> None:
    run = submit(services, new_script(services, b"exports.handler = async () => { for (;;) {} }"))
    ended: list[float] = []

    def carry_it() -> None:
        executor.execute(run.id, 1)
        ended.append(time.monotonic())

    with in_thread(services, carry_it) as thread:
        eventually(lambda: reload(run).status == "running")
        time.sleep(0.2)  # well inside the loop, which nothing tells from outside
        asked = time.monotonic()
        runs.cancel(services, reload(run))
        thread.join(10)
    done = reload(run)
    assert (done.status, done.error_code) == ("cancelled", "CANCELLED")
    assert ended[0] - asked < 5  # on a busy machine; an idle one takes half a second


def test_a_script_publishes_events(services: Services, executor: Executor) -> None:
    source = """exports.handler = async (p, c) => {
        const sent = await c.publish('order.made', {n: 1});
        try { await c.publish('run.completed') } catch (error) { return {sent, refused: error.message} } }"""
    done = carry(services, executor, source)
    (event,) = Event.select()
    assert (event.name, event.data, event.source, event.depth) == ("order.made", {"n": 1}, "hello", 1)
    assert done.summary["sent"] == {"event_id": event.id}
    assert "only Millrace itself publishes" in done.summary["refused"]


def test_a_script_writes_artifacts(services: Services, executor: Executor) -> None:
    source = """exports.handler = async (p, c) => {
        await c.writeArtifact('report.csv', 'a;b', 'text/csv');
        await c.writeArtifact('data.json', {a: [1]}); }"""
    done = carry(services, executor, source)
    assert done.status == "succeeded", done.error
    kept = {row.name: row for row in Artifact.select().where(Artifact.run == done.id)}
    assert {name: (row.size, row.content_type) for name, row in kept.items()} == {
        "report.csv": (3, "text/csv"),
        "data.json": (len('{\n  "a": [\n    1\n  ]\n}'), "application/json"),
    }
    assert services.objects.get(kept["report.csv"].object_key) == b"a;b"


def test_a_jail_is_used_again_by_the_same_script_and_by_no_other(services: Services, executor: Executor) -> None:
    source = b"let n = 0; exports.handler = async () => ++n"
    one, other = new_script(services, source), new_script(services, source, slug="other")
    seen = []
    for script in (one, one, other, one):
        run = submit(services, script)
        executor.execute(run.id, 1)
        seen.append((reload(run).result, reload(run).usage["jail"] == "reused"))
    assert seen == [("1", False), ("2", True), ("1", False), ("3", True)]


def test_a_message_that_comes_twice_at_once_executes_the_handler_once(services: Services, executor: Executor) -> None:
    source = b"exports.handler = async (p, c) => { await c.publish('was.here'); }"
    run = submit(services, new_script(services, source))
    start = threading.Barrier(2, timeout=20)

    def carry_it() -> None:
        start.wait()
        executor.execute(run.id, 1)

    with in_thread(services, carry_it), in_thread(services, carry_it):
        pass
    assert reload(run).status == "succeeded"
    assert Event.select().count() == 1


def test_without_a_launcher_the_run_stays_queued(services: Services) -> None:
    run = submit(services, new_script(services))
    with worker_on(services, Sandbox(services.settings.home / "run" / "launcher.sock")) as executor:
        executor.execute(run.id, 1)
    back = reload(run)
    assert (back.status, back.attempt) == ("queued", 1)


@pytest.mark.parametrize("runtime", sorted(runtimes.load_all()))
def test_every_runtime_that_is_offered_carries_a_run_with_its_log_artifact_and_account(
    services: Services, executor: Executor, runtime: str
) -> None:
    javascript = """exports.handler = async (payload, context) => {
        console.log('hello', payload.name);
        await context.writeArtifact('greeting.txt', 'hi');
        return { hello: payload.name, run: context.runId };
    };"""
    python = """def handler(payload, context):
        print('hello', payload['name'])
        context.write_artifact('greeting.txt', 'hi')
        return {'hello': payload['name'], 'run': context.run_id}
    """
    source = python if runtimes.named(runtime).language == "python" else javascript
    done = carry(services, executor, source, {"name": "Ada"}, runtime=runtime)
    assert (done.status, done.error) == ("succeeded", None)
    assert json.loads(done.result) == {"hello": "Ada", "run": done.id}
    assert "INFO   hello Ada" in log_text(services, done)
    assert [each.name for each in Artifact.select().where(Artifact.run == done.id)] == ["greeting.txt"]
    assert done.usage["cpu_ms"] > 0 and done.usage["peak_memory_bytes"] > 2**20 and done.usage["log_bytes"] > 0
