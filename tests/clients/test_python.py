"""The Python client against the real application."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace import client as module
from millrace import runs, scripts
from millrace.client import AsyncClient, Client, NotOver, Refused, Result, ScriptFailed, Unreachable
from millrace.models import Event, Run, Script
from millrace.services import Services
from tests import factories
from tests.clients.conftest import Line, refusing
from tests.factories import Tenant

Handler = factories.Handler


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again at once."""
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.01)


@pytest.fixture
def script(services: Services, alice: Tenant) -> Script:
    """Alice's script."""
    return factories.script(services, alice, "adder", type="embedded")


@pytest.fixture
def client(line: Line, alice: Tenant) -> Iterator[Client]:
    """Alice's program."""
    with Client(line.url, alice.id, alice.api_key, timeout=30) as client:
        yield client


@dataclass(frozen=True)
class Total:
    """What Alice's program makes of a result."""

    n: int


def total(value: Any) -> Total:
    """Strictly."""
    return Total(int(value["n"]))


def fails(_run: Run, _payload: Any) -> runs.Ending:
    """A handler that throws."""
    return runs.Ending("failed", 7, error="no such order", error_code="OrderError", error_stack="at main.js:3:7")


def test_a_call_gives_what_the_script_returned(services: Services, script: Script, client: Client) -> None:
    with factories.worker(services):
        result = client.call("adder", {"n": 1, "text": "é\ud800"})
        made = client.call("adder", {"n": 1}, parse=total)
        assert client.call("adder").unwrap() == {}
    run = Run.select().order_by(Run.created_at).first()
    assert result == Result(run.id, "completed", {"n": 1, "text": "é\ud800"}, None, 3)
    assert result.ok and result.unwrap() == {"n": 1, "text": "é\ud800"}
    assert made.unwrap() == Total(1)
    assert (run.trigger, run.mode) == ("api", "sync")
    with pytest.raises(FrozenInstanceError):
        result.status = "failed"  # type: ignore[misc]


def test_a_script_that_fails_is_a_result_with_its_code_and_stack(
    services: Services, script: Script, client: Client
) -> None:
    with factories.worker(services, fails):
        result = client.call("adder", {"n": 1}, parse=total)
    assert (result.status, result.value, result.ok, result.duration_ms) == ("failed", None, False, 7)
    with pytest.raises(ScriptFailed, match="OrderError: no such order") as failed:
        result.unwrap()
    error = failed.value
    assert (error.code, error.message, error.stack, error.run_id, error.status) == (
        "OrderError", "no such order", "at main.js:3:7", Run.get().id, "failed"
    )  # fmt: skip


def test_a_value_that_does_not_parse_is_the_callers_error(services: Services, script: Script, client: Client) -> None:
    with factories.worker(services), pytest.raises(KeyError):
        client.call("adder", {"m": 1}, parse=total)


@pytest.mark.parametrize("lost", [1, 4])
def test_a_call_whose_answer_is_lost_is_sent_again_and_runs_once(
    services: Services, script: Script, client: Client, line: Line, lost: int
) -> None:
    line.lose = lost
    with factories.worker(services):
        assert client.call("adder", {"n": 1}).unwrap() == {"n": 1}
    assert (line.requests, Run.select().count()) == (lost + 1, 1)


def test_a_run_that_is_submitted_over_a_bad_line_is_one_run(
    services: Services, script: Script, client: Client, line: Line
) -> None:
    line.lose = 2
    run = client.submit("adder", {"n": 1}, parse=total, priority=5)
    assert Run.select().count() == 1
    line.lose = 1
    with factories.worker(services):
        assert run.result() == Total(1)
        assert run.wait().unwrap() == Total(1)
    assert (run.id, Run.get().mode) == (Run.get().id, "async")


def test_tries_are_bounded(script: Script, client: Client, line: Line) -> None:
    line.lose = 100
    with pytest.raises(Unreachable, match="POST /v1/scripting/events"):
        client.publish("order.created", {"n": 1})
    assert line.requests == 1
    with pytest.raises(Unreachable, match="/execute"):
        client.submit("adder", {"n": 1})
    assert line.requests == 1 + module.TRIES


def test_an_event_that_may_have_been_stored_is_not_sent_again(alice: Tenant, client: Client, line: Line) -> None:
    line.lose = 1
    with pytest.raises(Unreachable):
        client.publish("order.created", {"n": 1})
    assert Event.select().count() == 1
    event_id = client.publish("order.created", {"n": 2}, source="shop", subject="17")
    event = Event.get_by_id(event_id)
    assert (event.name, event.data, event.source, event.subject) == ("order.created", {"n": 2}, "shop", "17")


def test_who_does_not_listen_is_asked_a_few_times(alice: Tenant) -> None:
    with refusing() as url, Client(url, alice.id, alice.api_key) as client:
        for call in (lambda: client.call("adder"), lambda: client.publish("a.b", None)):
            with pytest.raises(Unreachable):
                call()


@pytest.mark.parametrize(("status", "asked"), [(429, 5), (503, 5), (502, 5), (500, 1), (404, 1), (302, 1)])
def test_what_may_go_better_later_is_asked_again_and_nothing_else(status: int, asked: int) -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status, headers={"Retry-After": "0"}, text="<html>")

    with Client("http://x", "w", "k", transport=httpx.MockTransport(answer)) as client:
        with pytest.raises((Unreachable, Refused)) as raised:
            client.call("adder")
        assert len(seen) == asked and f"HTTP_{status}" in str(raised.value)
        assert len({each.headers["Idempotency-Key"] for each in seen}) == 1
        seen.clear()
        with pytest.raises((Unreachable, Refused)):
            client.publish("a.b", 1)
        assert len(seen) == (5 if status == 429 else 1)


@pytest.mark.parametrize("text", ["", "<html>", "null", '{"error": 1}', '{"error": {"code": 1}}'])
def test_a_stranger_that_answers_is_told_of(text: str) -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(400, text=text))
    with Client("http://x", "w", "k", transport=transport) as client, pytest.raises(Refused, match="HTTP_400"):
        client.call("adder")


def test_a_refusal_says_why(script: Script, client: Client, services: Services) -> None:
    with pytest.raises(Refused, match="NOT_FOUND") as refused:
        client.call("../adder")
    assert refused.value.status == 404
    scripts.change_status(services, script, "paused", "x")
    services.database.close()
    with pytest.raises(Refused) as refused:
        client.call("adder")
    assert (refused.value.status, refused.value.code) == (422, "BUSINESS_RULE_VIOLATION")
    with pytest.raises(Refused) as refused:
        client.publish("a..b", 1)
    assert refused.value.details[0]["field"] == "name"


def test_a_call_that_is_not_over_in_time_is_found_again_by_its_key(
    services: Services, script: Script, client: Client
) -> None:
    with pytest.raises(NotOver) as late:
        client.call("adder", {"n": 1}, timeout=0.3)
    key = late.value.idempotency_key
    assert key and late.value.run_id is None
    submitted = client.submit("adder", {"n": 2})
    with pytest.raises(NotOver) as later:
        submitted.wait(timeout=0.2)
    assert later.value.run_id == submitted.id
    with factories.worker(services):
        assert client.call("adder", {"n": 1}, idempotency_key=key).unwrap() == {"n": 1}
    assert Run.select().count() == 2
    with pytest.raises(Refused, match="CONFLICT"):
        client.call("adder", {"n": 3}, idempotency_key=key)


def test_a_call_that_the_server_stops_waiting_for_is_polled(
    services: Services, script: Script, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(services: Services, run_id: str, timeout_s: float) -> Run:
        return Run.get_by_id(run_id)

    monkeypatch.setattr(runs, "await_end", impatient)
    with factories.worker(services):
        assert client.call("adder", {"n": 1}, parse=total).unwrap() == Total(1)
    assert Run.select().count() == 1


def test_threads_share_a_client(services: Services, script: Script, client: Client) -> None:
    values: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: values.append(client.call("adder", {"n": n}).unwrap()["n"]))
        for n in range(4)
    ]
    with factories.worker(services):
        for each in threads:
            each.start()
        for each in threads:
            each.join(30)
    assert sorted(values) == [0, 1, 2, 3] and Run.select().count() == 4


def test_the_same_from_asyncio(services: Services, script: Script, alice: Tenant, line: Line) -> None:
    async def use() -> None:
        async with AsyncClient(line.url, alice.id, alice.api_key, timeout=30) as client:
            line.lose = 1
            several = await asyncio.gather(*[client.call("adder", {"n": n}, parse=total) for n in range(3)])
            assert [each.unwrap() for each in several] == [Total(0), Total(1), Total(2)]
            run = await client.submit("adder", {"n": 3}, parse=total)
            assert await run.result() == Total(3)
            assert (await run.wait()).run_id == run.id
            assert Event.get_by_id(await client.publish("a.b", None)).name == "a.b"
            with pytest.raises(Refused):
                await client.call("missing")

    with factories.worker(services):
        asyncio.run(use())
    assert Run.select().count() == 4


def test_the_module_alone_works_in_a_program_without_millrace(tmp_path: Path) -> None:
    (tmp_path / "copied.py").write_bytes(Path(module.__file__).read_bytes())
    program = (
        "import sys; sys.modules['millrace'] = None; import copied; print(copied.Result('1', 'completed', 7).unwrap())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "7\n", done.stderr
    assert json.dumps(sorted(set(_imports(Path(module.__file__).read_text())))).count("millrace") == 0


def _imports(source: str) -> list[str]:
    return [line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))]
