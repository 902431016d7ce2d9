"""Runs that the platform has given up, until a person sends them again.

One is recorded, with its reason, when a run has used up its script's retries, lost three workers in a row, killed
each worker that took it, or could not be carried out at all.
"""

from millrace import paging
from millrace.errors import NotFound
from millrace.models import DeadLetter, Run, Script
from millrace.paging import Position
from millrace.services import Services


def record(services: Services, script: Script, run_id: str, reason: str, now: int) -> None:
    """Add one, in the transaction that ends the run."""
    DeadLetter.create(
        id=services.new_id(), workspace=script.workspace_id, script=script.uuid, run=run_id, reason=reason[:300],
        created_at=now,
    )  # fmt: skip


def page(
    workspace_id: str, before: Position | None, size: int, *, redriven: bool | None = None
) -> tuple[list[DeadLetter], Position | None]:
    """Newest first, with runs and scripts, and where the next page begins; those that were sent again, or were not."""
    query = DeadLetter.select(DeadLetter, Run, Script).join(Run).switch(DeadLetter).join(Script)
    query = query.where(DeadLetter.workspace == workspace_id)
    if redriven is not None:
        query = query.where(DeadLetter.redriven_at.is_null(not redriven))
    if before is not None:
        query = query.where(paging.older(DeadLetter.created_at, DeadLetter.id, before))
    rows = list(query.order_by(DeadLetter.created_at.desc(), DeadLetter.id.desc()).limit(size + 1))
    return paging.cut(rows, size, lambda row: (row.created_at, row.id))


def find(workspace_id: str, letter_id: str) -> DeadLetter:
    """One of this workspace, or NotFound."""
    found = None
    if letter_id.isascii() and len(letter_id) <= 36 and "\x00" not in letter_id:
        found = DeadLetter.get_or_none(DeadLetter.id == letter_id, DeadLetter.workspace == workspace_id)
    if found is None:
        raise NotFound(f"There is no dead letter '{letter_id[:40]}'.")
    return found
