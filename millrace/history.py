"""Reading runs back: pages, newest first, and what an event started."""

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import peewee

from millrace import paging
from millrace.models import Run, Script
from millrace.models.run import CANCELLED, FAILED, FINAL, TIMED_OUT
from millrace.models.script import DELETED
from millrace.paging import Position

# A page shows no input and no result, which may have 64 KiB each.
LISTED = tuple(field for field in Run._meta.sorted_fields if field.name not in ("payload", "result"))
_WENT_WRONG = (FAILED, TIMED_OUT, CANCELLED)


@dataclass(frozen=True)
class Filter:
    """Which runs: of one script, in these states, with these triggers, created from `since` until before `until`."""

    script: str | None = None  # uuid
    statuses: Sequence[str] = ()
    triggers: Sequence[str] = ()
    since: int | None = None
    until: int | None = None


def page(
    workspace_id: str, wanted: Filter, before: Position | None, size: int
) -> tuple[list[Run], Position | None]:
    """Runs with their scripts, newest first, and where the next page begins."""
    # A query for each state and trigger, so that the database reads just these from an index, in order.
    parts = [
        list(_query(workspace_id, wanted, status, trigger, before).limit(size + 1))
        for status in wanted.statuses or (None,)
        for trigger in wanted.triggers or (None,)
    ]
    rows = list(itertools.islice(heapq.merge(*parts, key=_position, reverse=True), size + 1))
    return paging.cut(rows, size, _position)


def oldest(workspace_id: str, wanted: Filter, limit: int) -> list[Run]:
    """Runs, oldest first."""
    parts = [
        list(_query(workspace_id, wanted, status, trigger, None).order_by(Run.created_at, Run.id).limit(limit))
        for status in wanted.statuses or (None,)
        for trigger in wanted.triggers or (None,)
    ]
    return list(itertools.islice(heapq.merge(*parts, key=_position), limit))


def _position(run: Run) -> Position:
    return run.created_at, run.id


def _query(
    workspace_id: str, wanted: Filter, status: str | None, trigger: str | None, before: Position | None
) -> "peewee.ModelSelect[Run]":
    query = Run.select(*LISTED, Script).join(Script).where(Script.status != DELETED)
    is_open = status is not None and status not in FINAL
    # One of the two, so that the database has no choice but the index that begins with it.
    query = query.where(Run.workspace == workspace_id if wanted.script is None else Run.script == wanted.script)
    if is_open:
        query = query.where(Run.completed_at.is_null())
    if status is not None:
        # The indexes of what went wrong want the word itself and no parameter.
        query = query.where(Run.status == (peewee.SQL(f"'{status}'") if status in _WENT_WRONG else status))
    if trigger is not None:
        query = query.where(Run.trigger == trigger)
    if wanted.since is not None:
        query = query.where(Run.created_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(Run.created_at < wanted.until)
    if before is not None:
        query = query.where(paging.older(Run.created_at, Run.id, before))
    return query.order_by(Run.created_at.desc(), Run.id.desc())


def started_by(event_id: str) -> list[Run]:
    """The runs that an event started, with their scripts, oldest first."""
    query = Run.select(*LISTED, Script).join(Script).where(Run.event_id == event_id, Script.status != DELETED)
    return list(query.order_by(Run.created_at, Run.id))
