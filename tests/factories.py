"""Builders for tests: workspaces with a key, scripts, runs, and a worker that needs no jail.

People have roles: Alice owns, Bob is a stranger with a workspace of his own.
"""

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from millrace import logs, runs, runtimes, scripts, workspaces
from millrace.models import Run, Script
from millrace.models.run import QUEUED, SUCCEEDED
from millrace.services import Services

SOURCE = b"exports.handler = async (payload, context) => ({ message: 'hello', input: payload });\n"
LEASE_MS = 30_000
NODE = runtimes.Offer(
    "nodejs20",
    "20.20.2",
    [runtimes.Library("axios", "1.7.9"), runtimes.Library("lodash", "4.17.21")],
    ["crypto", "url", "util"],
)


@dataclass(frozen=True)
class Tenant:
    """A workspace and the key that opens it."""

    id: str
    api_key: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What every request to the API carries."""
        return {"Authorization": f"ApiKey {self.api_key}", "Account-Id": self.id}


def tenant(services: Services, name: str) -> Tenant:
    """A new workspace with a key."""
    workspaces.create(services, name, name.title())
    return Tenant(name, workspaces.new_api_key(services, name, "test"))


def runtime(services: Services) -> None:
    """Make nodejs20 known, as a worker does at its start."""
    runtimes.register(services, [NODE])


def upload(source: bytes | str = SOURCE) -> dict[str, str]:
    """The two fields that carry a source in a request."""
    raw = source if isinstance(source, bytes) else source.encode()
    return {"script_content": base64.b64encode(raw).decode(), "script_hash": hashlib.sha256(raw).hexdigest()}


def body(slug: str = "hello", source: bytes | str = SOURCE, **fields: Any) -> dict[str, Any]:
    """A request that creates a script."""
    return {"id": slug, "display_name": slug.title(), "runtime": "nodejs20", **upload(source), **fields}


def script(services: Services, owner: Tenant, slug: str = "hello", source: bytes = SOURCE, **fields: Any) -> Script:
    """A stored script; `fields` as in `scripts.NewScript`."""
    new = scripts.NewScript(slug=slug, display_name=slug.title(), runtime="nodejs20", source=source, **fields)
    return scripts.create(services, owner.id, new)


def run(services: Services, of: Script, payload: Any = None, **fields: Any) -> Run:
    """An accepted run; `fields` as in `runs.Order`."""
    order = {"trigger": "manual", **fields}
    return runs.submit(
        services, runs.Order(workspace=of.workspace_id, script=of.uuid, payload=payload or {}, **order)
    ).run


def claim(services: Services, of: Run, attempt: int = 1) -> Run:
    """Take a run as a worker does."""
    assert runs.claim(services, of.id, attempt, "test-worker", LEASE_MS)
    return Run.get_by_id(of.id)


def finish(
    services: Services, of: Run, status: str = SUCCEEDED, result: str | None = "null", attempt: int = 1, **fields: Any
) -> Run:
    """End a claimed run as a worker does; `fields` as in `runs.Ending`."""
    ending = runs.Ending(status=status, duration_ms=5, result=result if status == SUCCEEDED else None, **fields)
    assert runs.finish(services, of, attempt, ending)
    return Run.get_by_id(of.id)


def finished(
    services: Services, of: Script, status: str = SUCCEEDED, result: str | None = "null", **fields: Any
) -> Run:
    """A run that is over."""
    return finish(services, claim(services, run(services, of)), status, result, **fields)


def log(services: Services, of: Run, *texts: str, number: int = 0) -> None:
    """Write a chunk of a run's log, a record for each text."""
    lines = "".join(logs.format_record(1_700_000_000_000, "INFO", text) for text in texts)
    logs.put_chunk(services, of.workspace_id, of.id, number, lines.encode())


Handler = Callable[[Run, Any], runs.Ending]


def echo(_run: Run, payload_text: str) -> runs.Ending:
    """A handler that returns its payload."""
    return runs.Ending(status=SUCCEEDED, duration_ms=3, result=payload_text)


@contextmanager
def worker(services: Services, handler: Handler = echo) -> Iterator[None]:
    """A worker thread that looks into the database and ends every run that was sent, without a jail."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.005):
            with services.database.connection_context():
                for each in list(Run.select().where(Run.status == QUEUED, Run.sent_at.is_null(False))):
                    if runs.claim(services, each.id, each.attempt + 1, "test-worker", LEASE_MS):
                        claimed = Run.get_by_id(each.id)
                        ending = handler(claimed, runs.payload_text(services, claimed))
                        runs.finish(services, claimed, claimed.attempt, ending)

    thread = threading.Thread(target=work, name="test-worker")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
