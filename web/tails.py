"""A run's log as server-sent events, while it runs."""

import json
import logging
from collections.abc import Callable, Iterator

from flask import Response

from millrace import database, logs, runs
from millrace.errors import NotFound, Unavailable
from millrace.models import Run
from web import wire

log = logging.getLogger(__name__)

HEARTBEAT_S = 4.0
# The shape of one event, for the document.
EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["log", "end"]},
        "id": {"type": "string", "description": "The seq of a `log`."},
        "data": {"type": "string", "description": "JSON."},
    },
}
_RECONNECT_MS = 2000
# Proxies must neither keep the stream back nor keep it.
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def response(run: Run, after: int, word: Callable[[str], str]) -> Response:
    """The stream of a run's records whose seq is higher than `after`. `word` says a status as the face does.

    Raises TooMany.
    """
    process = wire.process()
    process.tails.take(run.workspace_id)
    answer = Response(_events(process, run, after, word), mimetype="text/event-stream", headers=_HEADERS)
    # Called whether the stream was read to its end, in part, or not at all.
    answer.call_on_close(lambda: process.tails.leave(run.workspace_id))
    return answer


def _events(process: wire.Process, run: Run, after: int, word: Callable[[str], str]) -> Iterator[str]:
    services = process.services
    try:
        yield f"retry: {_RECONNECT_MS}\n\n"
        for record in logs.tail(services, run.id, HEARTBEAT_S):
            if process.stopping.is_set():
                return
            if record is None:
                yield ": still here\n\n"
            elif record.seq > after:
                yield _event("log", {"seq": record.seq, "time": record.time, "level": record.level,
                                     "text": record.text}, record.seq)  # fmt: skip
        with services.database.connection_context():
            ended = runs.find(run.workspace_id, run.script_id, run.id)
        yield _event("end", {"status": word(ended.status)})
    except NotFound:
        return  # deleted with its script
    except (Unavailable, *database.UNREACHABLE) as error:
        # Too late for a status. Without an `end` the client connects again and goes on where it was.
        log.warning("a log stream breaks off: %s", error, extra={"run": run.id})
    finally:
        if not services.database.is_closed():
            services.database.close()


def _event(name: str, data: dict[str, object], seq: int | None = None) -> str:
    number = "" if seq is None else f"id: {seq}\n"
    return f"event: {name}\n{number}data: {json.dumps(data)}\n\n"
