"""The OpenAPI document, made from the schemas that validate, with what holds for every operation added once."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import flask_smorest
from flask import Flask

from web.scripting import schemas
from web.wire import Blueprint

TITLE = "Script Management API"
VERSION = "1.0.0"  # of the API, not of Millrace
_DESCRIPTION = """\
Create scripts, run them, watch them. Fields and operations marked `x-extension: true` are Millrace's own; all others
are as SmartSuite's Script Engine has them.
"""
# Every operation may answer so: a wrong header, no key, another workspace's thing, and failures of ours.
_ALWAYS = (
    HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
)  # fmt: skip
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer"}}}
_HEADERS = {
    HTTPStatus.UNAUTHORIZED.name: {
        "WWW-Authenticate": {"description": "`ApiKey`.", "required": True, "schema": {"type": "string"}}
    },
    HTTPStatus.TOO_MANY_REQUESTS.name: _RETRY_AFTER,
    HTTPStatus.SERVICE_UNAVAILABLE.name: _RETRY_AFTER,
}
_SECURITY = {
    "ApiKey": {
        "type": "apiKey", "in": "header", "name": "Authorization", "description": "`ApiKey`, a blank, and the key.",
    },
    "AccountId": {"type": "apiKey", "in": "header", "name": "Account-Id", "description": "The workspace's id."},
}  # fmt: skip


class Api(flask_smorest.Api):
    """Makes the document, and nothing else: errors are rendered by `web.scripting.errors`."""

    ERROR_SCHEMA = schemas.ErrorEnvelope

    def _register_error_handlers(self) -> None:
        """None of its own."""


def document(app: Flask, blueprints: Iterable[Blueprint]) -> dict[str, Any]:
    """The document of these blueprints, which the application has registered. Takes a tenth of a second or two."""
    app.config |= {"API_TITLE": TITLE, "API_VERSION": VERSION, "OPENAPI_VERSION": "3.1.1"}
    api = Api(
        app,
        spec_kwargs={
            "info": {"description": _DESCRIPTION},
            "servers": [{"url": "/"}],
            "security": [{name: [] for name in _SECURITY}],
        },
    )
    for blueprint in blueprints:
        blueprint.register_views_in_doc(api, app, api.spec, name=blueprint.name, parameters=None)
        api.spec.tag({"name": blueprint.name, "description": blueprint.description})
    return _completed(api.spec.to_dict())


def _completed(whole: dict[str, Any]) -> dict[str, Any]:
    components = whole["components"]
    components["securitySchemes"] = _SECURITY
    for path in whole["paths"].values():
        for method, operation in path.items():
            if method != "parameters":
                _complete(operation)
    responses = components.setdefault("responses", {})
    for status in _ALWAYS:
        responses.setdefault(status.name, _error(status))
    for name, headers in _HEADERS.items():
        responses[name]["headers"] = headers
    # Of the library, for what it does by itself and we do not.
    responses.pop("DEFAULT_ERROR", None)
    components["schemas"].pop("PaginationMetadata", None)
    components["schemas"]["ScriptUpdate"]["dependentRequired"] = {
        "script_content": ["script_hash"],
        "script_hash": ["script_content"],
    }
    return whole


def _complete(operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    answers.pop("default", None)
    for status in _ALWAYS:
        answers.setdefault(str(int(status)), {"$ref": f"#/components/responses/{status.name}"})


def _error(status: HTTPStatus) -> dict[str, Any]:
    return {
        "description": status.phrase,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorEnvelope"}}},
    }
