"""Errors as pages, and for HTMX as a toast that leaves the page as it is."""

import logging
from http import HTTPStatus
from urllib.parse import quote

from flask import Blueprint, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from millrace import database
from millrace.errors import (
    Conflict,
    Denied,
    DomainError,
    Forbidden,
    Invalid,
    NotFound,
    NotReady,
    TooLarge,
    TooMany,
    Unavailable,
    Unprocessable,
)
from web.console import pages
from web.console.identity import NotSignedIn
from web.console.languages import gettext as _
from web.console.sentences import translated

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5
_STATUS: dict[type[DomainError], HTTPStatus] = {
    Invalid: HTTPStatus.BAD_REQUEST,
    Denied: HTTPStatus.FORBIDDEN,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Unprocessable: HTTPStatus.CONFLICT,
    TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    NotReady: HTTPStatus.SERVICE_UNAVAILABLE,
}


def install(blueprint: Blueprint) -> None:
    """Answer every error of these views so."""
    blueprint.register_error_handler(NotSignedIn, _not_signed_in)
    blueprint.register_error_handler(DomainError, _domain)
    blueprint.register_error_handler(HTTPException, _http)
    for kind in (Unavailable, *database.UNREACHABLE):
        blueprint.register_error_handler(kind, _unavailable)


def status_of(error: DomainError) -> HTTPStatus:
    """The status that says this."""
    return _STATUS[type(error)]


def _not_signed_in(_error: NotSignedIn) -> Response:
    """To the sign-in, and back afterwards."""
    wanted = request.full_path.rstrip("?") if request.method == "GET" else ""
    address = f"/login?next={quote(wanted, safe='/')}" if wanted not in ("", "/") else "/login"
    if request.headers.get("HX-Request") == "true":
        return Response(status=HTTPStatus.UNAUTHORIZED, headers={"HX-Redirect": "/login"})
    if pages.wants_json():
        return _json(HTTPStatus.UNAUTHORIZED, _("Sign in first."))
    return pages.go(address)


def _domain(error: DomainError) -> Response:
    answer = shown(status_of(error), translated(error.message))
    if isinstance(error, TooMany):
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def _http(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    text = {
        HTTPStatus.NOT_FOUND: _("There is nothing at this address."),
        HTTPStatus.METHOD_NOT_ALLOWED: _("This address does not answer to this method."),
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: _("That is more than a form may hold."),
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE: str(error.description),
    }.get(status, _("Millrace could not answer."))
    answer = shown(status, text)
    if (allowed := getattr(error, "valid_methods", None)) is not None:
        answer.headers["Allow"] = ", ".join(sorted(allowed))
    return answer


def _unavailable(error: Exception) -> Response:
    log.error("a store does not answer", exc_info=error)
    g.setdefault("signed_in", None)  # who asks may be what could not be read: the page must not ask again
    answer = shown(HTTPStatus.SERVICE_UNAVAILABLE, _("A part of Millrace does not answer now. Try again in a moment."))
    answer.headers["Retry-After"] = str(RETRY_AFTER_S)
    return answer


def shown(status: HTTPStatus, text: str, address: str | None = None, **known: str) -> Response:
    """An error as the client wants it: JSON with what else is known, a toast, or a page with a link to `address`."""
    if pages.wants_json():
        return _json(status, text, **known)
    if pages.wants_fragment():
        answer = pages.html("", status)
        answer.headers["HX-Reswap"] = "none"
        return pages.toast(answer, text, "error")
    return pages.page(
        "error.html", status=status, code=int(status), text=text, request_id=g.request_id, address=address
    )


def _json(status: HTTPStatus, text: str, **known: str) -> Response:
    answer = jsonify({"error": {"code": status.name, "message": text, **known}})
    answer.status_code = status
    return answer
