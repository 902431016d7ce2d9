"""Who may call HTTP scripts."""

import io

from flask import request

from millrace.errors import Denied, Forbidden
from web import auth
from web.console import identity
from web.hooks import serving

PERMISSION = "scripts.execute"


def member_or_key() -> None:
    """Whoever sends a live key of the workspace, or is signed in and may execute scripts.

    A request of a browser that changes things must carry the console's token in its header: another site can make a
    browser send the cookie, but not that.
    """
    if "Authorization" in request.headers:
        auth.api_key()
        return
    found = identity.current()
    if found is None:
        raise Denied("Sign in, or send the header Authorization: ApiKey <key>.")
    if found.workspace is None or not found.may(PERMISSION):
        raise Forbidden(f"This needs the permission {PERMISSION}.")
    raw = serving.read()
    identity.check_csrf()  # looks into forms first, and so reads what the view will want to read
    request.environ["wsgi.input"] = io.BytesIO(raw)


def user_id() -> int | None:
    """Who calls, if it is a person."""
    signed_in = None if "Authorization" in request.headers else identity.current()
    return None if signed_in is None else signed_in.user.id
