"""Dead letters: runs that the platform has given up, and sending them again."""

from flask import Blueprint, Response, request

from millrace import deadletters, replays
from millrace.errors import Invalid
from web import cursors, wire
from web.console import identity, pages
from web.console.languages import gettext as _
from web.console.languages import ngettext, said
from web.console.sentences import translated

blueprint = Blueprint("console_dead_letters", __name__)

STATES = ("open", "redriven", "all")


@blueprint.route("/dead-letters")
@identity.needs("scripts.read")
def index() -> Response:
    """Those that wait for a person, newest first; or those that were sent again, or all."""
    state = request.args.get("state", "")
    state = state if state in STATES else STATES[0]
    listing = f"console dead letters {wire.workspace().id} {state}"
    rows, following = deadletters.page(
        wire.workspace().id, pages.position(listing), pages.PAGE_SIZE,
        redriven=None if state == "all" else state == "redriven",
    )  # fmt: skip
    return pages.page(
        "dead_letters.html", rows=rows, state=state, states=STATES, following=cursors.encode(listing, following)
    )


@blueprint.route("/dead-letters/<letter_id>/redrive", methods=["POST"])
@identity.needs("scripts.execute")
def redrive(letter_id: str) -> Response:
    """Send one again. HTMX takes its rows away."""
    letter = deadletters.find(wire.workspace().id, letter_id)
    started = replays.redrive(wire.services(), letter, caller_ip=request.remote_addr or "")
    wire.note(run=started.id)
    text = said(_("Sent again, as execution %(id)s."), id=started.id)
    if pages.wants_fragment():
        return pages.toast(pages.html(""), text)
    pages.say(text)
    return pages.go("/dead-letters")


@blueprint.route("/dead-letters/redrive", methods=["POST"])
@identity.needs("scripts.execute")
def redrive_shown() -> Response:
    """Send again those that the page shows, the oldest first."""
    ids = request.form.getlist("letter")
    if not 1 <= len(ids) <= pages.PAGE_SIZE:
        raise Invalid(said(_("Choose from 1 to %(most)s dead letters."), most=pages.PAGE_SIZE), field="letter")
    letters = [deadletters.find(wire.workspace().id, each) for each in reversed(ids)]
    done = replays.redrive_many(wire.services(), letters, caller_ip=request.remote_addr or "")
    count = len(done.started)
    pages.say(ngettext("%(count)s execution was started.", "%(count)s executions were started.", count)
              % {"count": count})  # fmt: skip
    if done.refused:
        count = len(done.refused)
        text = ngettext("%(count)s dead letter was not sent again: %(reason)s",
                        "%(count)s dead letters were not sent again, the first for this reason: %(reason)s", count)
        pages.say(text % {"count": count, "reason": translated(done.refused[0])}, "error")
    return pages.go("/dead-letters")
