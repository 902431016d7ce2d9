"""Jails that serve several runs of one Python script, and what keeps them from doing so."""

from __future__ import annotations

import pytest

from sandbox.job import Limits
from tests.sandbox.python_support import Python
from tests.sandbox.support import Runner


@pytest.fixture
def python(run: Runner) -> Python:
    return Python(run)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_state_of_modules_survives_within_a_key(python: Python, kind: str) -> None:
    files = {
        "main.py": f"import helper\nseen = []\n{kind} handler(p, c):\n    seen.append(p)\n"
        "    return [len(seen), helper.count()]",
        "helper.py": "n = 0\ndef count():\n    global n\n    n += 1\n    return n",
    }
    runs = [python(files, reuse_key=f"survives {kind}") for _ in range(3)]
    assert [ran.result for ran in runs] == [[1, 1], [2, 2], [3, 3]]
    assert [ran.outcome.usage.jail for ran in runs][1:] == ["reused", "reused"]


def test_a_jail_is_never_shared_between_keys(python: Python) -> None:
    assert python("import sys\nsys.loot = 1\ndef handler(p, c): return 1", reuse_key="alice").kind == "succeeded"
    ran = python("import sys\ndef handler(p, c): return hasattr(sys, 'loot')", reuse_key="bob")
    assert (ran.result, ran.outcome.usage.jail != "reused") == (False, True)


LEFT_BEHIND = {
    "an error": "raise ValueError",
    "no JSON": "return {1}",
    "a thread": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "a timer of a thread": "threading.Timer(60, print).start()",
    "an alarm": "signal.alarm(60)",
    "an open file": "kept.append(open('/tmp/x', 'w'))",
    "a pipe": "kept.append(os.pipe())",
    "a unix socket": "kept.append(socket.socketpair())",
    "a task of the loop that is there": "kept.append(asyncio.get_event_loop().create_task(asyncio.sleep(60)))",
    "a pool": "kept.append(ThreadPoolExecutor(1)); kept[-1].submit(len, '')",
}
LEFT_BEHIND_BY_COROUTINES = {
    "a task": "kept.append(asyncio.create_task(asyncio.sleep(60)))",
    "a timer": "asyncio.get_running_loop().call_later(60, print)",
    "work of a thread": "asyncio.get_running_loop().run_in_executor(None, time.sleep, 60); await asyncio.sleep(0)",
    "a server": "kept.append(await asyncio.start_unix_server(print, '/tmp/x'))",
}
_HEAD = """
import asyncio, os, signal, socket, threading, time
from concurrent.futures import ThreadPoolExecutor
kept = []
n = 0
{kind} handler(payload, context):
    global n
    n += 1
    if payload == "end":
        {statement}
    return n
"""


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        *(("def", each) for each in LEFT_BEHIND.values()),
        *(("async def", each) for each in LEFT_BEHIND_BY_COROUTINES.values()),
    ],
    ids=[*LEFT_BEHIND, *LEFT_BEHIND_BY_COROUTINES],
)
def test_a_jail_is_dropped_after_an_error_or_when_something_was_left_behind(
    python: Python, kind: str, statement: str
) -> None:
    source, key = _HEAD.format(kind=kind, statement=statement), f"drop {statement}"
    assert python(source, "go", reuse_key=key).result == 1
    python(source, "end", reuse_key=key)
    again = python(source, "go", reuse_key=key)
    assert again.result == 1
    assert again.outcome.usage.jail != "reused"


NOTHING_LEFT = {
    "a thread that ended": ("def", "t = threading.Thread(target=len, args=('',)); t.start(); t.join()"),
    "a pool that was closed": ("def", "with ThreadPoolExecutor(4) as pool: list(pool.map(len, ['', 'a', 'b']))"),
    "a file that was closed": ("def", "open('/tmp/x', 'w').close()"),
    "a file that nobody refers to": ("def", "kept = [open('/tmp/x', 'w')]; kept.append(kept); del kept"),
    "a loop of its own": ("def", "asyncio.run(asyncio.sleep(0.001))"),
    "the loop that is there": ("def", "asyncio.get_event_loop().run_until_complete(asyncio.sleep(0.001))"),
    "the loop that is there, closed": (
        "def",
        "loop = asyncio.get_event_loop(); loop.run_until_complete(asyncio.sleep(0.001)); loop.close()",
    ),
    "threads of the loop": ("async def", "await asyncio.gather(*(asyncio.to_thread(len, '') for _ in range(5)))"),
    "a task that is about to end": ("async def", "kept.append(asyncio.create_task(asyncio.sleep(0)))"),
    "a timer that was cancelled": ("async def", "asyncio.get_running_loop().call_later(60, print).cancel()"),
    "a time limit": ("async def", "await asyncio.wait_for(asyncio.sleep(0), 60)"),
    "an alarm that was cancelled": ("def", "signal.alarm(60); signal.alarm(0)"),
}


@pytest.mark.parametrize(("kind", "statement"), NOTHING_LEFT.values(), ids=NOTHING_LEFT)
def test_a_jail_is_kept_when_a_handler_tidied_up(python: Python, kind: str, statement: str) -> None:
    source = _HEAD.format(kind=kind, statement=statement)
    runs = [python(source, "end", reuse_key=f"keep {statement}") for _ in range(3)]
    assert [ran.result for ran in runs] == [1, 2, 3]
    assert [ran.outcome.usage.jail for ran in runs][1:] == ["reused", "reused"]


def test_a_file_that_a_module_opened_stays_open(python: Python) -> None:
    source = """
    kept = open("/tmp/x", "w+")
    def handler(payload, context):
        kept.write("x")
        kept.seek(0)
        return len(kept.read())
    """
    runs = [python(source, reuse_key="module file") for _ in range(3)]
    assert [ran.result for ran in runs] == [1, 2, 3]
    assert [ran.outcome.usage.jail for ran in runs][1:] == ["reused", "reused"]


def test_each_run_has_a_context_an_environment_and_streams_of_its_own(python: Python) -> None:
    source = """
    import io, os, sys
    def handler(payload, context):
        found = [context.secrets["S"], context.run_id, os.environ.get("LEFT"), os.environ["REGION"]]
        os.environ["LEFT"], os.environ["REGION"] = "x", "changed"
        print("said")
        sys.stdout = sys.stderr = io.StringIO()
        sys.setrecursionlimit(200)
        return found
    """
    for number in range(3):
        fields = {"context": {"runId": f"r{number}"}, "secrets": {"S": "s"}, "env": {"REGION": "eu"}}
        ran = python(source, reuse_key="own", **fields)
        assert ran.result == ["s", f"r{number}", None, "eu"]
        assert ran.texts == ["said"]


@pytest.mark.parametrize(("kind", "awaiting"), [("def", ""), ("async def", "await ")])
def test_what_an_earlier_run_kept_of_its_context_is_dead(python: Python, kind: str, awaiting: str) -> None:
    source = f"""
    kept = []
    {kind} handler(payload, context):
        kept.append(context)
        try:
            {awaiting}kept[0].write_artifact("a", "b")
            return "written"
        except Exception as error:
            return str(error)
    """
    first, second = (python(source, reuse_key=f"dead {kind}") for _ in range(2))
    assert first.result == "written"
    assert (second.result, second.outcome.usage.jail) == ("This run has ended", "reused")
    assert second.sink.artifacts == []


def test_how_deep_a_handler_may_call_is_what_its_modules_say(python: Python) -> None:
    source = """
    import sys
    sys.setrecursionlimit(5000)
    def depth(n):
        return 0 if n == 0 else 1 + depth(n - 1)
    def handler(payload, context):
        found = depth(payload)
        sys.setrecursionlimit(200)
        return found
    """
    runs = [python(source, 3000, reuse_key="depth") for _ in range(2)]
    assert [ran.result for ran in runs] == [3000, 3000]
    assert runs[1].outcome.usage.jail == "reused"


def test_a_trace_function_does_not_reach_the_next_run(python: Python) -> None:
    source = """
    import sys
    calls = []
    def handler(payload, context):
        found = len(calls)
        calls.clear()
        sys.settrace(lambda *arguments: calls.append(1))
        return found
    """
    runs = [python(source, reuse_key="trace") for _ in range(2)]
    assert [ran.result for ran in runs] == [0, 0]
    assert runs[1].outcome.usage.jail == "reused"


def test_a_thread_of_the_loops_pool_that_nobody_waits_for_does_not_keep_the_run(python: Python) -> None:
    """It would sleep beyond the time limit. It is left behind, and seen."""
    source = """
    import asyncio, time
    async def handler(payload, context):
        try:
            await asyncio.wait_for(asyncio.to_thread(time.sleep, 30), 0.05)
        except asyncio.TimeoutError:
            return "given up"
    """
    runs = [python(source, reuse_key="given up", limits=Limits(timeout_ms=10_000)) for _ in range(2)]
    assert [ran.result for ran in runs] == ["given up"] * 2
    assert runs[1].outcome.usage.jail != "reused"
