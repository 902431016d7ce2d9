"""Keeps the leases of the runs that this process carries, and hears when one is cancelled or lost.

One thread for all of them: a statement each half second to look, one each four seconds to renew, none at all
while nothing runs.
"""

import logging
import threading
import time
from enum import Enum

from millrace import assignments, runs
from millrace.database import revive
from millrace.services import Services
from worker.vital import DATABASE_AWAY, VitalThread

LEASE_MS = 15_000
RENEW_S = 4.0
LOOK_S = 0.5

log = logging.getLogger(__name__)


class Why(Enum):
    """Why a run is to be ended before its handler is done."""

    CANCELLED = "a person asked for it"
    LOST = "another worker, or nobody, has the run now"
    STOPPED = "the platform stops"


class Held:
    """A run in the hands of this process. `cancel` is set when it is to end, `why` says the reason then."""

    def __init__(self, run_id: str, attempt: int) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self.cancel = threading.Event()
        self.why: Why | None = None
        self.sure_until = 0.0  # until this moment of the monotonic clock the lease has surely not lapsed

    def end(self, why: Why) -> None:
        """Have it ended. A lost run stays lost; otherwise the first reason counts."""
        if self.why is None or why is Why.LOST:
            self.why = why
        self.cancel.set()


class Keeper:
    """See the module."""

    def __init__(
        self, services: Services, worker: str, *, lease_ms: int = LEASE_MS, renew_s: float = RENEW_S,
        look_s: float = LOOK_S,
    ) -> None:  # fmt: skip
        self._services = services
        self.worker = worker  # the name under which runs are claimed
        self._lease_ms = lease_ms
        self._renew_s = renew_s
        self._look_s = look_s
        self._changed = threading.Condition()
        self._held: dict[tuple[str, int], Held] = {}
        self._closing = False
        self._thread = VitalThread(self._work, "lease-keeper")
        self._thread.start()

    def claim(self, held: Held) -> bool:
        """Claim the run and look after it. False: somebody else has it, or it ended."""
        asked_at = time.monotonic()
        if not runs.claim(self._services, held.run_id, held.attempt, self.worker, self._lease_ms):
            return False
        held.sure_until = asked_at + self._lease_ms / 1000
        with self._changed:
            self._held[held.run_id, held.attempt] = held
            if len(self._held) == 1:
                self._changed.notify()
        return True

    def holds(self, run_id: str, attempt: int) -> bool:
        """Whether a thread of this process carries it."""
        with self._changed:
            return (run_id, attempt) in self._held

    def is_ours(self, held: Held) -> bool:
        """Whether the run is still this attempt's. Asks the database only when the lease may have lapsed.

        That is so after the process was stopped for a while; others may have ended the run, or begun it anew.
        """
        return time.monotonic() < held.sure_until or assignments.holds(held.run_id, held.attempt)

    def remove(self, held: Held) -> None:
        """The run is over; unknown ones are no error."""
        with self._changed:
            self._held.pop((held.run_id, held.attempt), None)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=5)

    def _work(self) -> None:
        renewed = time.monotonic()
        while not self._closing:
            with self._changed:
                if not self._held:
                    self._changed.wait_for(lambda: bool(self._held) or self._closing)
                    renewed = time.monotonic()  # a fresh claim has a whole lease
                self._changed.wait_for(lambda: self._closing, timeout=self._look_s)
                held = list(self._held.values())
            if not held or self._closing:
                continue
            due = time.monotonic() - renewed >= self._renew_s
            try:
                if self._attend(held, renew=due) and due:
                    renewed = time.monotonic()
            except Exception:  # whatever it is, the other runs' leases must not lapse for it
                log.exception("leases are not renewed because of an error of ours")

    def _attend(self, held: list[Held], *, renew: bool) -> bool:
        """Look, and renew if that is due. False when the database is away: the next look tries again."""
        pairs = [(each.run_id, each.attempt) for each in held]
        asked_at = time.monotonic()
        try:
            with self._services.database.connection_context():
                if renew:
                    runs.renew(self._services, pairs, self._lease_ms)
                lost, cancelled = runs.lost_or_cancelled(pairs)
        except DATABASE_AWAY as error:
            log.error("leases are not renewed: %s", error)
            revive(self._services.database)
            return False
        for each in held:
            if each.run_id in lost:
                self._end_lost(each)
                continue
            if renew:
                each.sure_until = asked_at + self._lease_ms / 1000
            if each.run_id in cancelled:
                each.end(Why.CANCELLED)
        return True

    def _end_lost(self, held: Held) -> None:
        with self._changed:
            if (held.run_id, held.attempt) not in self._held:
                return  # it ended by itself between the look and now
        log.warning("the run is not ours any more", extra={"run": held.run_id, "attempt": str(held.attempt)})
        held.end(Why.LOST)
