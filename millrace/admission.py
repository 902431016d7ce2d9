"""Who may be sent to the queue now, and who waits: limits of runs at once.

A run holds a place from the moment it is sent until it ends. There are places of its script, of its key if it has
one, and of its workspace if that has a limit. All are counted from the runs themselves, so none can leak: there is no
counter to repair.
"""

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Any

import peewee

from millrace.compiled import Compiled, place
from millrace.models import Run, Script
from millrace.models.run import QUEUED
from millrace.models.script import DELETED

# Written without parameters, as the partial indexes for them are: both cost the same however long the history is.
HOLDING = Run.sent_at.is_null(False) & Run.completed_at.is_null()
WAITING = Run.sent_at.is_null() & Run.completed_at.is_null()

SERIAL = "serial"
"""The key of runs that wait for each other, whatever the script's own keys are."""
LOOKED_AT = 1_000
"""Of those whose key has a place, so many are looked at: they may be more of one key than it has places."""


@dataclass(frozen=True)
class Bounds:
    """What applies to the runs of one script besides its own limit."""

    per_key: int = 1
    workspace_runs: int | None = None


NO_BOUNDS = Bounds()


def held(script_uuid: str) -> int:
    """How many places of this script are taken now."""
    (count,) = _HELD.execute(script=script_uuid).fetchone()
    return int(count)


def held_in_workspace(workspace_id: str) -> int:
    """How many places of this workspace are taken now."""
    return int(Run.select(peewee.fn.COUNT(Run.id)).where(Run.workspace == workspace_id, HOLDING).scalar())


class Room(Enum):
    """What a run that comes now finds."""

    FREE = "a place, and nobody who waits"
    LINE = "a place, and others who wait, be it for something else"
    FULL = "no place"


def room(script: Script, now: int) -> Room:
    """What there is for a run of this script that has no key, while its workspace has no limit.

    Call it in a transaction that holds the script's row, see `runs.lock_script`.
    """
    if held(script.uuid) >= script.max_concurrent_runs:
        return Room.FULL
    anybody = _ANYBODY.execute(script=script.uuid, now=now).fetchone() is not None
    return Room.LINE if anybody else Room.FREE


def admit_waiting(script: Script, now: int, bounds: Bounds = NO_BOUNDS) -> list[tuple[str, int]]:
    """Give free places to the first runs in line that are due. Returns (run id, next attempt) to be sent.

    Call it in a transaction that holds the script's row, see `runs.lock_script`, and the workspace's if that has a
    limit.
    """
    if _ANYBODY.execute(script=script.uuid, now=now).fetchone() is None:
        return []
    free = script.max_concurrent_runs - held(script.uuid)
    if bounds.workspace_runs is not None:
        free = min(free, bounds.workspace_runs - held_in_workspace(script.workspace_id))
    if free <= 0:
        return []
    line = _in_line(script, now)
    chosen = list(line.limit(free))
    if any(run.concurrency_key for run in chosen):
        chosen = _with_free_keys(line, free, script, bounds.per_key)
    if chosen:
        Run.update(sent_at=now).where(Run.id.in_([run.id for run in chosen])).execute()
    return [(run.id, run.attempt + 1) for run in chosen]


def _with_free_keys(line: "peewee.ModelSelect[Run]", free: int, script: Script, per_key: int) -> list[Run]:
    """The first in line whose key has a place: one whose key has none keeps nobody of another key waiting."""
    rows: Any = (
        Run.select(Run.concurrency_key, peewee.fn.COUNT(Run.id))
        .where(Run.script == script.uuid, HOLDING, Run.concurrency_key.is_null(False))
        .group_by(Run.concurrency_key).tuples()
    )  # fmt: skip
    taken: Counter[str] = Counter(dict(rows.execute()))
    full = [key for key, count in taken.items() if count >= places_of_key(key, per_key)]
    fits = Run.concurrency_key.is_null() | Run.concurrency_key.not_in(full)
    chosen: list[Run] = []
    for run in line.where(fits).limit(LOOKED_AT):
        key = run.concurrency_key
        if key is not None:
            if taken[key] >= places_of_key(key, per_key):
                continue
            taken[key] += 1
        chosen.append(run)
        if len(chosen) == free:
            break
    return chosen


def places_of_key(key: str, per_key: int) -> int:
    """How many runs of this key may go on at once."""
    return 1 if key == SERIAL else per_key


def scripts_with_place(now: int, limit: int) -> list[str]:
    """Scripts (uuid) that have a free place and a run that waits for one and is due, in no order.

    Other ones each time, if there are more than `limit`: those whose runs wait for a key or for their workspace stay,
    and must not hide the others.
    """
    holder = Run.alias()
    places = holder.select(peewee.fn.COUNT(holder.id)).where(
        holder.script == Script.uuid, holder.sent_at.is_null(False), holder.completed_at.is_null()
    )
    waiting = Run.select(Run.script).where(WAITING, Run.available_at <= now)
    rows = Script.select(Script.uuid).where(
        Script.uuid.in_(waiting), Script.status != DELETED, places < Script.max_concurrent_runs
    )
    return [script.uuid for script in rows.order_by(peewee.fn.RANDOM()).limit(limit)]


def scripts_waiting_in(workspace_id: str, now: int, limit: int) -> list[str]:
    """Scripts (uuid) of this workspace with runs that are due and wait, in the order of the first of each."""
    rows = (
        Run.select(Run.script).where(Run.workspace == workspace_id, WAITING, Run.available_at <= now)
        .group_by(Run.script).order_by(peewee.fn.MIN(Run.order_at)).limit(limit)
    )  # fmt: skip
    return [run.script_id for run in rows]


def scripts_set_back(now: int, limit: int) -> list[str]:
    """Scripts (uuid) with runs that wait for a moment which only was the present before the clock was set back."""
    rows = Run.select(Run.script).where(WAITING, _set_back(now)).distinct().limit(limit)
    return [run.script_id for run in rows]


def realign(script: Script, now: int) -> None:
    """Let its runs that nobody delayed be due by now, behind those that are and before all that come.

    Call it in a transaction that holds the script's row, see `runs.lock_script`.
    """
    # Equal times leave the order to the ids, which is the one in which the runs came. A priority keeps its worth.
    ahead = Run.available_at - Run.order_at
    Run.update(available_at=now, order_at=now - ahead).where(
        Run.script == script.uuid, WAITING, _set_back(now)
    ).execute()


def _set_back(now: int) -> peewee.Expression:
    return (Run.available_at > now) & (Run.available_at <= Run.created_at)


def _in_line(script: Script, now: int) -> "peewee.ModelSelect[Run]":
    fresh = Run.expires_at.is_null() | (Run.expires_at > now)
    return (
        Run.select(Run.id, Run.attempt, Run.concurrency_key)
        .where(Run.script == script.uuid, WAITING, Run.available_at <= now, fresh)
        .order_by(Run.order_at, Run.id)
    )


_HELD = Compiled(lambda: Run.select(peewee.fn.COUNT(Run.id)).where(Run.script == place("script"), HOLDING))
_ANYBODY = Compiled(
    lambda: Run.select(Run.id)
    .where(Run.script == place("script"), WAITING, Run.available_at <= place("now"))
    .limit(1)
)


def waiting_reason(run: Run, script: Script, now: int, bounds: Bounds = NO_BOUNDS) -> str | None:
    """Why a run has not begun, in words for a person; None when it has, or is over."""
    if run.status != QUEUED or run.completed_at is not None:
        return None
    if run.sent_at is not None:
        return "waits for a free worker"
    if run.available_at > max(now, run.created_at):
        until = f"not before {(run.available_at - now + 999) // 1000} s from now"
        return f"{until}: it is tried again then" if run.tries else until
    if (taken := held(script.uuid)) >= script.max_concurrent_runs:
        return f"{taken} of {script.max_concurrent_runs} running for this script"
    if run.concurrency_key is not None:
        taken = _held_of_key(script, run.concurrency_key)
        if taken >= (places := places_of_key(run.concurrency_key, bounds.per_key)):
            return f"{taken} of {places} running for its key"
    if bounds.workspace_runs is not None and (taken := held_in_workspace(run.workspace_id)) >= bounds.workspace_runs:
        return f"{taken} of {bounds.workspace_runs} running for this workspace"
    return "its turn comes within a second"


def _held_of_key(script: Script, key: str) -> int:
    rows = Run.select(peewee.fn.COUNT(Run.id)).where(Run.script == script.uuid, HOLDING, Run.concurrency_key == key)
    return int(rows.scalar())


def waiting_place(run: Run, now: int) -> int | None:
    """Its place in the line of its script, from 1; None when it does not wait in it, or is not due."""
    if run.status != QUEUED or run.sent_at is not None or run.available_at > now:
        return None
    before = (Run.order_at < run.order_at) | ((Run.order_at == run.order_at) & (Run.id < run.id))
    line = Run.select(peewee.fn.COUNT(Run.id)).where(Run.script == run.script_id, WAITING, Run.available_at <= now)
    return int(line.where(before).scalar()) + 1
