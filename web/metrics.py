"""Numbers for Prometheus: this process's requests, what the host's workers counted, and what waits now."""

import time

import peewee
from flask import Blueprint, Flask, Response, g, request

from millrace import metrics
from millrace.admission import HOLDING, WAITING
from millrace.errors import Unavailable
from millrace.models import Event, Run
from millrace.services import Services
from web import wire

blueprint = Blueprint("metrics", __name__)

SENT = HOLDING & Run.started_at.is_null()


def install(app: Flask) -> None:
    """Count the requests of this application."""
    app.after_request(_count)


def _count(response: Response) -> Response:
    # The rule and not the path, which strangers could make as many of as they like.
    route = request.url_rule.rule if request.url_rule is not None else "none"
    method = request.method if request.url_rule is not None else "any"
    metrics.requests().labels(method, route, str(response.status_code)).inc()
    metrics.request_seconds().labels(route).observe(time.perf_counter() - g.started)
    return response


@blueprint.route("/metrics")
def show() -> Response:
    """All numbers in Prometheus's text format."""
    process = wire.process()
    lines = [*_waiting(process.services), *_gauge("millrace_sync_waiting", "Requests that wait for a run to end.",
                                                  {"": process.waiting.taken}),
             *_gauge("millrace_log_streams", "Live log streams.", {"": process.tails.taken})]  # fmt: skip
    return Response(metrics.render() + "".join(lines).encode(), content_type=metrics.CONTENT_TYPE)


def _waiting(services: Services) -> list[str]:
    """What the database says of now. Each query reads a partial index of what is open, never the history."""
    now = services.clock()
    count = peewee.fn.COUNT(Run.id)
    held, due = Run.select(count, peewee.fn.MIN(Run.available_at)).where(WAITING).scalar(as_tuple=True)
    sent, oldest = Run.select(count, peewee.fn.MIN(Run.sent_at)).where(SENT).scalar(as_tuple=True)
    taken = Run.select().where(HOLDING).count() - sent
    since = min(now, *(at for at in (due, oldest) if at is not None)) if due or oldest else now
    unrouted = Event.select().where(Event.routed_at.is_null()).count()
    return [
        *_gauge("millrace_runs_open", "Runs that are not over: held back, sent, or running.",
                {'{state="held"}': held, '{state="sent"}': sent, '{state="running"}': taken}),
        *_gauge("millrace_oldest_due_run_seconds", "How long the oldest run that may start has waited.",
                {"": (now - since) / 1000}),
        *_queue(services),
        *_gauge("millrace_events_unrouted", "Events that no router has finished with.", {"": unrouted}),
    ]  # fmt: skip


def _queue(services: Services) -> list[str]:
    try:
        depth = services.queue.depth()
    except Unavailable:
        return []  # the other numbers are wanted all the more while Redis is away
    return _gauge("millrace_queue_messages", "Messages that wait for a worker.", {"": depth})


def _gauge(name: str, help_: str, values: dict[str, float]) -> list[str]:
    head = [f"# HELP {name} {help_}\n", f"# TYPE {name} gauge\n"]
    return head + [f"{name}{labels} {value}\n" for labels, value in values.items()]
