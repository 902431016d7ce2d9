"""Retention: what ended long enough ago is removed, in small parts, by the limits of its workspace.

Rows go first and objects after them, so that a crash in between leaves nothing that is shown but missing. The objects
that it leaves are named by no row; `millrace.stocktaking` finds and deletes them.
Only runs that are over are looked at: what is queued or running stays, however old it is.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence

import peewee

from millrace import audit, limits, logs, metrics, removal
from millrace.database import transaction
from millrace.limits import Limits
from millrace.models import Artifact, Attempt, Audit, Batch, DeadLetter, Event, Firing, Run, Script, Workspace
from millrace.models.script import DELETED
from millrace.services import Services

PART = 200  # rows of a kind that one step removes
EVERY_S = 60.0
AUDIT_DAYS = 365
ACTION = "retention.removed"
ACTOR = "sweeper"
_KINDS = {field.name for field in dataclasses.fields(limits.RetentionDays)}

_Mark = tuple[int, str]  # completed_at and id of a run
_START: _Mark = (-1, "")


class Retention:
    """What one process remembers of its rounds. `monotonic` gives seconds that no one can set."""

    def __init__(self, services: Services, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._monotonic = monotonic
        self._waiting: list[str] = []  # workspaces of this round whose turn comes
        self._begun = float("-inf")
        # How far the runs of a workspace were looked through for a kind. After a start all are once more.
        self._marks: dict[tuple[str, str], _Mark] = {}

    def step(self) -> bool:
        """Remove a part, of one workspace. Returns whether there is more to do now. Raises Unavailable."""
        if not self._waiting and not self._begin():
            return False
        # One that fails comes to its turn again in the next round, and keeps no other waiting.
        workspace_id = self._waiting.pop(0)
        if self._remove_part(workspace_id):
            self._waiting.insert(0, workspace_id)
        return bool(self._waiting)

    def _begin(self) -> bool:
        if self._monotonic() - self._begun < EVERY_S:
            return False
        self._begun = self._monotonic()
        alive = Workspace.select(Workspace.id).where(Workspace.status != DELETED).order_by(Workspace.id)
        self._waiting = [each.id for each in alive]
        self._marks = {key: mark for key, mark in self._marks.items() if key[0] in self._waiting}
        removed = _in_one_go(Audit, Audit.workspace.is_null(), Audit.at < self._audit_cutoff())
        metrics.retention_removed().labels(kind="audit").inc(removed)
        return bool(self._waiting)

    def _audit_cutoff(self) -> int:
        return self._services.clock() - AUDIT_DAYS * limits.DAY_MS

    def _remove_part(self, workspace_id: str) -> bool:
        """Returns whether a kind has more of them."""
        kept = Workspace.select(Workspace.limits).where(Workspace.id == workspace_id).get_or_none()
        if kept is None:
            return False
        wanted = limits.parse(kept.limits)
        removed: Counter[str] = Counter()
        more = [
            self._walk(workspace_id, wanted, "logs", self._remove_logs, removed),
            self._walk(workspace_id, wanted, "artifacts", self._remove_artifacts, removed),
            self._remove_runs(workspace_id, wanted, removed),
            self._remove_rows(workspace_id, wanted, removed),
        ]
        if removed:
            audit.add_up(self._services, workspace_id, ACTOR, ACTION, removed)
        for kind, count in removed.items():
            metrics.retention_removed().labels(kind=kind).inc(count)
        return any(more)

    def _walk(
        self, workspace_id: str, wanted: Limits, kind: str, remove: Callable[[Sequence[Run]], int],
        removed: Counter[str],
    ) -> bool:  # fmt: skip
        """Go on through the runs that ended before the kind's cutoff, from where the last walk came to."""
        cutoff = limits.cutoff(wanted, kind, self._services.clock())
        if cutoff is None:
            return False
        moment, tie = self._marks.get((workspace_id, kind), _START)
        after = (Run.completed_at > moment) | ((Run.completed_at == moment) & (Run.id > tie))
        query = _ended(workspace_id, cutoff).where(Run.completed_at >= moment, after)
        some = list(query.order_by(Run.completed_at, Run.id).limit(PART))
        if some:
            removed[kind] += remove(some)
            self._marks[workspace_id, kind] = (some[-1].completed_at, some[-1].id)
        removed += Counter()  # without those that are zero
        return len(some) == PART

    def _remove_logs(self, past: Sequence[Run]) -> int:
        """Nobody finds them any more, then they are gone."""
        having = [run for run in past if run.log_key or run.log_chunks or (run.tries and run.log_key is None)]
        keys = [key for run in having for key in removal.log_keys(self._services, run)]
        if not keys:
            return 0
        _forget_logs(having)
        self._services.objects.delete(keys)
        return len(having)

    def _remove_artifacts(self, past: Sequence[Run]) -> int:
        rows = list(Artifact.select().where(Artifact.run.in_([run.id for run in past])))
        if not rows:
            return 0
        with transaction():
            removed = int(Artifact.delete().where(Artifact.id.in_([row.id for row in rows])).execute())
        self._services.objects.delete([row.object_key for row in rows])
        return removed

    def _remove_runs(self, workspace_id: str, wanted: Limits, removed: Counter[str]) -> bool:
        """With all that hangs on them."""
        cutoff = limits.cutoff(wanted, "runs", self._services.clock())
        if cutoff is None:
            return False
        past = list(_ended(workspace_id, cutoff).order_by(Run.completed_at).limit(PART))
        if past:
            keys = removal.object_keys(self._services, past)
            ids = [run.id for run in past]
            with transaction():
                # An idempotency key lives for a day, and so none that still counts names a run of yesterday.
                removed["runs"] += Run.delete().where(Run.id.in_(ids)).execute()
            self._services.objects.delete(keys)
        removed += Counter()
        return len(past) == PART

    def _remove_rows(self, workspace_id: str, wanted: Limits, removed: Counter[str]) -> bool:
        """What is a row and nothing else."""
        now = self._services.clock()
        for kind, (model, conditions) in _rows(workspace_id).items():
            cutoff = limits.cutoff(wanted, kind if kind in _KINDS else "runs", now)
            if cutoff is not None:
                removed[kind] += _in_one_go(model, *conditions(cutoff))
        removed["audit"] += _in_one_go(Audit, Audit.workspace == workspace_id, Audit.at < self._audit_cutoff())
        full = any(removed[kind] >= PART for kind in (*_rows(workspace_id), "audit"))
        removed += Counter()
        return full


def _ended(workspace_id: str, cutoff: int) -> "peewee.ModelSelect[Run]":
    """Runs that were over before this moment, as their index has them."""
    return Run.select(*removal.NEEDED, Run.completed_at).where(
        Run.workspace == workspace_id, Run.completed_at.is_null(False), Run.completed_at < cutoff
    )


def _forget_logs(having: Sequence[Run]) -> None:
    ids = [run.id for run in having]
    with transaction():
        Run.update(log_key=logs.REMOVED, log_chunks=0).where(Run.id.in_(ids)).execute()
        Attempt.update(log_key=logs.REMOVED).where(Attempt.run.in_(ids)).execute()


_Conditions = Callable[[int], tuple[peewee.Expression, ...]]


def _rows(workspace_id: str) -> dict[str, tuple[type[Event | Batch | DeadLetter | Firing], _Conditions]]:
    """Which rows of a kind a cutoff removes."""
    scripts = Script.select(Script.uuid).where(Script.workspace == workspace_id)
    items = Run.select(Run.id).where(Run.batch_id == Batch.id)
    return {
        "events": (Event, lambda cutoff: (
            Event.workspace == workspace_id, Event.created_at < cutoff, Event.routed_at.is_null(False)
        )),
        "dead_letters": (DeadLetter, lambda cutoff: (
            DeadLetter.workspace == workspace_id, DeadLetter.created_at < cutoff
        )),
        "batches": (Batch, lambda cutoff: (
            Batch.workspace == workspace_id, Batch.created_at < cutoff, ~peewee.fn.EXISTS(items)
        )),
        # A due time of the past may have been made up for just now.
        "firings": (Firing, lambda cutoff: (
            Firing.script.in_(scripts), Firing.due_at < cutoff, Firing.fired_at < cutoff
        )),
    }  # fmt: skip


def _in_one_go(model: type[Event | Batch | DeadLetter | Firing | Audit], *conditions: peewee.Expression) -> int:
    """Remove up to `PART` of these rows. Returns how many."""
    some = [row.id for row in model.select(model.id).where(*conditions).limit(PART)]
    if not some:
        return 0
    with transaction():
        return int(model.delete().where(model.id.in_(some)).execute())
