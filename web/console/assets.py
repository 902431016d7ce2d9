"""What pages load: styles, scripts, fonts, htmx and the editor, all from here."""

import functools
import hashlib
from http import HTTPStatus
from pathlib import Path

from flask import Blueprint, Response, abort, send_from_directory

_STATIC = Path(__file__).parents[1] / "static"
_MODULES = _STATIC / "node_modules"
# What stands before the first slash, and the folder that it names.
_FOLDERS = {
    "console": _STATIC / "console",
    "htmx": _MODULES / "htmx.org" / "dist",
    "inter": _MODULES / "@fontsource-variable" / "inter" / "files",
    "monaco": _MODULES / "monaco-editor" / "min",
}
_DAY_S = 24 * 3600
_YEAR_S = 365 * _DAY_S

blueprint = Blueprint("assets", __name__, url_prefix="/assets")


@blueprint.route("/<mark>/<kind>/<path:name>")
def file(mark: str, kind: str, name: str) -> Response:
    """A file. The address has a mark of what is in it, so that a browser may keep it for a year."""
    if kind not in _FOLDERS:
        abort(HTTPStatus.NOT_FOUND)
    answer = send_from_directory(_FOLDERS[kind], name, max_age=_YEAR_S if mark == _mark(kind) else _DAY_S)
    answer.cache_control.public = True
    if mark == _mark(kind):
        answer.cache_control.immutable = True
    return answer


def url(path: str) -> str:
    """The address of `console/console.css` and the like."""
    return f"/assets/{_mark(path.partition('/')[0])}/{path}"


@functools.cache
def _mark(kind: str) -> str:
    """Changes with the files: our own by what they hold, a package by its version."""
    folder = _FOLDERS[kind]
    if folder.is_relative_to(_MODULES):
        described = next(each / "package.json" for each in folder.parents if (each / "package.json").exists())
        return hashlib.sha256(described.read_bytes()).hexdigest()[:8]
    digest = hashlib.sha256()
    for each in sorted(folder.iterdir()):
        digest.update(each.read_bytes())
    return digest.hexdigest()[:8]
