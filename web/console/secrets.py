"""A script's secrets: their names. A value comes in and is never shown again."""

from http import HTTPStatus

from flask import Blueprint, Response, request

from millrace import scripts, secrets
from millrace.errors import Invalid, TooLarge
from millrace.models import Script
from web import wire
from web.console import errors as console_errors
from web.console import identity, lookup, pages
from web.console.languages import gettext as _
from web.console.languages import said
from web.console.sentences import translated

blueprint = Blueprint("console_secrets", __name__)


@blueprint.route("/scripts/<script_id>/secrets")
@identity.needs("scripts.update")
def index(script_id: str) -> Response:
    """The names of a script's secrets, and the form of one."""
    return _shown(lookup.script(script_id), {}, "")


def _shown(script: Script, errors: dict[str, str], name: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return pages.page(
        "secrets.html", status=status, script=script, references=secrets.references(script), errors=errors, name=name,
        most_bytes=secrets.MAX_TOTAL_BYTES,
    )  # fmt: skip


@blueprint.route("/scripts/<script_id>/secrets", methods=["POST"])
@identity.needs("scripts.update")
def put(script_id: str) -> Response:
    """Add a secret, or give one another value."""
    script = lookup.script(script_id)
    name, value = request.form.get("name", "").strip(), request.form.get("value", "")
    if not value:
        return _shown(script, {"value": _("A secret needs a value.")}, name, HTTPStatus.BAD_REQUEST)
    replaced = name in secrets.references(script)
    try:
        _change(script, name, value)
    except Invalid as error:
        return _shown(script, {"name" if error.field == "secrets" else "value": translated(error.message)}, name,
                      HTTPStatus.BAD_REQUEST)  # fmt: skip
    except TooLarge as error:
        return _shown(script, {"value": translated(error.message)}, name, console_errors.status_of(error))
    text = _("Secret “%(name)s” has a new value.") if replaced else _("Secret “%(name)s” was added.")
    pages.say(text % {"name": name})
    return pages.go(f"/scripts/{script.uuid}/secrets")


@blueprint.route("/scripts/<script_id>/secrets/<name>/delete", methods=["POST"])
@identity.needs("scripts.update")
def delete(script_id: str, name: str) -> Response:
    """Delete one."""
    script = lookup.script(script_id)
    _change(script, name, None)
    pages.say(said(_("Secret “%(name)s” was deleted."), name=name))
    return pages.go(f"/scripts/{script.uuid}/secrets")


def _change(script: Script, name: str, value: str | None) -> None:
    change = scripts.Change(secret_changes={name: value}, actor=identity.me().user.email)
    scripts.update(wire.services(), script, change)
