"""A script's schedule: what is due next, and what became of the last due times."""

from http import HTTPStatus
from typing import Any

from millrace import schedules
from millrace.errors import NotFound
from web import wire
from web.scripting import PREFIX, lookup, schemas, words

blueprint = wire.Blueprint("Schedules", __name__, url_prefix=PREFIX, description="When scripts run by themselves.")

NEXT = 5
LATEST = 20


@blueprint.route("/scripts/<script_id>/schedule")
@blueprint.response(HTTPStatus.OK, schemas.ScheduleShown)
@blueprint.extension()
def get_schedule(script_id: str) -> dict[str, Any]:
    """Read a script's schedule

    With its next five due times and the last twenty; 404 when the script has none. It is set with the script.
    """
    script = lookup.script(script_id)
    schedule = schedules.of(script)
    if schedule is None:
        raise NotFound(f"Script '{script.slug}' has no schedule.")
    return {
        "expression": schedule.expression,
        "time_zone": schedule.time_zone,
        "next": [words.time(at) for at in schedules.upcoming(schedule, wire.services().clock(), NEXT)],
        "firings": [
            {
                "due_at": words.time(each.due_at), "outcome": each.outcome, "reason": each.reason,
                "late_ms": each.fired_at - each.due_at, "run_id": each.run_id,
            }
            for each in schedules.firings(script, LATEST)
        ],
    }  # fmt: skip
