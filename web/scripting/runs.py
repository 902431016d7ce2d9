"""Runs: start, watch, cancel; their logs and artifacts."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from flask import Response, request

from millrace import admission, artifacts, history, logs, runs
from millrace.errors import NotFound, Unavailable
from millrace.models import Run, Script
from millrace.models.run import FINAL, NOT_YET, QUEUED, SUCCEEDED
from millrace.paging import Position
from web import cursors, tails, wire
from web.scripting import PREFIX, errors, lookup, schemas, words

blueprint = wire.Blueprint("Runs", __name__, url_prefix=PREFIX, description="Executions of scripts.")

URL_LIFETIME_S = 15 * 60
REPLAYED = {
    "Idempotent-Replayed": {
        "description": "`true` when an earlier request with this `Idempotency-Key` started the run.",
        "schema": {"type": "string", "enum": ["true"]},
        "x-extension": True,
    }
}
QUEUE_PATIENCE_S = 30  # how long a sync execution may wait besides the script's own time limit


@blueprint.route("/scripts/<script_id>/execute", methods=["POST"])
@blueprint.arguments(schemas.Execute)
@blueprint.arguments(schemas.ExecuteHeaders, location="headers")
@blueprint.response(HTTPStatus.OK, schemas.Execution, description="A sync run that is over", headers=REPLAYED)
@blueprint.answers(
    HTTPStatus.ACCEPTED,
    schemas.Execution,
    "An async run; or a sync one that was not over after its time limit and 30 seconds of queueing, which goes on and "
    "can be polled",
    REPLAYED,
)
@blueprint.refuses(
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
)
def execute_script(body: dict[str, Any], headers: dict[str, Any], script_id: str) -> Response:
    """Run a script now

    A script that fails is a successful execution with status `failed` and an `error`. A client that stops
    waiting changes nothing: the run goes on. With `Idempotency-Key` (an extension) a repeated request answers
    for the run that the first one started, with the header `Idempotent-Replayed: true`.
    """
    script = lookup.script(script_id)
    order = _order(script, body, headers.get("idempotency_key"))
    if body["mode"] == "async":
        submitted = runs.submit(wire.services(), order)
        answer = _accepted(submitted.run)
    else:
        with wire.process().waiting.seat(script.workspace_id):
            submitted = runs.submit(wire.services(), order)
            run = submitted.run
            if run.status not in FINAL:  # as one that is replayed may be
                run = runs.await_end(wire.services(), run.id, script.timeout_seconds + QUEUE_PATIENCE_S)
        answer = _ended(run) if run.status in FINAL else _accepted(run)
    wire.note(run=submitted.run.id)
    if not submitted.created:
        answer.headers["Idempotent-Replayed"] = "true"
    return answer


def _order(script: Script, body: dict[str, Any], key: str | None) -> runs.Order:
    available_at = None
    if "delay_seconds" in body:
        available_at = wire.services().clock() + body["delay_seconds"] * 1000
    elif "run_at" in body:
        available_at = words.millis(body["run_at"])
    elif "debounce" in body:
        available_at = wire.services().clock() + body["debounce"]["seconds"] * 1000
    return runs.Order(
        workspace=script.workspace_id, script=script.uuid, payload=body["payload"],
        trigger=words.CALLER_TRIGGERS[body["trigger_type"]], mode=body["mode"],
        caller_ip=body.get("caller_ip") or request.remote_addr or "", available_at=available_at,
        idempotency_key=key, request_digest=runs.digest(wire.body(request)) if key else "",
        priority=body.get("priority", 0), expires_after_s=body.get("expires_after"),
        debounce_key=body["debounce"]["key"] if "debounce" in body else None,
        callback_url=body.get("callback_url"),
    )  # fmt: skip


def _accepted(run: Run) -> Response:
    body = json.dumps({"run_id": run.id, "status": words.status(run.status)})
    return Response(body, HTTPStatus.ACCEPTED, mimetype="application/json")


def _ended(run: Run) -> Response:
    """The outcome. The result is JSON text already and goes in as it is, so that nothing of it changes."""
    known = {"run_id": run.id, "status": words.status(run.status), "duration": run.duration_ms}
    if run.error is not None:
        known["error"] = run.error
    body = json.dumps(known)
    if run.status == SUCCEEDED:
        body = f'{body[:-1]}, "result": {_result(run)}}}'
    return Response(body, HTTPStatus.OK, mimetype="application/json")


@blueprint.route("/scripts/<script_id>/runs")
@blueprint.arguments(schemas.PageQuery, location="query")
@blueprint.response(HTTPStatus.OK, schemas.RunPage)
def list_runs(query: dict[str, Any], script_id: str) -> dict[str, Any]:
    """List a script's runs, newest first"""
    script = lookup.script(script_id)
    return _page(history.Filter(script=script.uuid), f"runs {script.uuid}", query)


@blueprint.route("/runs")
@blueprint.arguments(schemas.RunQuery, location="query")
@blueprint.response(HTTPStatus.OK, schemas.RunPage)
@blueprint.extension()
def list_all_runs(query: dict[str, Any]) -> dict[str, Any]:
    """List the workspace's runs, newest first

    A cursor may be used with other filters than those that it came from.
    """
    return _page(wanted(query), f"all runs {wire.workspace().id}", query)


def wanted(given: Mapping[str, Any]) -> history.Filter:
    """Which runs a request means, by the fields that it has. Raises NotFound for a script that is not there."""
    return history.Filter(
        script=lookup.script(given["script_id"]).uuid if "script_id" in given else None,
        statuses=words.statuses(given["status"]) if "status" in given else (),
        triggers=words.triggers(given["trigger_type"]) if "trigger_type" in given else (),
        since=words.millis(given["since"]) if "since" in given else None,
        until=words.millis(given["until"]) if "until" in given else None,
    )


def _page(chosen: history.Filter, listing: str, query: dict[str, Any]) -> dict[str, Any]:
    position = cursors.decode(listing, query.get("cursor"))
    return page_shown(listing, *history.page(wire.workspace().id, chosen, position, query["page_size"]))


def page_shown(listing: str, rows: Sequence[Run], following: Position | None) -> dict[str, Any]:
    """A page of runs, which come with their scripts, in this face's shape."""
    reasons = _reasons(rows)
    return {
        "runs": [shown(row, row.script, reasons.get(row.id)) for row in rows],
        "next_cursor": cursors.encode(listing, following),
    }


def _reasons(rows: Sequence[Run]) -> dict[str, str | None]:
    """Why the waiting ones wait. Places are counted once for each script, and each batch, since their runs all wait for
    the same."""
    now = wire.services().clock()
    for_a_place: dict[str, str | None] = {}
    of_a_batch: dict[str, str | None] = {}
    reasons: dict[str, str | None] = {}
    bounds: dict[str, admission.Bounds] = {}
    for row in rows:
        waits_for_a_place = row.status == QUEUED and row.sent_at is None and row.available_at <= now
        if waits_for_a_place and row.concurrency_key is None and row.script_id in for_a_place:
            reasons[row.id] = for_a_place[row.script_id]
            continue
        outside = row.batch_id if row.available_at == NOT_YET else None
        if outside is not None and outside in of_a_batch:
            reasons[row.id] = of_a_batch[outside]
            continue
        if waits_for_a_place and row.script_id not in bounds:
            bounds[row.script_id] = runs.bounds_of(row.script)
        reasons[row.id] = admission.waiting_reason(row, row.script, now, bounds.get(row.script_id, admission.NO_BOUNDS))
        if waits_for_a_place and row.concurrency_key is None:
            for_a_place[row.script_id] = reasons[row.id]
        if outside is not None:
            of_a_batch[outside] = reasons[row.id]
    return reasons


@blueprint.route("/scripts/<script_id>/runs/<run_id>")
@blueprint.response(HTTPStatus.OK, schemas.Run)
def get_run(script_id: str, run_id: str) -> dict[str, Any]:
    """Read a run"""
    script, run = lookup.run(script_id, run_id)
    now = wire.services().clock()
    waits = run.status == QUEUED
    reason = admission.waiting_reason(run, script, now, runs.bounds_of(script)) if waits else None
    return shown(run, script, reason) | {"waiting_place": admission.waiting_place(run, now)}


@blueprint.route("/scripts/<script_id>/runs/<run_id>/result")
@blueprint.response(HTTPStatus.OK, {"description": "Any JSON value."}, content_type="application/json")
@blueprint.extension()
def get_result(script_id: str, run_id: str) -> Response:
    """Read what a run returned

    The whole value as the handler returned it, whatever its size. 404 for a run that has not completed.
    """
    _, run = lookup.run(script_id, run_id)
    if run.status != SUCCEEDED:
        raise NotFound(f"Run '{run.id}' has no result: it is {words.status(run.status)}.")
    return Response(_result(run), HTTPStatus.OK, mimetype="application/json")


def _result(run: Run) -> str:
    """A completed run's result as JSON text. Raises Unavailable when the store has lost it."""
    result = runs.result_text(wire.services(), run)
    if result is None and run.result_key is not None:
        raise Unavailable(f"The result of run '{run.id}' is missing in the object store.")
    return result or "null"


@blueprint.route("/scripts/<script_id>/runs/<run_id>/cancel", methods=["POST"])
@blueprint.response(HTTPStatus.ACCEPTED, schemas.Execution)
@blueprint.refuses(HTTPStatus.CONFLICT)
@blueprint.extension()
def cancel_run(script_id: str, run_id: str) -> dict[str, Any]:
    """Cancel a run

    One that waits ends at once, one that runs within about a second. 409 when it is over already.
    """
    script, run = lookup.run(script_id, run_id)
    runs.cancel(wire.services(), run)
    current = runs.find(script.workspace_id, script.uuid, run.id)
    return {"run_id": current.id, "status": words.status(current.status)}


@blueprint.route("/scripts/<script_id>/runs/<run_id>/logs")
@blueprint.response(HTTPStatus.OK, schemas.Logs)
def get_logs(script_id: str, run_id: str) -> Response | dict[str, str]:
    """Get an address to download a run's log

    404 while there is none. What a timeout or a crash left in pieces is joined first.
    """
    _, run = lookup.run(script_id, run_id)
    try:
        key = logs.locate(wire.services(), run)
    except Unavailable as error:
        errors.log.error("the log could not be joined", exc_info=error)
        return errors.internal()
    if key is None:
        raise NotFound(f"Run '{run.id}' has no log.")
    url = wire.services().objects.presign(
        key, expires_s=URL_LIFETIME_S, filename=f"{run.id}.log", content_type=logs.CONTENT_TYPE
    )
    return {"url": url}


@blueprint.route("/scripts/<script_id>/runs/<run_id>/logs/stream")
@blueprint.arguments(schemas.TailHeaders, location="headers")
@blueprint.response(HTTPStatus.OK, tails.EVENT, content_type="text/event-stream")
@blueprint.refuses(HTTPStatus.TOO_MANY_REQUESTS)
@blueprint.extension()
def stream_logs(headers: dict[str, Any], script_id: str, run_id: str) -> Response:
    """Follow a run's log

    Server-sent events from the start of the run: `log` with `{"seq", "time", "level", "text"}`, then `end` with
    `{"status"}`. `Last-Event-ID` goes on after that seq. A comment every few seconds keeps the connection alive.
    """
    _, run = lookup.run(script_id, run_id)
    return tails.response(run, headers.get("last_event_id", 0), words.status)


@blueprint.route("/scripts/<script_id>/runs/<run_id>/artifacts")
@blueprint.response(HTTPStatus.OK, schemas.Artifacts)
@blueprint.extension()
def list_artifacts(script_id: str, run_id: str) -> dict[str, Any]:
    """List the files that a run wrote, with addresses to download them"""
    _, run = lookup.run(script_id, run_id)
    objects = wire.services().objects
    return {
        "artifacts": [
            {
                "name": each.name, "size": each.size, "content_type": each.content_type,
                "url": objects.presign(each.object_key, expires_s=URL_LIFETIME_S, filename=each.name.split("/")[-1],
                                       content_type=each.content_type),
            }
            for each in artifacts.of(run)
        ]
    }  # fmt: skip


def shown(run: Run, script: Script, waiting_reason: str | None) -> dict[str, Any]:
    """A run in this face's shape."""
    return {
        "id": run.id,
        "script_id": script.slug,
        "script_uuid": script.uuid,
        "workspace_id": run.workspace_id,
        "trigger_type": words.trigger(run.trigger),
        "execution_mode": run.mode,
        "status": words.status(run.status),
        "script_version": run.version,
        "caller_ip": run.caller_ip,
        "created_at": words.time(run.created_at),
        "started_at": words.time(run.started_at or run.created_at),
        "completed_at": words.time(run.completed_at),
        "duration_ms": run.duration_ms,
        "error": run.error,
        "error_code": run.error_code,
        "error_stack": run.error_stack,
        "result_summary": run.summary,
        "logs_s3_key": run.log_key or None,
        "output_s3_key": run.result_key,
        "waiting_reason": waiting_reason,
        "waiting_place": None,
        "attempt": run.attempt,
        "replay_of": run.replay_of,
        "batch_id": run.batch_id,
        "batch_index": run.batch_index,
        "usage": run.usage,
    }
