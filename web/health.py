"""Whether this process lives, and whether what it needs answers."""

from http import HTTPStatus

from flask import Blueprint, Response, jsonify

from web import wire
from web.probes import STORES

blueprint = Blueprint("health", __name__)


@blueprint.route("/health/live")
def live() -> Response:
    """This process answers."""
    return jsonify({"status": "ok"})


@blueprint.route("/health/ready")
def ready() -> tuple[Response, int]:
    """Every store answers in time, or 503 and which one does not.

    `workers` is shown but does not count: without them runs are still accepted, and wait.
    """
    process = wire.process()
    checks = process.probes.ask(process.services)
    fit = all(checks[name]["ok"] for name in STORES)
    answer = {"status": "ready" if fit else "not ready", "checks": checks}
    return jsonify(answer), HTTPStatus.OK if fit else HTTPStatus.SERVICE_UNAVAILABLE
