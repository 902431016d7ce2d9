"""The one view that all hooks share."""

from flask import Blueprint, Response, request

from millrace import signatures, triggers
from millrace.errors import NotFound
from millrace.models import Hook
from millrace.services import Services
from web.hooks import errors, serving, words

NOTHING_HERE = "There is no such hook."


def blueprint(services: Services) -> Blueprint:
    """The hooks of all workspaces. Anybody may call; each hook says how callers prove who they are."""
    made = Blueprint("hooks", __name__, url_prefix="/hooks")
    errors.install(made, nothing_here=NOTHING_HERE, challenge="Millrace-Hook")

    def receive(workspace_id: str, path: str) -> Response:
        hook = serving.find(workspace_id, f"/{path}")
        if hook is None or hook.auth == triggers.MEMBER:
            raise NotFound(NOTHING_HERE)
        if (refused := serving.refuse_method(hook)) is not None:
            return refused
        raw = serving.read()
        delivery_id = _prove(services, hook, raw)
        proof = words.KEY if hook.auth == "key" else words.NO_PROOF
        order = serving.order(hook, raw, proof, delivery_id)
        return serving.answer(services, hook, order, serving.Manners(for_anybody=hook.auth == "none"))

    made.add_url_rule(
        "/<workspace_id>/<path:path>", "receive", receive, methods=serving.METHODS, provide_automatic_options=False
    )
    return made


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
