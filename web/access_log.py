"""One line for each request, with who asked for what; every line that is logged meanwhile carries the request's id."""

import logging
import time
from contextlib import ExitStack

from flask import Flask, Response, g, request

from millrace import observability
from millrace.services import Services

log = logging.getLogger("web.access")

_SHOWN = {"script_id": "script", "run_id": "run", "event_id": "event"}


def install(app: Flask, services: Services) -> None:
    """Log the requests of this application. Register before whatever else looks at requests."""

    def begin() -> None:
        g.started = time.perf_counter()
        g.request_id = services.new_id()
        g.log = ExitStack()
        g.notes = {
            _SHOWN[name]: str(value)[:100] for name, value in (request.view_args or {}).items() if name in _SHOWN
        }
        g.log.enter_context(observability.context(request=g.request_id, **g.notes))

    app.before_request(begin)
    app.after_request(_line)
    app.teardown_request(_end)


def _line(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    took = round((time.perf_counter() - g.started) * 1000, 1)
    with observability.context(
        **g.notes, method=request.method, path=_path(), status=str(response.status_code), ms=str(took)
    ):
        log.info("request")
    return response


def _path() -> str:
    """Where it went, without the token of a link: whoever reads logs could use it."""
    token = (request.view_args or {}).get("token")
    return (request.path if token is None else request.path.replace(token, "..."))[:300]


def _end(_error: BaseException | None) -> None:
    if "log" in g:
        g.log.close()
