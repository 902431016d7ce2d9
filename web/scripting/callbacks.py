"""Callbacks of runs: how far they are, and once more."""

from http import HTTPStatus
from typing import Any

from millrace import callbacks
from millrace.models import Callback
from web import wire
from web.scripting import PREFIX, lookup, schemas, words

blueprint = wire.Blueprint("Callbacks", __name__, url_prefix=PREFIX, description="Ends of runs, told by signed POSTs.")


@blueprint.route("/scripts/<script_id>/runs/<run_id>/callback")
@blueprint.response(HTTPStatus.OK, schemas.Callback)
@blueprint.extension()
def get_callback(script_id: str, run_id: str) -> dict[str, Any]:
    """Read how far the callback of a run is, with its latest tries

    404 while the run goes on, and when nobody gave an address.
    """
    _, run = lookup.run(script_id, run_id)
    return _shown(callbacks.of(run))


@blueprint.route("/scripts/<script_id>/runs/<run_id>/callback/redeliver", methods=["POST"])
@blueprint.response(HTTPStatus.ACCEPTED, schemas.Callback)
@blueprint.refuses(HTTPStatus.CONFLICT)
@blueprint.extension()
def redeliver_callback(script_id: str, run_id: str) -> dict[str, Any]:
    """Tell the end of a run once more

    To the same address and under the same `webhook-id`, with all tries anew. 409 while it is pending.
    """
    _, run = lookup.run(script_id, run_id)
    return _shown(callbacks.redeliver(wire.services(), run))


def _shown(callback: Callback) -> dict[str, Any]:
    return {
        "url": callback.url,
        "status": callback.status,
        "deliveries": [
            {
                "at": words.time(each["at"]), "status": each["status"], "error": each["error"],
                "duration_ms": each["duration_ms"],
            }
            for each in callback.deliveries
        ],
        "next_at": words.time(callback.next_at),
    }  # fmt: skip
