"""The workspace itself: its name, its limits, and the databases that its scripts may ask."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, request

from millrace import datasources, roles
from millrace.datasources import Change, NewSource
from millrace.errors import Conflict, DomainError, Invalid
from millrace.models import DataSource
from web import wire
from web.console import errors, identity, pages, usage
from web.console.languages import gettext as _
from web.console.languages import said
from web.console.sentences import translated

blueprint = Blueprint("console_settings", __name__)

# What a form has for the place of each kind, with what a new one begins with.
_PLACES: Mapping[str, Mapping[str, str]] = {
    datasources.POSTGRESQL: {
        "host": "", "port": "5432", "database": "", "user": "", "sslmode": "prefer", "schema": "public",
    },
    datasources.SQLITE: {"file": ""},
}  # fmt: skip
_TENANT = {"tenant_column": "tenant_id", "tenant_setting": "app.tenant_id"}


@blueprint.route("/settings")
@identity.needs(roles.MANAGE)
def index() -> Response:
    """The workspace, its limits and its data sources."""
    return pages.page(
        "settings.html", workspace=wire.workspace(), limits=usage.shown_limits(), kinds=_PLACES,
        sources=datasources.listing(wire.workspace().id),
    )  # fmt: skip


@blueprint.route("/settings/data-sources/new")
@identity.needs(roles.MANAGE)
def new() -> Response:
    """The form of a new data source; of which kind, stands in the address."""
    kind = _kind(request.args.get("kind", datasources.POSTGRESQL))
    return _form(kind, {"name": "", **_PLACES[kind], **_TENANT})


def _kind(text: str) -> str:
    if text not in _PLACES:
        raise Invalid(said(_("Choose one of: %(choices)s."), choices=", ".join(_PLACES)), field="kind")
    return text


def _form(
    kind: str, values: Mapping[str, Any], source: DataSource | None = None, error: DomainError | None = None
) -> Response:
    wrong = {} if error is None else _wrong(error, kind)
    return pages.page(
        "data_source.html", status=HTTPStatus.OK if error is None else errors.status_of(error), kind=kind,
        values=values, source=source, errors=wrong, ssl_modes=datasources.SSL_MODES,
    )  # fmt: skip


def _wrong(error: DomainError, kind: str) -> dict[str, str]:
    """The verb's complaint beside the field that it is about, or above the form."""
    about = error.field.removeprefix("place.") if isinstance(error, Invalid) else "name"
    known = {"name", "password", *_PLACES[kind], *_TENANT}
    return {about if about in known else "": translated(error.message)}


@blueprint.route("/settings/data-sources", methods=["POST"])
@identity.needs(roles.MANAGE)
def create() -> Response:
    """A new data source."""
    kind = _kind(request.form.get("kind", ""))
    sent = _sent(kind)
    wish = NewSource(
        sent["name"], kind, _place(kind, sent), request.form.get("password") or None, sent["tenant_column"],
        sent.get("tenant_setting", _TENANT["tenant_setting"]),
    )  # fmt: skip
    try:
        source = datasources.register(wire.services(), wire.workspace().id, wish, identity.me().actor.name)
    except (Invalid, Conflict) as error:
        return _form(kind, sent, error=error)
    pages.say(said(_("Data source “%(name)s” was added."), name=source.name))
    return pages.go("/settings")


def _sent(kind: str) -> dict[str, str]:
    """The texts of the form, without the password."""
    names = ("name", *_PLACES[kind], *(_TENANT if kind == datasources.POSTGRESQL else ("tenant_column",)))
    return {name: request.form.get(name, "").strip() for name in names}


def _place(kind: str, sent: Mapping[str, str]) -> dict[str, Any]:
    place: dict[str, Any] = {name: sent[name] for name in _PLACES[kind]}
    port = place.get("port", "")
    if port.isascii() and port.isdigit() and len(port) < 6:
        place["port"] = int(port)
    return place


@blueprint.route("/settings/data-sources/<name>")
@identity.needs(roles.MANAGE)
def edit(name: str) -> Response:
    """The form of one that is there; without its password, which nobody sees again."""
    source = datasources.find(wire.workspace().id, name)
    place = {part: str(source.place.get(part, "")) for part in _PLACES[source.kind]}
    tenant = {"tenant_column": source.tenant_column, "tenant_setting": source.tenant_setting or ""}
    return _form(source.kind, {"name": source.name, **place, **tenant}, source)


@blueprint.route("/settings/data-sources/<name>", methods=["POST"])
@identity.needs(roles.MANAGE)
def update(name: str) -> Response:
    """Change one. Without a password the old one stays."""
    source = datasources.find(wire.workspace().id, name)
    sent = _sent(source.kind)
    change = Change(
        sent["name"], _place(source.kind, sent), request.form.get("password") or None, sent["tenant_column"],
        sent.get("tenant_setting"),
    )  # fmt: skip
    try:
        changed = datasources.update(wire.services(), wire.workspace().id, name, change, identity.me().actor.name)
    except (Invalid, Conflict) as error:
        return _form(source.kind, sent, source, error)
    pages.say(said(_("Data source “%(name)s” was changed."), name=changed.name))
    return pages.go("/settings")


@blueprint.route("/settings/data-sources/<name>/delete", methods=["POST"])
@identity.needs(roles.MANAGE)
def delete(name: str) -> Response:
    """Forget one. What is in the database itself stays."""
    datasources.delete(wire.services(), wire.workspace().id, name, identity.me().actor.name)
    pages.say(said(_("Data source “%(name)s” was deleted."), name=name))
    return pages.go("/settings")
