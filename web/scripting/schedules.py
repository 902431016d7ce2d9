"""A script's schedule: what is due next, what became of the last due times; pausing it and making up for the past."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from millrace import backfills, schedules
from millrace.models import Firing, Schedule, Script
from web import cursors, wire
from web.scripting import PREFIX, lookup, schemas, words

blueprint = wire.Blueprint("Schedules", __name__, url_prefix=PREFIX, description="When scripts run by themselves.")

NEXT = 5
LATEST = 20


@blueprint.route("/scripts/<script_id>/schedule")
@blueprint.arguments(schemas.ScheduleQuery, location="query")
@blueprint.response(HTTPStatus.OK, schemas.ScheduleShown)
@blueprint.extension()
def get_schedule(query: dict[str, Any], script_id: str) -> dict[str, Any]:
    """Read a script's schedule

    With its next five due times and the latest ones; 404 when the script has none. It is set with the script.
    """
    script = lookup.script(script_id)
    return shown(script, schedules.require(script), query["limit"])


@blueprint.route("/scripts/<script_id>/schedule/firings")
@blueprint.arguments(schemas.FiringQuery, location="query")
@blueprint.response(HTTPStatus.OK, schemas.FiringPage)
@blueprint.extension()
def list_firings(query: dict[str, Any], script_id: str) -> dict[str, Any]:
    """List what became of a script's due times, the latest first

    Also of those of a schedule that it had before.
    """
    script = lookup.script(script_id)
    listing = f"firings {script.uuid}"
    position = cursors.decode(listing, query.get("cursor"))
    rows, following = schedules.firings(script, query["page_size"], position, query.get("outcome"))
    return {"firings": _firings(rows), "next_cursor": cursors.encode(listing, following)}


@blueprint.route("/scripts/<script_id>/schedule/pause", methods=["POST"])
@blueprint.response(HTTPStatus.OK, schemas.ScheduleShown)
@blueprint.extension()
def pause_schedule(script_id: str) -> dict[str, Any]:
    """Pause a schedule

    Nothing is started by it until it is resumed. Runs that were started go on; one that is paused stays so.
    """
    script = lookup.script(script_id)
    return shown(script, schedules.pause(wire.services(), script), LATEST)


@blueprint.route("/scripts/<script_id>/schedule/resume", methods=["POST"])
@blueprint.response(HTTPStatus.OK, schemas.ScheduleShown)
@blueprint.extension()
def resume_schedule(script_id: str) -> dict[str, Any]:
    """Resume a schedule

    It goes on with the next due time. What was due in the pause is not made up for: one record says so.
    """
    script = lookup.script(script_id)
    return shown(script, schedules.resume(wire.services(), script), LATEST)


@blueprint.route("/scripts/<script_id>/schedule/backfill", methods=["POST"])
@blueprint.arguments(schemas.Backfill)
@blueprint.response(HTTPStatus.ACCEPTED, schemas.Backfilled)
@blueprint.refuses(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
)
@blueprint.extension()
def backfill_schedule(body: dict[str, Any], script_id: str) -> dict[str, Any]:
    """Run what was due in a stretch of the past

    A run for each due time from `from` to `until`, both included, that has none; also for those before the schedule
    was set. The same again starts nothing twice, and goes on where one that failed ended.
    """
    script = lookup.script(script_id)
    started = backfills.start(wire.services(), script, words.millis(body["since"]), words.millis(body["until"]))
    return {"runs": started, "count": len(started)}


def shown(script: Script, schedule: Schedule, latest: int) -> dict[str, Any]:
    """A schedule in this face's shape."""
    return {
        "expression": schedule.expression,
        "time_zone": schedule.time_zone,
        "policy": policy(schedule),
        "paused_at": words.time(schedule.paused_at),
        "next": [words.time(at) for at in schedules.upcoming(schedule, wire.services().clock(), NEXT)],
        "firings": _firings(schedules.firings(script, latest)[0]),
    }


def _firings(rows: Sequence[Firing]) -> list[dict[str, Any]]:
    return [
        {
            "due_at": words.time(each.due_at), "outcome": each.outcome, "reason": each.reason,
            "late_ms": each.fired_at - each.due_at, "run_id": each.run_id,
        }
        for each in rows
    ]  # fmt: skip


def policy(schedule: Schedule) -> dict[str, Any]:
    """What becomes of due times that overlap or were missed."""
    return {
        "overlap": schedule.overlap,
        "catch_up": schedule.catch_up,
        "catch_up_minutes": schedule.catch_up_minutes,
    }
