"""Every end of a run, and of an attempt that is followed by another."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import peewee

from millrace import callbacks, deadletters, events, jsontext, metrics
from millrace.compiled import Compiled, place
from millrace.database import transaction
from millrace.errors import Conflict
from millrace.fairqueue import MAX_DELIVERIES
from millrace.models import Attempt, Run, Script
from millrace.models.run import (
    CANCELLED,
    FAILED,
    PLATFORM_ERROR,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    TIMED_OUT,
    WORKER_LOST,
)
from millrace.retries import LOST_IN_A_ROW, Policy
from millrace.runs import locks, sending
from millrace.runs.submitting import INLINE_LIMIT
from millrace.services import Services

MAX_DURATION_MS = 2**31 - 1  # what the column holds, some 24 days


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


def end_unstarted(
    chosen: peewee.Expression, now: int, error: str = "Cancelled before it started.", code: str = "CANCELLED",
    status: str = CANCELLED,
) -> int:  # fmt: skip
    return int(
        Run.update(
            status=status, completed_at=now, duration_ms=0, error=error, error_code=code, started_at=None,
            worker=None, lease_until=None, cancel_requested_at=peewee.fn.COALESCE(Run.cancel_requested_at, now),
        ).where(chosen).execute()
    )  # fmt: skip


def finish(
    services: Services, run: Run, attempt: int, ending: Ending, *, lapsed_lease: int | None = None
) -> bool:
    """Record the outcome once. False: this attempt lost the run, and its result is to be thrown away.

    With `lapsed_lease` only if the lease still is that one: nobody has renewed it meanwhile.
    A failure that the script's retry policy covers is the attempt's alone: the run waits for its next. A free place
    goes to the next waiting run, whoever waits for the outcome is told, and the fact goes on the bus.
    """
    now = services.clock()
    duration_ms = min(ending.duration_ms, MAX_DURATION_MS)
    result, result_key = _store_result(services, run, attempt, ending.result)
    error, stack = (None if text is None else jsontext.storable(text) for text in (ending.error, ending.error_stack))
    with transaction():
        script = locks.to_end(run.script_id)
        if script is None:  # deleted meanwhile, and its runs with it
            return False
        ours = (run.id, attempt, lapsed_lease or 0, lapsed_lease or _FOR_EVER)
        again, dead = _judge(script, run.id, ending)
        if again is not None:
            if not _try_again(ours, again, ending, error, stack, now):
                return False
            admitted = sending.admit_next(script, now)
        else:
            recorded = _FINISH.execute(
                status=ending.status, completed_at=now, duration_ms=duration_ms, result=result,
                result_key=result_key, summary=Run.summary.db_value(ending.summary), error=error,
                error_code=ending.error_code, error_stack=stack, log_key=ending.log_key,
                log_chunks=ending.log_chunks, usage=Run.usage.db_value(ending.usage),
                run_id=run.id, attempt=attempt, least=ours[2], most=ours[3],
            )  # fmt: skip
            if not recorded.rowcount:
                return False
            if dead is not None:
                deadletters.record(services, script, run.id, dead, now)
            callbacks.record(run, script, now)
            admitted = sending.admit_next(script, now, run.batch_id)
            fact = _record_fact(services, run, script, ending.status, error, duration_ms)
    metrics.run_seconds().labels(status=ending.status).observe(ending.duration_ms / 1000)
    if again is not None:
        metrics.runs_retried().inc()
        sending.pass_on(services, script, admitted)
    else:
        tell(services, run, script, ending.status, admitted, fact)
    return True


def _judge(script: Script, run_id: str, ending: Ending) -> tuple[int | None, str | None]:
    """After how many milliseconds a run that ends like this is tried again, or None; and why it is given up, if so."""
    if ending.error_code == PLATFORM_ERROR:
        return None, "The platform could not carry it out."
    policy = Policy.of(script.retry)
    if policy is not None and policy.gives_up(ending.status, ending.error_code):
        return None, "No further try would mend it."
    if policy is None or not policy.covers(ending.status, ending.error_code, ending.error):
        return None, None
    run = Run.select(Run.tries, Run.cancel_requested_at).where(Run.id == run_id).get_or_none()
    if run is None or run.cancel_requested_at is not None:
        return None, None
    if ending.error_code == WORKER_LOST and _lost_before(run_id) + 1 >= LOST_IN_A_ROW:
        return None, f"It lost {LOST_IN_A_ROW} workers in a row."
    if run.tries >= policy.count:
        return None, f"It failed {run.tries + 1} times."
    return policy.delay_ms(run_id, run.tries), None


def _lost_before(run_id: str) -> int:
    """How many of its attempts lost their worker, counted from the latest to the first that did not."""
    codes = Attempt.select(Attempt.error_code).where(Attempt.run == run_id).order_by(Attempt.number.desc())
    return sum(1 for _ in itertools.takewhile(lambda row: row.error_code == WORKER_LOST, codes))


def _try_again(
    ours: tuple[str, int, int, int], delay_ms: int, ending: Ending, error: str | None, stack: str | None, now: int
) -> bool:
    """Keep the attempt as it ended, and let the run wait for its next. False: the run is not this attempt's."""
    run_id, attempt, least, most = ours
    chosen = (
        (Run.id == run_id) & (Run.attempt == attempt) & (Run.status == RUNNING) & Run.lease_until.between(least, most)
    )
    held = Run.select(Run.worker, Run.started_at).where(chosen).get_or_none()
    moved = Run.update(
        status=QUEUED, sent_at=None, available_at=now + delay_ms, order_at=now + delay_ms, started_at=None,
        worker=None, lease_until=None, tries=Run.tries + 1, expires_at=None, debounce_key=None,
    ).where(chosen).execute()  # fmt: skip
    if held is None or not moved:
        return False
    Attempt.create(
        run=run_id, number=attempt, status=ending.status, worker=held.worker, started_at=held.started_at,
        completed_at=now, duration_ms=min(ending.duration_ms, MAX_DURATION_MS), error=error,
        error_code=ending.error_code, error_stack=stack, log_key=ending.log_key, usage=ending.usage,
    )  # fmt: skip
    return True


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


def tell(
    services: Services, run: Run, script: Script, status: str, admitted: Sequence[tuple[str, int]], fact: str | None
) -> None:
    services.bus.hint(f"run:{run.id}", f"end {status}")
    metrics.runs_ended().labels(status=status, trigger=run.trigger).inc()
    sending.pass_on(services, script, admitted)
    if fact is not None:
        services.bus.announce(fact)


def cancel(services: Services, run: Run) -> None:
    """End a queued run at once; ask the worker of a running one to kill it. Raises Conflict when it has ended."""
    now = services.clock()
    with transaction():
        script = locks.lock_script(run.script_id)
        ended = end_unstarted((Run.id == run.id) & (Run.status == QUEUED), now)
        asked = 0 if ended else (
            Run.update(cancel_requested_at=now).where(Run.id == run.id, Run.status == RUNNING).execute()
        )
        if ended:
            callbacks.record(run, script, now)
        admitted = sending.admit_next(script, now, run.batch_id) if ended else []
    if ended:
        tell(services, run, script, CANCELLED, admitted, None)
    elif not asked:
        raise Conflict(f"Run '{run.id}' has ended already: {Run.get_by_id(run.id).status}.")


def expire(services: Services, limit: int = 200) -> int:
    """End runs that were not to start so late. Returns how many."""
    now = services.clock()
    late = Run.select().where(
        Run.expires_at.is_null(False), Run.started_at.is_null(), Run.completed_at.is_null(), Run.expires_at <= now
    )
    return sum(_give_up(services, run, _expired(run, now)) for run in late.order_by(Run.expires_at).limit(limit))


@dataclass(frozen=True)
class _Verdict:
    """How a run ends that never began."""

    status: str
    code: str
    error: str
    dead: str | None = None
    if_so: peewee.Expression | None = None
    """What must hold still when the run is held: it may have changed since it was looked at."""


def _expired(run: Run, now: int) -> _Verdict:
    due_at = run.available_at if run.batch_id is None else run.created_at  # which may not be in the line yet
    seconds = (run.expires_at - due_at) / 1000
    error = f"Expired: it had not started {seconds:g} s after it was due."
    return _Verdict(CANCELLED, "EXPIRED", error, if_so=Run.expires_at <= now)


def poisoned(services: Services, run_id: str, attempt: int) -> bool:
    """End a run whose message killed every worker that took it. False: it has ended, or is another attempt's."""
    run = Run.get_or_none(Run.id == run_id, Run.status == QUEUED, Run.attempt == attempt - 1)
    error = "Each worker that took it died before its handler was entered."
    verdict = _Verdict(FAILED, WORKER_LOST, error, dead=f"It killed {MAX_DELIVERIES} workers.")
    return run is not None and _give_up(services, run, verdict)


def _give_up(services: Services, run: Run, verdict: _Verdict) -> bool:
    now = services.clock()
    with transaction():
        script = locks.to_end(run.script_id)
        if script is None:  # deleted meanwhile, and its runs with it
            return False
        same = (Run.id == run.id) & (Run.status == QUEUED) & (Run.attempt == run.attempt)
        if verdict.if_so is not None:
            same &= verdict.if_so
        if not end_unstarted(same, now, verdict.error, verdict.code, verdict.status):
            return False
        if verdict.dead is not None:
            deadletters.record(services, script, run.id, verdict.dead, now)
        callbacks.record(run, script, now)
        admitted = sending.admit_next(script, now, run.batch_id)
        fact = _record_fact(services, run, script, verdict.status, verdict.error, 0)
    tell(services, run, script, verdict.status, admitted, fact)
    return True
