"""The event bus: publish an event, and see what it started."""

from http import HTTPStatus
from typing import Any

from millrace import events, history
from millrace.models import Event
from web import cursors, wire
from web.scripting import PREFIX, schemas, words

blueprint = wire.Blueprint("Events", __name__, url_prefix=PREFIX, description="Facts that start the scripts that "
                           "subscribed to them.")  # fmt: skip


@blueprint.route("/events", methods=["POST"])
@blueprint.arguments(schemas.Publish)
@blueprint.response(HTTPStatus.ACCEPTED, schemas.Published)
@blueprint.refuses(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
@blueprint.extension()
def publish_event(body: dict[str, Any]) -> dict[str, str]:
    """Publish an event

    Answered once it is stored. Each script that subscribed gets one run, with `{id, name, source, subject, data,
    time}` as its payload. Names that begin with `run.` or `script.` belong to Millrace.
    """
    event = events.publish(
        wire.services(), wire.workspace().id, body["name"], body["data"], source=body.get("source"),
        subject=body.get("subject"),
    )  # fmt: skip
    wire.note(event=event.id)
    return {"event_id": event.id}


@blueprint.route("/events/<event_id>")
@blueprint.response(HTTPStatus.OK, schemas.Event)
@blueprint.extension()
def get_event(event_id: str) -> dict[str, Any]:
    """Read an event and the runs that it started"""
    event = events.find(wire.workspace().id, event_id)
    started = [
        {"run_id": run.id, "script_id": run.script.slug, "status": words.status(run.status)}
        for run in history.started_by(event.id)
    ]
    return _shown(event) | {"data": event.data, "runs": started}


@blueprint.route("/events")
@blueprint.arguments(schemas.EventQuery, location="query")
@blueprint.response(HTTPStatus.OK, schemas.EventPage)
@blueprint.extension()
def list_events(query: dict[str, Any]) -> dict[str, Any]:
    """List the workspace's events, newest first

    With `outcome` `cut`, for instance, those that were not routed because too many followed from each other.
    """
    listing = f"events {wire.workspace().id}"
    rows, following = events.page(
        wire.workspace().id, cursors.decode(listing, query.get("cursor")), query["page_size"],
        name=query.get("name"), outcome=query.get("outcome"),
    )  # fmt: skip
    return {"events": [_shown(row) for row in rows], "next_cursor": cursors.encode(listing, following)}


def _shown(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "name": event.name,
        "source": event.source,
        "subject": event.subject,
        "time": words.time(event.created_at),
        "outcome": event.outcome,
        "reason": event.reason,
    }
