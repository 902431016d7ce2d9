"""Which language runtimes there are, and what is installed in them."""

from http import HTTPStatus
from typing import Any

from millrace import runtimes
from web import wire
from web.scripting import PREFIX, schemas

blueprint = wire.Blueprint("Runtimes", __name__, url_prefix=PREFIX, description="Languages and their libraries.")


@blueprint.route("/runtimes")
@blueprint.response(HTTPStatus.OK, schemas.Runtime(many=True))
def list_runtimes() -> list[dict[str, Any]]:
    """List the runtimes and their libraries"""
    return [{"name": each.name, "version": each.version, "libraries": each.libraries} for each in runtimes.known()]


@blueprint.route("/runtimes/<runtime>/libraries")
@blueprint.response(HTTPStatus.OK, schemas.Library(many=True))
def list_libraries(runtime: str) -> list[dict[str, Any]]:
    """List the libraries of a runtime"""
    libraries: list[dict[str, Any]] = runtimes.find(runtime).libraries
    return libraries
