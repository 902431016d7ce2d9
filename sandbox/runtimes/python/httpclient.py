"""sdk.http: requests that follow redirects and have bounds. They leave through the egress proxy, which checks every
connection, those of redirects included."""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import time
import zlib
from contextlib import suppress
from email.message import Message
from json import JSONDecoder, JSONEncoder
from urllib.parse import quote, unquote, urlencode, urljoin, urlsplit

from . import arguments
from .underway import ReadOnly, Record, ask, running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEFAULT_TIMEOUT_MS = 10_000
_MAX_TIMEOUT_MS = 900_000
_MAX_REDIRECTS = 10
_MAX_BYTES = 10 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024
_OWN_HEADERS = ("host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_CREDENTIALS = ("authorization", "cookie", "proxy-authorization")
_JSON_TYPE = re.compile(r"\s*[^\s;]*[/+]json\s*(?:;|$)", re.IGNORECASE)
_REDIRECTS = (301, 302, 303, 307, 308)
_SSRF_KINDS = ("address", "bad_host")  # of sandbox/egress/policy.py; another spelling of an address is no good host
_BODILESS = ("GET", "DELETE")
_HTTP_PORT, _HTTPS_PORT = 80, 443
_GZIP_OR_ZLIB = 47
_GZIP = b"\x1f\x8b"
_MOST_PARTS = 1000
_SAFE_IN_URL = "%/:=&?~#+!$,;'@()*[]"
_compact = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_clock = time.monotonic


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_parse = JSONDecoder(parse_constant=_refuse_constant).decode


class HttpError(Exception):
    """There is no answer. An answer of a status that is not 2xx is none of these."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


HttpError.__module__ = "builtins"  # what tracebacks leave out


class _Wanted:
    """One request, which a redirect changes."""

    def __init__(self, label: str, method: str, url: str, headers: dict[str, str], data: bytes | None) -> None:
        self.label = label
        self.method = method
        self.url = url
        self.headers = headers
        self.data = data

    def failure(self, message: str, code: str) -> HttpError:
        return HttpError(f"{self.label}: {message}", code)

    def too_large(self) -> HttpError:
        return self.failure(
            f"the response is larger than the limit of {_MAX_BYTES // 1024 // 1024} MB", "RESPONSE_TOO_LARGE"
        )

    def redirected(self, status: int, location: str) -> _Wanted:
        """The request that a redirect asks for."""
        where = location.encode("latin-1").decode("utf-8", "replace")
        try:
            url = _in_ascii(urljoin(self.url, where))
        except ValueError:
            raise self.failure("the server redirects to no address", "BAD_REDIRECT") from None
        before, after = urlsplit(self.url), urlsplit(url)
        if after.scheme not in ("http", "https"):
            raise self.failure(
                f"the server redirects to {after.scheme}:, but only http: and https: are allowed", "BAD_REDIRECT"
            )
        headers = dict(self.headers)
        if (before.scheme, before.netloc) != (after.scheme, after.netloc):
            for name in _CREDENTIALS:
                headers.pop(name, None)
        if (status == 303 and self.method != "GET") or (status <= 302 and self.method == "POST"):
            headers.pop("content-type", None)
            return _Wanted(self.label, "GET", url, headers, None)
        return _Wanted(self.label, self.method, url, headers, self.data)


def _in_ascii(url: str) -> str:
    """The address as it is asked for, with its host as names are. Raises ValueError for what is none."""
    quoted = quote(url, safe=_SAFE_IN_URL)
    parts = urlsplit(quoted)
    name, port = unquote(parts.hostname or ""), parts.port
    if name.isascii() or parts.username is not None:
        return quoted
    host = name.encode("idna").decode()
    return parts._replace(netloc=host if port is None else f"{host}:{port}").geturl()


class _Deadline:
    """A socket whose every wait ends when the time of the whole exchange is up."""

    def __init__(self, connected: socket.socket, until: float) -> None:
        self._socket = connected
        self._until = until

    def _set(self) -> None:
        left = self._until - _clock()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def sendall(self, data: Any) -> None:
        self._set()
        self._socket.sendall(data)

    def recv_into(self, buffer: Any) -> int:
        self._set()
        return self._socket.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Raw(self))

    def close(self) -> None:
        """Nothing: the answer is still to be read."""


class _Raw(io.RawIOBase):
    def __init__(self, connected: _Deadline) -> None:
        self._connected = connected

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._connected.recv_into(buffer)


class _Trust:
    """Whom TLS believes: made when it is first needed, since that takes long."""

    context: ssl.SSLContext | None = None


def _connection(wanted: _Wanted, timeout: float) -> http.client.HTTPConnection:
    parts = urlsplit(wanted.url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wanted.failure("the address has no valid port", "BAD_REDIRECT") from None
    if not host:
        raise wanted.failure("the address has no host", "BAD_REDIRECT")
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port or _HTTP_PORT, timeout=timeout)
    if _Trust.context is None:
        _Trust.context = ssl.create_default_context()
    return http.client.HTTPSConnection(host, port or _HTTPS_PORT, timeout=timeout, context=_Trust.context)


def _send(wanted: _Wanted, until: float) -> tuple[int, Message, bytes | None]:
    """Status, headers and body of the answer; no body of one that redirects."""
    left = until - _clock()
    if left <= 0:
        raise TimeoutError
    connection = _connection(wanted, left)
    try:
        connection.connect()
        connected = connection.sock
        connection.sock = _Deadline(connected, until)
        try:
            return _exchange(wanted, connection)
        finally:
            connected.close()
    finally:
        connection.close()


def _exchange(wanted: _Wanted, connection: http.client.HTTPConnection) -> tuple[int, Message, bytes | None]:
    parts = urlsplit(wanted.url)
    headers = {**wanted.headers, "connection": "close"}
    if wanted.data is None and wanted.method not in _BODILESS:
        headers["content-length"] = "0"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request(wanted.method, target, wanted.data, headers)
    response = connection.getresponse()
    if response.status in _REDIRECTS and response.headers.get("location") is not None:
        return response.status, response.headers, None
    received = bytearray()
    while chunk := response.read(_CHUNK_BYTES):
        received += chunk
        if len(received) > _MAX_BYTES:
            raise wanted.too_large()
    if response.length:
        raise http.client.IncompleteRead(bytes(received), response.length)
    return response.status, response.headers, bytes(received)


def _follow(wanted: _Wanted, timeout_ms: int) -> Record:
    until = _clock() + timeout_ms / 1000
    following = wanted
    for _ in range(_MAX_REDIRECTS + 1):
        status, headers, data = _send(following, until)
        if data is not None:
            return _answer(wanted, status, headers, data)
        following = following.redirected(status, headers["location"])
    raise wanted.failure(f"the server redirects more than {_MAX_REDIRECTS} times", "TOO_MANY_REDIRECTS")


def _fetch(wanted: _Wanted, timeout_ms: int) -> Record:
    """The answer; raises HttpError."""
    try:
        return _follow(wanted, timeout_ms)
    except TimeoutError:
        raise wanted.failure(f"the request took longer than its timeout of {timeout_ms} ms", "TIMEOUT") from None
    except (OSError, http.client.HTTPException) as error:
        raise _explained(wanted, error) from None


def _explained(wanted: _Wanted, error: Exception) -> HttpError:
    kind = getattr(error, "egress_kind", "")
    if kind in _SSRF_KINDS:
        where, reason = error.egress_target, error.egress_reason  # type: ignore[attr-defined]
        return HttpError(f"SSRF protection: {where} was refused: {reason}", "SSRF_BLOCKED")
    message = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return wanted.failure(message, "EGRESS_REFUSED" if kind else type(error).__name__)


def _unpacked(wanted: _Wanted, data: bytes) -> bytes:
    unpacked = bytearray()
    for _ in range(_MOST_PARTS):
        if not data:
            return bytes(unpacked)
        unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            unpacked += unpacker.decompress(data, _MAX_BYTES + 1 - len(unpacked))
        except zlib.error:
            raise wanted.failure("the response's compressed data is damaged", "BAD_RESPONSE") from None
        if len(unpacked) > _MAX_BYTES:
            raise wanted.too_large()
        if not unpacker.eof:
            raise wanted.failure("the response's compressed data is damaged", "BAD_RESPONSE")
        # What follows is padding, to everybody else as well, unless it is packed too.
        data = unpacker.unused_data
        if not data.startswith(_GZIP):
            data = b""
    raise wanted.failure(f"the response's compressed data has more than {_MOST_PARTS} parts", "BAD_RESPONSE")


def _answer(wanted: _Wanted, status: int, received: Message, data: bytes) -> Record:
    headers: dict[str, Any] = {}
    for given, value in received.items():
        name = given.lower()
        if name == "set-cookie":
            headers.setdefault(name, []).append(value)
        else:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip", "deflate"):
        data = _unpacked(wanted, data)
    text = _text(data, received.get_content_charset("utf-8"))
    body: Any = text
    if _JSON_TYPE.match(headers.get("content-type", "")):
        # What is not what it says stays the text that it is.
        with suppress(ValueError, RecursionError):
            body = _parse(text)
    return Record(status=status, headers=headers, body=body)


def _text(data: bytes, charset: str) -> str:
    try:
        return data.decode(charset, "replace").removeprefix("\ufeff")
    except (LookupError, ValueError):
        return data.decode("utf-8", "replace")  # a character set that nobody knows, or that knows no replacement


def _url(label: str, value: Any, query: Any) -> str:
    try:
        url = _in_ascii(arguments.text(label, "url", value))
        parts = urlsplit(url)
        is_valid = parts.port != 0
    except ValueError:
        raise TypeError(f"{label}: url has no valid host or port") from None
    if parts.scheme not in ("http", "https"):
        raise TypeError(f"{label}: url must begin with http:// or https://")
    if not parts.hostname or not is_valid:
        raise TypeError(f"{label}: url has no valid host")
    if parts.username is not None:
        raise TypeError(f"{label}: url must not have a user name in it; send the header authorization")
    if query is None:
        return url
    pairs = [
        (name, _query_text(label, name, each))
        for name, given in arguments.mapping(label, "query", query).items()
        for each in (given if isinstance(given, list | tuple) else [given])
        if each is not None
    ]
    joined = "&".join(filter(None, (parts.query, urlencode(pairs))))
    return parts._replace(query=joined).geturl()


def _query_text(label: str, name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise arguments.wrong(label, f"query[{name!r}]", "a str or a number", value)
    return str(value)


def _headers(label: str, given: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in arguments.mapping(label, "headers", {} if given is None else given).items():
        lower = name.lower()
        if value is None:
            continue
        if _HEADER_NAME.fullmatch(name) is None:
            raise TypeError(f"{label}: a header's name has a character that is not allowed")
        if lower in _OWN_HEADERS:
            raise TypeError(f"{label}: the header {lower} is set by the platform")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise arguments.wrong(label, f"headers[{lower!r}]", "a str", value)
        if _HEADER_VALUE.fullmatch(str(value)) is None:
            raise TypeError(f"{label}: the header {lower} has a character that is not allowed")
        headers[lower] = str(value)
    return headers


def _body(label: str, body: Any) -> tuple[bytes | None, str]:
    """The bytes of a body and the content type that goes with them."""
    if body is None:
        return None, ""
    if isinstance(body, str):
        return body.encode("utf-8", "replace"), "text/plain;charset=utf-8"
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), "application/octet-stream"
    try:
        return _compact(body).encode("utf-8", "replace"), "application/json"
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{label}: body must be a str, bytes or a JSON value: {error}") from None


class Http(ReadOnly):
    """Requests to other servers. `timeout` is in milliseconds, and of the whole exchange."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "sdk.http"

    def get(self, url: str, *, headers: Any = None, query: Any = None, timeout: Any = _DEFAULT_TIMEOUT_MS) -> Any:
        return _request("get", url, None, headers, query, timeout)

    def post(
        self, url: str, body: Any = None, *, headers: Any = None, query: Any = None, timeout: Any = _DEFAULT_TIMEOUT_MS
    ) -> Any:
        return _request("post", url, body, headers, query, timeout)

    def put(
        self, url: str, body: Any = None, *, headers: Any = None, query: Any = None, timeout: Any = _DEFAULT_TIMEOUT_MS
    ) -> Any:
        return _request("put", url, body, headers, query, timeout)

    def patch(
        self, url: str, body: Any = None, *, headers: Any = None, query: Any = None, timeout: Any = _DEFAULT_TIMEOUT_MS
    ) -> Any:
        return _request("patch", url, body, headers, query, timeout)

    def delete(self, url: str, *, headers: Any = None, query: Any = None, timeout: Any = _DEFAULT_TIMEOUT_MS) -> Any:
        return _request("delete", url, None, headers, query, timeout)


def _request(name: str, url: Any, body: Any, headers: Any, query: Any, timeout: Any) -> Any:
    label = f"sdk.http.{name}"
    arguments.integer(label, "timeout", timeout, 1, _MAX_TIMEOUT_MS)
    data, content_type = _body(label, body)
    sent = {"user-agent": "millrace-sdk", "accept": "application/json, */*;q=0.9", "accept-encoding": "gzip, deflate"}
    if content_type:
        sent["content-type"] = content_type
    sent.update(_headers(label, headers))
    wanted = _Wanted(label, name.upper(), _url(label, url, query), sent, data)
    # The platform counts requests, and refuses one too many.
    allowed = ask("http.begin", {}, label)
    return _fetch_soon(allowed, wanted, timeout) if running().is_async else _fetch(wanted, timeout)


async def _fetch_soon(allowed: Any, wanted: _Wanted, timeout_ms: int) -> Record:
    from asyncio import get_running_loop  # noqa: PLC0415  # whoever awaits has loaded it

    await allowed
    return await get_running_loop().run_in_executor(None, _fetch, wanted, timeout_ms)


HTTP = Http()
