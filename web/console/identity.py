"""Who looks at the console: a browser with a session, what its user may do, and the proof that a form is ours.

The cookie is Flask's signed one, with the token of a session that the database knows and the secret of the forms'
tokens. It says nothing that a person could not see.
"""

import functools
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

from flask import Flask, g, request, session
from flask.sessions import SecureCookieSessionInterface
from flask_wtf import CSRFProtect
from flask_wtf.csrf import CSRFError, generate_csrf

from millrace import observability, sessions
from millrace.errors import Conflict, DomainError, Forbidden
from millrace.sessions import SignedIn
from millrace.settings import Settings
from web import bodies, wire

COOKIE = "millrace_session"
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"
WORKSPACE_FIELD = "_workspace"
MAX_FORM_BYTES = 1024 * 1024
_TOKEN = "token"
_SAFE = ("GET", "HEAD", "OPTIONS")

_csrf = CSRFProtect()


class NotSignedIn(DomainError):
    """Nobody is signed in; pages lead to the sign-in."""


class _Cookie(SecureCookieSessionInterface):
    """Secure whenever people reach us by HTTPS, be it through a proxy."""

    def __init__(self, *, always_secure: bool) -> None:
        self.always_secure = always_secure

    def get_cookie_secure(self, app: Flask) -> bool:
        return self.always_secure or request.is_secure


def install(app: Flask, settings: Settings) -> None:
    """Set up cookies and the tokens of forms."""
    keys = [_cookie_key(key) for key in settings.secret_keys.split(",") if key.strip()]
    app.secret_key, app.config["SECRET_KEY_FALLBACKS"] = keys[0], keys[1:]
    app.config.update(
        SESSION_COOKIE_NAME=COOKIE,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=sessions.LONGEST_MS // 1000,
        WTF_CSRF_CHECK_DEFAULT=False,  # the guard asks for it, where there is a session to protect
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session: a form may be open for a day
        WTF_CSRF_SSL_STRICT=False,  # the Referer check; proxies and privacy settings drop it, and tokens suffice
        WTF_CSRF_HEADERS=[CSRF_HEADER],
        WTF_CSRF_FIELD_NAME=CSRF_FIELD,
    )
    app.session_interface = _Cookie(always_secure=settings.url.startswith("https://"))
    _csrf.init_app(app)


def _cookie_key(master_key: str) -> bytes:
    """A key for cookies that says nothing of the master key."""
    return hmac.new(master_key.strip().encode(), b"console cookie", hashlib.sha256).digest()


def current() -> SignedIn | None:
    """Who is signed in with this request's cookie; asked of the database once a request."""
    if "signed_in" not in g:
        token = session.get(_TOKEN)
        g.signed_in = sessions.find(wire.services(), token) if isinstance(token, str) else None
        if g.signed_in is not None and g.signed_in.workspace is not None:
            g.workspace = g.signed_in.workspace
            g.notes["workspace"] = g.workspace.id
            g.log.enter_context(observability.context(workspace=g.workspace.id))
    found: SignedIn | None = g.signed_in
    return found


def me() -> SignedIn:
    """Whoever the guard let in."""
    found = current()
    if found is None:
        raise NotSignedIn("Sign in first.")
    return found


def remember(token: str) -> None:
    """Sign this browser in. What the cookie held before is gone, with the forms' token: nobody can have planted it."""
    session.clear()
    session.permanent = True  # what ends it is the session that the database knows
    session[_TOKEN] = token
    g.pop("signed_in", None)
    g.pop(CSRF_FIELD, None)


def forget() -> None:
    """Sign this browser out."""
    session.clear()
    g.signed_in = None


def check_csrf() -> None:
    """Raises Forbidden when a request that changes something does not carry its session's token.

    Reads the body, and so raises TooLarge and Invalid as `bodies.read` does.
    """
    if request.method in _SAFE:
        return
    # Before anything parses it: a form that breaks off must not pass for a shorter one.
    request.max_form_memory_size = MAX_FORM_BYTES
    bodies.read(request, MAX_FORM_BYTES)
    try:
        _csrf.protect()
    except CSRFError:
        raise Forbidden("This form is too old, or not ours. Load the page again.") from None


def csrf_token() -> str:
    """The token for this browser's forms."""
    token: str = generate_csrf()
    return token


def visitor() -> None:
    """The guard of pages for everybody: forms must be ours all the same."""
    check_csrf()


def signed_in() -> None:
    """The guard of all other pages. Raises NotSignedIn, Forbidden for a form that is not ours, and Conflict for one of
    another workspace."""
    workspace = me().workspace
    if workspace is None:
        raise Forbidden("You are not a member of any workspace.")
    check_csrf()
    # A page that was opened before its browser went to another workspace must change nothing there.
    if request.method not in _SAFE and request.form.get(WORKSPACE_FIELD, workspace.id) != workspace.id:
        raise Conflict("You look at another workspace now, so nothing was done. Load the page again.")


def may(permission: str) -> bool:
    """Whether the user may do this in the workspace; for templates, which hide what is refused."""
    found = current()
    return found is not None and found.may(permission)


def needs(permission: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Refuse the view to whom this is not allowed, with Forbidden."""

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if not me().may(permission):
                raise Forbidden(f"This needs the permission {permission}.")
            return view(*args, **kwargs)

        guarded.needs = permission  # type: ignore[attr-defined]  # for the test that every view says what it needs
        return guarded

    return decorate
