"""What a workspace may use, what it uses now, and who did what in it."""

from http import HTTPStatus
from typing import Any

from millrace import audit, limits
from web import cursors, wire
from web.scripting import PREFIX, schemas, words

blueprint = wire.Blueprint("Limits", __name__, url_prefix=PREFIX, description="What a workspace may use, and its "
                           "audit trail.")  # fmt: skip


@blueprint.route("/limits")
@blueprint.response(HTTPStatus.OK, schemas.LimitsAndUsage)
@blueprint.extension()
def get_limits() -> dict[str, Any]:
    """Read the workspace's limits and what it uses

    Only the operator sets them. A run that is over a quota is refused with 429.
    """
    workspace_id = wire.workspace().id
    used = limits.usage(wire.services(), workspace_id)
    return {
        "limits": limits.of(workspace_id).as_dict(),
        "usage": {
            "runs_today": used.runs_today, "running": used.running, "stored_bytes": used.stored_bytes,
            "measured_at": words.time(used.stored_at),
        },
    }  # fmt: skip


@blueprint.route("/audit")
@blueprint.arguments(schemas.PageQuery, location="query")
@blueprint.response(HTTPStatus.OK, schemas.AuditPage)
@blueprint.extension()
def list_audit(query: dict[str, Any]) -> dict[str, Any]:
    """List who did what, newest first

    What the operator and the platform's own processes did to the workspace: limits that changed, runs whose worker
    was lost, what was removed because of its age.
    """
    listing = f"audit {wire.workspace().id}"
    position = cursors.decode(listing, query.get("cursor"))
    rows, following = audit.page(wire.workspace().id, position, query["page_size"])
    return {
        "audit": [
            {
                "time": words.time(row.at), "actor": row.actor, "action": row.action, "subject": row.subject,
                "details": row.details,
            }
            for row in rows
        ],
        "next_cursor": cursors.encode(listing, following),
    }  # fmt: skip
