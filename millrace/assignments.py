"""What a worker needs to know before a run begins, in one query."""

from dataclasses import dataclass

import peewee

from millrace.compiled import Compiled, place
from millrace.models import Run, Schedule, Script, Secret, Version, Workspace
from millrace.models.run import QUEUED, RUNNING
from millrace.models.script import DELETED


@dataclass(frozen=True)
class Assignment:
    """A run, its script with the workspace, where its source is, whether there are secrets to open, and the script's
    schedule (its expression), if it has one.

    The rows have only the columns that carrying a run needs; the others are not there.
    """

    run: Run
    script: Script
    source_key: str
    has_secrets: bool
    schedule: str | None

    def is_next(self, attempt: int) -> bool:
        """Whether this attempt could be claimed now. The claim decides; this only saves the way to it."""
        return bool(self.run.status == QUEUED and self.run.attempt == attempt - 1)


_RUN = (
    Run.id, Run.workspace, Run.script, Run.version, Run.status, Run.trigger, Run.payload, Run.payload_key,
    Run.available_at, Run.attempt, Run.tries, Run.event_id, Run.due_at, Run.depth,
    Run.batch_id, Run.callback_url, Run.user_id,
)  # fmt: skip
_SCRIPT = (
    Script.uuid, Script.slug, Script.runtime, Script.entry_point, Script.revision, Script.memory_mb,
    Script.timeout_seconds, Script.isolation, Script.egress_hosts, Script.limits,
)  # fmt: skip


def _query() -> peewee.Query:
    secret = Secret.select(peewee.SQL("1")).where(Secret.script == Run.script)
    return (
        Run.select(
            *_RUN, *_SCRIPT, Workspace.data_key, Version.object_key, peewee.fn.EXISTS(secret), Schedule.expression
        )
        .join(Script)
        .join(Workspace)
        .switch(Run)
        .join(Version, on=(Version.script == Run.script) & (Version.number == Run.version))
        .join(Schedule, peewee.JOIN.LEFT_OUTER, on=Schedule.script == Run.script)
        .where(Run.id == place("run_id"), Script.status != DELETED)
    )


_LOAD = Compiled(_query)
_HOLDS = Compiled(
    lambda: Run.select(Run.id).where(
        Run.id == place("run_id"), Run.attempt == place("attempt"), Run.status == RUNNING
    )
)


def load(run_id: str) -> Assignment | None:
    """What there is to know, or None when there is no such run (any more), or no such script."""
    row = _LOAD.execute(run_id=run_id).fetchone()
    if row is None:
        return None
    run = Run(**_named(_RUN, row))
    script = Script(**_named(_SCRIPT, row[len(_RUN) :]))
    data_key, source_key, has_secrets, schedule = row[len(_RUN) + len(_SCRIPT) :]
    script.workspace = Workspace(id=run.workspace_id, data_key=data_key)
    return Assignment(run, script, source_key, bool(has_secrets), schedule)


def _named(fields: tuple[peewee.Field, ...], row: tuple[object, ...]) -> dict[str, object]:
    return {field.name: field.python_value(value) for field, value in zip(fields, row, strict=False)}


def holds(run_id: str, attempt: int) -> bool:
    """Whether the run is still this attempt's."""
    return _HOLDS.execute(run_id=run_id, attempt=attempt).fetchone() is not None
