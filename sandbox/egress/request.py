"""The head of a proxy request: CONNECT, or plain HTTP in absolute form."""

import re
from dataclasses import dataclass

from sandbox.egress import policy
from sandbox.egress.policy import Target

MAX_HEAD = 65_536
END = b"\r\n\r\n"

_METHOD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VERSION = re.compile(r"HTTP/1\.[01]")
_HTTP = "http://"
_HTTP_PORT = 80


class BadRequest(Exception):
    """Not a request that a proxy can serve."""


@dataclass(frozen=True)
class Request:
    """Where to connect. `head` is what to send there first: empty for CONNECT."""

    target: Target
    head: bytes = b""

    @property
    def is_connect(self) -> bool:
        return not self.head


@dataclass(frozen=True)
class RequestLine:
    method: str
    authority: str
    path: str

    @classmethod
    def parse(cls, line: str) -> "RequestLine":
        method, _, rest = line.partition(" ")
        url, _, version = rest.rpartition(" ")
        if not _METHOD.fullmatch(method) or not _VERSION.fullmatch(version):
            raise BadRequest("not an HTTP/1 request")
        if method == "CONNECT":
            return cls(method, url, "")
        if not url.lower().startswith(_HTTP):
            raise BadRequest("expected CONNECT or an absolute http:// URL")
        end = next((i for i, c in enumerate(url[len(_HTTP) :]) if c in "/?#"), len(url)) + len(_HTTP)
        path = url[end:].partition("#")[0]
        return cls(method, url[len(_HTTP) : end], path if path.startswith("/") else "/" + path)

    @property
    def default_port(self) -> int | None:
        return None if self.method == "CONNECT" else _HTTP_PORT


def parse(head: bytes) -> Request:
    """The request in `head`, which ends with an empty line. Raises BadRequest and policy.Refused.

    A plain request is rewritten: origin form, the checked host as Host, nothing meant for a proxy, and no
    second request on the connection. So what the server is asked for is what the policy was asked about.
    """
    lines = head[: -len(END)].decode("latin-1").split("\r\n")
    if any("\0" in line or "\n" in line or "\r" in line for line in lines):
        raise BadRequest("control characters in the request")
    line = RequestLine.parse(lines[0])
    target = policy.parse_target(line.authority, line.default_port)
    if line.method == "CONNECT":
        return Request(target)
    return Request(target, _origin_head(line, target, lines[1:]))


def _origin_head(line: RequestLine, target: Target, headers: list[str]) -> bytes:
    kept = []
    upgrade = False
    for header in headers:
        name, colon, _ = header.partition(":")
        if not colon or not _METHOD.fullmatch(name):
            raise BadRequest("not a valid header")
        lower = name.lower()
        upgrade = upgrade or lower == "upgrade"
        if lower not in ("host", "connection", "keep-alive", "proxy-connection", "proxy-authorization"):
            kept.append(header)
    first = [
        f"{line.method} {line.path} HTTP/1.1",
        f"Host: {_authority(target)}",
        f"Connection: {'Upgrade' if upgrade else 'close'}",
    ]
    return "\r\n".join([*first, *kept, "", ""]).encode("latin-1")


def _authority(target: Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return host if target.port == _HTTP_PORT else f"{host}:{target.port}"


def claimed_target(head: bytes) -> tuple[str, int]:
    """The host and port that a refused head asked for, as far as they can be told, for the record."""
    line = RequestLine.parse(head.partition(b"\r\n")[0].decode("latin-1"))
    host, colon, port = line.authority.rpartition(":")
    if not colon:
        return line.authority, line.default_port or 0
    try:
        return host, policy.parse_port(port)
    except policy.Refused:
        return host, 0
