"""Repair: notices what was lost, and has it set right by `millrace.repair`."""

import functools
import logging
import time
from collections.abc import Callable, Sequence

from millrace import audit, batches, invitations, metrics, removal, repair, runs, sessions
from millrace.models import Run
from millrace.repair import Lease
from millrace.retention import Retention
from millrace.services import Services
from millrace.stocktaking import Stocktaking
from millrace.usage import Summing
from scheduler.loop import Job

PURGE_PAUSE_S = 0.1
ACTOR = "sweeper"
PATIENCE_S = 8.0  # two renewals of a lease; workers renew each four seconds

log = logging.getLogger(__name__)


class Sweeper:
    """`monotonic` gives seconds that no one can set."""

    def __init__(self, services: Services, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.services = services
        self.monotonic = monotonic
        self.retention = Retention(services, monotonic)
        self.stocktaking = Stocktaking(services, monotonic)
        self.summing = Summing(services)
        self.seen: dict[Lease, float] = {}  # each lease as it stands, and since when it has stood so

    def jobs(self) -> Sequence[Job]:
        """What to do, and how often."""
        return (
            Job("lost workers", 2, self.end_lost),
            Job("lost messages", 3, self.resend),
            Job("poisoned messages", 3, self.bury),
            Job("starved batches", 3, self.mend_batches),
            Job("expired runs", 1, self.expire),
            Job("lost announcements", 3, self.announce),
            Job("logs in chunks", 5, self.join_logs),
            Job("deleted scripts", 5, self.purge_deleted),
            Job("old idempotency keys", 60, self.forget_keys),
            Job("old sessions and links", 60, self.forget_sessions),
        )

    def chores(self) -> Sequence[Job]:
        """What may take long and is in no hurry. For a thread of its own: no repair waits for a store that lists."""
        return (
            Job("deleted workspaces", 5, self.purge_workspaces),
            Job("old history", 10, self.remove_old),
            Job("stored bytes", 10, self.take_stock),
            Job("usage by the hour", 60, self.sum_up),
        )

    def end_lost(self) -> None:
        """End runs whose worker was lost.

        The wall clock alone does not say so: one that jumps ahead, or another host's, would condemn live
        workers. A lease must have lapsed, and must have stood unchanged for `PATIENCE_S` before our eyes.
        """
        moment, now = self.monotonic(), self.services.clock()
        self.seen = {lease: self.seen.get(lease, moment) for lease in repair.leases()}
        for lease, since in self.seen.items():
            if not repair.has_lapsed(lease, now) or moment - since < PATIENCE_S:
                continue
            if repair.safely("a lease", lease.run_id, functools.partial(repair.fail_lost, self.services, lease)):
                log.warning("a worker was lost", extra={"run": lease.run_id, "attempt": str(lease.attempt)})
                metrics.repairs().labels("worker_lost").inc()
                self._note_lost(lease)

    def _note_lost(self, lease: Lease) -> None:
        run = Run.select(Run.id, Run.workspace).where(Run.id == lease.run_id).get_or_none()
        if run is not None:  # else it was deleted meanwhile
            details = {"attempt": lease.attempt}
            audit.record(self.services, run.workspace_id, ACTOR, "run.worker_lost", run.id, details)

    def resend(self) -> None:
        """Send runs again whose message was lost."""
        self._tell("message_lost", repair.resend_stuck(self.services))

    def bury(self) -> None:
        """End runs that killed every worker which took them."""
        self._tell("message_poisoned", repair.bury_poisoned(self.services))

    def mend_batches(self) -> None:
        """Go on with batches that stand still, or were half cancelled."""
        self._tell("batch_starved", batches.mend(self.services))

    def expire(self) -> None:
        """End runs that were not to start so late; no repair, but a promise."""
        expired = runs.expire(self.services)
        if expired:
            log.info("%d runs expired", expired)

    def announce(self) -> None:
        """Announce events again whose announcement was lost."""
        self._tell("announcement_lost", repair.announce_unrouted(self.services))

    def join_logs(self) -> None:
        """Join the logs of runs that ended without."""
        self._tell("log_in_chunks", repair.join_logs(self.services))

    def purge_deleted(self) -> float | None:
        """Remove what deleted scripts left, a part each time, so that the other jobs have their turn."""
        return PURGE_PAUSE_S if repair.purge_deleted(self.services) else None

    def purge_workspaces(self) -> float | None:
        """The same of deleted workspaces."""
        return PURGE_PAUSE_S if removal.purge_workspaces(self.services) else None

    def remove_old(self) -> float | None:
        """Remove what workspaces have kept long enough, a part each time."""
        return PURGE_PAUSE_S if self.retention.step() else None

    def take_stock(self) -> float | None:
        """Measure what workspaces store, and delete objects that nobody names, a part each time."""
        return PURGE_PAUSE_S if self.stocktaking.step() else None

    def sum_up(self) -> float | None:
        """Sum up hours that are over, a part each time."""
        return PURGE_PAUSE_S if self.summing.step() else None

    def forget_keys(self) -> None:
        """Forget idempotency keys that are no longer honoured; no repair, just tidy."""
        forgotten = repair.forget_keys(self.services)
        if forgotten:
            log.info("%d idempotency keys forgotten", forgotten)

    def forget_sessions(self) -> None:
        """Remove sessions and invitations that are over; nobody could use them any more."""
        sessions.remove_expired(self.services)
        invitations.remove_expired(self.services)

    def _tell(self, kind: str, count: int) -> None:
        if count:
            log.warning("repaired: %s, %d", kind, count)
            metrics.repairs().labels(kind).inc(count)
            audit.record(self.services, None, ACTOR, f"repair.{kind}", kind, {"count": count})
