"""What everybody changes about themselves, where they are signed in, and which workspace they look at."""

from collections.abc import Mapping
from http import HTTPStatus

from flask import Blueprint, Response, request

from millrace import members, passwords, sessions, users
from millrace.errors import Conflict, Denied, Invalid, TooMany, Unprocessable
from web import wire
from web.console import identity, pages, signin
from web.console.languages import gettext as _
from web.console.sentences import translated

blueprint = Blueprint("console_profile", __name__)


def person() -> None:
    """The guard: whoever is signed in, also who belongs to no workspace."""
    identity.me()
    identity.check_csrf()


@blueprint.route("/profile")
def show() -> Response:
    """Name, password, language, theme and sessions."""
    return _profile()


def _profile(errors: Mapping[str, str] | None = None, status: int = HTTPStatus.OK) -> Response:
    me = identity.me()
    return pages.page(
        "profile.html", status=status, user=me.user, errors=errors or {}, mine=me.session.id,
        name=request.form.get("name", me.user.name or ""), themes=users.THEMES,
        sessions=sessions.of(wire.services(), me.user), shortest=passwords.SHORTEST, longest=passwords.LONGEST,
    )  # fmt: skip


@blueprint.route("/profile", methods=["POST"])
def change() -> Response:
    """How pages are for me."""
    form = request.form
    try:
        users.set_preferences(
            wire.services(), identity.me().user, form.get("name"), form.get("language") or None,
            form.get("theme") or None,
        )  # fmt: skip
    except Invalid as error:
        return _profile({error.field: translated(error.message)}, HTTPStatus.BAD_REQUEST)
    pages.say(_("Saved."))
    return pages.go("/profile")


@blueprint.route("/profile/password", methods=["POST"])
def change_password() -> Response:
    """Another password; all other browsers are signed out."""
    me, form = identity.me(), request.form
    if form.get("password", "") != form.get("again", ""):
        return _profile({"password": _("The two passwords are not the same.")}, HTTPStatus.BAD_REQUEST)
    try:
        users.change_password(
            wire.services(), signin.shared().limits, me.user, form.get("old", ""), form.get("password", ""),
            signin.address_of_browser(), keep=me.session.id,
        )  # fmt: skip
    except Denied as error:
        return _profile({"old": translated(error.message)}, HTTPStatus.BAD_REQUEST)
    except (Invalid, Conflict, Unprocessable) as error:
        return _profile({"password": translated(error.message)}, HTTPStatus.BAD_REQUEST)
    except TooMany as error:
        answer = _profile({"old": translated(error.message)}, HTTPStatus.TOO_MANY_REQUESTS)
        answer.headers["Retry-After"] = str(error.retry_after)
        return answer
    pages.say(_("Your password was changed, and your other browsers are signed out."))
    return pages.go("/profile")


@blueprint.route("/profile/sessions/<session_id>/end", methods=["POST"])
def end_session(session_id: str) -> Response:
    """Sign out one of my browsers."""
    sessions.end(identity.me().user, session_id)
    pages.say(_("That browser is signed out."))
    return pages.go("/profile")


@blueprint.route("/profile/sessions/end", methods=["POST"])
def end_others() -> Response:
    """Sign out all of my browsers but this one."""
    me = identity.me()
    sessions.end_all(me.user, keep=me.session.id)
    pages.say(_("Your other browsers are signed out."))
    return pages.go("/profile")


@blueprint.route("/workspaces")
def workspaces() -> Response:
    """Which workspaces there are for me."""
    return pages.page("workspaces.html", rows=members.workspaces_of(identity.me().user))


@blueprint.route("/workspaces/<workspace_id>", methods=["POST"])
def switch(workspace_id: str) -> Response:
    """Look at another one."""
    sessions.switch(wire.services(), identity.me(), workspace_id)
    return pages.go(signin.HOME)
