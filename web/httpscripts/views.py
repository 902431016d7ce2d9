"""The one view that all HTTP scripts share."""

from http import HTTPStatus

from flask import Blueprint, Response, request

from millrace import signatures
from millrace.errors import NotFound
from millrace.services import Services
from web import wire
from web.hooks import errors, serving, words
from web.httpscripts import access, rates

NOTHING_HERE = "There is no HTTP script at this path."
# In the seed's words a script that fails is 500, and its answer has a `status`.
MANNERS = serving.Manners(failed=HTTPStatus.INTERNAL_SERVER_ERROR, plain_status=True)


def blueprint(services: Services) -> Blueprint:
    """The HTTP scripts of the workspace that the guard found."""
    made = Blueprint("httpscripts", __name__, url_prefix="/api/scripts")
    errors.install(made, nothing_here=NOTHING_HERE, challenge="ApiKey")
    rate = rates.Rate(services.settings.redis_url, rates.PER_MINUTE)

    def receive(path: str) -> Response:
        workspace_id = wire.workspace().id
        rate.take(workspace_id)
        hook = serving.find(workspace_id, f"/{path}")
        if hook is None:
            raise NotFound(NOTHING_HERE)
        if (refused := serving.refuse_method(hook)) is not None:
            return refused
        raw = serving.read()
        delivery_id = _delivery_id(hook.path, raw)
        order = serving.order(hook, raw, words.MEMBER, delivery_id, user_id=access.user_id(), params={})
        return serving.answer(services, hook, order, MANNERS)

    made.add_url_rule("/<path:path>", "receive", receive, methods=serving.METHODS, provide_automatic_options=False)
    return made


def _delivery_id(path: str, raw: bytes) -> str | None:
    """The caller's id of this request, if it has one. It counts with the content alone, so that two members who choose
    the same take nothing from each other, nor from what was delivered to the hook from outside."""
    content = (b"httpscripts", request.method.encode(), path.encode(), request.query_string, raw)
    return signatures.unproved_delivery_id(dict(request.headers.items()), raw, content)
