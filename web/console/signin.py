"""Signing in and out: by password, by another service, and by the link of an invitation."""

import contextlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Flask, Response, current_app, request, session

from millrace import audit, invitations, joining, passwords, sessions, users
from millrace.errors import Conflict, Denied, Invalid, NotFound, TooMany
from millrace.models import User
from millrace.signinlimits import SignInLimits
from web import wire
from web.console import addresses, identity, oidc, pages
from web.console.languages import gettext as _
from web.console.languages import said
from web.console.sentences import translated

HOME = "/scripts"
WHERE_TO_LOOK = "/workspaces"
INVITATIONS = "/invitations/"
OIDC_MS = 10 * 60 * 1000  # how long one may be away at the other service
_OIDC = "oidc"

blueprint = Blueprint("console_signin", __name__)


@dataclass(frozen=True)
class SignIn:
    """What this process needs to let people in."""

    limits: SignInLimits
    provider: oidc.Provider | None


def install(app: Flask) -> None:
    """Make what all sign-ins of this process share; after the process's own parts."""
    process: wire.Process = app.extensions["millrace"]
    services, settings = process.services, process.services.settings
    provider = oidc.Provider(
        settings.oidc_issuer, settings.oidc_client_id, settings.oidc_client_secret, services.clock
    ) if settings.oidc_issuer else None  # fmt: skip
    app.extensions["millrace.signin"] = SignIn(SignInLimits(settings.redis_url), provider)


def shared() -> SignIn:
    """What `install` made."""
    found: SignIn = current_app.extensions["millrace.signin"]
    return found


def address_of_browser() -> str:
    """Whose guesses are counted together."""
    return request.remote_addr or ""


@blueprint.route("/login")
def form() -> Response:
    """The form, or for who is signed in already where they wanted to go."""
    wanted = addresses.own(request.args.get("next"))
    return pages.go(wanted or HOME) if identity.current() else _form(wanted)


@blueprint.route("/login", methods=["POST"])
def sign_in() -> Response:
    """Let in whose password it is."""
    email, wanted = request.form.get("email", ""), addresses.own(request.form.get("next"))
    password = request.form.get("password", "")
    try:
        user = users.authenticate(wire.services(), shared().limits, email, password, address_of_browser())
    except Denied:
        return _form(wanted, email, _("The email or the password is not right."), HTTPStatus.BAD_REQUEST)
    except TooMany as error:
        return _too_many(wanted, email, error)
    return _let_in(user, wanted)


def _form(wanted: str | None, email: str = "", error: str = "", status: int = HTTPStatus.OK) -> Response:
    oidc_name = wire.services().settings.oidc_name
    return pages.page("login.html", status=status, next=wanted, email=email, error=error, oidc_name=oidc_name)


def _too_many(wanted: str | None, email: str, error: TooMany) -> Response:
    minutes = -(-error.retry_after // 60)
    text = said(_("There were too many wrong passwords. Try again in %(minutes)s min."), minutes=minutes)
    answer = _form(wanted, email, text, HTTPStatus.TOO_MANY_REQUESTS)
    answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def _let_in(user: User, wanted: str | None = None) -> Response:
    """With a new session. One that this browser had is over: nobody can have prepared it."""
    _end_session()
    token = sessions.begin(wire.services(), user, None, request.headers.get("User-Agent", ""))
    identity.remember(token)
    found = identity.current()
    belongs = found is not None and found.workspace is not None
    if belongs or (wanted is not None and wanted.startswith(INVITATIONS)):
        return pages.go(wanted or HOME)
    return pages.go(WHERE_TO_LOOK)


def _end_session() -> None:
    """The one that this browser has."""
    found = identity.current()
    if found is not None:
        with contextlib.suppress(NotFound):  # another request was faster
            sessions.end(found.user, found.session.id)


@blueprint.route("/logout", methods=["POST"])
def sign_out() -> Response:
    """End this browser's session."""
    _end_session()
    identity.forget()
    pages.say(_("You are signed out."), "info")
    return pages.go("/login")


@blueprint.route("/login/oidc")
def elsewhere() -> Response:
    """To the other service."""
    attempted = oidc.Attempted.new()
    where = _provider().address(_callback(), attempted)
    wanted = addresses.own(request.args.get("next"))
    session[_OIDC] = {**attempted.as_dict(), "next": wanted, "until": wire.services().clock() + OIDC_MS}
    return pages.go(where)


@blueprint.route("/login/oidc/callback")
def from_elsewhere() -> Response:
    """Back from there. What this browser kept is good once."""
    kept: Any = session.pop(_OIDC, None)
    attempted = oidc.Attempted.read(kept)
    try:
        if attempted is None or kept["until"] <= wire.services().clock():
            raise Denied(_("This sign-in was not begun in this browser, or is too old. Begin again."))
        if "error" in request.args:
            raise Denied(_("The sign-in was not completed there. Begin again."))
        state, code = request.args.get("state", ""), request.args.get("code", "")
        user = _known(_provider().email(_callback(), attempted, state, code))
    except Denied as error:
        return _form(None, "", translated(error.message), HTTPStatus.FORBIDDEN)
    audit.record(wire.services(), None, user.email, "user.signed_in", user.email,
                 {"address": address_of_browser(), "by": "oidc"})  # fmt: skip
    return _let_in(user, addresses.own(kept["next"]))


def _known(email: str) -> User:
    try:
        return users.find(email)
    except NotFound:
        text = said(_("Nobody here has the email %(email)s. Ask whoever manages your workspace to invite you."),
                    email=email[:254])  # fmt: skip
        raise Denied(text) from None


def _provider() -> oidc.Provider:
    provider = shared().provider
    if provider is None:
        raise NotFound(_("There is no single sign-on here."))
    return provider


def _callback() -> str:
    return f"{wire.services().settings.url}/login/oidc/callback"


@blueprint.route("/invitations/<token>")
def invitation(token: str) -> Response:
    """Choose a password, or join a workspace."""
    if joining.is_offer(wire.services(), token):
        return _offer(token)
    return _choose(token, invitations.find(wire.services(), token))


@blueprint.route("/invitations/<token>", methods=["POST"])
def accept(token: str) -> Response:
    """Take the password and let its owner in; or make who is signed in a member."""
    if joining.is_offer(wire.services(), token):
        return _join(token)
    user = invitations.find(wire.services(), token)
    password = request.form.get("password", "")
    if password != request.form.get("again", ""):
        return _choose(token, user, _("The two passwords are not the same."), HTTPStatus.BAD_REQUEST)
    try:
        user = invitations.accept(wire.services(), token, password)
    except (Invalid, Conflict) as error:
        return _choose(token, user, translated(error.message), HTTPStatus.BAD_REQUEST)
    pages.say(_("Your password is set."))
    return _let_in(user)


def _choose(token: str, user: User, error: str = "", status: int = HTTPStatus.OK) -> Response:
    return pages.page(
        "invitation.html", status=status, action=_address(token), email=user.email,
        errors={"password": error} if error else {}, shortest=passwords.SHORTEST, longest=passwords.LONGEST,
    )  # fmt: skip


def _address(token: str) -> str:
    return INVITATIONS + quote(token, safe="")


def _offer(token: str) -> Response:
    """What a link offers to who is signed in; others sign in first."""
    found = identity.current()
    if found is None:
        return _first_sign_in(token)
    offer = joining.find(wire.services(), token, found.user)
    return pages.page("join.html", action=_address(token), offer=offer, email=found.user.email)


def _join(token: str) -> Response:
    """Take the place, and look there."""
    found = identity.current()
    if found is None:
        return _first_sign_in(token)
    offer = joining.find(wire.services(), token, found.user)
    joining.join(wire.services(), token, found.user)
    sessions.switch(wire.services(), found, offer.workspace_id)
    pages.say(said(_("You are a member of %(name)s now."), name=offer.workspace_name))
    return pages.go(HOME)


def _first_sign_in(token: str) -> Response:
    return pages.go(f"/login?next={quote(_address(token), safe='/')}")
