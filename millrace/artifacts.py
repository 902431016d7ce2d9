"""Artifacts: files that a run writes; the bytes in the object store, a row beside them."""

import logging

from millrace import assignments
from millrace.database import transaction
from millrace.errors import Conflict, Unavailable
from millrace.models import Artifact, Run
from millrace.services import Services

log = logging.getLogger(__name__)


def key(workspace_id: str, run_id: str, name: str) -> str:
    """Where an artifact is in the object store, unless its name was written before."""
    return f"artifacts/{workspace_id}/{run_id}/{name}"


def _key_of_rewrite(services: Services, run: Run, name: str) -> str:
    # An object is never written over: somebody may be reading it. No name has a slash, so this can't be one's key.
    return f"artifacts/{run.workspace_id}/{run.id}/{services.new_id()}/{name}"


def store(services: Services, run: Run, attempt: int, name: str, content_type: str, data: bytes) -> None:
    """Keep a file of a run, in place of one of that name. Raises Conflict when this attempt lost the run."""
    _check_held(run, attempt)
    earlier = Artifact.get_or_none(Artifact.run == run.id, Artifact.name == name)
    # A later attempt can't know what a former one, which is not aware yet that it lost the run, still writes.
    is_first = earlier is None and attempt == 1
    where = key(run.workspace_id, run.id, name) if is_first else _key_of_rewrite(services, run, name)
    services.objects.put(where, data, content_type=content_type)
    try:
        _record(services, run, attempt, name, content_type, len(data), where)
    except Conflict:
        _drop(services, where)
        raise
    if earlier is not None:
        _drop(services, earlier.object_key)


def _record(
    services: Services, run: Run, attempt: int, name: str, content_type: str, size: int, where: str
) -> None:
    with transaction():
        _check_held(run, attempt)
        Artifact.insert(
            run=run.id, name=name, size=size, content_type=content_type[:100], object_key=where,
            created_at=services.clock(),
        ).on_conflict(
            conflict_target=[Artifact.run, Artifact.name],
            preserve=[Artifact.size, Artifact.content_type, Artifact.object_key, Artifact.created_at],
        ).execute()  # fmt: skip


def _drop(services: Services, object_key: str) -> None:
    try:
        services.objects.delete([object_key])
    except Unavailable as error:  # what counts is recorded; this is only space
        log.warning("the object '%s' is left behind: %s", object_key, error)


def _check_held(run: Run, attempt: int) -> None:
    if not assignments.holds(run.id, attempt):
        raise Conflict(f"Run '{run.id}' is not at attempt {attempt} any more.")


def of(run: Run) -> list[Artifact]:
    """The files that a run wrote, by name."""
    return list(Artifact.select().where(Artifact.run == run.id).order_by(Artifact.name))
