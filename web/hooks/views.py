"""The one view that all hooks share."""

from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus

from flask import Blueprint, Response, jsonify, request

from millrace import runs, signatures, triggers
from millrace.errors import Unavailable
from millrace.models import Hook, Run
from millrace.models.run import CANCELLED, FAILED, FINAL, SUCCEEDED, TIMED_OUT
from millrace.services import Services
from web import bodies, wire
from web.hooks import errors, words

METHODS = (*triggers.METHODS, "OPTIONS")
QUEUE_PATIENCE_S = 30  # how long a run may wait for its start besides the script's own time limit

_CODES = {TIMED_OUT: "TIMEOUT", CANCELLED: "CANCELLED", FAILED: "SCRIPT_ERROR"}


def blueprint(services: Services) -> Blueprint:
    """The hooks of all workspaces. Anybody may call; each hook says how callers prove who they are."""
    made = Blueprint("hooks", __name__, url_prefix="/hooks")
    errors.install(made)

    def receive(workspace_id: str, path: str) -> Response:
        hook = _find(workspace_id, f"/{path}")
        allowed = _allowed(hook)
        if request.method not in allowed:
            return errors.method_not_allowed(allowed)
        request.max_form_memory_size = errors.MAX_BODY_BYTES
        raw = bodies.read(request, errors.MAX_BODY_BYTES)
        delivery_id = _prove(services, hook, raw)
        order = runs.Order(
            workspace=hook.workspace_id, script=hook.script_id, trigger="http", mode=hook.mode,
            payload=words.payload(request, hook.path, raw, with_key=hook.auth == "key"),
            caller_ip=request.remote_addr or "", delivery_id=delivery_id,
        )  # fmt: skip
        return _accept(services, hook, order) if hook.mode == "async" else _run(services, hook, order)

    made.add_url_rule(
        "/<workspace_id>/<path:path>", "receive", receive, methods=METHODS, provide_automatic_options=False
    )
    return made


def _find(workspace_id: str, path: str) -> Hook:
    hook = triggers.hook_for(workspace_id, path)
    if hook is None or hook.script.status != "active":
        raise errors.nothing_here()
    wire.note(workspace=workspace_id, script=hook.script.slug)
    return hook


def _allowed(hook: Hook) -> list[str]:
    """HEAD is asked of whatever answers GET (RFC 9110, 9.3.2); the server then leaves out the body."""
    implied = ["HEAD"] if "GET" in hook.methods and "HEAD" not in hook.methods else []
    return [*hook.methods, *implied]


def _prove(services: Services, hook: Hook, raw: bytes) -> str | None:
    """The sender's id of this delivery, if it has one. Looks at the bytes as they came. Raises Denied."""
    secret, headers = triggers.hook_secret(services, hook) or "", dict(request.headers.items())
    if hook.auth == "signature" and hook.scheme is not None:
        return signatures.verify(hook.scheme, secret, headers, raw, services.clock()).delivery_id
    if hook.auth == "none":
        content = (request.method.encode(), hook.path.encode(), request.query_string, raw)
        return signatures.unproved_delivery_id(headers, raw, content)
    signatures.verify_key(secret, headers, request.args)
    return signatures.delivery_id(headers, raw)


def _accept(services: Services, hook: Hook, order: runs.Order) -> Response:
    submitted = runs.submit(services, order)
    response = jsonify({"run_id": submitted.run.id})
    response.status_code = HTTPStatus.ACCEPTED
    return _named(response, submitted)


def _run(services: Services, hook: Hook, order: runs.Order) -> Response:
    with _as_anybody(hook), wire.process().waiting.seat(hook.workspace_id):
        submitted = runs.submit(services, order)
        run = submitted.run
        if run.status not in FINAL:  # as that of a delivery which is repeated may be
            run = runs.await_end(services, run.id, hook.script.timeout_seconds + QUEUE_PATIENCE_S)
    return _named(_outcome(services, run), submitted)


def _as_anybody(hook: Hook) -> AbstractContextManager[None]:
    return wire.process().open_hooks.seat(hook.workspace_id) if hook.auth == "none" else nullcontext()


def _named(response: Response, submitted: runs.Submitted) -> Response:
    wire.note(run=submitted.run.id)
    response.headers[errors.RUN_ID] = submitted.run.id
    if not submitted.created:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def _outcome(services: Services, run: Run) -> Response:
    if run.status not in FINAL:
        message = "The script did not end in time. It goes on; ask for its outcome by the run's id."
        return errors.refusal(HTTPStatus.GATEWAY_TIMEOUT, "TIMEOUT", message, run.id)
    if run.status != SUCCEEDED:
        status = HTTPStatus.GATEWAY_TIMEOUT if run.status == TIMED_OUT else HTTPStatus.BAD_GATEWAY
        code = run.error_code or _CODES[run.status]
        return errors.refusal(status, code, run.error or f"The script ended as {run.status}.", run.id)
    result = runs.result_text(services, run)
    if result is None and run.result_key is not None:
        raise Unavailable(f"The result of run '{run.id}' is missing in the object store.")
    try:
        return words.answer(result or "null")
    except words.BadAnswer as error:
        return errors.refusal(HTTPStatus.BAD_GATEWAY, "BAD_ANSWER", str(error), run.id)

