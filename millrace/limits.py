"""What a workspace may use: runs at once, runs a day, stored bytes, and how long its history is kept.

Only an operator sets them. The row holds what was set and nothing else, so that a new default reaches everybody.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from millrace import audit, metrics
from millrace.database import is_sqlite, transaction
from millrace.errors import Invalid, NotFound, TooMany, Unprocessable
from millrace.models import Run, Workspace
from millrace.models.run import RUNNING
from millrace.models.script import DELETED
from millrace.services import Services

DAY_MS = 24 * 3600 * 1000
MB = 1024 * 1024
MEASURE_EVERY_S = 600  # how old the measure of the stored bytes may be
RETENTION = "retention_days"
_MOST = 1_000_000_000
_MOST_DAYS = 36_500


@dataclass(frozen=True)
class RetentionDays:
    """How many days each kind is kept after its end; None is for ever, though nothing outlives its run."""

    runs: int | None = 90
    logs: int | None = 30
    events: int | None = 30
    artifacts: int | None = 90
    dead_letters: int | None = 30


@dataclass(frozen=True)
class Limits:
    """All limits of a workspace, with the defaults for those that nobody set; None is no limit."""

    max_concurrent_runs: int | None = None
    runs_per_day: int | None = None  # days of UTC
    stored_mb: int | None = None
    retention_days: RetentionDays = field(default_factory=RetentionDays)

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Usage:
    """What a workspace uses now; `stored_bytes` is None until it is measured."""

    runs_today: int
    running: int
    stored_bytes: int | None
    stored_at: int | None


_COUNTS = tuple(each.name for each in dataclasses.fields(Limits) if each.name != RETENTION)
_KINDS = tuple(each.name for each in dataclasses.fields(RetentionDays))


def parse(stored: Any) -> Limits:
    """The limits that this JSON says; null is the defaults. Raises Invalid with the field, the value and the rule."""
    given = _object(stored, "limits", (*_COUNTS, RETENTION))
    days = _object(given.get(RETENTION), RETENTION, _KINDS)
    for name in _COUNTS:
        _check(name, given.get(name), _MOST)
    for name, value in days.items():
        _check(f"{RETENTION}.{name}", value, _MOST_DAYS)
    return Limits(**{name: given.get(name) for name in _COUNTS}, retention_days=RetentionDays(**days))


def _object(value: Any, name: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(f"{name} must be a JSON object.", field=name, value=value)
    for key in value:
        if key not in known:
            raise Invalid(f"There is no limit '{key}' in {name}, which has {', '.join(known)}.",
                          field=key if name == "limits" else f"{name}.{key}", value=value[key])
    return value


def _check(name: str, value: Any, most: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most):
        raise Invalid(f"{name} must be a whole number from 1 to {most}, or null.", field=name, value=value)


def of(workspace_id: str) -> Limits:
    """The limits of a workspace. Raises NotFound."""
    return parse(_find(workspace_id).limits)


def change(services: Services, workspace_id: str, wanted: Mapping[str, Any], actor: str = "operator") -> Limits:
    """Set what is named, as `runs_per_day` or `retention_days.logs`, and leave the rest. Returns all limits.

    None is no limit; a kind with None is kept for ever. Raises NotFound and Invalid.
    """
    with transaction():
        workspace = _find(workspace_id, lock=True)
        limits = dict(workspace.limits or {})
        for name, value in wanted.items():
            kind = name.removeprefix(f"{RETENTION}.")
            if kind != name:
                limits[RETENTION] = {**limits.get(RETENTION, {}), kind: value}
            else:
                limits[name] = value
        parsed = parse(limits)
        Workspace.update(limits=limits).where(Workspace.id == workspace_id).execute()
        audit.record(services, workspace_id, actor, "limits.changed", workspace_id, dict(wanted))
    return parsed


def _find(workspace_id: str, *, lock: bool = False) -> Workspace:
    query = Workspace.select().where(Workspace.id == workspace_id, Workspace.status != DELETED)
    if lock:
        query = _held(query)
    found = query.get_or_none()
    if found is None:
        raise NotFound(f"There is no workspace '{workspace_id}'.")
    return found


def _held(query: Any) -> Any:
    """The row is held until the transaction ends; SQLite's transaction holds the only write lock already.

    Every run that is added holds its workspace's key, and must not wait for this.
    """
    return query if is_sqlite(Workspace._meta.database.obj) else query.for_update("FOR NO KEY UPDATE")


def check(
    services: Services, workspace_id: str, limits: Mapping[str, Any], stored_bytes: int | None, now: int,
    runs: int = 1,
) -> None:
    """Refuse runs that are over a quota with TooMany, or with Unprocessable if they always will be.

    Within the transaction that adds them, whose script is held.
    `limits` and `stored_bytes` are the workspace's columns. Runs of today are counted up to the limit and no further.
    """
    _check_stored(workspace_id, limits, stored_bytes)
    per_day = limits.get("runs_per_day")
    if per_day is None:
        return
    # Held until the end, so that two scripts do not both take the last run of the day.
    _held(Workspace.select(Workspace.id).where(Workspace.id == workspace_id)).execute()
    if runs > per_day:
        metrics.quota_refusals().labels(limit="runs_per_day").inc()
        raise Unprocessable(
            f"Workspace '{workspace_id}' may start {per_day} runs a day of UTC (runs_per_day), and not {runs} at once."
        )
    tomorrow = day_of(now) + DAY_MS
    started = _count_today(workspace_id, now, per_day)
    if started + runs > per_day:
        more = "" if runs == 1 else f" and not {runs} more"
        raise _refusal(
            "runs_per_day", f"Workspace '{workspace_id}' has started {started} runs today, and may start {per_day} a "
            f"day of UTC (runs_per_day){more}.", -(-(tomorrow - now) // 1000),
        )  # fmt: skip


def check_stored(workspace_id: str) -> None:
    """Refuse to store more with TooMany, if the workspace stores what it may."""
    workspace = Workspace.select(Workspace.limits, Workspace.stored_bytes).where(Workspace.id == workspace_id).get()
    _check_stored(workspace_id, workspace.limits or {}, workspace.stored_bytes)


def _check_stored(workspace_id: str, limits: Mapping[str, Any], stored_bytes: int | None) -> None:
    stored_mb = limits.get("stored_mb")
    if stored_mb is not None and (stored_bytes or 0) >= stored_mb * MB:
        raise _refusal(
            "stored_mb", f"Workspace '{workspace_id}' stores {(stored_bytes or 0) // MB} MB, and may store {stored_mb} "
            "MB (stored_mb). It is measured every ten minutes.", MEASURE_EVERY_S,
        )  # fmt: skip


def _refusal(limit: str, message: str, retry_after: int) -> TooMany:
    metrics.quota_refusals().labels(limit=limit).inc()
    return TooMany(message, retry_after=retry_after)


def day_of(now: int) -> int:
    """When this moment's day began, in UTC."""
    return now - now % DAY_MS


def _count_today(workspace_id: str, now: int, most: int | None) -> int:
    today = Run.select(Run.id).where(Run.workspace == workspace_id, Run.created_at >= day_of(now))
    return int((today if most is None else today.limit(most)).count())


def usage(services: Services, workspace_id: str) -> Usage:
    """What the workspace uses now. Raises NotFound."""
    # As the index of what is open has it: the history is not read.
    running = Run.workspace == workspace_id, Run.completed_at.is_null(), Run.status == RUNNING
    workspace = _find(workspace_id)
    return Usage(
        runs_today=_count_today(workspace_id, services.clock(), None),
        running=int(Run.select(Run.id).where(*running).count()),
        stored_bytes=workspace.stored_bytes,
        stored_at=workspace.stored_at,
    )


def cutoff(limits: Limits, kind: str, now: int) -> int | None:
    """The moment before which what ended of this kind was kept long enough; None if it is kept for ever."""
    days: int | None = getattr(limits.retention_days, kind)
    return None if days is None else now - days * DAY_MS
