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
        ("require('nothing-like-this')", "LOAD_ERROR", "nothing-like-this"),
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
    assert (done.status, done.error_code, done.error) == ("timed_out", "TIMED_OUT", "Timed out after 5 s.")
    assert "before" in log_text(services, done)
    assert done.duration_ms >= 5000


def test_a_script_that_takes_too_much_memory_says_how_much_it_had(services: Services, executor: Executor) -> None:
    source = "exports.handler = async () => { const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1)) }"
    done = carry(services, executor, source, memory_mb=128)
    assert (done.status, done.error_code) == ("failed", "OUT_OF_MEMORY")
    assert done.error == "Out of memory: the script used more than its 128 MB."


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
