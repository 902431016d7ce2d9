"""Errors in the shape of the Script Management API: {"error": {"code", "message", "details"}}."""

import logging
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, jsonify
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed

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

log = logging.getLogger(__name__)

INTERNAL = "INTERNAL"
UNAVAILABLE = "UNAVAILABLE"

_DOMAIN: dict[type[DomainError], tuple[HTTPStatus, str]] = {
    Invalid: (HTTPStatus.BAD_REQUEST, "VALIDATION_FAILED"),
    Denied: (HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED"),
    Forbidden: (HTTPStatus.FORBIDDEN, "FORBIDDEN"),
    NotFound: (HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    Conflict: (HTTPStatus.CONFLICT, "CONFLICT"),
    TooLarge: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "TOO_LARGE"),
    Unprocessable: (HTTPStatus.UNPROCESSABLE_ENTITY, "BUSINESS_RULE_VIOLATION"),
    TooMany: (HTTPStatus.TOO_MANY_REQUESTS, "RATE_LIMITED"),
    NotReady: (HTTPStatus.SERVICE_UNAVAILABLE, "WORKSPACE_NOT_READY"),
}
_HTTP = {
    HTTPStatus.NOT_FOUND: ("NOT_FOUND", "There is nothing at this address."),
    HTTPStatus.METHOD_NOT_ALLOWED: ("METHOD_NOT_ALLOWED", "This address does not answer to this method."),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: ("UNSUPPORTED_MEDIA_TYPE", ""),
}
CODES = sorted({code for _, code in _DOMAIN.values()} | {code for code, _ in _HTTP.values()} | {INTERNAL, UNAVAILABLE})
RETRY_AFTER_S = 5


def install(app: Flask) -> None:
    """Answer every error of this application in the envelope, unless a blueprint has its own shape."""
    app.register_error_handler(DomainError, domain_error)
    app.register_error_handler(HTTPException, http_error)
    for kind in (Unavailable, *database.UNREACHABLE):
        app.register_error_handler(kind, unavailable)


def domain_error(error: DomainError) -> Response:
    """A person's mistake."""
    status, code = _DOMAIN[type(error)]
    response = envelope(status, code, error.message, [detail.as_dict() for detail in error.details])
    if isinstance(error, TooMany):
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, NotReady):
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    if isinstance(error, Denied):
        response.headers["WWW-Authenticate"] = "ApiKey"
    return response


def http_error(error: HTTPException) -> Response | HTTPException:
    """What Flask and Werkzeug refuse; and what nobody foresaw, which Flask has logged by now."""
    if isinstance(error, InternalServerError):
        return internal()
    if error.code is None or error.code < HTTPStatus.BAD_REQUEST:
        return error
    code, message = _HTTP.get(HTTPStatus(error.code), ("VALIDATION_FAILED", ""))
    response = envelope(HTTPStatus(error.code), code, message or str(error.description))
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


def unavailable(error: Exception) -> Response:
    """A store of ours does not answer; the same request may succeed later."""
    log.error("a store does not answer", exc_info=error)
    response = envelope(
        HTTPStatus.SERVICE_UNAVAILABLE, UNAVAILABLE, f"A part of Millrace does not answer now (request {g.request_id})."
    )
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def internal() -> Response:
    """Our fault; the id finds the whole story in the log."""
    return envelope(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL, f"Millrace failed to answer (request {g.request_id}).")


def envelope(status: HTTPStatus, code: str, message: str, details: list[dict[str, Any]] | None = None) -> Response:
    """The answer itself."""
    response = jsonify({"error": {"code": code, "message": message, "details": details or []}})
    response.status_code = status
    return response
