"""Verbs without servers: services in memory on a real database, a clock to set, and many threads at once.

Alice owns the workspace `acme`; Charlie owns `other`, and must never see what is Alice's.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import peewee

from millrace import ids, runs, scripts, vault, workspaces
from millrace.bus import MemoryBus
from millrace.cache import MemoryCache
from millrace.dispatch import MemoryQueue
from millrace.models import Run, Script, Workspace
from millrace.objects import MemoryObjects
from millrace.services import Services
from millrace.settings import Settings

ACME = "acme"
OTHER = "other"

Value = TypeVar("Value")


class Clock:
    """A wall clock that tests set."""

    def __init__(self, now: int = 1_800_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def forward(self, *, ms: int = 0, s: float = 0) -> None:
        """Let time pass; a negative number sets the clock back."""
        self.now += ms + int(s * 1000)


def in_memory(database: peewee.Database, clock: Callable[[], int]) -> Services:
    """Services on a real database and, for the rest, the in-memory versions."""
    key = vault.new_master_key()
    return Services(
        settings=Settings.from_env({"MILLRACE_HOME": tempfile.gettempdir(), "MILLRACE_SECRET_KEYS": key}),
        database=database,
        objects=MemoryObjects(),
        queue=MemoryQueue(),
        bus=MemoryBus(),
        cache=MemoryCache(clock),
        keyring=vault.Keyring.parse(key),
        clock=clock,
        new_id=ids.new_id,
    )


def sent(services: Services) -> list[tuple[str, int]]:
    """What the in-memory queue was given since the last call."""
    assert isinstance(services.queue, MemoryQueue)
    return services.queue.take()


def workspace(services: Services, name: str = ACME) -> Workspace:
    """A workspace, made when it is missing."""
    return Workspace.get_or_none(Workspace.id == name) or workspaces.create(services, name, name)


def script(services: Services, slug: str = "hello", *, owner: str = ACME, **values: Any) -> Script:
    """A script in a workspace."""
    workspace(services, owner)
    given = {"display_name": slug, "runtime": "nodejs20", "source": b"exports.handler = () => 1\n", **values}
    return scripts.create(services, owner, scripts.NewScript(slug=slug, **given))


def order(script: Script, payload: Any = None, **values: Any) -> runs.Order:
    """A wish to run it."""
    given = {"trigger": "api", "workspace": script.workspace_id, "script": script.uuid, "payload": payload, **values}
    return runs.Order(**given)


def start(services: Services, script: Script, payload: Any = None, **values: Any) -> Run:
    """A run that was accepted."""
    return runs.submit(services, order(script, payload, **values)).run


def reload(run: Run) -> Run:
    """The row as it is now."""
    return Run.get_by_id(run.id)


def finish(services: Services, run: Run, status: str = "succeeded", **values: Any) -> bool:
    """Claim the next attempt and record its end at once, as a worker would."""
    attempt = reload(run).attempt + 1
    assert runs.claim(services, run.id, attempt, "worker-1", 15_000)
    return runs.finish(services, run, attempt, runs.Ending(status=status, duration_ms=5, **values))


def until(condition: Callable[[], Value], seconds: float = 10.0) -> Value:
    """The first true answer; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def _detached(error: BaseException) -> BaseException:
    """Without what it was raised in. Those frames hold cursors and this very error, so they would be freed whenever
    some thread collects garbage; if that one has SQLite's write lock, and the cursor's connection waits for it, both
    wait until the busy timeout."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def at_once(database: peewee.Database, *calls: Callable[[], Any]) -> list[Any]:
    """What the calls answer or raise when threads, each with its connection, make them at the same moment."""
    answers: list[Any] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def work(number: int) -> None:
        with database.connection_context():
            barrier.wait(10)
            try:
                answers[number] = calls[number]()
            except BaseException as error:
                answers[number] = _detached(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
        assert not each.is_alive(), "a call hangs"
    return answers
