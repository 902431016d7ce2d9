"""A script's versions: what each holds, how two of them differ, and bringing an old one back."""

from http import HTTPStatus

from flask import Blueprint, Response, request

from millrace import languages, runtimes, scripts, users
from millrace.errors import Conflict, Detail, Invalid
from millrace.models import Script
from web import cursors, sources, wire
from web.console import identity, lookup, pages
from web.console.languages import gettext as _
from web.console.languages import said

blueprint = Blueprint("console_versions", __name__)

_KINDS = {"+": "added", "-": "removed", "@": "place", "\\": "muted"}
_HEAD = 2  # lines of a diff that name the two sides


@blueprint.route("/scripts/<script_id>/versions")
@identity.needs("scripts.read")
def index(script_id: str) -> Response:
    """All versions, newest first."""
    return _listed(lookup.script(script_id))


def _listed(
    script: Script, restoring: int = 0, findings: tuple[Detail, ...] = (), status: HTTPStatus = HTTPStatus.OK
) -> Response:
    listing = f"console versions {script.uuid}"
    position = pages.position(listing)
    rows = scripts.versions(script, before=position and position[0], size=pages.PAGE_SIZE + 1)
    more = len(rows) > pages.PAGE_SIZE
    rows = rows[: pages.PAGE_SIZE]
    return pages.page(
        "versions.html", status=status, script=script, rows=rows, authors=users.names(row.created_by for row in rows),
        restoring=restoring, findings=findings,
        following=cursors.encode(listing, (rows[-1].number, script.uuid) if more else None),
    )  # fmt: skip


@blueprint.route("/scripts/<script_id>/versions/<int:number>")
@identity.needs("scripts.read")
def show(script_id: str, number: int) -> Response:
    """One version's source."""
    script = lookup.script(script_id)
    stored = scripts.version(script, number)
    source = scripts.source(wire.services(), stored).decode("utf-8", "replace")
    return pages.page(
        "version.html", script=script, version=stored, source=source, authors=users.names([stored.created_by]),
        language_name=languages.of(script.runtime).name,
    )  # fmt: skip


@blueprint.route("/scripts/<script_id>/versions/compare")
@identity.needs("scripts.read")
def compare(script_id: str) -> Response:
    """To the difference of two that a form names."""
    script = lookup.script(script_id)
    new, old = _number("new"), _number("old")
    return pages.go(f"/scripts/{script.uuid}/versions/{new}/diff?against={old}")


@blueprint.route("/scripts/<script_id>/versions/<int:number>/diff")
@identity.needs("scripts.read")
def diff(script_id: str, number: int) -> Response:
    """What changed from another version, or the one before, to this one."""
    script = lookup.script(script_id)
    against = _number("against") if "against" in request.args else number - 1
    lines = _coloured(scripts.diff(wire.services(), script, number, against))
    kinds = [kind for kind, _text in lines]
    return pages.page(
        "diff.html", script=script, number=number, against=against, lines=lines, added=kinds.count("added"),
        removed=kinds.count("removed"),
    )  # fmt: skip


def _number(name: str) -> int:
    text = request.args.get(name, "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise Invalid(said(_("“%(value)s” is no number of a version."), value=text[:40]), field=name, value=text)
    return int(text)


def _coloured(text: str) -> list[tuple[str, str]]:
    """A unified diff line by line, each with its class in the style sheet."""
    lines = text.removesuffix("\n").split("\n") if text else []
    # The first two lines also begin with signs, and are no lines of either source.
    return [("place", line) for line in lines[:_HEAD]] + [(_KINDS.get(line[:1], ""), line) for line in lines[_HEAD:]]


@blueprint.route("/scripts/<script_id>/versions/<int:number>/rollback", methods=["POST"])
@identity.needs("scripts.update")
def rollback(script_id: str, number: int) -> Response:
    """Bring an old version's source back, as a new version."""
    script = lookup.script(script_id)
    if request.form.get("current", str(script.version)) != str(script.version):
        raise Conflict(said(_("Somebody saved version %(number)s meanwhile. Look at it before you go back."),
                            number=script.version))  # fmt: skip
    old = scripts.source(wire.services(), scripts.version(script, number))
    try:
        # The rules and the entry point may have changed since.
        sources.check(old, runtimes.choose(script.runtime), script.entry_point, or_body=True)
    except Invalid as error:
        return _listed(script, number, error.details, HTTPStatus.BAD_REQUEST)
    user = identity.me().user
    restored = scripts.rollback(wire.services(), script, number, created_by=user.id, actor=user.email)
    pages.say(said(_("Version %(old)s is back, as version %(new)s."), old=number, new=restored.version))
    return pages.go(f"/scripts/{script.uuid}/versions")
