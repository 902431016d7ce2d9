"""Executions: the lists of them, and starting one by hand.

The seed calls a run an execution. What one looks like by itself is in `execution`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, request
from werkzeug.exceptions import UnsupportedMediaType

from millrace import history, runs, scripts
from millrace.errors import Invalid, NotFound, Unavailable
from millrace.models import Run, Script
from millrace.models.run import CANCELLED, FAILED, FINAL, SUCCEEDED, TIMED_OUT
from web import cursors, strict_json, wire
from web.console import errors, identity, lookup, pages, words
from web.console.languages import gettext as _
from web.console.languages import said
from web.console.sentences import translated

blueprint = Blueprint("console_executions", __name__)

QUEUE_PATIENCE_S = 30  # how long somebody may wait for an end besides the script's own time limit
FILTERS = ("script", "status", "trigger", "since", "until")
_OFFERED_SCRIPTS = 100
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def recent(script: Script, count: int = pages.PAGE_SIZE) -> list[Run]:
    """A script's last executions, newest first."""
    return history.page(script.workspace_id, history.Filter(script=script.uuid), None, count)[0]


@blueprint.app_template_global("executions_mark")
def mark(shown: Sequence[Run]) -> str:
    """A text that changes with what a list shows: whoever has it needs no new list."""
    known = [(run.id, run.status, run.attempt, run.cancel_requested_at is not None) for run in shown]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


@blueprint.route("/executions")
@identity.needs("scripts.read")
def index() -> Response:
    """The executions of the whole workspace, newest first, or those that match."""
    offered, _more = scripts.page(wire.workspace().id, None, _OFFERED_SCRIPTS)
    given = _given()
    try:
        script = lookup.script(given["script"]) if given["script"] else None
    except NotFound as error:
        if pages.wants_fragment():
            raise
        return pages.page(
            "executions.html", status=HTTPStatus.NOT_FOUND, runs=[], script=None, filters=given, offered=offered,
            errors={"script": translated(error.message)}, statuses=words.STATUSES, triggers=words.TRIGGERS, poll=None,
        )  # fmt: skip
    return _list("/executions", f"console executions {wire.workspace().id}", given, script, offered=offered)


@blueprint.route("/scripts/<script_id>/executions")
@identity.needs("scripts.read")
def of_script(script_id: str) -> Response:
    """The executions of one script. HTMX gets rows; with `poll` the newest, or 204 while they are those it has."""
    script = lookup.script(script_id)
    path, listing = f"/scripts/{script.uuid}/executions", f"console executions of {script.uuid}"
    return _list(path, listing, _given() | {"script": ""}, script, of=script)


def _list(
    path: str, listing: str, given: Mapping[str, str], script: Script | None, *, of: Script | None = None,
    offered: Sequence[Script] = (),
) -> Response:  # fmt: skip
    """A page of what the filters leave; `of` is the script whose page it is."""
    wanted = _wanted(given, script)
    polls = pages.wants_fragment() and request.args.get("poll") == "1"
    position = None if polls else pages.position(listing)
    found, following = history.page(wire.workspace().id, wanted, position, pages.PAGE_SIZE)
    if polls and request.args.get("seen") == mark(found):
        return pages.html("", HTTPStatus.NO_CONTENT)
    query = urlencode({name: value for name, value in given.items() if value})
    cursor = cursors.encode(listing, following)
    return pages.page(
        "executions.html", "body" if polls else "rows", runs=found, script=of, filters=given, offered=offered,
        errors={}, statuses=words.STATUSES, triggers=words.TRIGGERS, filtered=bool(query),
        poll=f"{path}?{query}&poll=1" if position is None else None,
        following=cursor and f"{path}?{query}&cursor={cursor}", first=f"{path}?{query}" if position else None,
    )  # fmt: skip


def _given() -> dict[str, str]:
    return {name: request.args.get(name, "").strip()[:100] for name in FILTERS}


def _wanted(given: Mapping[str, str], script: Script | None) -> history.Filter:
    status, trigger = given["status"], given["trigger"]
    if status and status not in words.STATUSES:
        raise Invalid(said(_("The status of an execution is one of %(choices)s."), choices=", ".join(words.STATUSES)),
                      field="status", value=status)  # fmt: skip
    if trigger and trigger not in words.TRIGGERS:
        raise Invalid(said(_("The trigger of an execution is one of %(choices)s."), choices=", ".join(words.TRIGGERS)),
                      field="trigger", value=trigger)  # fmt: skip
    return history.Filter(
        script=None if script is None else script.uuid, statuses=words.statuses(status) if status else (),
        triggers=words.triggers(trigger) if trigger else (), since=_moment("since", given),
        until=_moment("until", given),
    )  # fmt: skip


def _moment(name: str, given: Mapping[str, str]) -> int | None:
    """A date and a time as a browser's field has them, in UTC, as milliseconds."""
    if not given[name]:
        return None
    try:
        moment = datetime.fromisoformat(given[name])
    except ValueError:
        raise Invalid(said(_("%(name)s must be a date and a time, like 2026-11-26T13:05."), name=name),
                      field=name, value=given[name]) from None  # fmt: skip
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


@blueprint.route("/scripts/<script_id>/execute", methods=["POST"])
@identity.needs("scripts.execute")
def execute(script_id: str) -> Response:
    """Start an execution by hand, and with mode sync wait for its end."""
    script = lookup.script(script_id)
    text, mode = _input(), request.form.get("Mode") or request.args.get("Mode") or "async"
    try:
        order = _order(script, text, mode)
        if mode == "sync":
            return _await(script, order)
        started = runs.submit(wire.services(), order).run
    except Invalid as error:
        return _refused(script, text, mode, error)
    wire.note(run=started.id)
    return accepted(started, script, _("Execution started"))


def _input() -> str:
    """The input as JSON text: the form's field, or the body of a client that sends JSON itself."""
    if request.mimetype == "application/json":
        return request.get_data(as_text=True)
    if request.content_length and request.mimetype not in _FORMS:
        raise UnsupportedMediaType(_("The input comes as a form, or as JSON."))
    return request.form.get("Input", "")


def _order(script: Script, text: str, mode: str) -> runs.Order:
    if mode not in ("async", "sync"):
        raise Invalid(_("Mode must be async or sync."), field="Mode", value=mode)
    try:
        payload = strict_json.parse(text.encode("utf-8", "surrogatepass")) if text.strip() else {}
    except Invalid as error:
        raise Invalid(translated(error.message.replace("The body", "The input", 1)), field="Input") from None
    return runs.Order(
        workspace=script.workspace_id, script=script.uuid, payload=payload, trigger="manual", mode=mode,
        caller_ip=request.remote_addr or "", user_id=identity.me().user.id,
    )  # fmt: skip


def _await(script: Script, order: runs.Order) -> Response:
    services = wire.services()
    with wire.process().waiting.seat(script.workspace_id):
        run = runs.submit(services, order).run
        wire.note(run=run.id)
        run = runs.await_end(services, run.id, script.timeout_seconds + QUEUE_PATIENCE_S)
    if run.status == SUCCEEDED:
        if pages.wants_json():
            return outcome(run)
        return accepted(run, script, _("Execution completed"))
    if run.status not in FINAL:
        return accepted(run, script, _("The execution goes on: it has not ended in the time that a request can wait."))
    status, text = _went_wrong(run)
    return errors.shown(status, text, address_of(run), execution_id=run.id)


def _went_wrong(run: Run) -> tuple[HTTPStatus, str]:
    values = {"id": run.id, "reason": run.error or ""}
    if run.status == TIMED_OUT:
        text = _("Execution %(id)s was stopped at its time limit: %(reason)s")
        return HTTPStatus.GATEWAY_TIMEOUT, said(text, **values)
    if run.status == CANCELLED:
        return HTTPStatus.CONFLICT, said(_("Execution %(id)s was cancelled: %(reason)s"), **values)
    assert run.status == FAILED
    return HTTPStatus.INTERNAL_SERVER_ERROR, said(_("Execution %(id)s failed: %(reason)s"), **values)


def _refused(script: Script, text: str, mode: str, error: Invalid) -> Response:
    """The words beside the form; the text that was typed stays."""
    if pages.wants_json():
        return errors.shown(HTTPStatus.BAD_REQUEST, error.message)
    if pages.wants_fragment():
        answer = pages.fragment("executions.html", "wrong", HTTPStatus.BAD_REQUEST, wrong=error.message)
        answer.headers["HX-Retarget"] = f"#execute-error-{script.uuid}"
        answer.headers["HX-Reswap"] = "innerHTML"
        return answer
    return pages.page(
        "executions.html", status=HTTPStatus.BAD_REQUEST, wrong=error.message, typed=text, mode=mode, script=script,
        runs=recent(script), filters=dict.fromkeys(FILTERS, ""), errors={}, statuses=words.STATUSES,
        triggers=words.TRIGGERS, poll=f"/scripts/{script.uuid}/executions?poll=1",
    )  # fmt: skip


def address_of(run: Run) -> str:
    """The page of an execution."""
    return f"/scripts/{run.script_id}/executions/{run.id}"


def accepted(run: Run, script: Script, text: str, status: HTTPStatus = HTTPStatus.ACCEPTED) -> Response:
    """What has become of an execution: its row and a toast for HTMX, JSON, or its page."""
    if pages.wants_json():
        return _json({"execution_id": run.id, "status": words.status(run.status)}, status)
    if pages.wants_fragment():
        run.script = script
        of = None if request.args.get("all") == "1" else script
        return pages.toast(pages.fragment("executions.html", "rows", runs=[run], script=of), text)
    pages.say(text)
    return pages.go(address_of(run))


def outcome(run: Run) -> Response:
    """An execution as JSON. A result is JSON text already and goes in as it is."""
    known = {"execution_id": run.id, "status": words.status(run.status), "duration_ms": run.duration_ms}
    if run.error is not None:
        known |= {"error": run.error, "error_code": run.error_code}
    if run.status != SUCCEEDED:
        return _json(known, HTTPStatus.OK)
    result = runs.result_text(wire.services(), run)
    if result is None and run.result_key is not None:
        raise Unavailable(f"The result of run '{run.id}' is missing in the object store.")
    return _json(known, HTTPStatus.OK, f', "result": {result or "null"}}}')


def _json(known: Mapping[str, Any], status: HTTPStatus, ending: str = "}") -> Response:
    return Response(json.dumps(known)[:-1] + ending, status, mimetype="application/json")
