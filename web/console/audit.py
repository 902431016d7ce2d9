"""The audit trail: who did what in this workspace."""

from flask import Blueprint, Response

from millrace import audit, roles
from web import cursors, wire
from web.console import identity, pages

blueprint = Blueprint("console_audit", __name__)


@blueprint.route("/audit")
@identity.needs(roles.MANAGE)
def index() -> Response:
    """What was done, newest first."""
    listing = f"console audit {wire.workspace().id}"
    rows, following = audit.page(wire.workspace().id, pages.position(listing), pages.PAGE_SIZE)
    return pages.page("audit.html", rows=rows, following=cursors.encode(listing, following))
