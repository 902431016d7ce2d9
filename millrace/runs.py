"""The life of a run: every start ends in `submit`, every end passes through `finish`."""

import functools
import hashlib
import itertools
import json
import operator
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import peewee

from millrace import admission, events, jsontext, logs, metrics, objects
from millrace.compiled import Compiled, Row, place
from millrace.database import UNREACHABLE, is_contended, is_sqlite, transaction
from millrace.errors import Conflict, Invalid, NotFound, NotReady, Unavailable, Unprocessable
from millrace.models import IdempotencyKey, Run, Script, Workspace
from millrace.models.run import CANCELLED, FAILED, FINAL, QUEUED, RUNNING, SUCCEEDED, TIMED_OUT
from millrace.models.script import DELETED
from millrace.services import Services

INLINE_LIMIT = 64 * 1024  # bytes of JSON kept in the row; more goes to the object store
MAX_DELAY_MS = 366 * 24 * 3600 * 1000
MAX_DURATION_MS = 2**31 - 1  # what the column holds, some 24 days
FIRST_LOOK_S = 0.02  # after which a run that is awaited is looked at, should its hint be lost
KEY_LIFE_MS = 24 * 3600 * 1000  # how long an idempotency key is remembered

_ID = re.compile(r"[0-9a-f-]{36}")


@dataclass(frozen=True)
class Order:
    """A wish to run a script: what, with which input, and what caused it."""

    workspace: str
    script: str  # uuid
    payload: Any
    trigger: str  # api | manual | schedule | http | event | batch
    mode: str = "async"
    caller_ip: str = ""
    available_at: int | None = None
    event_id: str | None = None
    due_at: int | None = None
    delivery_id: str | None = None
    depth: int = 0
    idempotency_key: str | None = None
    request_digest: str = ""


@dataclass(frozen=True)
class Submitted:
    """The accepted run; `created` is False when the same cause had started it before."""

    run: Run
    created: bool


@dataclass(frozen=True)
class Ending:
    """How a run ended, as the worker saw it. `result` and `summary` are None unless it succeeded."""

    status: str
    duration_ms: int
    result: str | None = None  # JSON text
    summary: dict[str, Any] | None = None
    error: str | None = None
    error_code: str | None = None
    error_stack: str | None = None
    log_key: str | None = None
    log_chunks: int = 0
    usage: dict[str, Any] | None = None


def digest(body: Any) -> str:
    """A digest of a JSON value that is the same for equal values, for idempotency keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def submit(services: Services, order: Order, because: Callable[[Run], None] | None = None) -> Submitted:
    """Accept a run durably, then send it if its script has a free place; else it waits its turn.

    `because` writes what caused the run, in the same transaction. The same event, due time, delivery or
    idempotency key (for `KEY_LIFE_MS`) returns the run that it started before. Raises Unprocessable for a script
    that is not active, NotReady for a suspended workspace, Conflict for a reused key with another request.
    """
    now = services.clock()
    run = _draft(services, order, now)
    try:
        accepted = _accept(services, order, run, now, because)
    except UNREACHABLE:
        raise  # nobody knows whether the commit was done: a run without its payload would be worse than a stray object
    except Exception:
        _forget_payload(services, run)
        raise
    if not accepted.created:
        _forget_payload(services, run)
    if accepted.created and run.sent_at is not None:
        services.queue.send(run.id, 1)
    return accepted


def _accept(
    services: Services, order: Order, run: Run, now: int, because: Callable[[Run], None] | None
) -> Submitted:
    try:
        with transaction():
            script, workspace_status = _lock_for_submit(order.script)
            # A repeat is answered whatever became of the script since.
            if order.idempotency_key and (earlier := _earlier(script, order, now)):
                return Submitted(earlier, created=False)
            _check_may_run(script, workspace_status)
            run.version = script.version
            if run.available_at <= now and admission.has_place(script, now):
                run.sent_at = now
            _INSERT.execute(**{each.name: each.db_value(run.__data__.get(each.name)) for each in _COLUMNS})
            if order.idempotency_key:
                IdempotencyKey.create(
                    script=script.uuid, key=order.idempotency_key, digest=order.request_digest, run_id=run.id,
                    created_at=now,
                )
            if because is not None:
                because(run)
    except peewee.IntegrityError:
        # The database settled a race: the same cause was there first.
        found = _started_by(order)
        if found is None:
            raise
        return Submitted(found, created=False)
    return Submitted(run, created=True)


def lock_script(uuid: str) -> Script:
    """The script's row, held until the transaction ends: admissions of one script happen one by one."""
    query = Script.select(Script, Workspace).join(Workspace).where(Script.uuid == uuid)
    if not is_sqlite(Script._meta.database.obj):  # SQLite's transaction holds the only write lock already
        query = query.for_update(of=Script)
    script = query.get_or_none()
    if script is None or script.status == DELETED:
        raise NotFound("There is no such script.")
    return script


def _lock_for_submit(uuid: str) -> tuple[Script, str]:
    """As `lock_script`, but with the few columns that a start needs, and the workspace's status."""
    database = Script._meta.database.obj
    row = (_READ_TO_SUBMIT if is_sqlite(database) else _LOCK_TO_SUBMIT).execute(uuid=uuid).fetchone()
    names = ("uuid", "workspace", "slug", "status", "version", "max_concurrent_runs")
    script = None if row is None else Script(**dict(zip(names, row[:-1], strict=True)))
    if script is None or script.status == DELETED:
        raise NotFound("There is no such script.")
    return script, row[-1]


def _submit_query() -> "peewee.ModelSelect[Script]":
    columns = (Script.uuid, Script.workspace, Script.slug, Script.status, Script.version, Script.max_concurrent_runs)
    return Script.select(*columns, Workspace.status).join(Workspace).where(Script.uuid == place("uuid"))


_READ_TO_SUBMIT = Compiled(_submit_query)
_LOCK_TO_SUBMIT = Compiled(lambda: _submit_query().for_update(of=Script))
_COLUMNS = Run._meta.sorted_fields
_INSERT = Compiled(lambda: Run.insert({each: place(each.name) for each in _COLUMNS}))


def _check_may_run(script: Script, workspace_status: str) -> None:
    if workspace_status != "ready":
        raise NotReady(f"Workspace '{script.workspace_id}' is {workspace_status} and can't run scripts now.")
    if script.status != "active":
        raise Unprocessable(f"Script '{script.slug}' is {script.status}; only an active script can run.")


def _draft(services: Services, order: Order, now: int) -> Run:
    if order.available_at is not None and order.available_at - now > MAX_DELAY_MS:
        raise Invalid("run_at must be within 366 days from now.", field="run_at",
                      value=logs.timestamp(order.available_at))
    run = Run(
        id=services.new_id(), workspace=order.workspace, script=order.script, status=QUEUED,
        trigger=order.trigger, mode=order.mode, caller_ip=order.caller_ip[:64], created_at=now,
        available_at=max(order.available_at or now, now), attempt=0,
        event_id=order.event_id, due_at=order.due_at, delivery_id=order.delivery_id, depth=order.depth,
    )
    payload = jsontext.dump(order.payload, "payload")
    if len(payload) <= INLINE_LIMIT:
        run.payload = payload
    else:
        # Before the row, so that an accepted run always finds its input.
        run.payload_key = f"payloads/{order.workspace}/{run.id}.json"
        services.objects.put(run.payload_key, payload.encode(), content_type="application/json")
    return run


def _forget_payload(services: Services, run: Run) -> None:
    if run.payload_key is not None:
        objects.discard(services.objects, [run.payload_key])


def payload_text(services: Services, run: Run) -> str:
    """The input as JSON text, from the row or from the object store."""
    if run.payload_key is None:
        return run.payload or "null"
    stored = services.objects.get(run.payload_key)
    if stored is None:
        raise Unavailable(f"The payload of run '{run.id}' is missing in the object store.")
    return stored.decode()


def _earlier(script: Script, order: Order, now: int) -> Run | None:
    key = IdempotencyKey.get_or_none(
        IdempotencyKey.script == script.uuid, IdempotencyKey.key == order.idempotency_key
    )
    if key is None:
        return None
    if key.created_at <= now - KEY_LIFE_MS:
        key.delete_instance()
        return None
    if key.digest != order.request_digest:
        raise Conflict(f"Idempotency-Key '{order.idempotency_key}' was used before with a different request.")
    return Run.get_by_id(key.run_id)


def _started_by(order: Order) -> Run | None:
    for field, value in (
        (Run.event_id, order.event_id), (Run.due_at, order.due_at), (Run.delivery_id, order.delivery_id)
    ):
        if value is not None:
            found = Run.get_or_none(Run.script == order.script, field == value)
            if found is not None:
                return found
    return None


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
        Run.cancel_requested_at.is_null(),
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
        run = Run.select(Run.id, Run.script, Run.trigger).where(Run.id == run_id).get_or_none()
        script = None if run is None else _lock_script_only(run.script_id)
        if run is None or script is None:  # deleted meanwhile, and its runs with it
            return False
        ended = _end_unstarted(ours & Run.cancel_requested_at.is_null(False), now)
        back = 0 if ended else (
            Run.update(status=QUEUED, attempt=attempt, sent_at=now, started_at=None, worker=None, lease_until=None)
            .where(ours).execute()
        )
        admitted = admission.admit_waiting(script, now) if ended else []
    if ended:
        _tell(services, run, CANCELLED, admitted, None)
    elif back:
        services.queue.send(run_id, attempt + 1)
    return bool(back)


def _end_unstarted(chosen: peewee.Expression, now: int) -> int:
    return int(
        Run.update(
            status=CANCELLED, completed_at=now, duration_ms=0, error="Cancelled before it started.",
            error_code="CANCELLED", started_at=None, worker=None, lease_until=None,
            cancel_requested_at=peewee.fn.COALESCE(Run.cancel_requested_at, now),
        ).where(chosen).execute()
    )  # fmt: skip


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


def finish(
    services: Services, run: Run, attempt: int, ending: Ending, *, lapsed_lease: int | None = None
) -> bool:
    """Record the outcome once. False: this attempt lost the run, and its result is to be thrown away.

    With `lapsed_lease` only if the lease still is that one: nobody has renewed it meanwhile.
    A free place goes to the next waiting run, whoever waits for the outcome is told, and the fact goes on the bus.
    """
    now = services.clock()
    duration_ms = min(ending.duration_ms, MAX_DURATION_MS)
    result, result_key = _store_result(services, run, attempt, ending.result)
    error, stack = (None if text is None else jsontext.storable(text) for text in (ending.error, ending.error_stack))
    with transaction():
        script = _lock_script_only(run.script_id)
        if script is None:  # deleted meanwhile, and its runs with it
            return False
        recorded = _FINISH.execute(
            status=ending.status, completed_at=now, duration_ms=duration_ms, result=result,
            result_key=result_key, summary=Run.summary.db_value(ending.summary), error=error,
            error_code=ending.error_code, error_stack=stack, log_key=ending.log_key,
            log_chunks=ending.log_chunks, usage=Run.usage.db_value(ending.usage),
            run_id=run.id, attempt=attempt, least=lapsed_lease or 0, most=lapsed_lease or _FOR_EVER,
        )  # fmt: skip
        if not recorded.rowcount:
            return False
        admitted = admission.admit_waiting(script, now)
        fact = _record_fact(services, run, script, ending.status, error, duration_ms)
    metrics.run_seconds().labels(status=ending.status).observe(ending.duration_ms / 1000)
    _tell(services, run, ending.status, admitted, fact)
    return True


def _lock_script_only(uuid: str) -> Script | None:
    """As `lock_script`, but with the few columns that the end of a run needs; None when there is none."""
    database = Script._meta.database.obj
    row = (_READ_SCRIPT if is_sqlite(database) else _LOCK_SCRIPT).execute(uuid=uuid).fetchone()
    if row is None or row[3] == DELETED:
        return None
    return Script(uuid=row[0], slug=row[1], max_concurrent_runs=row[2])


def _script_query() -> "peewee.ModelSelect[Script]":
    columns = (Script.uuid, Script.slug, Script.max_concurrent_runs, Script.status)
    return Script.select(*columns).where(Script.uuid == place("uuid"))


_READ_SCRIPT = Compiled(_script_query)
_LOCK_SCRIPT = Compiled(lambda: _script_query().for_update())
_FOR_EVER = 2**62
_FINISH = Compiled(
    lambda: Run.update(
        **{
            name: place(name)
            for name in (
                "status", "completed_at", "duration_ms", "result", "result_key", "summary", "error", "error_code",
                "error_stack", "log_key", "log_chunks", "usage",
            )
        },
        lease_until=None,
    ).where(
        Run.id == place("run_id"), Run.attempt == place("attempt"), Run.status == RUNNING,
        Run.lease_until.between(place("least"), place("most")),
    )
)  # fmt: skip


def _store_result(services: Services, run: Run, attempt: int, result: str | None) -> tuple[str | None, str | None]:
    if result is None or len(result) <= INLINE_LIMIT:
        return result, None
    # The attempt is in the key so that a worker that lost the run can't overwrite the recorded result.
    key = f"results/{run.workspace_id}/{run.id}/{'result' if attempt == 1 else f'result-{attempt}'}.json"
    services.objects.put(key, result.encode(), content_type="application/json")
    return None, key


_FACTS = {SUCCEEDED: "run.completed", FAILED: "run.failed", TIMED_OUT: "run.timed_out"}


def _record_fact(
    services: Services, run: Run, script: Script, status: str, error: str | None, duration_ms: int
) -> str | None:
    name = _FACTS.get(status)
    if name is None:
        return None
    data = {"run_id": run.id, "script_id": script.slug, "trigger": run.trigger, "error": error,
            "duration_ms": duration_ms}
    return events.record_fact(services, run.workspace_id, name, data, subject=script.slug, depth=run.depth + 1)


def _tell(
    services: Services, run: Run, status: str, admitted: Sequence[tuple[str, int]], fact: str | None
) -> None:
    services.bus.hint(f"run:{run.id}", f"end {status}")
    metrics.runs_ended().labels(status=status, trigger=run.trigger).inc()
    _send(services, admitted)
    if fact is not None:
        services.bus.announce(fact)


def _send(services: Services, admitted: Sequence[tuple[str, int]]) -> int:
    """Send until the queue does not answer, which may take seconds each time: the sweeper sends the rest.

    Returns how many were sent.
    """
    return sum(1 for _ in itertools.takewhile(lambda each: services.queue.send(*each), admitted))


def cancel(services: Services, run: Run) -> None:
    """End a queued run at once; ask the worker of a running one to kill it. Raises Conflict when it has ended."""
    now = services.clock()
    with transaction():
        script = lock_script(run.script_id)
        ended = _end_unstarted((Run.id == run.id) & (Run.status == QUEUED), now)
        asked = 0 if ended else (
            Run.update(cancel_requested_at=now).where(Run.id == run.id, Run.status == RUNNING).execute()
        )
        admitted = admission.admit_waiting(script, now) if ended else []
    if ended:
        _tell(services, run, CANCELLED, admitted, None)
    elif not asked:
        raise Conflict(f"Run '{run.id}' has ended already: {Run.get_by_id(run.id).status}.")


def release_due(services: Services, limit: int = 200) -> int:
    """Send runs that wait and may start by now: delayed ones that became due, or places that came free unseen.

    Stops when the queue does not answer. Returns how many were sent.
    """
    now = services.clock()
    for script_uuid in admission.scripts_set_back(now, limit):
        with suppress(NotFound), transaction():  # it may have been deleted meanwhile
            admission.realign(lock_script(script_uuid), now)
    sent = 0
    for script_uuid in admission.scripts_with_place(now, limit):
        try:
            with transaction():
                admitted = admission.admit_waiting(lock_script(script_uuid), now)
        except NotFound:
            continue  # deleted meanwhile
        except UNREACHABLE as error:
            if not is_contended(error):
                raise
            continue  # whoever holds the script may be admitting them
        handed_over = _send(services, admitted)
        sent += handed_over
        if handed_over < len(admitted):
            break
    return sent


def find(workspace_id: str, script_uuid: str, run_id: str) -> Run:
    """A run of this script in this workspace; anything else is NotFound, whoever owns it."""
    run = None
    if _ID.fullmatch(run_id):  # nothing else can be one, and PostgreSQL refuses to look for a NUL
        run = Run.get_or_none(Run.id == run_id, Run.script == script_uuid, Run.workspace == workspace_id)
    if run is None:
        raise NotFound(f"There is no run '{run_id}' of this script.")
    return run


def result_text(services: Services, run: Run) -> str | None:
    """The result as JSON text, from the row or from the object store; None if there is none."""
    if run.result_key is None:
        return run.result
    stored = services.objects.get(run.result_key)
    return None if stored is None else stored.decode()


_BY_ID = Row(Run, lambda: Run.id == place("id"))


def await_end(services: Services, run_id: str, timeout_s: float) -> Run:
    """The run once it is over, or as it stands after `timeout_s` seconds. Holds no database connection meanwhile.

    Raises NotFound when the run is deleted meanwhile, with its script.
    """
    deadline = time.monotonic() + timeout_s
    with services.bus.listen(f"run:{run_id}") as listener:
        # Most runs are over within milliseconds, and a read that finds them running would only slow them down.
        with services.database.connection_context():
            pass  # gives back the connection that the caller's queries opened
        listener.get(timeout=min(FIRST_LOOK_S, timeout_s))
        while True:
            with services.database.connection_context():
                run = _BY_ID.get(id=run_id)
            if run is None:
                raise NotFound(f"Run '{run_id}' was deleted with its script.")
            left = deadline - time.monotonic()
            if run.status in FINAL or left <= 0:
                return run
            # A hint may be lost with Redis, so the row is read again every second in any case.
            listener.get(timeout=min(1.0, left))
