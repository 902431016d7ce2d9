"""What the worker's tests share: a tenant with scripts, and jails that do as they are told."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from millrace import runs, scripts, workspaces
from millrace.errors import Unavailable
from millrace.models import Run, Script, Workspace
from millrace.objects import MemoryObjects
from millrace.runs import Order
from millrace.services import Services
from sandbox.job import Abandoned, Job, Kind, LogLine, Outcome, ScriptError, Sink, Usage
from worker.executor import Executor
from worker.keeper import Keeper
from worker.runlog import Shipper
from worker.sdk import DatabaseSession

WORKSPACE = "acme"
HELLO = b"exports.handler = async (payload) => ({hello: payload.name});"


def new_script(
    services: Services, source: bytes = HELLO, slug: str = "hello", owner: str = WORKSPACE, **options: Any
) -> Script:
    """An active script in a workspace, `acme` unless said, which is made if need be."""
    if Workspace.get_or_none(Workspace.id == owner) is None:
        workspaces.create(services, owner, owner.title())
    new = scripts.NewScript(slug=slug, display_name=slug, source=source, **{"runtime": "nodejs20", **options})
    return scripts.create(services, owner, new)


def submit(services: Services, script: Script, payload: Any = None, **options: Any) -> Run:
    """A run of it, accepted and sent."""
    order = Order(workspace=WORKSPACE, script=script.uuid, payload=payload, trigger="api", **options)
    return runs.submit(services, order).run


def reload(run: Run) -> Run:
    """The run as it is recorded now."""
    found: Run = Run.get_by_id(run.id)
    return found


def log_text(services: Services, run: Run) -> str:
    """The run's whole log, "" if it has none."""
    key = reload(run).log_key
    stored = None if key is None else services.objects.get(key)
    return (stored or b"").decode()


def outcome(kind: Kind = Kind.SUCCEEDED, result: bytes | None = None, **error: str) -> Outcome:
    """An outcome as the sandbox gives it."""
    if kind is Kind.SUCCEEDED:
        return Outcome(kind, result or b"null", None, True, 12.4, Usage(cpu_ms=3.0, jail="warm"))
    words = ScriptError(error.get("name", "Error"), error.get("message", "it broke"), error.get("stack", ""))
    return Outcome(kind, None, words, True, 12.4, Usage(cpu_ms=3.0, jail="warm"))


class FlakyObjects(MemoryObjects):
    """An object store that counts reads and can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.reads: list[str] = []
        self.writes: list[str] = []

    def put(self, key: str, data: bytes | Iterable[bytes], *, content_type: str = "") -> None:
        self._check("store")
        super().put(key, data, content_type=content_type)
        self.writes.append(key)

    def get(self, key: str) -> bytes | None:
        self._check("read")
        self.reads.append(key)
        return super().get(key)

    def list(self, prefix: str) -> "list[str]":
        self._check("list")
        return super().list(prefix)

    def _check(self, what: str) -> None:
        if self.away:
            raise Unavailable(f"The object store did not {what}.")


Behaviour = Callable[[Job, Sink, threading.Event], Outcome]


@dataclass
class FakeJails:
    """The sandbox's promises without a jail: does what `behaviour` says once the job is assigned.

    `before` runs before a jail is had; it may raise SandboxUnavailable or wait.
    """

    behaviour: Behaviour = lambda job, sink, cancel: outcome()
    before: Callable[[threading.Event], Outcome | None] = lambda cancel: None
    jobs: list[Job] = field(default_factory=list)

    def run(self, job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        early = self.before(cancel)
        if early is not None:
            return early
        if not sink.on_assigned():
            raise Abandoned("no")
        self.jobs.append(job)
        sink.on_start()
        return self.behaviour(job, sink, cancel)


def says(*texts: str, then: Outcome | None = None) -> Behaviour:
    """A handler that logs and ends."""

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        sink.on_log([LogLine(1_700_000_000_000 + number, "INFO", text) for number, text in enumerate(texts)])
        return then or outcome()

    return behave


def eventually(promise: Callable[[], bool], patience_s: float = 15.0) -> None:
    """Wait until it holds; fails when it takes too long."""
    deadline = time.monotonic() + patience_s
    while not promise():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


@contextmanager
def in_thread(services: Services, step: Callable[[], object]) -> Iterator[threading.Thread]:
    """Do this beside the test, with a database connection; an error in it fails the test at the end."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with services.database.connection_context():
                step()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(30)
        assert not thread.is_alive()
    assert not errors, errors


def until_cancelled(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
    """A handler that never ends by itself."""
    assert cancel.wait(20), "nobody cancelled the run"
    return outcome(Kind.CANCELLED, message="The run was cancelled")


class NoDatabases:
    """For runs that ask no data source."""

    def session(self, workspace_id: str) -> DatabaseSession:
        raise AssertionError("somebody asked for a data source")


@contextmanager
def worker_on(services: Services, jails: Any, **options: Any) -> Iterator[Executor]:
    """An executor with its threads, quick to try again; `lease_ms`, `renew_s`, `look_s` are the keeper's."""
    timing = {name: options.pop(name) for name in ("lease_ms", "renew_s", "look_s") if name in options}
    keeper = Keeper(services, worker=options.pop("name", "test-worker"), **timing)
    shipper = Shipper()
    pauses: dict[str, Sequence[float]] = {"begin_pauses": (0.01, 0.01), "record_pauses": (0.01, 0.05, 0.1)}
    try:
        databases = options.pop("databases", NoDatabases())
        yield Executor(services, jails, keeper, shipper, databases, **(pauses | options))
    finally:
        keeper.close()
        shipper.close()
