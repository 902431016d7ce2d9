"""What every view uses: who asks, what the process is made of, and blueprints that validate and document at once."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NoReturn, cast

import flask_smorest
from flask import Request, current_app, g
from marshmallow import RAISE, Schema, ValidationError
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import UnsupportedMediaType

from millrace.checks.apart import Checker
from millrace.errors import Detail, Invalid
from millrace.models import Workspace
from millrace.services import Services
from web import bodies, strict_json
from web.probes import Probes
from web.waiting import Seats

View = Callable[..., Any]
Decorator = Callable[[View], View]
Shape = type[Schema] | Schema | dict[str, Any] | None


@dataclass(frozen=True)
class Process:
    """What one web process holds for all of its requests."""

    services: Services
    waiting: Seats  # requests that wait for a run to end
    open_hooks: Seats  # those of them that came to a hook with auth "none"
    tails: Seats  # live log streams
    probes: Probes
    checker: Checker
    stopping: threading.Event  # set when the process should end: streams end, so that their clients go elsewhere


def process() -> Process:
    """This process's parts."""
    found: Process = current_app.extensions["millrace"]
    return found


def services() -> Services:
    """What every verb takes first."""
    return process().services


def workspace() -> Workspace:
    """Whoever `web.auth` let in."""
    found: Workspace = g.workspace
    return found


def note(**values: str) -> None:
    """Put these (script, run, ...) on the request's line in the access log."""
    g.notes.update(values)


MAX_DETAILS = 100  # of a list, every entry may be wrong


class Parser(FlaskParser):
    """Reads requests strictly, and turns what a schema refuses into `Invalid`."""

    DEFAULT_VALIDATION_STATUS = HTTPStatus.BAD_REQUEST
    # A misspelt filter that is ignored would answer with everything.
    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {  # noqa: RUF012  # the base class has it so
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "query": RAISE,
    }

    def load_json(self, req: Request, schema: Schema) -> Any:
        return body(req)

    def handle_error(
        self,
        error: ValidationError,
        req: Request,
        schema: Schema,
        *,
        error_status_code: int | None,
        error_headers: Mapping[str, str] | None,
    ) -> NoReturn:
        found: list[Detail] = []
        assert isinstance(error.messages, dict)
        for location, messages in error.messages.items():
            sent = body(req) if location == "json" else req.args if location == "query" else req.headers
            found += _details(messages, sent, "")
        first = f"{found[0].field}: {found[0].message}" if found[0].field else found[0].message
        more = f" ({len(found) - 1} more in details)" if len(found) > 1 else ""
        if len(found) > MAX_DETAILS:
            more = f" ({len(found) - 1} more, the first {MAX_DETAILS} in details)"
        raise Invalid(first + more, details=found[:MAX_DETAILS])


def body(req: Request) -> Any:
    """The request's JSON body. Raises Invalid, and 415 for another content type."""
    if "json_body" not in g:
        if not (req.mimetype == "application/json" or req.mimetype.endswith("+json")):
            raise UnsupportedMediaType(
                f"The body must be JSON, with Content-Type: application/json instead of '{req.mimetype[:100]}'."
            )
        g.json_body = strict_json.parse(bodies.read(req))
    return g.json_body


def _details(messages: Any, sent: Any, path: str) -> list[Detail]:
    """Marshmallow's nested messages as a flat list, each with its field's path and the value that was sent."""
    if isinstance(messages, dict):
        return [each for key, below in messages.items() for each in _details(below, *_step(sent, path, key))]
    hidden = path.startswith("secrets") or path.endswith("secret")
    return [Detail(path or "body", str(text), None if hidden else _plain(sent)) for text in messages]


def _step(sent: Any, path: str, key: Any) -> tuple[Any, str]:
    if isinstance(key, int):
        return (sent[key] if isinstance(sent, list) and key < len(sent) else None), f"{path}[{key}]"
    if key == "_schema" or (key in ("key", "value") and not hasattr(sent, "get")):
        return sent, path  # marshmallow's words for a whole, and for the halves of a mapping's entry
    return (sent.get(key) if hasattr(sent, "get") else None), f"{path}.{key}" if path else str(key)


def _plain(sent: Any) -> Any:
    return dict(sent) if hasattr(sent, "keys") and not isinstance(sent, dict) else sent


class Blueprint(flask_smorest.Blueprint):
    """Views whose schemas both validate and document. The decorators are its base's, but typed."""

    ARGUMENTS_PARSER = Parser()

    def route(self, rule: str, *, methods: Sequence[str] = ("GET",)) -> Decorator:
        """Where the view is."""
        return cast(Decorator, super().route(rule, methods=list(methods)))

    def arguments(self, schema: type[Schema], *, location: str = "json") -> Decorator:
        """What comes in: the view's first arguments, in the order of the decorators."""
        # One instance for all requests: making it is most of the work of validating a small body.
        return cast(Decorator, super().arguments(schema(), location=location))

    def response(self, status: HTTPStatus, schema: Shape = None, **documented: Any) -> Decorator:
        """What goes out. A view that returns a Response is only documented by it."""
        return cast(Decorator, super().response(status, schema, **documented))

    def answers(
        self, status: HTTPStatus, schema: type[Schema], description: str, headers: Mapping[str, Any] | None = None
    ) -> Decorator:
        """Document another answer of success."""
        return cast(Decorator, self.alt_response(
            status, schema=schema, description=description, headers=headers, success=True
        ))

    def refuses(self, *statuses: HTTPStatus) -> Decorator:
        """Document that the operation may answer so, in the error envelope, besides what all may answer."""

        def decorate(view: View) -> View:
            for status in statuses:
                view = self.alt_response(status, response=status.name)(view)
            return view

        return decorate

    def extension(self) -> Decorator:
        """Mark an operation that SmartSuite's own API does not have."""
        return cast(Decorator, self.doc(**{"x-extension": True}))
