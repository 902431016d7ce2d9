"""Schedules: all of the workspace, and one script's with its next and past firings."""

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from zoneinfo import ZoneInfo

from flask import Blueprint, Response, request

from millrace import backfills, cron, schedules
from millrace.errors import Invalid
from millrace.models import Schedule, Script
from web import cursors, wire
from web.console import identity, lookup, pages
from web.console.languages import gettext as _
from web.console.languages import ngettext, said
from web.console.sentences import translated

blueprint = Blueprint("console_schedules", __name__)

NEXT = 10
OUTCOMES = (schedules.RAN, schedules.SKIPPED)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@blueprint.route("/schedules")
@identity.needs("scripts.read")
def index() -> Response:
    """All schedules of the workspace."""
    workspace = wire.workspace().id
    listing = f"console schedules {workspace}"
    rows, following = schedules.page(workspace, pages.position(listing), pages.PAGE_SIZE)
    return pages.page(
        "schedules.html", rows=rows, last=schedules.last_firings([each.script_id for each in rows]),
        following=cursors.encode(listing, following),
    )  # fmt: skip


@blueprint.route("/scripts/<script_id>/schedule")
@identity.needs("scripts.read")
def show(script_id: str) -> Response:
    """A script's schedule: what is due next, and what became of what was due."""
    return _shown(lookup.script(script_id), {}, {})


def _shown(
    script: Script, errors: dict[str, str], values: dict[str, str], status: HTTPStatus = HTTPStatus.OK
) -> Response:
    outcome = request.args.get("outcome", "")
    outcome = outcome if outcome in OUTCOMES else ""
    listing = f"console firings {script.uuid} {outcome}"
    firings, following = schedules.firings(script, pages.PAGE_SIZE, pages.position(listing), outcome or None)
    schedule = schedules.of(script)
    due, damage = ([], "") if schedule is None else _upcoming(schedule)
    return pages.page(
        "schedule.html", status=status, script=script, schedule=schedule, due=due, damage=damage, firings=firings,
        following=cursors.encode(listing, following), outcome=outcome, errors=errors, values=values,
        most=backfills.MAX_DUE_TIMES,
    )  # fmt: skip


def _upcoming(schedule: Schedule) -> tuple[list[tuple[int, str]], str]:
    """The next due times, each also as the clock of the schedule's zone says it; or why they can't be told."""
    try:
        moments = schedules.upcoming(schedule, wire.services().clock(), NEXT)
    except Invalid as error:
        return [], translated(error.message)
    return [(at, _local(at, schedule.time_zone)) for at in moments], ""


def _local(at: int, zone: str) -> str:
    """A moment as the clock of this zone says it."""
    return (_EPOCH + timedelta(milliseconds=at)).astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")


@blueprint.route("/scripts/<script_id>/schedule/pause", methods=["POST"])
@identity.needs("scripts.update")
def pause(script_id: str) -> Response:
    """Nothing fires until it is resumed."""
    script = lookup.script(script_id)
    schedules.pause(wire.services(), script)
    pages.say(_("The schedule is paused: nothing fires until you resume it."))
    return pages.go(f"/scripts/{script.uuid}/schedule")


@blueprint.route("/scripts/<script_id>/schedule/resume", methods=["POST"])
@identity.needs("scripts.update")
def resume(script_id: str) -> Response:
    """Go on with the next due time."""
    script = lookup.script(script_id)
    schedules.resume(wire.services(), script)
    pages.say(_("The schedule goes on with its next due time."))
    return pages.go(f"/scripts/{script.uuid}/schedule")


@blueprint.route("/scripts/<script_id>/schedule/backfill", methods=["POST"])
@identity.needs("scripts.execute")
def backfill(script_id: str) -> Response:
    """Run what was due in a stretch of the past and has not run."""
    script = lookup.script(script_id)
    schedule = schedules.require(script)
    values = {name: request.form.get(name, "").strip() for name in ("from", "until")}
    try:
        since, until = (_moment(name, text, schedule.time_zone) for name, text in values.items())
        started = backfills.start(wire.services(), script, since, until)
    except Invalid as error:
        errors = {error.field if error.field in values else "until": translated(error.message)}
        return _shown(script, errors, values, HTTPStatus.BAD_REQUEST)
    count = len(started)
    if count:
        pages.say(ngettext("%(count)s execution was started.", "%(count)s executions were started.", count)
                  % {"count": count})  # fmt: skip
    else:
        pages.say(_("There was nothing to make up for: whatever was due then has run."), "info")
    return pages.go(f"/scripts/{script.uuid}/schedule")


def _moment(field: str, text: str, zone: str) -> int:
    """A date and time of a form, by the clock of this zone unless it names its own. Raises Invalid."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(said(_("Give a date and a time, such as %(example)s."), example="2026-01-31 09:00"),
                      field=field, value=text) from None
    moment = read if read.tzinfo is not None else read.replace(tzinfo=ZoneInfo(cron.validate_zone(zone)))
    return (moment - _EPOCH) // timedelta(milliseconds=1)
