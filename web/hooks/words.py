"""HTTP into a script's payload, and a script's result into HTTP."""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Request, Response

from web import strict_json

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")

# A browser sends the console's cookie to all of this origin, and it opens the console.
_NEVER_SHOWN = frozenset({"cookie", "proxy-authorization"})


@dataclass(frozen=True)
class Proof:
    """What proves who sends a request: the script has no use for it, and payloads are kept."""

    headers: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()


NO_PROOF = Proof()
KEY = Proof(frozenset({"authorization", "x-api-key", "x-webhook-key"}), frozenset({"key"}))
MEMBER = Proof(frozenset({"authorization", "account-id", "x-csrf-token"}))

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,8000}")
_NO_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED)

# Names that a script cannot set. They are left out and no error, for many a script copies the headers of
# another server's answer.
_WITHHELD = frozenset({
    # The connection's own (RFC 9110, 7.6.1), and what the server itself must say.
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade", "content-length", "date", "server",
    # What would hold for the console and for other tenants' hooks too, since all share one origin.
    "set-cookie", "set-cookie2", "clear-site-data", "strict-transport-security", "public-key-pins", "alt-svc",
    "service-worker-allowed", "nel", "report-to", "reporting-endpoints", "origin-agent-cluster",
    "access-control-allow-credentials",
    # Ours.
    "millrace-run-id", "idempotent-replayed", "x-request-id", "x-content-type-options",
})  # fmt: skip
# Orders to a proxy in front, such as "send this file instead".
_WITHHELD_PREFIXES = ("x-accel-", "x-sendfile", "x-lighttpd-", "x-reproxy-")

# A page of a script runs as if it came from nowhere: without the console's cookies, storage and pages.
SANDBOX = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"


class BadAnswer(Exception):
    """The script's result asks for an answer that HTTP does not have; says which part and why."""


def payload(request: Request, path: str, raw: bytes, proof: Proof) -> dict[str, Any]:
    """What the script gets, without the proof of who sends it.

    Raises Invalid when the content type says JSON and the body is none.
    """
    hidden = proof.headers | _NEVER_SHOWN
    headers = {name.lower(): value for name, value in request.headers.items() if name.lower() not in hidden}
    query = {name: values for name, values in request.args.lists() if name not in proof.parameters}
    try:
        text, encoded = raw.decode("utf-8"), False
    except UnicodeDecodeError:
        text, encoded = base64.b64encode(raw).decode(), True
    given = {
        "method": request.method,
        "path": path,
        "query": _singles(query.items()),
        "headers": headers,
        "body": _body(request, raw, text),
        "rawBody": text,
    }
    return given | {"isBase64Encoded": True} if encoded else given


def _body(request: Request, raw: bytes, text: str) -> Any:
    if not raw:
        return None
    kind = request.mimetype
    if kind == "application/json" or kind.endswith("+json"):
        return strict_json.parse(raw)
    if kind in _FORMS:
        return _singles(request.form.lists())
    return text


def _singles(lists: Iterable[tuple[str, list[str]]]) -> dict[str, str | list[str]]:
    """Names with their value, or with all of them when there are several."""
    return {name: values[0] if len(values) == 1 else values for name, values in lists}


@dataclass(frozen=True)
class Answer:
    """What goes back to the caller."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def answer(result: str, *, plain_status: bool = False) -> Response:
    """A script's result, as JSON text, as an HTTP response. Raises BadAnswer.

    An object with an integer `statusCode` from 100 to 599 is the answer itself: with `headers` (a value, or a
    list of values, for each name) and `body` (a text, base64 when `isBase64Encoded`, or any JSON). Anything
    else is the body of a 200. With `plain_status` so is one of `status`, `headers` and `body` and nothing else.
    """
    value = json.loads(result) if '"statusCode"' in result or (plain_status and '"status"' in result) else None
    if plain_status and isinstance(value, dict) and _is_plain(value):
        value = {"statusCode": value["status"], **value}
    if isinstance(value, dict) and _is_status(value.get("statusCode")):
        made = _own(value)
    else:
        body = result.encode("utf-8", "replace")
        made = Answer(HTTPStatus.OK, [("Content-Type", "application/json")], body)
    response = Response(made.body, made.status)
    response.headers.remove("Content-Type")
    for name, text in made.headers:
        response.headers.add(name, text)
    response.headers.add("Content-Security-Policy", SANDBOX)  # besides the script's own: all of them hold
    return response


def _is_plain(value: Mapping[str, Any]) -> bool:
    # With one of the others at least: {"status": 200} may be what a script found out about something else.
    return "status" in value and len(value) > 1 and value.keys() <= {"status", "headers", "body", "isBase64Encoded"}


def _is_status(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599


def _own(value: Mapping[str, Any]) -> Answer:
    status = value["statusCode"]
    if status < HTTPStatus.OK:
        raise BadAnswer(f"statusCode {status} announces an answer and is none; use 200 to 599.")
    body, kind = _own_body(value.get("body"), value.get("isBase64Encoded"))
    headers = _own_headers(value.get("headers"))
    if status in _NO_BODY:
        return Answer(status, [each for each in headers if each[0].lower() != "content-type"], b"")
    if kind and not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("Content-Type", kind))
    return Answer(status, headers, body)


def _own_body(body: Any, encoded: Any) -> tuple[bytes, str]:
    """The bytes, and the content type if the script names none."""
    if body is None:
        return b"", ""
    if not isinstance(body, str):
        return json.dumps(body, separators=(",", ":")).encode(), "application/json"
    if encoded is not True:
        return body.encode("utf-8", "replace"), "text/plain; charset=utf-8"
    try:
        return base64.b64decode(body, validate=True), "application/octet-stream"
    except (binascii.Error, ValueError):
        raise BadAnswer("isBase64Encoded is true, but body is not base64.") from None


def _own_headers(given: Any) -> list[tuple[str, str]]:
    if given is None:
        return []
    if not isinstance(given, dict):
        raise BadAnswer("headers must be an object of names and values.")
    made: list[tuple[str, str]] = []
    for name, value in given.items():
        if not _TOKEN.fullmatch(name):
            raise BadAnswer(f"headers has a name that HTTP does not allow: {name[:100]!r}.")
        if name.lower() not in _WITHHELD and not name.lower().startswith(_WITHHELD_PREFIXES):
            several = value if isinstance(value, list) else [value]
            made += [(name, _own_value(name, each)) for each in several]
    if len(made) > 100:
        raise BadAnswer(f"headers has {len(made)} values, 100 at most.")
    return made


def _own_value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value) if isinstance(value, int | float) else value
    # No line break, which would begin another header, or another answer.
    if not isinstance(text, str) or not _VALUE.fullmatch(text):
        raise BadAnswer(
            f"headers.{name} must be a number, or a text of up to 8000 Latin letters and signs on one line."
        )
    return text
