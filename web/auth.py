"""Who is asking. Refuses by default: a blueprint that is not registered with a guard answers nobody."""

from collections.abc import Callable

from flask import Flask, current_app, g, request

from millrace import observability, workspaces
from millrace.errors import Denied, Invalid, NotFound, shorten

Guard = Callable[[], None]

_SCHEME = "ApiKey "


def install(app: Flask) -> None:
    """Guard every request of this application."""
    app.extensions["guards"] = {}
    app.before_request(_guard)


def state(app: Flask, blueprint: str, guard: Guard) -> None:
    """Say who may use the views of this blueprint."""
    app.extensions["guards"][blueprint] = guard


def _guard() -> None:
    if request.endpoint is None:
        return  # no view will answer, so there is nothing to guard
    guard: Guard | None = current_app.extensions["guards"].get(request.blueprint)
    if guard is None:
        raise Denied("Nobody may use this address.")
    guard()


def public() -> None:
    """Anybody may."""


def api_key() -> None:
    """Whoever sends a live key in `Authorization: ApiKey <key>`, and the key's workspace in `Account-Id`."""
    given = request.headers.get("Authorization", "")
    if given[: len(_SCHEME)].lower() != _SCHEME.lower():
        raise Denied("The header Authorization must be: ApiKey <key>.")
    workspace = workspaces.authenticate(given[len(_SCHEME) :].strip())
    account = request.headers.get("Account-Id")
    if not account:
        raise Invalid("The header Account-Id must name the workspace.", field="Account-Id", value=account)
    if account != workspace.id:
        raise NotFound(f"There is no workspace '{shorten(account)}'.")
    g.workspace = workspace
    g.notes["workspace"] = workspace.id
    g.log.enter_context(observability.context(workspace=workspace.id))
