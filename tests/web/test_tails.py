import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from millrace.models import Run, Script
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.conftest import API, Client, error_of, fields_of
from web import tails


def events(response: TestResponse) -> Iterator[tuple[str, str | None, Any]]:
    """The events of a stream as (name, id, data), without comments."""
    text = ""
    for piece in response.response:
        text += piece.decode() if isinstance(piece, bytes) else piece
        while "\n\n" in text:
            block, text = text.split("\n\n", 1)
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "event" in fields:
                yield fields["event"], fields.get("id"), json.loads(fields["data"])


@pytest.fixture
def running(services: Services, hello: Script) -> Run:
    """A run that has begun."""
    return factories.claim(services, factories.run(services, hello))


def path(run: Run) -> str:
    return f"/scripts/hello/runs/{run.id}/logs/stream"


def test_a_finished_runs_log_comes_whole_and_then_the_end(client: Client, services: Services, running: Run) -> None:
    factories.log(services, running, "one", "two\nlines \u2603")
    factories.finish(services, running, log_chunks=1)
    response = client.get(path(running))
    assert response.status_code == 200
    assert response.mimetype == "text/event-stream"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["Cache-Control"] == "no-store"
    assert list(events(response)) == [
        ("log", "1", {"seq": 1, "time": "2023-11-14T22:13:20.000Z", "level": "INFO", "text": "one"}),
        ("log", "2", {"seq": 2, "time": "2023-11-14T22:13:20.000Z", "level": "INFO", "text": "two\nlines \u2603"}),
        ("end", None, {"status": "completed"}),
    ]


def test_last_event_id_goes_on_after_what_was_seen(client: Client, services: Services, running: Run) -> None:
    factories.log(services, running, "one", "two", "three")
    factories.finish(services, running, log_chunks=1)
    stream = events(client.get(path(running), headers={"Last-Event-ID": "2"}))
    assert [(name, data.get("text")) for name, _, data in stream] == [("log", "three"), ("end", None)]


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "9" * 30])
def test_a_last_event_id_that_is_no_seq_is_400(client: Client, running: Run, value: str) -> None:
    error = error_of(client.get(path(running), headers={"Last-Event-ID": value}), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"Last-Event-ID"}


def test_a_live_log_comes_while_the_run_goes_on_and_ends_with_it(
    client: Client, services: Services, running: Run
) -> None:
    # Long heartbeats show that it is the hints that bring the news.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tails, "HEARTBEAT_S", 60.0)
        stream = events(client.get(path(running)))
        factories.log(services, running, "first", number=0)
        assert next(stream)[2]["text"] == "first"
        later = [
            lambda: factories.log(services, running, "second", number=1),
            lambda: factories.finish(services, running, log_chunks=2),
        ]
        for act, expected in zip(later, ("second", None), strict=True):
            thread = threading.Thread(target=_in_its_own_connection, args=(services, act))
            began = time.monotonic()
            thread.start()
            name, _, data = next(stream)
            thread.join()
            assert time.monotonic() - began < 30
            assert data.get("text") == expected
    assert (name, data) == ("end", {"status": "completed"})
    assert list(stream) == []


def _in_its_own_connection(services: Services, act: Any) -> None:
    with services.database.connection_context():
        act()


def test_a_quiet_stream_is_kept_alive_and_holds_no_connection(
    client: Client, services: Services, running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "HEARTBEAT_S", 0.01)
    pieces = iter(client.get(path(running)).response)
    assert next(pieces) == b"retry: 2000\n\n"
    for _ in range(3):
        assert next(pieces) == b": still here\n\n"
        assert services.database.is_closed()


def test_a_stream_of_a_run_that_is_deleted_ends(client: Client, services: Services, running: Run, app: Flask) -> None:
    response = client.get(path(running))
    pieces = iter(response.response)
    next(pieces)
    Script.delete().where(Script.uuid == running.script_id).execute()
    assert list(pieces) == []
    assert services.database.is_closed()


def test_streams_end_when_the_process_stops(client: Client, running: Run, app: Flask, services: Services) -> None:
    factories.log(services, running, "one")
    stream = events(client.get(path(running)))
    next(stream)
    app.extensions["millrace"].stopping.set()
    factories.log(services, running, "two", number=1)
    assert list(stream) == []


def test_a_workspace_has_so_many_streams_and_closing_one_frees_its_seat(
    app: Flask, alice: Tenant, running: Run
) -> None:
    seats = app.extensions["millrace"].tails
    client = app.test_client()
    opened = [client.get(f"{API}{path(running)}", headers=alice.headers) for _ in range(seats.each)]
    assert seats.taken == seats.each
    refused = client.get(f"{API}{path(running)}", headers=alice.headers)
    error_of(refused, 429, "RATE_LIMITED")
    opened[0].close()
    assert client.get(f"{API}{path(running)}", headers=alice.headers).status_code == 200
    for response in opened[1:]:
        response.close()
