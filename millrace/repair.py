"""Setting right what a crash or a lost message left behind. All of it may be done any number of times at once.

The database is the truth: Redis may have been emptied and any process killed. Nothing here trusts a message to
have arrived, and nothing is sent more often than it can have been lost.
"""

import functools
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass

import peewee

from millrace import admission, database, events, logs, removal, runs
from millrace.errors import PlatformError
from millrace.models import Attempt, IdempotencyKey, Run
from millrace.models.run import CANCELLED, FAILED, QUEUED, RUNNING, WORKER_LOST
from millrace.services import Services

RESEND_AFTER_MS = 15_000  # a run that was sent is claimed within milliseconds, or waits behind others in the queue
ANNOUNCE_AFTER_MS = 5_000
SKEW_MS = 5_000  # what is stamped further ahead than hosts differ was stamped before the clock was set back
LONGEST_LEASE_MS = 30_000  # no worker asks for more

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lease:
    """What a worker holds: until when, unless it renews it."""

    run_id: str
    attempt: int
    until: int


def leases() -> list[Lease]:
    """Those of all runs that are running."""
    rows = Run.select(Run.id, Run.attempt, Run.lease_until).where(Run.lease_until.is_null(False))
    return [Lease(run.id, run.attempt, run.lease_until) for run in rows]


def has_lapsed(lease: Lease, now: int) -> bool:
    """Whether its time is over, or so far ahead that it dates from before the clock was set back."""
    return not now <= lease.until <= now + LONGEST_LEASE_MS + SKEW_MS


def safely(what: str, run_id: str, mend: Callable[[], bool]) -> bool:
    """Whether `mend` did it. One that is damaged is told of in the log, and keeps none of the others waiting."""
    try:
        return mend()
    except (*database.UNREACHABLE, PlatformError):
        raise
    except Exception:
        log.exception("%s could not be repaired", what, extra={"run": run_id})
        return False


def fail_lost(services: Services, lease: Lease) -> bool:
    """End a run whose worker let its lease lapse. False if the worker, or somebody else, was faster.

    The handler may have done half of its work, so it is not started again. Its log is joined by `join_logs`.
    """
    run = Run.get_or_none(Run.id == lease.run_id, Run.status == RUNNING)
    if run is None:
        return False
    cancelled = run.cancel_requested_at is not None
    ending = runs.Ending(
        status=CANCELLED if cancelled else FAILED,
        duration_ms=max(0, services.clock() - run.started_at),
        error="Cancelled; its worker was lost." if cancelled else "The worker was lost while the script ran.",
        error_code="CANCELLED" if cancelled else WORKER_LOST,
        log_chunks=1,  # how many there are is known only to the lost worker: `join_logs` looks
    )
    return runs.finish(services, run, lease.attempt, ending, lapsed_lease=lease.until)


def resend_stuck(services: Services, limit: int = 1000) -> int:
    """Send queued runs again that were sent and not claimed for `RESEND_AFTER_MS`. Returns how many.

    Only as many as the queue has messages too few: while workers are merely busy every run still has its
    message, and sending more would pile up copies. Raises Unavailable when the queue does not answer.
    """
    now = services.clock()
    unclaimed = Run.select(Run.id, Run.attempt, Run.sent_at, Run.workspace).where(
        admission.HOLDING, Run.started_at.is_null(), Run.status == QUEUED
    )
    stale = (Run.sent_at <= now - RESEND_AFTER_MS) | (Run.sent_at > now + SKEW_MS)
    stuck = list(unclaimed.where(stale).order_by(Run.sent_at).limit(limit))
    if not stuck:
        return 0
    missing = unclaimed.count() - services.queue.depth()
    sent = 0
    for run in stuck[: max(0, missing)]:
        ours = (
            Run.update(sent_at=now)
            .where(Run.id == run.id, Run.attempt == run.attempt, Run.status == QUEUED, Run.sent_at == run.sent_at)
            .execute()
        )
        if ours and not services.queue.send(run.id, run.attempt + 1, run.workspace_id):
            break  # each further try would take as long
        sent += ours
    return sent


def bury_poisoned(services: Services, limit: int = 100) -> int:
    """End runs whose message killed every worker that took it. Returns how many. Raises Unavailable."""
    buried = 0
    for run_id, attempt in services.queue.poisoned(limit):
        buried += safely("a poisoned message", run_id, functools.partial(runs.poisoned, services, run_id, attempt))
        services.queue.bury(run_id, attempt)
    return buried


def announce_unrouted(services: Services, limit: int = 1000) -> int:
    """Announce events again that nobody routed for `ANNOUNCE_AFTER_MS`, as many as the bus has too few.

    Returns how many. Raises Unavailable when the bus does not answer.
    """
    now = services.clock()
    waiting = events.unrouted(now - ANNOUNCE_AFTER_MS, limit, ahead=now + SKEW_MS)
    if not waiting:
        return 0
    missing = events.count_unrouted() - services.bus.backlog()
    return sum(1 for _ in itertools.takewhile(services.bus.announce, waiting[: max(0, missing)]))


def join_logs(services: Services, limit: int = 20) -> int:
    """Make the logs of runs that ended, and of tries that lost their worker, but left them in chunks.

    Returns how many runs they were of. Raises Unavailable.
    """
    in_chunks = Run.select(Run.id).where(
        Run.log_key.is_null(), Run.completed_at.is_null(False), peewee.SQL("log_chunks > 0")
    )
    # More are looked at than joined, so that damaged ones, which stay, do not fill the limit for ever.
    found = [run.id for run in in_chunks.order_by(Run.completed_at).limit(10 * limit)]
    # As its index has it; whoever joins such a log notes its key.
    lost = Attempt.select(Attempt.run).where(Attempt.log_key.is_null(), peewee.SQL("error_code = 'WORKER_LOST'"))
    found += [attempt.run_id for attempt in lost.order_by(Attempt.id).limit(10 * limit)]
    joined = 0
    for run_id in dict.fromkeys(found):
        joined += safely("a log", run_id, functools.partial(_join, services, run_id))
        if joined == limit:
            break
    return joined


def _join(services: Services, run_id: str) -> bool:
    run = Run.get_or_none(Run.id == run_id)
    return run is not None and any([*logs.locate_earlier(services, run), logs.locate(services, run)])


def forget_keys(services: Services, limit: int = 1000) -> int:
    """Delete idempotency keys that are older than `runs.KEY_LIFE_MS`. Returns how many."""
    old = (
        IdempotencyKey.select(IdempotencyKey.id)
        .where(IdempotencyKey.created_at <= services.clock() - runs.KEY_LIFE_MS)
        .order_by(IdempotencyKey.created_at)
        .limit(limit)
    )
    return int(IdempotencyKey.delete().where(IdempotencyKey.id.in_([key.id for key in old])).execute())


def purge_deleted(services: Services) -> bool:
    """Remove the next part of what deleted scripts left. Returns whether something is left. Raises Unavailable."""
    script_uuid = removal.next_deleted()
    return script_uuid is not None and (not removal.purge(services, script_uuid) or removal.next_deleted() is not None)
