"""Who may be sent to the queue now, and who waits: the limit of runs at once per script.

A run holds a place from the moment it is sent until it ends. Places are counted from the runs themselves, so
none can leak: there is no counter to repair.
"""

import peewee

from millrace.compiled import Compiled, place
from millrace.models import Run, Script
from millrace.models.run import QUEUED
from millrace.models.script import DELETED

# Written without parameters, as the partial indexes for them are: both cost the same however long the history is.
HOLDING = Run.sent_at.is_null(False) & Run.completed_at.is_null()
WAITING = Run.sent_at.is_null() & Run.completed_at.is_null()


def held(script_uuid: str) -> int:
    """How many places of this script are taken now."""
    (count,) = _HELD.execute(script=script_uuid).fetchone()
    return int(count)


def has_place(script: Script, now: int) -> bool:
    """Whether a run that comes now may be sent: a place is free, and nobody waits for it already.

    Call it in a transaction that holds the script's row, see `runs.lock_script`.
    """
    anybody = _ANYBODY.execute(script=script.uuid, now=now).fetchone() is not None
    return not anybody and held(script.uuid) < script.max_concurrent_runs


def admit_waiting(script: Script, now: int) -> list[tuple[str, int]]:
    """Give free places to the longest waiting runs that are due. Returns (run id, next attempt) to be sent.

    Call it in a transaction that holds the script's row, see `runs.lock_script`.
    """
    if _ANYBODY.execute(script=script.uuid, now=now).fetchone() is None:
        return []
    free = script.max_concurrent_runs - held(script.uuid)
    if free <= 0:
        return []
    chosen = list(_waiting(script, now).order_by(Run.available_at, Run.id).limit(free))
    Run.update(sent_at=now).where(Run.id.in_([run.id for run in chosen])).execute()
    return [(run.id, run.attempt + 1) for run in chosen]


def scripts_with_place(now: int, limit: int) -> list[str]:
    """Scripts (uuid) that have a free place and a run that waits for one and is due."""
    holder = Run.alias()
    places = holder.select(peewee.fn.COUNT(holder.id)).where(
        holder.script == Script.uuid, holder.sent_at.is_null(False), holder.completed_at.is_null()
    )
    waiting = Run.select(Run.script).where(WAITING, Run.available_at <= now)
    rows = Script.select(Script.uuid).where(
        Script.uuid.in_(waiting), Script.status != DELETED, places < Script.max_concurrent_runs
    )
    return [script.uuid for script in rows.limit(limit)]


def scripts_set_back(now: int, limit: int) -> list[str]:
    """Scripts (uuid) with runs that wait for a moment which only was the present before the clock was set back."""
    rows = Run.select(Run.script).where(WAITING, _set_back(now)).distinct().limit(limit)
    return [run.script_id for run in rows]


def realign(script: Script, now: int) -> None:
    """Let its runs that nobody delayed be due by now, behind those that are and before all that come.

    Call it in a transaction that holds the script's row, see `runs.lock_script`.
    """
    # Equal times leave the order to the ids, which is the one in which the runs came.
    Run.update(available_at=now).where(Run.script == script.uuid, WAITING, _set_back(now)).execute()


def _set_back(now: int) -> peewee.Expression:
    return (Run.available_at > now) & (Run.available_at <= Run.created_at)


def _waiting(script: Script, now: int) -> "peewee.ModelSelect[Run]":
    return Run.select(Run.id, Run.attempt).where(Run.script == script.uuid, WAITING, Run.available_at <= now)


_HELD = Compiled(lambda: Run.select(peewee.fn.COUNT(Run.id)).where(Run.script == place("script"), HOLDING))
_ANYBODY = Compiled(
    lambda: Run.select(Run.id)
    .where(Run.script == place("script"), WAITING, Run.available_at <= place("now"))
    .limit(1)
)


def waiting_reason(run: Run, script: Script, now: int) -> str | None:
    """Why a queued run is not on its way, in words for a person; None when it is."""
    if run.status != QUEUED or run.sent_at is not None:
        return None
    if run.available_at > max(now, run.created_at):
        return f"not before {(run.available_at - now + 999) // 1000} s from now"
    return f"{held(script.uuid)} of {script.max_concurrent_runs} running for this script"
