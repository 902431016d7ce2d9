"""Batches: many runs of a script at once."""

from http import HTTPStatus
from typing import Any

from flask import request

from millrace import batches, runs
from millrace.models import Batch, Script
from web import cursors, wire
from web.scripting import PREFIX, lookup, schemas, words
from web.scripting.runs import REPLAYED, page_shown

blueprint = wire.Blueprint("Batches", __name__, url_prefix=PREFIX, description="Many runs of a script at once.")


@blueprint.route("/scripts/<script_id>/batches", methods=["POST"])
@blueprint.arguments(schemas.BatchCreate)
@blueprint.arguments(schemas.ExecuteHeaders, location="headers")
@blueprint.response(HTTPStatus.ACCEPTED, schemas.BatchAccepted, headers=REPLAYED)
@blueprint.refuses(
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
)
@blueprint.extension()
def start_batch(body: dict[str, Any], headers: dict[str, Any], script_id: str) -> Any:
    """Run a script once for each item

    All are accepted or none. They start in the order of the items, and each is a run like any other.
    """
    script = lookup.script(script_id)
    key = headers.get("idempotency_key")
    accepted = batches.submit(
        wire.services(),
        batches.Wish(
            workspace=script.workspace_id, script=script.uuid, items=body["items"],
            concurrency=body.get("concurrency"), priority=body["priority"], expires_after_s=body.get("expires_after"),
            caller_ip=request.remote_addr or "", idempotency_key=key,
            request_digest=runs.digest(["batch", wire.body(request)]) if key else "",
        ),
    )  # fmt: skip
    answer = {"batch_id": accepted.batch.id, "total": accepted.batch.total}
    return answer if accepted.created else (answer, HTTPStatus.ACCEPTED, {"Idempotent-Replayed": "true"})


@blueprint.route("/scripts/<script_id>/batches")
@blueprint.arguments(schemas.PageQuery, location="query")
@blueprint.response(HTTPStatus.OK, schemas.BatchPage)
@blueprint.extension()
def list_batches(query: dict[str, Any], script_id: str) -> dict[str, Any]:
    """List a script's batches, newest first"""
    script = lookup.script(script_id)
    listing = f"batches {script.uuid}"
    rows, following = batches.page(script, cursors.decode(listing, query.get("cursor")), query["page_size"])
    return {"batches": [_listed(script, row) for row in rows], "next_cursor": cursors.encode(listing, following)}


@blueprint.route("/scripts/<script_id>/batches/<batch_id>")
@blueprint.response(HTTPStatus.OK, schemas.Batch)
@blueprint.extension()
def get_batch(script_id: str, batch_id: str) -> dict[str, Any]:
    """Read how far a batch has come"""
    return _shown(*_find(script_id, batch_id))


def _shown(script: Script, batch: Batch) -> dict[str, Any]:
    progress = batches.progress(batch)
    counts = dict.fromkeys(words.STATUSES, 0)
    for status, count in progress.counts.items():
        counts[words.status(status)] += count
    going_on = counts["pending"] + counts["running"] > 0
    return _listed(script, batch) | {
        "status": "running" if going_on else "completed" if batch.cancelled_at is None else "cancelled",
        "completed_at": words.time(progress.completed_at),
        "counts": counts,
    }


@blueprint.route("/scripts/<script_id>/batches/<batch_id>/runs")
@blueprint.arguments(schemas.BatchRunQuery, location="query")
@blueprint.response(HTTPStatus.OK, schemas.RunPage)
@blueprint.extension()
def list_batch_runs(query: dict[str, Any], script_id: str, batch_id: str) -> dict[str, Any]:
    """List a batch's runs in the order of its items

    `batch_index` says which item a run has, from 0.
    """
    _, batch = _find(script_id, batch_id)
    listing = f"batch {batch.id}"
    statuses = words.statuses(query["status"]) if "status" in query else ()
    rows = batches.items(batch, statuses, cursors.decode(listing, query.get("cursor")), query["page_size"])
    return page_shown(listing, *rows)


@blueprint.route("/scripts/<script_id>/batches/<batch_id>/cancel", methods=["POST"])
@blueprint.response(HTTPStatus.ACCEPTED, schemas.Batch)
@blueprint.refuses(HTTPStatus.CONFLICT)
@blueprint.extension()
def cancel_batch(script_id: str, batch_id: str) -> dict[str, Any]:
    """Cancel a batch

    Its runs that have not begun end at once; those that run are killed. 409 when all are over.
    """
    _, batch = _find(script_id, batch_id)
    batches.cancel(wire.services(), batch)
    return _shown(*_find(script_id, batch_id))


def _find(script_id: str, batch_id: str) -> tuple[Script, Batch]:
    script = lookup.script(script_id)
    return script, batches.find(script.workspace_id, script.uuid, batch_id)


def _listed(script: Script, batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "script_id": script.slug,
        "total": batch.total,
        "concurrency": batch.concurrency,
        "created_at": words.time(batch.created_at),
        "cancelled_at": words.time(batch.cancelled_at),
    }
