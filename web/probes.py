"""Questions to the stores: do you answer? Asked all at once, and never waited for too long."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import peewee

from millrace import migrations
from millrace.admission import HOLDING
from millrace.models import Run
from millrace.services import Services

PATIENCE_S = 3.0
LATE_MS = 60_000  # a run that was sent this long ago and not taken says that no worker is there, or far too few


def _database(services: Services) -> str:
    with services.database.connection_context():
        missing = migrations.pending(services.database)
    if missing:
        raise _Late(f"{len(missing)} migrations are not applied: `millrace migrate` applies them")
    return "answers"


def _queue(services: Services) -> str:
    return f"{services.queue.depth()} messages wait"


def _objects(services: Services) -> str:
    services.objects.exists("health/ready")
    return "answers"


def _workers(services: Services) -> str:
    with services.database.connection_context():
        oldest = Run.select(peewee.fn.MIN(Run.sent_at)).where(HOLDING, Run.started_at.is_null()).scalar()
    waited = 0 if oldest is None else services.clock() - oldest
    if waited > LATE_MS:
        raise _Late(f"a run waits for a worker since {waited // 1000} s")
    return "no run waits long for a worker"


class _Late(Exception):
    """Something answers, but not as it should."""


STORES: dict[str, Callable[[Services], str]] = {"database": _database, "queue": _queue, "objects": _objects}
_CHECKS = {**STORES, "workers": _workers}


class Probes:
    """Asks everything at once and waits for at most `PATIENCE_S`.

    A question that hangs is not asked again before it ends, so a dead store costs one thread however often
    somebody wants to know.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(len(_CHECKS), "health")
        self._lock = threading.Lock()
        self._asked: dict[str, Future[str]] = {}

    def ask(self, services: Services) -> dict[str, dict[str, Any]]:
        """For each check: whether it is well, and a word about it."""
        with self._lock:
            for name, check in _CHECKS.items():
                if name not in self._asked or self._asked[name].done():
                    self._asked[name] = self._pool.submit(check, services)
            asked = dict(self._asked)
        wait(asked.values(), timeout=PATIENCE_S)
        return {name: _result(future) for name, future in asked.items()}


def _result(future: Future[str]) -> dict[str, Any]:
    if not future.done():
        return {"ok": False, "detail": f"no answer within {PATIENCE_S:g} s"}
    error = future.exception()
    if error is None:
        return {"ok": True, "detail": future.result()}
    # A driver's own words may hold an address or a user; they belong in the log.
    return {"ok": False, "detail": str(error) if isinstance(error, _Late) else type(error).__name__}
