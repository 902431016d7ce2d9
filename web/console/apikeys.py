"""The keys with which programs use this workspace's API."""

from http import HTTPStatus

from flask import Blueprint, Response, request

from millrace import roles, workspaces
from millrace.errors import Conflict, DomainError, Forbidden, Invalid
from web import wire
from web.console import errors, identity, pages
from web.console.languages import gettext as _
from web.console.sentences import translated

blueprint = Blueprint("console_apikeys", __name__)


@blueprint.route("/api-keys")
@identity.needs(roles.MANAGE)
def index() -> Response:
    """All keys, without their secrets."""
    return _keys()


def _keys(error: DomainError | None = None, key: str | None = None) -> Response:
    """The page; with a new key, which is shown this once."""
    return pages.page(
        "api_keys.html", status=HTTPStatus.OK if error is None else errors.status_of(error),
        rows=workspaces.api_keys(wire.workspace().id), key=key, name=request.form.get("name", "") if error else "",
        errors={} if error is None else {"name": translated(error.message)},
        may_create=identity.me().permissions >= set(roles.OF_WORKSPACE),
    )  # fmt: skip


@blueprint.route("/api-keys", methods=["POST"])
@identity.needs(roles.MANAGE)
def create() -> Response:
    """A new key."""
    name = request.form.get("name", "").strip()
    try:
        key = workspaces.new_api_key(wire.services(), wire.workspace().id, name, identity.me().actor)
    except (Invalid, Conflict, Forbidden) as error:
        return _keys(error)
    return _keys(key=key)


@blueprint.route("/api-keys/<key_id>/revoke", methods=["POST"])
@identity.needs(roles.MANAGE)
def revoke(key_id: str) -> Response:
    """End a key at once."""
    workspaces.revoke_api_key(wire.services(), wire.workspace().id, key_id, identity.me().actor.name)
    pages.say(_("The key was revoked."))
    return pages.go("/api-keys")
