"""The OpenAPI document and a page to read it. The page loads nothing from anywhere else."""

import functools
import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, abort, send_from_directory

_UI = Path(__file__).parent / "static" / "node_modules" / "swagger-ui-dist"
_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Millrace: Script Management API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
</head>
<body>
<div id="reference"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  // By default the page would ask a server on the internet whether the document is valid.
  validatorUrl: null,
});
"""


def blueprint(make: Callable[[], dict[str, Any]]) -> Blueprint:
    """The pages for the document that `make` makes, once, when it is first asked for."""
    pages = Blueprint("docs", __name__)
    text = functools.cache(lambda: json.dumps(make()))

    @pages.route("/openapi.json")
    def document() -> Response:
        return Response(text(), mimetype="application/json")

    @pages.route("/docs")
    def page() -> Response:
        return Response(_PAGE, mimetype="text/html", headers={"Content-Security-Policy": _POLICY})

    @pages.route("/docs/start.js")
    def start() -> Response:
        return Response(_START, mimetype="text/javascript")

    @pages.route("/docs/<name>")
    def file(name: str) -> Response:
        if name not in _FILES:
            abort(HTTPStatus.NOT_FOUND)
        return send_from_directory(_UI, name, max_age=3600)

    return pages
