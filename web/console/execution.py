"""One execution: what is known of it, its log while it goes on and after, its files, and what may be done with it."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from flask import Blueprint, Response, redirect, request

from millrace import admission, artifacts, logs, replays, runs, users
from millrace.errors import Invalid, NotFound, Unavailable
from millrace.models import Attempt, Run, Script
from millrace.models.run import FINAL, QUEUED, SUCCEEDED
from web import tails, wire
from web.console import executions, identity, lookup, pages, words
from web.console.languages import gettext as _
from web.console.languages import said

log = logging.getLogger(__name__)
blueprint = Blueprint("console_execution", __name__, url_prefix="/scripts/<script_id>/executions/<run_id>")

URL_LIFETIME_S = 15 * 60
SHOWN_JSON = 200_000  # characters of an input or a result
SHOWN_LOG = 1_000_000  # bytes, its end
READ_LOG = 32 * 1024 * 1024  # a longer one is for downloading alone
_PRETTY = 1_000_000  # characters; longer JSON is shown as it is, for the work of it
_LONGEST_SEQ = 18  # digits

T = TypeVar("T")


@dataclass(frozen=True)
class Text:
    """A text as far as it is shown. `missing` is why it can't be."""

    text: str
    size: int
    is_cut: bool = False
    missing: str | None = None


@dataclass(frozen=True)
class Waiting:
    """Why an execution has not begun, and its place in the line."""

    reason: str | None
    place: int | None


@blueprint.route("")
@identity.needs("scripts.read")
def show(script_id: str, run_id: str) -> Response:
    """The page of an execution; HTMX gets what changes while it goes on, or 204 while nothing has."""
    script, run = lookup.run(script_id, run_id)
    if pages.wants_json():
        return executions.outcome(run)
    waiting = _waiting(run, script)
    mark = _mark(run, waiting)
    if pages.wants_fragment() and request.args.get("seen") == mark:
        return pages.html("", HTTPStatus.NO_CONTENT)
    is_over = run.status in FINAL
    return pages.page(
        "execution.html", "state", run=run, script=script, word=words.status(run.status), waiting=waiting, mark=mark,
        is_over=is_over, address=executions.address_of(run), by=users.names([run.user_id]).get(run.user_id or 0),
        result=_result(run), files=artifacts.of(run) if is_over else [], attempts=logs.attempts(run),
        input=None if pages.wants_fragment() else _input(run),
        end_of_log=_end_of_log(run) if is_over and not pages.wants_fragment() else None,
    )  # fmt: skip


def _waiting(run: Run, script: Script) -> Waiting:
    if run.status != QUEUED:
        return Waiting(None, None)
    now = wire.services().clock()
    reason = admission.waiting_reason(run, script, now, runs.bounds_of(script))
    return Waiting(reason, admission.waiting_place(run, now))


def _mark(run: Run, waiting: Waiting) -> str:
    """Changes with what the page shows of an execution that goes on."""
    known = [run.status, run.attempt, run.cancel_requested_at, waiting.reason, waiting.place]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def _stored(run: Run, read: Callable[[], T]) -> T | None:
    """What the object store has, or None while it does not answer: the page shows the rest."""
    try:
        return read()
    except Unavailable as error:
        log.warning("a part of an execution can't be read: %s", error, extra={"run": run.id})
        return None


def _input(run: Run) -> Text:
    return _shown(_stored(run, lambda: runs.payload_text(wire.services(), run)))


def _result(run: Run) -> Text | None:
    if run.status != SUCCEEDED:
        return None
    if run.result is None and run.result_key is None:
        return _shown("null")
    return _shown(_stored(run, lambda: runs.result_text(wire.services(), run)))


def _shown(text: str | None) -> Text:
    if text is None:
        return Text("", 0, missing=_("It can't be read from the object store now."))
    pretty = pages.pretty(text, limit=len(text) * 40) if len(text) <= _PRETTY else text
    return Text(pretty[:SHOWN_JSON], len(text.encode()), is_cut=len(pretty) > SHOWN_JSON)


def _end_of_log(run: Run) -> Text:
    services = wire.services()

    def read() -> Text:
        key = logs.locate(services, run)
        if key is None:
            return Text("", 0, missing=_("It wrote no log, or its log was removed because of its age."))
        size = services.objects.size(key) or 0
        if size > READ_LOG:
            return Text("", size, missing=said(_("The log has %(size)s, too much for a page."), size=pages.size(size)))
        kept = bytearray()
        for chunk in services.objects.stream(key) or ():
            kept += chunk
            del kept[:-SHOWN_LOG]
        whole_lines = kept if size <= SHOWN_LOG else kept[kept.find(b"\n") + 1 :]
        return Text(whole_lines.decode("utf-8", "replace"), size, is_cut=size > SHOWN_LOG)

    found = _stored(run, read)
    return Text("", 0, missing=_("It can't be read from the object store now.")) if found is None else found


@blueprint.route("/log/stream")
@identity.needs("scripts.read")
def stream(script_id: str, run_id: str) -> Response:
    """The log from its start as server-sent events, or after the `Last-Event-ID`."""
    _script, run = lookup.run(script_id, run_id)
    after = request.headers.get("Last-Event-ID", "") or "0"
    if not (after.isascii() and after.isdigit() and len(after) <= _LONGEST_SEQ):
        raise Invalid(_("Last-Event-ID must be the id of an event of this stream."), field="Last-Event-ID", value=after)
    return tails.response(run, int(after), words.status)


@blueprint.route("/log")
@identity.needs("scripts.read")
def download_log(script_id: str, run_id: str) -> Response:
    """The whole log, from the object store; `attempt` names an earlier one than the last."""
    _script, run = lookup.run(script_id, run_id)
    number = request.args.get("attempt", "")
    key = _key_of_attempt(run, number) if number else logs.locate(wire.services(), run)
    if key is None:
        raise NotFound(_("There is no such log."))
    return _from_store(key, f"{run.id}{f'-{number}' if number else ''}.log", logs.CONTENT_TYPE)


def _key_of_attempt(run: Run, number: str) -> str | None:
    earlier: Sequence[Attempt] = logs.attempts(run)
    keys = logs.locate_earlier(wire.services(), run)
    return next((key for each, key in zip(earlier, keys, strict=True) if str(each.number) == number), None)


@blueprint.route("/artifacts/<name>")
@identity.needs("scripts.read")
def download_artifact(script_id: str, run_id: str, name: str) -> Response:
    """A file that the execution wrote."""
    _script, run = lookup.run(script_id, run_id)
    for each in artifacts.of(run):
        if each.name == name:
            return _from_store(each.object_key, name, each.content_type)
    raise NotFound(_("There is no such file."))


def _from_store(key: str, name: str, content_type: str) -> Response:
    url = wire.services().objects.presign(key, expires_s=URL_LIFETIME_S, filename=name, content_type=content_type)
    return redirect(url, HTTPStatus.FOUND)  # type: ignore[return-value]  # as Flask's own class


@blueprint.route("/result")
@identity.needs("scripts.read")
def download_result(script_id: str, run_id: str) -> Response:
    """The whole result as the handler returned it."""
    _script, run = lookup.run(script_id, run_id)
    if run.status != SUCCEEDED:
        raise NotFound(_("This execution has no result."))
    result = runs.result_text(wire.services(), run)
    if result is None and run.result_key is not None:
        raise Unavailable(f"The result of run '{run.id}' is missing in the object store.")
    return _json_file(result or "null", f"{run.id}-result.json")


@blueprint.route("/input")
@identity.needs("scripts.read")
def download_input(script_id: str, run_id: str) -> Response:
    """The whole input."""
    _script, run = lookup.run(script_id, run_id)
    return _json_file(runs.payload_text(wire.services(), run), f"{run.id}-input.json")


def _json_file(text: str, name: str) -> Response:
    return Response(
        text, mimetype="application/json", headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


@blueprint.route("/cancel", methods=["POST"])
@identity.needs("scripts.execute")
def cancel(script_id: str, run_id: str) -> Response:
    """End it: one that waits at once, one that runs within about a second."""
    script, run = lookup.run(script_id, run_id)
    runs.cancel(wire.services(), run)
    current = runs.find(script.workspace_id, script.uuid, run.id)
    text = _("Execution cancelled") if current.status in FINAL else _("The execution is being cancelled")
    return executions.accepted(current, script, text)


@blueprint.route("/retry", methods=["POST"])
@identity.needs("scripts.execute")
def retry(script_id: str, run_id: str) -> Response:
    """A new execution of the same version with the same input."""
    return _again(script_id, run_id, same_version=True)


@blueprint.route("/replay", methods=["POST"])
@identity.needs("scripts.execute")
def replay(script_id: str, run_id: str) -> Response:
    """A new execution of the script's current version with the same input."""
    return _again(script_id, run_id, same_version=False)


def _again(script_id: str, run_id: str, *, same_version: bool) -> Response:
    script, run = lookup.run(script_id, run_id)
    started = replays.replay(
        wire.services(), run, same_version=same_version, caller_ip=request.remote_addr or "",
        user_id=identity.me().user.id,
    ).run  # fmt: skip
    wire.note(run=started.id)
    return executions.accepted(started, script, _("Execution started"))
