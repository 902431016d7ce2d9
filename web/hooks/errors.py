"""Errors in the shape of hooks: {"error": {"code", "message"}}, with "run_id" when there is a run."""

import logging
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, jsonify
from werkzeug.exceptions import BadRequest

from millrace import database
from millrace.errors import (
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

MAX_BODY_BYTES = 4 * 1024 * 1024
RETRY_AFTER_S = 5
RUN_ID = "Millrace-Run-Id"

log = logging.getLogger(__name__)

_DOMAIN: dict[type[DomainError], tuple[HTTPStatus, str]] = {
    Invalid: (HTTPStatus.BAD_REQUEST, "INVALID_BODY"),
    Denied: (HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED"),
    Forbidden: (HTTPStatus.FORBIDDEN, "FORBIDDEN"),
    NotFound: (HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    TooLarge: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "TOO_LARGE"),
    TooMany: (HTTPStatus.TOO_MANY_REQUESTS, "RATE_LIMITED"),
    NotReady: (HTTPStatus.SERVICE_UNAVAILABLE, "WORKSPACE_NOT_READY"),
}


def install(blueprint: Blueprint, *, nothing_here: str, challenge: str) -> None:
    """Answer every error of these views in this shape.

    `nothing_here` are the words for an unknown workspace, an unknown path and a script that is not active, which must
    not differ; `challenge` names how callers prove who they are.
    """

    def domain(error: DomainError) -> Response:
        if isinstance(error, Unprocessable):  # the script became inactive between the look and the start
            error = NotFound(nothing_here)
        response = _domain(error)
        if isinstance(error, Denied):
            response.headers["WWW-Authenticate"] = challenge
        return response

    blueprint.register_error_handler(DomainError, domain)
    blueprint.register_error_handler(BadRequest, _bad_request)
    for kind in (Unavailable, *database.UNREACHABLE):
        blueprint.register_error_handler(kind, _unavailable)


def refusal(status: HTTPStatus, code: str, message: str, run_id: str | None = None) -> Response:
    """The answer itself."""
    error: dict[str, Any] = {"code": code, "message": message}
    if run_id is not None:
        error["run_id"] = run_id
    response = jsonify({"error": error})
    response.status_code = status
    if run_id is not None:
        response.headers[RUN_ID] = run_id
    return response


def method_not_allowed(allowed: list[str]) -> Response:
    """The hook is there, but not for this method."""
    response = refusal(
        HTTPStatus.METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", f"This hook answers to {', '.join(allowed)}."
    )
    response.headers["Allow"] = ", ".join(allowed)
    return response


def _domain(error: DomainError) -> Response:
    status, code = _DOMAIN[type(error)]
    if isinstance(error, Invalid) and error.field != "body":
        code = "BAD_REQUEST"
    response = refusal(status, code, error.message)
    if isinstance(error, TooMany):
        response.headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, NotReady):
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def _bad_request(error: BadRequest) -> Response:
    return refusal(HTTPStatus.BAD_REQUEST, "BAD_REQUEST", str(error.description))


def _unavailable(error: Exception) -> Response:
    log.error("a store does not answer", exc_info=error)
    message = "A part of Millrace does not answer now."
    response = refusal(HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response
