"""Deleting scripts. A script is gone for everybody at once; what it leaves behind is removed in small parts.

Its history may be a million runs: in one transaction they would hold up every other tenant's, and an object store
that does not answer must not make anybody forget which objects are to go.
"""

import logging

import peewee

from millrace import runs, scripts
from millrace.database import transaction
from millrace.errors import NotFound, Unavailable
from millrace.models import Artifact, Firing, Hook, IdempotencyKey, Run, Schedule, Script, Secret, Subscription
from millrace.models.run import FINAL, RUNNING
from millrace.models.script import DELETED
from millrace.services import Services

BATCH = 500  # rows that one transaction removes
_NEEDED = (
    Run.id, Run.workspace, Run.status, Run.attempt, Run.payload_key, Run.log_key, Run.result_key, Run.log_chunks,
)  # fmt: skip

log = logging.getLogger(__name__)


def delete(services: Services, script: Script) -> None:
    """Nothing starts it and nobody sees it any more, its handlers that run are ended, and its id is free again.

    A short history is removed before this returns; `purge` removes the rest. Raises NotFound when it is gone already.
    """
    now = services.clock()
    with transaction():
        try:
            runs.lock_script(script.uuid)  # so that no run comes between
        except NotFound:
            raise scripts.not_found(script.slug) from None
        for model in (Hook, Schedule, Secret, Subscription):
            model.delete().where(model.script == script.uuid).execute()
        Run.update(cancel_requested_at=now).where(running(script.uuid)).execute()
        # No id that a person may choose has a slash.
        Script.update(status=DELETED, slug=f"deleted/{script.uuid}").where(Script.uuid == script.uuid).execute()
    try:
        purge(services, script.uuid)
    except Unavailable as error:
        log.warning("what a deleted script left is removed later: %s", error, extra={"script": script.slug})


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
    past = list(Run.select(*_NEEDED).where(Run.script == script_uuid).limit(BATCH))
    if past:
        _remove_objects(services, past)
        with transaction():
            Run.delete().where(Run.id.in_([run.id for run in past])).execute()
        if len(past) == BATCH:
            return False
    for model in (Firing, IdempotencyKey):
        some = model.select(model.id).where(model.script == script_uuid).limit(BATCH)
        with transaction():
            if model.delete().where(model.id.in_([row.id for row in some])).execute() == BATCH:
                return False
    services.objects.delete_prefix(f"scripts/{script_uuid}/")
    with transaction():
        Script.delete().where(Script.uuid == script_uuid, Script.status == DELETED).execute()
    return True


def _remove_objects(services: Services, past: list[Run]) -> None:
    files = Artifact.select(Artifact.object_key).where(Artifact.run.in_([run.id for run in past]))
    keys = [file.object_key for file in files]
    for run in past:
        keys += [key for key in (run.payload_key, run.log_key, run.result_key) if key is not None]
        # The row does not know the keys of what was begun and not recorded. Who never was begun has but its payload,
        # and there may be thousands of those: each look would cost four questions to the store.
        begun = run.attempt > 0 and run.status not in FINAL
        if run.log_chunks or begun:
            remove_objects_of_run(services, run.workspace_id, run.id)
    services.objects.delete(keys)


def remove_objects_of_run(services: Services, workspace_id: str, run_id: str) -> None:
    """Delete everything that the object store holds of a run. Raises Unavailable."""
    services.objects.delete([f"logs/{workspace_id}/{run_id}.log", f"payloads/{workspace_id}/{run_id}.json"])
    for kind in ("logs", "results", "artifacts"):
        services.objects.delete_prefix(f"{kind}/{workspace_id}/{run_id}/")
