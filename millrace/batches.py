"""Batches: many runs of one script that are accepted at once, all of them or none."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import peewee

from millrace import admission, callbacks, limits, metrics, objects, paging
from millrace.compiled import Compiled, place
from millrace.database import UNREACHABLE, is_contended, transaction
from millrace.errors import Conflict, Invalid, NotFound
from millrace.models import Batch, IdempotencyKey, Run, Script, Workspace
from millrace.models.run import CANCELLED, NOT_YET, QUEUED, RUNNING
from millrace.models.script import DELETED
from millrace.paging import Position
from millrace.runs import ending, locks, sending, submitting
from millrace.runs.submitting import Order
from millrace.services import Services

MAX_ITEMS = 10_000
MAX_CONCURRENCY = 1_000
_AT_ONCE = 500  # runs that one transaction ends
_ROWS = (256, 16, 1)  # that one statement writes
_WRITTEN: tuple[Any, ...] = (
    Run.id, Run.workspace, Run.script, Run.version, Run.status, Run.trigger, Run.mode, Run.caller_ip, Run.payload,
    Run.payload_key, Run.created_at, Run.available_at, Run.order_at, Run.expires_at, Run.concurrency_key, Run.depth,
    Run.batch_id, Run.batch_index, Run.attempt, Run.tries, Run.log_chunks,
)  # fmt: skip
_Row = dict[str, Any]  # a run's columns as the database has them
# A page shows no input and no result, which may have 64 KiB each.
_LISTED = tuple(field for field in Run._meta.sorted_fields if field.name not in ("payload", "result"))


@dataclass(frozen=True)
class Wish:
    """A wish to run a script once for each item, with at most `concurrency` of the runs under way at a time."""

    workspace: str
    script: str  # uuid
    items: Sequence[Any]
    concurrency: int | None = None  # None is what the script may
    priority: int = 0  # seconds that its runs go ahead of in the line
    expires_after_s: int | None = None
    caller_ip: str = ""
    idempotency_key: str | None = None
    request_digest: str = ""


@dataclass(frozen=True)
class Accepted:
    """The batch; `created` is False when an earlier request with the same key had started it."""

    batch: Batch
    created: bool
    admitted: Sequence[tuple[str, int]] = ()


def submit(services: Services, wish: Wish) -> Accepted:
    """Accept a run for each item durably, in one transaction, then send those that find a place.

    Raises Invalid for a number of items that is not 1 to `MAX_ITEMS`, and what `runs.submit` raises.
    """
    if not 1 <= len(wish.items) <= MAX_ITEMS:
        raise Invalid(f"items must have 1 to {MAX_ITEMS} entries.", field="items", value=len(wish.items))
    now = services.clock()
    batch = Batch(
        id=services.new_id(), workspace=wish.workspace, script=wish.script, total=len(wish.items),
        concurrency=wish.concurrency, created_at=now, order_at=now - wish.priority * 1000,
    )  # fmt: skip
    drafts: list[Run] = []
    try:
        for index, item in enumerate(wish.items):
            drafts.append(_draft(services, wish, batch, index, item, now))
        # Before the script is held, for it is most of the work.
        rows = [{field.name: field.db_value(run.__data__.get(field.name)) for field in _WRITTEN} for run in drafts]
        accepted = _accept(services, wish, batch, rows, now)
    except UNREACHABLE:
        raise  # nobody knows whether the commit was done: a run without its payload would be worse than a stray object
    except Exception:
        _forget(services, drafts)
        raise
    if not accepted.created:
        _forget(services, drafts)
    sending.send(services, wish.workspace, accepted.admitted)
    return accepted


def _draft(services: Services, wish: Wish, batch: Batch, index: int, item: Any, now: int) -> Run:
    order = Order(
        workspace=wish.workspace, script=wish.script, payload=item, trigger="batch", caller_ip=wish.caller_ip,
        priority=wish.priority, expires_after_s=wish.expires_after_s,
    )  # fmt: skip
    run = submitting.draft(services, order, now)
    run.batch_id, run.batch_index = batch.id, index
    if wish.concurrency is not None and index >= wish.concurrency:
        run.available_at = run.order_at = NOT_YET
    return run


def _forget(services: Services, drafts: Sequence[Run]) -> None:
    stored = [run.payload_key for run in drafts if run.payload_key is not None]
    if stored:
        objects.discard(services.objects, stored)


def _accept(services: Services, wish: Wish, batch: Batch, rows: Sequence[_Row], now: int) -> Accepted:
    with transaction():
        script, workspace = locks.to_submit(wish.script)
        key = wish.idempotency_key
        if key and (earlier := submitting.started_before(script, key, wish.request_digest, now)):
            return Accepted(Batch.get_by_id(earlier), created=False)
        submitting.check_may_run(script, workspace)
        if workspace.limits:
            limits.check(services, workspace.id, workspace.limits, workspace.stored_bytes, now, runs=len(rows))
        batch.save(force_insert=True)
        for row, item in zip(rows, wish.items, strict=True):
            row |= {"version": script.version, "concurrency_key": submitting.concurrency_key(script, item)}
        _write(rows)
        if key:
            IdempotencyKey.create(
                script=script.uuid, key=key, digest=wish.request_digest, run_id=batch.id, created_at=now
            )
        admitted = _admit(script, workspace, now)
    return Accepted(batch, created=True, admitted=admitted)


def _write(rows: Sequence[_Row]) -> None:
    written = 0
    for size in _ROWS:
        while len(rows) - written >= size:
            some = rows[written : written + size]
            _insertion(size).execute(**{f"{name} {n}": row[name] for n, row in enumerate(some) for name in row})
            written += size


@functools.cache
def _insertion(size: int) -> Compiled:
    """Writes so many rows. Making its text takes peewee far longer than the database needs for it."""
    rows = [[place(f"{field.name} {n}") for field in _WRITTEN] for n in range(size)]
    return Compiled(lambda: Run.insert_many(rows, fields=list(_WRITTEN)))


def _admit(script: Script, workspace: Workspace, now: int) -> list[tuple[str, int]]:
    bounds = locks.bounds(script, workspace)
    locks.lock_workspace(workspace.id, bounds)
    return admission.admit_waiting(script, now, bounds)


def find(workspace_id: str, script_uuid: str, batch_id: str) -> Batch:
    """A batch of this script in this workspace; anything else is NotFound, whoever owns it."""
    batch = None
    if "\0" not in batch_id:  # PostgreSQL refuses to look for one
        batch = Batch.get_or_none(Batch.id == batch_id, Batch.script == script_uuid, Batch.workspace == workspace_id)
    if batch is None:
        raise NotFound(f"There is no batch '{batch_id}' of this script.")
    return batch


@dataclass(frozen=True)
class Progress:
    """How many of its runs are in each status, and when the last of them ended.

    None while one is open, and when all are gone because of their age.
    """

    counts: dict[str, int]
    completed_at: int | None


def progress(batch: Batch) -> Progress:
    """How far it has come. Runs that retention removed are not counted any more."""
    rows: Any = (
        Run.select(Run.status, peewee.fn.COUNT(Run.id)).where(Run.batch_id == batch.id).group_by(Run.status).tuples()
    )
    counts: dict[str, int] = dict(rows)
    if counts.keys() & {QUEUED, RUNNING}:
        return Progress(counts, None)
    last = Run.select(peewee.fn.MAX(Run.completed_at)).where(Run.batch_id == batch.id).scalar()
    return Progress(counts, last)


def page(script: Script, before: Position | None, size: int) -> tuple[list[Batch], Position | None]:
    """A script's batches, newest first, and where the next page begins."""
    query = Batch.select().where(Batch.script == script.uuid)
    if before is not None:
        query = query.where(paging.older(Batch.created_at, Batch.id, before))
    rows = list(query.order_by(Batch.created_at.desc(), Batch.id.desc()).limit(size + 1))
    return paging.cut(rows, size, lambda batch: (batch.created_at, batch.id))


def items(
    batch: Batch, statuses: Sequence[str], after: Position | None, size: int
) -> tuple[list[Run], Position | None]:
    """Its runs with their script in the order of the items, those in these statuses or all, and where the next page
    begins."""
    query = Run.select(*_LISTED, Script).join(Script).where(Run.batch_id == batch.id)
    if statuses:
        query = query.where(Run.status.in_(list(statuses)))
    if after is not None:
        query = query.where(Run.batch_index > after[0])
    rows = list(query.order_by(Run.batch_index).limit(size + 1))
    return paging.cut(rows, size, lambda run: (run.batch_index or 0, run.id))


def cancel(services: Services, batch: Batch) -> None:
    """End its runs that have not begun, and ask the workers of the others to kill them.

    In parts, so that nobody else waits long; `mend` goes on after a crash. Raises Conflict when it is over.
    """
    with transaction():
        script = locks.lock_script(batch.script_id)
        going_on = Run.select(Run.id).where(Run.batch_id == batch.id, Run.completed_at.is_null()).exists()
        if not going_on:
            raise Conflict(f"Batch '{batch.id}' is over already.")
        Batch.update(cancelled_at=services.clock()).where(Batch.id == batch.id, Batch.cancelled_at.is_null()).execute()
    _cancel_open(services, batch.id, script.uuid)


def _cancel_open(services: Services, batch_id: str, script_uuid: str) -> int:
    """Returns how many have ended. Raises NotFound when the script is deleted meanwhile."""
    ended = 0
    while some := _undecided(batch_id):
        now = services.clock()
        with transaction():
            script = locks.lock_script(script_uuid)
            count = ending.end_unstarted(Run.id.in_(some) & (Run.status == QUEUED), now)
            callbacks.record_many(script, some, now)
            admitted = sending.admit_next(script, now)
        # One at a time: their workers renew many leases in one statement, and two such would wait for each other.
        for run_id in some if count < len(some) else ():
            Run.update(cancel_requested_at=now).where(Run.id == run_id, Run.status == RUNNING).execute()
        ended += count
        metrics.runs_ended().labels(status=CANCELLED, trigger="batch").inc(count)
        _tell(services, some)
        sending.pass_on(services, script, admitted)
    return ended


def _undecided(batch_id: str) -> list[str]:
    """Some of its runs (ids) that are not over, and that nobody was asked to end."""
    rows = Run.select(Run.id).where(
        Run.batch_id == batch_id, Run.completed_at.is_null(), Run.cancel_requested_at.is_null()
    )
    return [run.id for run in rows.limit(_AT_ONCE)]


def _tell(services: Services, run_ids: Sequence[str]) -> None:
    """Whoever looks on. Until Redis does not answer, which may take seconds each time: they look by themselves."""
    for run_id in run_ids:
        if not services.bus.hint(f"run:{run_id}", f"end {CANCELLED}"):
            return


def mend(services: Services, limit: int = 50) -> int:
    """Let items in that nobody let in, and end those of batches that somebody began to cancel. Returns how many.

    A process of an earlier release records the end of an item and knows nothing of the next.
    """
    mended = 0
    for batch_id, script_uuid in admission.starved_batches(limit):
        with _unless_in_the_way(), transaction():
            locks.lock_script(script_uuid)
            mended += admission.feed(batch_id, services.clock())
    for batch in _half_cancelled(limit):
        with _unless_in_the_way():
            mended += _cancel_open(services, batch.id, batch.script_id)
    return mended


@contextmanager
def _unless_in_the_way() -> Iterator[None]:
    """Leave out one whose script was deleted meanwhile, or is held by somebody: it has its turn the next time."""
    try:
        yield
    except NotFound:
        return
    except UNREACHABLE as error:
        if not is_contended(error):
            raise


def _half_cancelled(limit: int) -> list[Batch]:
    # Without a word on the batch, see `admission.starved_batches`.
    undecided = Run.select(Run.batch_id).where(Run.completed_at.is_null(), Run.cancel_requested_at.is_null())
    rows = Batch.select().join(Script).where(
        Batch.id.in_(undecided), Batch.cancelled_at.is_null(False), Script.status != DELETED
    )
    return list(rows.order_by(peewee.fn.RANDOM()).limit(limit))
