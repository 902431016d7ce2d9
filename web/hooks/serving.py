"""From a request that names a hook to the run that it starts, and from that run to the answer.

All that scripts answer by HTTP goes through here, whoever may call and however callers prove who they are.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from http import HTTPStatus

from flask import Response, jsonify, request

from millrace import runs, triggers
from millrace.errors import Unavailable
from millrace.models import Hook, Run
from millrace.models.run import CANCELLED, FAILED, FINAL, SUCCEEDED, TIMED_OUT
from millrace.services import Services
from web import bodies, wire
from web.hooks import errors, words
from web.hooks.words import Proof

METHODS = (*triggers.METHODS, "OPTIONS")
QUEUE_PATIENCE_S = 30  # how long a run may wait for its start besides the script's own time limit

_CODES = {TIMED_OUT: "TIMEOUT", CANCELLED: "CANCELLED", FAILED: "SCRIPT_ERROR"}


def find(workspace_id: str, path: str) -> Hook | None:
    """The hook under this path, if its script may run."""
    hook = triggers.hook_for(workspace_id, path)
    if hook is None or hook.script.status != "active":
        return None
    wire.note(workspace=workspace_id, script=hook.script.slug)
    return hook


def refuse_method(hook: Hook) -> Response | None:
    """The answer to a method that the hook does not take; None for one that it does.

    HEAD is asked of whatever answers GET (RFC 9110, 9.3.2); the server then leaves out the body.
    """
    implied = ["HEAD"] if "GET" in hook.methods and "HEAD" not in hook.methods else []
    allowed = [*hook.methods, *implied]
    return None if request.method in allowed else errors.method_not_allowed(allowed)


def read() -> bytes:
    """The request's body. Raises TooLarge, Invalid."""
    request.max_form_memory_size = errors.MAX_BODY_BYTES
    return bodies.read(request, errors.MAX_BODY_BYTES)


def order(
    hook: Hook, raw: bytes, proof: Proof, delivery_id: str | None, *, user_id: int | None = None, **more: object
) -> runs.Order:
    """The wish to run the hook's script for this request; `more` goes into what the script gets. Raises Invalid."""
    return runs.Order(
        workspace=hook.workspace_id, script=hook.script_id, trigger="http", mode=hook.mode,
        payload=words.payload(request, hook.path, raw, proof) | more, caller_ip=request.remote_addr or "",
        delivery_id=delivery_id, user_id=user_id,
    )  # fmt: skip


@dataclass(frozen=True)
class Manners:
    """What differs from one face to another.

    `for_anybody`: the caller is a stranger, and shares few places to wait with all other strangers. `failed` says that
    a script failed. `plain_status`: a script may call its status `status`.
    """

    for_anybody: bool = False
    failed: HTTPStatus = HTTPStatus.BAD_GATEWAY
    plain_status: bool = False


def answer(services: Services, hook: Hook, order: runs.Order, manners: Manners) -> Response:
    """Start the run; wait for its end unless the hook is async. What the script returned is the answer."""
    if hook.mode == "async":
        return _accept(services, order)
    with wire.process().open_hooks.seat(hook.workspace_id) if manners.for_anybody else nullcontext():
        return _run(services, hook, order, manners)


def _accept(services: Services, order: runs.Order) -> Response:
    submitted = runs.submit(services, order)
    response = jsonify({"run_id": submitted.run.id})
    response.status_code = HTTPStatus.ACCEPTED
    return _named(response, submitted)


def _run(services: Services, hook: Hook, order: runs.Order, manners: Manners) -> Response:
    with wire.process().waiting.seat(hook.workspace_id):
        submitted = runs.submit(services, order)
        run = submitted.run
        if run.status not in FINAL:  # as that of a delivery which is repeated may be
            run = runs.await_end(services, run.id, hook.script.timeout_seconds + QUEUE_PATIENCE_S)
    return _named(_outcome(services, run, manners), submitted)


def _named(response: Response, submitted: runs.Submitted) -> Response:
    wire.note(run=submitted.run.id)
    response.headers[errors.RUN_ID] = submitted.run.id
    if not submitted.created:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def _outcome(services: Services, run: Run, manners: Manners) -> Response:
    if run.status not in FINAL:
        message = "The script did not end in time. It goes on; ask for its outcome by the run's id."
        return errors.refusal(HTTPStatus.GATEWAY_TIMEOUT, "TIMEOUT", message, run.id)
    if run.status != SUCCEEDED:
        status = HTTPStatus.GATEWAY_TIMEOUT if run.status == TIMED_OUT else manners.failed
        code = run.error_code or _CODES[run.status]
        return errors.refusal(status, code, run.error or f"The script ended as {run.status}.", run.id)
    result = runs.result_text(services, run)
    if result is None and run.result_key is not None:
        raise Unavailable(f"The result of run '{run.id}' is missing in the object store.")
    try:
        return words.answer(result or "null", plain_status=manners.plain_status)
    except words.BadAnswer as error:
        return errors.refusal(manners.failed, "BAD_ANSWER", str(error), run.id)
