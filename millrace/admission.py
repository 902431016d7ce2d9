"""Who may be sent to the queue now, and who waits: limits of runs at once.

A run holds a place from the moment it is sent until it ends. There are places of its script, of its key if it has
one, and of its workspace if that has a limit. All are counted from the runs themselves, so none can leak: there is no
counter to repair.

The items of a batch come into the line of their script few at a time, as many as the batch may have under way: those
that are outside cost nobody in the line anything, however many they are.
"""

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Any

import peewee

from millrace.compiled import Compiled, place
from millrace.models import Batch, Run, Script
from millrace.models.run import NOT_YET, QUEUED
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
    chosen = _LINE.execute(script=script.uuid, now=now, free=free).fetchall()
    if any(key is not None for _, _, key in chosen):
        chosen = _with_free_keys(script, now, free, bounds.per_key)
    for run_id, _, _ in chosen:
        _SEND.execute(run_id=run_id, now=now)
    return [(run_id, attempt + 1) for run_id, attempt, _ in chosen]


_Waiting = tuple[str, int, str | None]
"""The id of a run, its attempt and its key."""


def _with_free_keys(script: Script, now: int, free: int, per_key: int) -> list[_Waiting]:
    """The first in line whose key has a place: one whose key has none keeps nobody of another key waiting."""
    rows: Any = (
        Run.select(Run.concurrency_key, peewee.fn.COUNT(Run.id))
        .where(Run.script == script.uuid, HOLDING, Run.concurrency_key.is_null(False))
        .group_by(Run.concurrency_key).tuples()
    )  # fmt: skip
    taken: Counter[str] = Counter(dict(rows.execute()))
    full = [key for key, count in taken.items() if count >= places_of_key(key, per_key)]
    fits = Run.concurrency_key.is_null() | Run.concurrency_key.not_in(full)
    line: Any = _in_line(script.uuid, now).where(fits).limit(LOOKED_AT).tuples()
    chosen: list[_Waiting] = []
    for run_id, attempt, key in line:
        if key is not None:
            if taken[key] >= places_of_key(key, per_key):
                continue
            taken[key] += 1
        chosen.append((run_id, attempt, key))
        if len(chosen) == free:
            break
    return chosen


def places_of_key(key: str, per_key: int) -> int:
    """How many runs of this key may go on at once."""
    return 1 if key == SERIAL else per_key


def feed(batch_id: str, now: int) -> int:
    """Let items of this batch into the line of their script, up to what it may have under way. Returns how many.

    One that waits for its next try is under way. Call it in a transaction that holds the script's row, see
    `runs.lock_script`.
    """
    row = _BATCH.execute(batch_id=batch_id).fetchone()
    if row is None:
        return 0
    concurrency, order_at, under_way = row
    if under_way >= concurrency:
        return 0
    fed = _FEED.execute(batch_id=batch_id, now=now, order_at=order_at, free=concurrency - under_way)
    return int(fed.rowcount)


def _batch_query() -> peewee.Query:
    under_way = Run.select(peewee.fn.COUNT(Run.id)).where(_of_batch(), Run.available_at < NOT_YET)
    return Batch.select(Batch.concurrency, Batch.order_at, under_way).where(
        Batch.id == place("batch_id"), Batch.concurrency.is_null(False), Batch.cancelled_at.is_null()
    )


def _of_batch() -> peewee.Expression:
    return (Run.batch_id == place("batch_id")) & Run.completed_at.is_null()


def _feed_query() -> peewee.Query:
    following = Run.select(Run.id).where(_of_batch(), Run.available_at == NOT_YET).order_by(Run.batch_index)
    return Run.update(available_at=place("now"), order_at=place("order_at")).where(
        Run.id.in_(following.limit(place("free")))
    )


_BATCH = Compiled(_batch_query)
_FEED = Compiled(_feed_query)


def starved_batches(limit: int) -> list[tuple[str, str]]:
    """Batches (id, script's uuid) with items outside the line and less under way than they may, in no order."""
    # Without a word on the batch, so that no index with the history of batches is taken for the open ones.
    outside = Run.select(Run.batch_id).where(WAITING, Run.available_at == NOT_YET)
    other = Run.alias()
    under_way = other.select(peewee.fn.COUNT(other.id)).where(
        other.batch_id == Batch.id, other.completed_at.is_null(), other.available_at < NOT_YET
    )
    rows = Batch.select(Batch.id, Batch.script).join(Script).where(
        Batch.id.in_(outside), Batch.cancelled_at.is_null(), under_way < Batch.concurrency, Script.status != DELETED
    )
    return [(batch.id, batch.script_id) for batch in rows.order_by(peewee.fn.RANDOM()).limit(limit)]


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


def next_due(now: int) -> int | None:
    """When the next delayed run or retry is due, if one is."""
    ahead = Run.select(peewee.fn.MIN(Run.available_at)).where(
        WAITING, Run.available_at > now, Run.available_at < NOT_YET
    )
    moment: int | None = ahead.scalar()
    return moment


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
    # An item of a batch that came into the line since is due from then on, and none is delayed before its first try.
    nobody_delayed = (Run.available_at <= Run.created_at) | (Run.batch_id.is_null(False) & (Run.tries == 0))
    return (Run.available_at > now) & (Run.available_at < NOT_YET) & nobody_delayed


def _in_line(script_uuid: Any, now: Any) -> "peewee.ModelSelect[Run]":
    fresh = Run.expires_at.is_null() | (Run.expires_at > now)
    return (
        Run.select(Run.id, Run.attempt, Run.concurrency_key)
        # The second bound is for the index by that order: what is outside is not even looked at.
        .where(Run.script == script_uuid, WAITING, Run.available_at <= now, Run.order_at < NOT_YET, fresh)
        .order_by(Run.order_at, Run.id)
    )


_LINE = Compiled(lambda: _in_line(place("script"), place("now")).limit(place("free")))
_SEND = Compiled(lambda: Run.update(sent_at=place("now")).where(Run.id == place("run_id")))
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
    if run.batch_id is not None and run.available_at == NOT_YET:
        return _reason_of_batch(run.batch_id)
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


def _reason_of_batch(batch_id: str) -> str:
    row = _BATCH.execute(batch_id=batch_id).fetchone()
    return "its batch is being cancelled" if row is None else f"{row[2]} of {row[0]} under way for its batch"


def _held_of_key(script: Script, key: str) -> int:
    rows = Run.select(peewee.fn.COUNT(Run.id)).where(Run.script == script.uuid, HOLDING, Run.concurrency_key == key)
    return int(rows.scalar())


def waiting_place(run: Run, now: int) -> int | None:
    """Its place in the line of its script, from 1; None when it does not wait in it, or is not due.

    For an item of a batch that is not in that line yet: its place among those of its batch that wait.
    """
    if run.status == QUEUED and run.available_at == NOT_YET:
        waiting = Run.select(peewee.fn.COUNT(Run.id)).where(Run.batch_id == run.batch_id, WAITING)
        return int(waiting.where(Run.batch_index < run.batch_index).scalar()) + 1
    if run.status != QUEUED or run.sent_at is not None or run.available_at > now:
        return None
    before = (Run.order_at < run.order_at) | ((Run.order_at == run.order_at) & (Run.id < run.id))
    line = Run.select(peewee.fn.COUNT(Run.id)).where(Run.script == run.script_id, WAITING, Run.available_at <= now)
    return int(line.where(before).scalar()) + 1
