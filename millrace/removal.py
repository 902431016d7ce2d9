"""Deleting scripts and workspaces. They are gone for everybody at once; what is left is removed in small parts.

The history may be a million runs: in one transaction they would hold up every other tenant's, and an object store
that does not answer must not make anybody forget which objects are to go.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress

import peewee

from millrace import audit, events, runs, scripts
from millrace.database import transaction
from millrace.errors import NotFound, Unavailable
from millrace.models import (
    ApiKey,
    Artifact,
    Audit,
    Batch,
    DataSource,
    Event,
    Firing,
    Hook,
    IdempotencyKey,
    Invitation,
    Member,
    Role,
    Run,
    Schedule,
    Script,
    Secret,
    Session,
    Subscription,
    Workspace,
)
from millrace.models.run import FINAL, RUNNING
from millrace.models.script import DELETED
from millrace.services import Services

PART = 500  # rows that one transaction removes
# How long a deleted workspace's row stays: a worker that was cut off may yet store what it had begun to.
LATE_MS = 5 * 60 * 1000
_FOLDERS = ("logs", "results", "artifacts", "payloads")
NEEDED = (
    Run.id, Run.workspace, Run.status, Run.attempt, Run.payload_key, Run.log_key, Run.result_key, Run.log_chunks,
    Run.tries,
)  # fmt: skip

log = logging.getLogger(__name__)


def delete(services: Services, script: Script, actor: str = "api") -> None:
    """Nothing starts it and nobody sees it any more, its handlers that run are ended, and its id is free again.

    A short history is removed before this returns; `purge` removes the rest. Raises NotFound when it is gone already.
    """
    fact = _retire(services, script, actor)
    if fact is not None:
        services.bus.announce(fact)
    try:
        purge(services, script.uuid)
    except Unavailable as error:
        log.warning("what a deleted script left is removed later: %s", error, extra={"script": script.slug})


def _retire(services: Services, script: Script, actor: str | None = None) -> str | None:
    """Mark it deleted. Returns the fact to announce, if somebody deleted just this one and somebody listens."""
    now = services.clock()
    with transaction():
        try:
            runs.lock_script(script.uuid)  # so that no run comes between
        except NotFound:
            raise scripts.not_found(script.slug) from None
        for model in (Hook, Schedule, Secret, Subscription):
            model.delete().where(model.script == script.uuid).execute()
        Run.update(cancel_requested_at=now).where(running(script.uuid)).execute()
        # No id that a person may choose has a slash. Its name is free again.
        deleted = {"status": DELETED, "slug": f"deleted/{script.uuid}", "unique_name": None}
        Script.update(deleted).where(Script.uuid == script.uuid).execute()
        if actor is None:
            return None
        audit.record(services, script.workspace_id, actor, "script.deleted", script.slug)
        return events.record_fact(
            services, script.workspace_id, "script.deleted", {"script_id": script.slug}, subject=script.slug
        )


def running(script_uuid: str) -> peewee.Expression:
    """The condition for a script's runs under way, as the index of what is open has it: the history is not read."""
    return (Run.script == script_uuid) & Run.completed_at.is_null() & (Run.status == RUNNING)


def next_deleted() -> str | None:
    """A deleted script (uuid) of which something is left, if there is one."""
    script = Script.select(Script.uuid).where(Script.status == DELETED).first()
    return None if script is None else str(script.uuid)


def purge(services: Services, script_uuid: str) -> bool:
    """Remove a part of what a deleted script left. Returns whether all is gone. Safe to repeat, also at once.

    The objects go first, so that a failure leaves the rows that name them. Raises Unavailable.
    """
    past = list(
        Run.select(*NEEDED).where(Run.script == script_uuid).order_by(Run.created_at, Run.id).limit(PART)
    )
    if past:
        services.objects.delete(object_keys(services, past))
        with transaction():
            Run.delete().where(Run.id.in_([run.id for run in past])).execute()
        if len(past) == PART:
            return False
    for model in (Batch, Firing, IdempotencyKey):
        some = model.select(model.id).where(model.script == script_uuid).limit(PART)
        with transaction():
            if model.delete().where(model.id.in_([row.id for row in some])).execute() == PART:
                return False
    services.objects.delete_prefix(f"scripts/{script_uuid}/")
    for script in Script.select(Script.workspace).where(Script.uuid == script_uuid):
        services.cache.forget(script.workspace_id, script_uuid)
    with transaction():
        Script.delete().where(Script.uuid == script_uuid, Script.status == DELETED).execute()
    return True


def object_keys(services: Services, past: Sequence[Run]) -> list[str]:
    """Every object of these runs. They need the columns that `NEEDED` names. Raises Unavailable."""
    files = Artifact.select(Artifact.object_key).where(Artifact.run.in_([run.id for run in past]))
    keys = [file.object_key for file in files]
    for run in past:
        keys += [key for key in (run.payload_key, run.log_key, run.result_key) if key]
        # The row does not know the keys of what was begun and not recorded. Who never was begun has but its payload,
        # and there may be thousands of those: each look would cost four questions to the store.
        begun = run.attempt > 0 and run.status not in FINAL
        if run.log_chunks or begun or run.tries:
            keys += _all_of_run(services, run.workspace_id, run.id)
    return keys


def log_keys(services: Services, run: Run) -> list[str]:
    """Every object of a run's logs, also of its earlier tries. Raises Unavailable."""
    whole = f"logs/{run.workspace_id}/{run.id}.log"
    pieces = services.objects.list(f"logs/{run.workspace_id}/{run.id}/") if run.log_chunks or run.tries else []
    return sorted({whole, run.log_key or whole, *pieces})


def remove_objects_of_run(services: Services, workspace_id: str, run_id: str) -> None:
    """Delete everything that the object store holds of a run. Raises Unavailable."""
    services.objects.delete(_all_of_run(services, workspace_id, run_id))


def _all_of_run(services: Services, workspace_id: str, run_id: str) -> list[str]:
    keys = [f"logs/{workspace_id}/{run_id}.log", f"payloads/{workspace_id}/{run_id}.json"]
    for kind in ("logs", "results", "artifacts"):
        keys += services.objects.list(f"{kind}/{workspace_id}/{run_id}/")
    return keys


def delete_workspace(services: Services, workspace_id: str, actor: str = "operator") -> None:
    """Its keys and people are gone, nothing starts there any more; `purge_workspace` removes the rest.

    Its id is free again when all is removed. Raises NotFound.
    """
    with transaction():
        marked = Workspace.update(status=DELETED).where(Workspace.id == workspace_id, Workspace.status != DELETED)
        if not marked.execute():
            raise NotFound(f"There is no workspace '{workspace_id}'.")
        for model in (ApiKey, DataSource, Invitation, Member, Role):
            model.delete().where(model.workspace == workspace_id).execute()
        # Whoever looks at it stays signed in, and looks elsewhere.
        Session.update(workspace=None).where(Session.workspace == workspace_id).execute()
        audit.record(services, workspace_id, actor, _DELETED, workspace_id)
    _retire_all(services, workspace_id)


_DELETED = "workspace.deleted"


def _retire_all(services: Services, workspace_id: str) -> None:
    for script in Script.select().where(Script.workspace == workspace_id, Script.status != DELETED):
        with suppress(NotFound):  # somebody else was faster
            _retire(services, script)


def purge_workspaces(services: Services) -> bool:
    """Remove a part of what deleted workspaces left. Returns whether more can be removed now. Raises Unavailable."""
    deleted = Workspace.select(Workspace.id).where(Workspace.status == DELETED).order_by(Workspace.id)
    return any([_purge_workspace(services, workspace.id) for workspace in deleted])


def _purge_workspace(services: Services, workspace_id: str) -> bool:
    _retire_all(services, workspace_id)  # what whoever deleted it did not come to
    script = Script.select(Script.uuid).where(Script.workspace == workspace_id).first()
    if script is not None:
        purge(services, script.uuid)
        return True
    for model in (Event, Audit):
        some = model.select(model.id).where(model.workspace == workspace_id, *_but_the_deletion(model)).limit(PART)
        with transaction():
            if model.delete().where(model.id.in_([row.id for row in some])).execute() == PART:
                return True
    if services.clock() < _deleted_at(workspace_id) + LATE_MS:
        return False
    # The row goes last: while it is there, somebody knows that objects may be left.
    for folder in _FOLDERS:
        services.objects.delete_prefix(f"{folder}/{workspace_id}/")
    services.cache.forget(workspace_id)
    with transaction():
        if Workspace.delete().where(Workspace.id == workspace_id, Workspace.status == DELETED).execute():
            audit.record(services, None, "sweeper", "workspace.removed", workspace_id)  # its own trail is gone
    return False


def _but_the_deletion(model: type[Event] | type[Audit]) -> list[peewee.Expression]:
    return [model.action != _DELETED] if model is Audit else []


def _deleted_at(workspace_id: str) -> int:
    when = Audit.select(Audit.at).where(Audit.workspace == workspace_id, Audit.action == _DELETED).first()
    return 0 if when is None else int(when.at)
