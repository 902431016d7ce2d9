"""The audit trail: who did what to whose things, newest first."""

import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from millrace import jsontext, paging
from millrace.database import is_sqlite, transaction
from millrace.models import Audit
from millrace.paging import Position
from millrace.services import Services

DAY_MS = 24 * 3600 * 1000


def record(
    services: Services, workspace_id: str | None, actor: str, action: str, subject: str,
    details: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Add a deed, within the caller's transaction if there is one. No workspace: it concerns the whole platform."""
    Audit.create(
        workspace=workspace_id, at=services.clock(), actor=_fit(actor, 254), action=action[:60],
        subject=_fit(subject, 300), details=dict(details or {}),
    )  # fmt: skip


def _fit(text: str, length: int) -> str:
    return jsontext.storable(text)[:length]


def add_up(services: Services, workspace_id: str, actor: str, action: str, counts: Mapping[str, int]) -> None:
    """Add these counts to the day's one record of that action, whose subject is the day (of UTC)."""
    now = services.clock()
    day = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m-%d")
    with transaction():
        query = Audit.select().where(
            Audit.workspace == workspace_id, Audit.at >= now - now % DAY_MS, Audit.action == action,
            Audit.subject == day,
        )  # fmt: skip
        earlier = (query if is_sqlite(Audit._meta.database.obj) else query.for_update()).first()
        if earlier is None:
            return record(services, workspace_id, actor, action, day, counts)
        total = Counter(earlier.details)
        total.update(counts)
        Audit.update(details=dict(total)).where(Audit.id == earlier.id).execute()
    return None


def page(workspace_id: str | None, before: Position | None, size: int) -> tuple[list[Audit], Position | None]:
    """Deeds that concern a workspace, or with None the whole platform, newest first, and where the next page begins."""
    query = Audit.select().where(Audit.workspace == workspace_id)
    if before is not None:
        moment, tie = before
        number = min(uuid.UUID(tie).int, 2**63 - 1)  # the column's range
        query = query.where((Audit.at < moment) | ((Audit.at == moment) & (Audit.id < number)))
    rows = list(query.order_by(Audit.at.desc(), Audit.id.desc()).limit(size + 1))
    # Cursors break ties by a UUID; this table counts.
    return paging.cut(rows, size, lambda row: (row.at, str(uuid.UUID(int=row.id))))
