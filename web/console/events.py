"""Events: the workspace's, what each started, and publishing one by hand."""

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, request

from millrace import events, history, jsontext, patterns
from millrace.errors import Invalid, TooLarge
from millrace.models import Event
from web import cursors, strict_json, wire
from web.console import errors as console_errors
from web.console import identity, pages
from web.console.languages import gettext as _
from web.console.languages import said
from web.console.sentences import translated

blueprint = Blueprint("console_events", __name__)

SOURCE = "console"
OUTCOMES = ("routed", "cut", "failed")
_BLANK = {"name": "", "data": "{}", "subject": ""}


@blueprint.route("/events")
@identity.needs("scripts.read")
def index() -> Response:
    """The workspace's events, newest first; of one name and outcome if these are asked for."""
    wanted = {"name": request.args.get("name", "").strip(), "outcome": request.args.get("outcome", "")}
    if wanted["outcome"] not in OUTCOMES:
        wanted["outcome"] = ""
    return _shown(wanted, {}, _BLANK)


def _shown(
    wanted: dict[str, str], errors: dict[str, str], values: dict[str, str], status: HTTPStatus = HTTPStatus.OK
) -> Response:
    listing = f"console events {wire.workspace().id} {wanted['name']} {wanted['outcome']}"
    rows: list[Event] = []
    following = None
    wrong = _why_no_name(wanted["name"])
    if not wrong:
        rows, following = events.page(
            wire.workspace().id, pages.position(listing), pages.PAGE_SIZE, name=wanted["name"] or None,
            outcome=wanted["outcome"] or None,
        )  # fmt: skip
    return pages.page(
        "events.html", status=status, rows=rows, wanted=wanted, wrong=wrong, errors=errors, values=values,
        outcomes=OUTCOMES, following=cursors.encode(listing, following),
    )  # fmt: skip


def _why_no_name(text: str) -> str:
    """Why no event can be called so; "" if one can."""
    try:
        if text:
            patterns.validate_name(text)
    except Invalid as error:
        return translated(error.message)
    return ""


@blueprint.route("/events", methods=["POST"])
@identity.needs("scripts.execute")
def publish() -> Response:
    """Publish an event as the form says."""
    values = {name: request.form.get(name, "") for name in _BLANK}
    try:
        event = events.publish(
            wire.services(), wire.workspace().id, values["name"].strip(), _data(values["data"]), source=SOURCE,
            subject=values["subject"].strip() or None,
        )  # fmt: skip
    except (Invalid, TooLarge) as error:
        field = error.field if isinstance(error, Invalid) and error.field in values else "data"
        wrong = {field: translated(error.message)}
        return _shown({"name": "", "outcome": ""}, wrong, values, console_errors.status_of(error))
    wire.note(event=event.id)
    pages.say(_("The event was published."))
    return pages.go(f"/events/{event.id}")


def _data(text: str) -> Any:
    """Raises Invalid for what is no JSON."""
    try:
        return strict_json.parse(text.encode("utf-8", "surrogatepass"))
    except Invalid as error:
        text = said(_("The data must be JSON. %(reason)s"), reason=translated(error.message))
        raise Invalid(text, field="data") from None


@blueprint.route("/events/<event_id>")
@identity.needs("scripts.read")
def show(event_id: str) -> Response:
    """An event, and the executions that it started."""
    event = events.find(wire.workspace().id, event_id)
    return pages.page(
        "event.html", event=event, data=pages.pretty(jsontext.dump(event.data, "data")),
        runs=history.started_by(event.id),
    )  # fmt: skip
