"""A worker's hold of a run: taking it, keeping it, giving it up."""

import functools
import operator
from collections.abc import Sequence

from millrace import callbacks
from millrace.compiled import Compiled, place
from millrace.database import transaction
from millrace.models import Run
from millrace.models.run import (
    CANCELLED,
    QUEUED,
    RUNNING,
)
from millrace.runs import ending, locks, sending
from millrace.services import Services


def claim(services: Services, run_id: str, attempt: int, worker: str, lease_ms: int) -> bool:
    """Take the run for this attempt, just before its handler is entered. False: somebody else has it, or it ended."""
    now = services.clock()
    taken = _CLAIM.execute(
        run_id=run_id, attempt=attempt, before=attempt - 1, worker=worker, lease_until=now + lease_ms, now=now
    )
    return bool(taken.rowcount)


_CLAIM = Compiled(
    lambda: Run.update(
        status=RUNNING, attempt=place("attempt"), worker=place("worker"), lease_until=place("lease_until"),
        started_at=place("now"),
    ).where(
        Run.id == place("run_id"), Run.status == QUEUED, Run.attempt == place("before"),
        Run.cancel_requested_at.is_null(), Run.expires_at.is_null() | (Run.expires_at > place("now")),
    )
)  # fmt: skip


def renew(services: Services, held: Sequence[tuple[str, int]], lease_ms: int) -> None:
    """Prolong the leases of these (run, attempt) pairs that are still ours, all in one statement."""
    if held:
        ours = functools.reduce(operator.or_, ((Run.id == run_id) & (Run.attempt == number) for run_id, number in held))
        Run.update(lease_until=services.clock() + lease_ms).where(Run.status == RUNNING, ours).execute()


def release(services: Services, run_id: str, attempt: int, worker: str) -> bool:
    """Give up this attempt before its handler was entered, and send the next one.

    Whether nobody has claimed it or `worker` has; one that another worker claimed is that one's. A run that was to be
    cancelled ends instead. False: so it did, or it is not ours any more, or it had ended.
    """
    now = services.clock()
    unclaimed = (Run.status == QUEUED) & (Run.attempt == attempt - 1)
    claimed = (Run.status == RUNNING) & (Run.attempt == attempt) & (Run.worker == worker)
    ours = (Run.id == run_id) & (unclaimed | claimed)
    with transaction():
        run = Run.select(*_TO_RELEASE).where(Run.id == run_id).get_or_none()
        script = None if run is None else locks.to_end(run.script_id)
        if run is None or script is None:  # deleted meanwhile, and its runs with it
            return False
        ended = ending.end_unstarted(ours & Run.cancel_requested_at.is_null(False), now)
        back = 0 if ended else (
            Run.update(status=QUEUED, attempt=attempt, sent_at=now, started_at=None, worker=None, lease_until=None)
            .where(ours).execute()
        )
        if ended:
            callbacks.record(run, script, now)
        admitted = sending.admit_next(script, now, run.batch_id) if ended else []
    if ended:
        ending.tell(services, run, script, CANCELLED, admitted, None)
    elif back:
        services.queue.send(run_id, attempt + 1, script.workspace_id)
    return bool(back)


_TO_RELEASE = (Run.id, Run.script, Run.trigger, Run.batch_id, Run.callback_url)


def lost_or_cancelled(held: Sequence[tuple[str, int]]) -> tuple[set[str], set[str]]:
    """Of these (run, attempt) pairs: those that are no longer ours, and those that a person asked to cancel."""
    rows = {
        row.id: row
        for row in Run.select(Run.id, Run.attempt, Run.status, Run.cancel_requested_at).where(
            Run.id.in_([run_id for run_id, _ in held])
        )
    }
    lost = {
        run_id for run_id, attempt in held
        if (row := rows.get(run_id)) is None or row.attempt != attempt or row.status != RUNNING
    }
    return lost, {row.id for row in rows.values() if row.cancel_requested_at is not None}
