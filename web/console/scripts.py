"""Scripts: the list, the form, the details. The nine routes of the seed are these and those of `executions`."""

import functools
import logging
from http import HTTPStatus
from typing import Any
from zoneinfo import available_timezones

from flask import Blueprint, Response, request

from millrace import languages, overview, removal, runtimes, scripts, users
from millrace.errors import Conflict, DomainError, Invalid, NotFound, NotReady, Unavailable, Unprocessable
from millrace.models import Script
from web import cursors, sources, wire
from web.console import executions, forms, identity, lookup, pages
from web.console.forms import ScriptForm
from web.console.languages import gettext as _
from web.console.languages import said
from web.console.sentences import translated

log = logging.getLogger(__name__)
blueprint = Blueprint("console_scripts", __name__)

NO_OVERLAP = {"overlap": "skip"}  # what the seed says of schedules; the API's own default allows it


@blueprint.route("/scripts")
@identity.needs("scripts.read")
def index() -> Response:
    """All scripts, or those that match."""
    wanted = scripts.Filter(
        search=request.args.get("search", "").strip()[:100],
        type=_one_of("type", scripts.TYPES), status=_one_of("status", scripts.STATUS),
    )  # fmt: skip
    workspace = wire.workspace().id
    listing = f"console scripts {workspace} {wanted.search} {wanted.type} {wanted.status}"
    rows, following = scripts.page(workspace, pages.position(listing), pages.PAGE_SIZE, wanted)
    filters = {"search": wanted.search, "type": wanted.type, "status": wanted.status}
    return pages.page(
        "scripts.html", "list", rows=rows, last=scripts.last_runs([each.uuid for each in rows]), filters=filters,
        filtered=any(filters.values()), following=cursors.encode(listing, following),
        types=scripts.TYPES, statuses=scripts.STATUS,
    )  # fmt: skip


def _one_of(name: str, known: tuple[str, ...]) -> str | None:
    """A filter's value; whatever is none is as if nothing had been chosen."""
    value = request.args.get(name, "")
    return value if value in known else None


@blueprint.route("/scripts/new")
@identity.needs("scripts.create")
def new() -> Response:
    """The form of a new script."""
    offered = runtimes.known()
    usual = request.args.get("runtime") or (offered[0].name if offered else "nodejs20")
    form = forms.blank(usual)
    if request.args.get("type") in scripts.TYPES:
        form.values["Type"] = request.args["type"]
    return _form(form, None)


@blueprint.route("/scripts", methods=["POST"])
@identity.needs("scripts.create")
def create() -> Response:
    """A new script from the form."""
    form = forms.read(request.form)
    offered = runtimes.known()
    form.values.setdefault("Runtime", offered[0].name if offered else "nodejs20")
    if form.errors:
        return _form(form, None, HTTPStatus.BAD_REQUEST)
    try:
        script = _create(form)
    except (Invalid, Conflict, Unprocessable, NotReady) as error:
        return _refused(form, None, error)
    pages.say(said(_("Script “%(name)s” was created."), name=script.display_name))
    return pages.go(f"/scripts/{script.uuid}")


def _create(form: ScriptForm) -> Script:
    runtime = runtimes.choose(form["Runtime"])
    source = form["Source"].encode("utf-8", "surrogatepass")
    sources.check(source, runtime, languages.of(runtime.name).entry_point, or_body=True)
    return scripts.create(wire.services(), wire.workspace().id, scripts.NewScript(
        slug=None, display_name=form["Name"], unique_name=True,
        runtime=runtime.name, source=source, description=form["Description"] or None, type=form.type,
        status=form["Status"], schedule=form["CronExpression"].strip() if form.type == scripts.SCHEDULED else None,
        time_zone=form["TimeZone"] or None if form.type == scripts.SCHEDULED else None,
        schedule_policy=NO_OVERLAP if form.type == scripts.SCHEDULED else None,
        triggers=forms.triggers(form, {}), limits=forms.limits(form), retry=forms.retry(form),
        max_concurrent_runs=forms.concurrent_runs(form), created_by=identity.me().user.id,
        actor=identity.me().user.email,
    ))  # fmt: skip


@blueprint.route("/scripts/<script_id>")
@identity.needs("scripts.read")
def show(script_id: str) -> Response:
    """A script's details, with its source and its last executions."""
    script = lookup.script(script_id)
    found = overview.of(script)
    author = users.names([script.created_by]).get(script.created_by or 0)
    source, trouble = _source_or_why_not(found)
    return pages.page(
        "script.html", script=script, found=found, source=source, trouble=trouble, runs=executions.recent(script),
        author=author, limits=forms.of_script(found, ""), following=scripts.NEXT[script.status],
        hook_url=_hook_url(found), language_name=languages.of(script.runtime).name,
    )  # fmt: skip


def _source(found: overview.Overview) -> str:
    return scripts.source(wire.services(), found.version).decode("utf-8", "replace")


def _source_or_why_not(found: overview.Overview) -> tuple[str, str]:
    """The rest of the page does without the object store, and without an object that it lost."""
    try:
        return _source(found), ""
    except Unavailable as error:
        log.warning("a source can't be read: %s", error, extra={"script": found.script.slug})
        return "", _("It can't be read from the object store now.")
    except NotFound as error:
        return "", translated(error.message)


def _hook_url(found: overview.Overview) -> str | None:
    """Where an http script is called."""
    http = found.triggers.get("http")
    if http is None:
        return None
    base = wire.services().settings.url
    if http["auth"] == "member":
        return f"{base}/api/scripts{http['path']}"
    return f"{base}/hooks/{found.script.workspace_id}{http['path']}"


@blueprint.route("/scripts/<script_id>/edit")
@identity.needs("scripts.update")
def edit(script_id: str) -> Response:
    """The form of a script that is there."""
    script = lookup.script(script_id)
    found = overview.of(script)
    return _form(forms.of_script(found, _source(found)), script)


@blueprint.route("/scripts/<script_id>", methods=["PUT"])
@identity.needs("scripts.update")
def update(script_id: str) -> Response:
    """Change a script as the form says. New source makes a new version."""
    script = lookup.script(script_id)
    found = overview.of(script)
    present = forms.of_script(found, _source(found))
    form = forms.read(request.form, present)
    if form.errors:
        return _form(form, script, HTTPStatus.BAD_REQUEST)
    before = script.version
    try:
        script = _update(form, present, found)
    except (Invalid, Conflict, Unprocessable, NotReady) as error:
        return _refused(form, script, error)
    if script.version != before:
        pages.say(said(_("Saved as version %(number)s."), number=script.version))
    else:
        pages.say(_("Saved."))
    return pages.go(f"/scripts/{script.uuid}")


def _update(form: ScriptForm, present: ScriptForm, found: overview.Overview) -> Script:
    script = found.script
    if form["Version"] not in ("", str(script.version)):
        raise Conflict(said(_("Somebody saved version %(number)s meanwhile. Your text is below: compare before you "
                              "save again."), number=script.version))  # fmt: skip
    source = form["Source"].encode("utf-8", "surrogatepass")
    sources.check(source, runtimes.choose(script.runtime), script.entry_point, or_body=True)
    changed = forms.limits(form, present)
    scheduled = form.type == scripts.SCHEDULED
    return scripts.update(wire.services(), script, scripts.Change(
        columns=_columns(form, present), source=source, type=form.type,
        unique_name=True if form["Name"] != present["Name"] else None,
        limits={**(script.limits or {}), **changed} if changed else None,
        schedule=form["CronExpression"].strip() if scheduled else None,
        time_zone=form["TimeZone"] or None if scheduled else None,
        schedule_policy=NO_OVERLAP if scheduled and found.schedule is None else None,
        triggers=forms.triggers(form, found.triggers), note=form["ChangeNote"].strip()[:500] or None,
        created_by=identity.me().user.id, actor=identity.me().user.email,
    ))  # fmt: skip


def _columns(form: ScriptForm, present: ScriptForm) -> dict[str, Any]:
    """What differs from what is there."""
    columns: dict[str, Any] = {}
    if form["Name"] != present["Name"]:
        columns["display_name"] = form["Name"]
    if form["Description"] != present["Description"]:
        columns["description"] = form["Description"] or None
    if form["MaxConcurrentRuns"].strip() and form["MaxConcurrentRuns"] != present["MaxConcurrentRuns"]:
        columns["max_concurrent_runs"] = forms.concurrent_runs(form)
    if form["MaxRetries"].strip() and form["MaxRetries"] != present["MaxRetries"]:
        columns["retry"] = forms.retry(form)
    if form["Status"] and form["Status"] != present["Status"]:
        columns["status"] = form["Status"]
    return columns


@blueprint.route("/scripts/<script_id>", methods=["DELETE"])
@identity.needs("scripts.delete")
def delete(script_id: str) -> Response:
    """Delete a script with all that belongs to it. HTMX takes its row away."""
    script = lookup.script(script_id)
    removal.delete(wire.services(), script, identity.me().user.email)
    text = said(_("Script “%(name)s” was deleted."), name=script.display_name)
    if pages.wants_fragment() and request.args.get("from") != "details":
        return pages.toast(pages.html(""), text)
    pages.say(text)
    return pages.go("/scripts")


@blueprint.route("/scripts/<script_id>", methods=["POST"])
def overridden(script_id: str) -> Any:
    """PUT and DELETE for forms, which know neither: `_method` says which."""
    method = request.headers.get("X-HTTP-Method-Override") or request.form.get("_method", "")
    if method.upper() == "PUT":
        return update(script_id)
    if method.upper() == "DELETE":
        return delete(script_id)
    raise Invalid(_("A form that is sent here must have _method: PUT or DELETE."), field="_method", value=method)


@blueprint.route("/scripts/<script_id>/status", methods=["POST"])
@identity.needs("scripts.update")
def change_status(script_id: str) -> Response:
    """Activate, pause, disable or archive."""
    script = scripts.change_status(
        wire.services(), lookup.script(script_id), request.form.get("Status", ""), identity.me().user.email
    )
    pages.say(said(_("“%(name)s” is %(status)s now."), name=script.display_name, status=_(script.status)))
    return pages.go(f"/scripts/{script.uuid}")


def _form(form: ScriptForm, script: Script | None, status: HTTPStatus = HTTPStatus.OK) -> Response:
    offered = [(each.name, languages.of(each.name).name) for each in runtimes.known()]
    following = (scripts.DRAFT, scripts.ACTIVE) if script is None else (script.status, *scripts.NEXT[script.status])
    language = languages.of(form["Runtime"] or (script.runtime if script else "")).name
    return pages.page(
        "script_form.html", status=status, form=form, errors=form.errors, script=script, runtimes=offered,
        types=scripts.TYPES, statuses=following, methods=forms.METHODS, limits=forms.LIMITS,
        language_name=language, zones=_zones(),
    )  # fmt: skip


@functools.cache
def _zones() -> list[str]:
    return sorted(available_timezones())


def _refused(form: ScriptForm, script: Script | None, error: DomainError) -> Response:
    forms.blame(form, error)
    status = HTTPStatus.CONFLICT if isinstance(error, Conflict) else HTTPStatus.BAD_REQUEST
    return _form(form, script, HTTPStatus.SERVICE_UNAVAILABLE if isinstance(error, NotReady) else status)
