"""A script's row, held until the transaction ends: what happens to its runs happens one by one."""

from collections.abc import Sequence
from typing import Any

import peewee

from millrace import admission
from millrace.compiled import Compiled, place
from millrace.database import is_sqlite
from millrace.errors import NotFound
from millrace.models import Script, Workspace
from millrace.models.script import DELETED


def bounds(script: Script, workspace: Workspace) -> admission.Bounds:
    return admission.Bounds(
        per_key=(script.concurrency or {}).get("limit", 1),
        workspace_runs=(workspace.limits or {}).get("max_concurrent_runs"),
    )


_UNLESS_KEYED = "FOR NO KEY UPDATE"  # every run that is added holds its workspace's key


def lock_workspace(workspace_id: str, bounds: admission.Bounds) -> None:
    """Held until the transaction ends, so that two scripts do not both take its last place. After the script's row,
    never before."""
    if bounds.workspace_runs is not None and not is_sqlite(Script._meta.database.obj):
        Workspace.select(Workspace.id).where(Workspace.id == workspace_id).for_update(
            _UNLESS_KEYED  # type: ignore[arg-type]  # the stubs know of no words, which peewee takes
        ).execute()


def bounds_of(script: Script) -> admission.Bounds:
    """What applies to the runs of this script besides its own limit."""
    return bounds(script, Workspace.get_by_id(script.workspace_id))


def lock_script(uuid: str) -> Script:
    """The script's row, held until the transaction ends: admissions of one script happen one by one."""
    query = Script.select(Script, Workspace).join(Workspace).where(Script.uuid == uuid)
    if not is_sqlite(Script._meta.database.obj):  # SQLite's transaction holds the only write lock already
        query = query.for_update(of=Script)
    script = query.get_or_none()
    if script is None or script.status == DELETED:
        raise NotFound("There is no such script.")
    return script


def to_submit(uuid: str) -> tuple[Script, Workspace]:
    """As `lock_script`, but with the few columns that a start needs, and those of the workspace."""
    database = Script._meta.database.obj
    row = (_READ_TO_SUBMIT if is_sqlite(database) else _LOCK_TO_SUBMIT).execute(uuid=uuid).fetchone()
    if row is None:
        raise NotFound("There is no such script.")
    script = Script(**_read(_TO_SUBMIT, row))
    if script.status == DELETED:
        raise NotFound("There is no such script.")
    return script, Workspace(**_read(_OF_WORKSPACE, row[len(_TO_SUBMIT) :]))


def _read(fields: Sequence[peewee.Field], row: Sequence[Any]) -> dict[str, Any]:
    return {field.name: field.python_value(value) for field, value in zip(fields, row, strict=False)}


_TO_SUBMIT = (
    Script.uuid, Script.workspace, Script.slug, Script.status, Script.version, Script.max_concurrent_runs,
    Script.concurrency, Script.callback_secret,
)  # fmt: skip


_OF_WORKSPACE = (Workspace.id, Workspace.status, Workspace.limits, Workspace.stored_bytes)


def _submit_query() -> "peewee.ModelSelect[Script]":
    return Script.select(*_TO_SUBMIT, *_OF_WORKSPACE).join(Workspace).where(Script.uuid == place("uuid"))


_READ_TO_SUBMIT = Compiled(_submit_query)


_LOCK_TO_SUBMIT = Compiled(lambda: _submit_query().for_update(of=Script))


def to_end(uuid: str) -> Script | None:
    """As `lock_script`, but with the few columns that the end of a run needs; None when there is none."""
    database = Script._meta.database.obj
    row = (_READ_SCRIPT if is_sqlite(database) else _LOCK_SCRIPT).execute(uuid=uuid).fetchone()
    if row is None:
        return None
    script = Script(**_read(_TO_END, row))
    script.workspace = Workspace(**_read(_OF_WORKSPACE, row[len(_TO_END) :]))
    return None if script.status == DELETED else script


_TO_END = (
    Script.uuid, Script.workspace, Script.slug, Script.max_concurrent_runs, Script.status, Script.concurrency,
    Script.retry, Script.callback_url,
)  # fmt: skip


def _script_query() -> "peewee.ModelSelect[Script]":
    return Script.select(*_TO_END, *_OF_WORKSPACE).join(Workspace).where(Script.uuid == place("uuid"))


_READ_SCRIPT = Compiled(_script_query)


_LOCK_SCRIPT = Compiled(lambda: _script_query().for_update(of=Script))
