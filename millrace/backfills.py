"""Running what a schedule would have started, or has skipped, in a stretch of the past."""

import functools
import itertools

from millrace import cron, duetimes, runs, schedules
from millrace.errors import Invalid
from millrace.models import Firing, Run, Schedule, Script
from millrace.services import Services

MAX_DUE_TIMES = 1_000


def start(services: Services, script: Script, since: int, until: int) -> list[str]:
    """Start a run for each due time from `since` to `until`, both included, that has none. Returns their ids, in order.

    Each is a transaction of its own: after a failure the same call again goes on, and starts nothing twice. Raises
    NotFound without a schedule, Invalid for a stretch that is empty, not over, or of more than `MAX_DUE_TIMES`, and
    what `runs.submit` raises.
    """
    schedule = schedules.require(script)
    now = services.clock()
    due = _due_times(schedule, since, until, now)
    have_run = _have_run(schedule, since, until)
    started: list[str] = []
    for due_at in due:
        if due_at not in have_run:
            because = functools.partial(_record, due_at, now)
            submitted = runs.submit(services, schedules.order(schedule, due_at), because)
            started += [submitted.run.id] if submitted.created else []
    return started


def _due_times(schedule: Schedule, since: int, until: int, now: int) -> list[int]:
    if until > now:
        raise Invalid("until must not be in the future.", field="until", value=until)
    if since >= until:
        raise Invalid("from must be earlier than until.", field="from", value=since)
    schedule.anchor_at = _anchor_before(schedule, since)
    due = list(itertools.islice(duetimes.between(schedule, since, until), MAX_DUE_TIMES + 1))
    if len(due) > MAX_DUE_TIMES:
        raise Invalid(f"There are more than {MAX_DUE_TIMES} due times from then until then: choose less at a time.",
                      field="until", value=until)
    return due


def _anchor_before(schedule: Schedule, since: int) -> int:
    """A moment before `since` that gives a rate the same due times, as if its clock had always run."""
    plan, anchor = cron.parse(schedule.expression).plan, int(schedule.anchor_at)
    if isinstance(plan, cron.Rate) and since < anchor:
        anchor -= ((anchor - since) // plan.interval_ms + 1) * plan.interval_ms
    return anchor


def _have_run(schedule: Schedule, since: int, until: int) -> set[int]:
    ran = Firing.select(Firing.due_at).where(
        Firing.script == schedule.script_id, Firing.due_at.between(since, until), Firing.outcome == schedules.RAN
    )
    return {firing.due_at for firing in ran}


def _record(due_at: int, now: int, run: Run) -> None:
    """One that was skipped has its record already."""
    values = {"fired_at": now, "outcome": schedules.RAN, "reason": schedules.BACKFILLED, "run_id": run.id}
    skipped = (Firing.script == run.script_id) & (Firing.due_at == due_at) & (Firing.outcome == schedules.SKIPPED)
    if not Firing.update(values).where(skipped).execute():
        Firing.create(script=run.script_id, due_at=due_at, **values)
