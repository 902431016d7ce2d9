"""What failed and what is done about it: attempts of a run, replays, dead letters."""

from http import HTTPStatus
from typing import Any

from flask import request

from millrace import deadletters, logs, replays
from millrace.models import Attempt, DeadLetter, Run
from millrace.models.run import FINAL, QUEUED
from web import cursors, wire
from web.scripting import PREFIX, lookup, schemas, words
from web.scripting.runs import URL_LIFETIME_S, wanted

blueprint = wire.Blueprint("Retries", __name__, url_prefix=PREFIX, description="Attempts, replays and dead letters.")


@blueprint.route("/scripts/<script_id>/runs/<run_id>/attempts")
@blueprint.response(HTTPStatus.OK, schemas.Attempts)
@blueprint.extension()
def list_attempts(script_id: str, run_id: str) -> dict[str, Any]:
    """List the attempts of a run

    Each with its own record and log. A run without a retry policy has one, once it has begun.
    """
    _, run = lookup.run(script_id, run_id)
    services = wire.services()
    keys = logs.locate_earlier(services, run)
    shown = [_attempt(each, each.number, key) for each, key in zip(logs.attempts(run), keys, strict=True)]
    if run.status != QUEUED and run.attempt > 0:
        shown.append(_attempt(run, run.attempt, logs.locate(services, run) if run.status in FINAL else None))
    return {"attempts": shown}


def _attempt(of: Run | Attempt, number: int, log_key: str | None) -> dict[str, Any]:
    url = None
    if log_key is not None:
        name = f"{of.id if isinstance(of, Run) else of.run_id}-{number}.log"
        url = wire.services().objects.presign(
            log_key, expires_s=URL_LIFETIME_S, filename=name, content_type=logs.CONTENT_TYPE
        )
    return {
        "number": number,
        "status": words.status(of.status),
        "worker": of.worker,
        "started_at": words.time(of.started_at),
        "completed_at": words.time(of.completed_at),
        "duration_ms": of.duration_ms,
        "error": of.error,
        "error_code": of.error_code,
        "error_stack": of.error_stack,
        "log_url": url,
        "usage": of.usage,
    }


@blueprint.route("/scripts/<script_id>/runs/<run_id>/replay", methods=["POST"])
@blueprint.arguments(schemas.ReplayQuery, location="query")
@blueprint.response(HTTPStatus.ACCEPTED, schemas.Replayed)
@blueprint.refuses(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.TOO_MANY_REQUESTS)
@blueprint.extension()
def replay_run(query: dict[str, Any], script_id: str, run_id: str) -> dict[str, str]:
    """Run again with the same input

    A new run, which is independent of the old one. 409 while that goes on.
    """
    _, run = lookup.run(script_id, run_id)
    same = query["version"] == "same"
    started = replays.replay(wire.services(), run, same_version=same, caller_ip=request.remote_addr or "")
    wire.note(run=started.run.id)
    return {"run_id": started.run.id}


@blueprint.route("/runs/replay", methods=["POST"])
@blueprint.arguments(schemas.ReplayMany)
@blueprint.response(HTTPStatus.ACCEPTED, schemas.ReplayedMany)
@blueprint.refuses(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.TOO_MANY_REQUESTS)
@blueprint.extension()
def replay_runs(body: dict[str, Any]) -> dict[str, Any]:
    """Run many again with the same input, the oldest first

    Those that match and are over, be it with success: name a status to choose. Replays are left out, so that the same
    request again replays the same runs. The first that cannot be replayed, for a quota for instance, stops it.
    """
    replayed = replays.replay_many(
        wire.services(), wire.workspace().id, wanted(body), same_version=body["version"] == "same",
        caller_ip=request.remote_addr or "", limit=body["limit"],
    )  # fmt: skip
    return {"run_ids": replayed.started, "stopped": replayed.stopped}


@blueprint.route("/dead-letters")
@blueprint.arguments(schemas.DeadLetterQuery, location="query")
@blueprint.response(HTTPStatus.OK, schemas.DeadLetterPage)
@blueprint.extension()
def list_dead_letters(query: dict[str, Any]) -> dict[str, Any]:
    """List the runs that were given up, newest first

    Their retries were used up, they lost three workers in a row, or the platform could not carry them out.
    """
    workspace = wire.workspace().id
    listing = f"dead letters {workspace}"
    rows, following = deadletters.page(
        workspace, cursors.decode(listing, query.get("cursor")), query["page_size"],
        redriven=query["state"] == "redriven" if "state" in query else None,
    )  # fmt: skip
    return {"dead_letters": [_letter(row) for row in rows], "next_cursor": cursors.encode(listing, following)}


def _letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "run_id": letter.run_id,
        "script_id": letter.script.slug,
        "reason": letter.reason,
        "error": letter.run.error,
        "error_code": letter.run.error_code,
        "created_at": words.time(letter.created_at),
        "redriven_at": words.time(letter.redriven_at),
        "redriven_run_id": letter.redriven_run_id,
    }


@blueprint.route("/dead-letters/<letter_id>/redrive", methods=["POST"])
@blueprint.response(HTTPStatus.ACCEPTED, schemas.Replayed)
@blueprint.refuses(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.TOO_MANY_REQUESTS)
@blueprint.extension()
def redrive_dead_letter(letter_id: str) -> dict[str, str]:
    """Send a dead letter again

    A new run with the same input on the current version. 409 when that was done before.
    """
    letter = deadletters.find(wire.workspace().id, letter_id)
    started = replays.redrive(wire.services(), letter, caller_ip=request.remote_addr or "")
    wire.note(run=started.id)
    return {"run_id": started.id}
