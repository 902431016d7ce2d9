"""The commands' way to a server: over its public API, like anybody else."""

import os
import time
from collections.abc import Iterator, Mapping
from json import dumps, loads
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import httpx

from millrace.cli.terminal import shown

RECONNECTS = 20  # in a row: web may be starting anew
RECONNECT_PAUSE_S = 0.5
_SILENCE_S = 30  # a stream says something every few seconds
_NAMES = ("MILLRACE_URL", "MILLRACE_WORKSPACE", "MILLRACE_API_KEY")


class Unreachable(click.ClickException):
    """The server does not answer, or not any more."""


class _Broken(Exception):
    """A stream ended before its last event; the message says why."""


def path_of(*parts: str) -> str:
    """A path of the API, whatever the parts hold."""
    return "".join(f"/{quote(part, safe='', errors='replace')}" for part in parts)


class Client:
    """The Script Management API as a person of one workspace. Errors become a sentence and exit code 1."""

    def __init__(self, url: str, workspace: str, api_key: str) -> None:
        self.http = httpx.Client(
            base_url=f"{url.rstrip('/')}/v1/scripting",
            headers={"Authorization": f"ApiKey {api_key}", "Account-Id": workspace},
            # A sync run may take 15 minutes; connecting may not.
            timeout=httpx.Timeout(960, connect=5),
        )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "Client":
        """Where MILLRACE_URL or credentials.json point."""
        environ = os.environ if environ is None else environ
        given = {name: environ.get(name, "").strip() for name in _NAMES}
        path = Path(environ.get("MILLRACE_HOME", "var")) / "credentials.json"
        stored = dict(zip(_NAMES, _stored(path), strict=True)) if not all(given.values()) else {}
        chosen = {name: given[name] or stored[name] for name in _NAMES}
        for name in _NAMES[1:]:
            if not (chosen[name].isascii() and chosen[name].isprintable()):
                where = name if given[name] else f"{name} of {path}"
                raise click.ClickException(f"{where} must be of printable ASCII characters.")
        try:
            return cls(*chosen.values())
        except httpx.InvalidURL as error:
            where = _NAMES[0] if given[_NAMES[0]] else f"the url of {path}"
            raise click.ClickException(f"{where} is {shown(chosen[_NAMES[0]])!r}, which is no URL: {error}.") from None

    def call(self, method: str, path: str, *, ok_missing: bool = False, json: Any = None, **request: Any) -> Any:
        """The answer's JSON; None for an empty one, or for a 404 that the caller expects."""
        if json is not None:
            # Escaped, since JSON may hold halves of characters that UTF-8 cannot.
            request |= {"content": dumps(json), "headers": {"Content-Type": "application/json"}}
        try:
            response = self.http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.http.base_url} does not answer: {error or type(error).__name__}.") from None
        if ok_missing and response.status_code == 404:
            return None
        if not response.is_success:
            raise click.ClickException(explain(response))
        try:
            return response.json() if response.content else None
        except ValueError:
            raise click.ClickException(f"{response.request.url} is not Millrace: it answers no JSON.") from None

    def pages(self, path: str, key: str, limit: int, **query: Any) -> Iterator[dict[str, Any]]:
        """Up to `limit` things of a list, page by page."""
        cursor = None
        while limit > 0:
            page = {"page_size": min(limit, 100), **query} | ({"cursor": cursor} if cursor else {})
            answer = self.call("GET", path, params=page)
            yield from answer[key][:limit]
            limit -= len(answer[key])
            cursor = answer["next_cursor"]
            if cursor is None:
                return

    def stream(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Server-sent events as (name, data) up to `end`, each once, though the connection may break in between.

        Raises Unreachable after RECONNECTS attempts in a row that brought nothing.
        """
        last_id, attempts = "", 0
        while True:
            try:
                for event_id, name, data in self._events(path, last_id):
                    last_id, attempts = event_id or last_id, 0
                    yield name, data
                    if name == "end":
                        return
                reason = "the server ended it"
            except (httpx.HTTPError, _Broken) as error:
                reason = str(error) or type(error).__name__
            attempts += 1
            if attempts > RECONNECTS:
                raise Unreachable(f"the connection to {self.http.base_url} was lost: {reason.rstrip('.')}.")
            time.sleep(RECONNECT_PAUSE_S)

    def _events(self, path: str, last_id: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """The events of one connection as (id, name, data), after the one with `last_id`."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        timeout = httpx.Timeout(_SILENCE_S, connect=5)
        with self.http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if not response.is_success:
                response.read()
                if response.status_code in (429, 502, 503, 504):
                    raise _Broken(explain(response))
                raise click.ClickException(explain(response))
            event = {"id": "", "event": "", "data": ""}
            for line in response.iter_lines():
                field, _, value = line.partition(": ")
                if field in event:
                    event[field] = value
                elif not line and event["data"]:
                    yield event["id"], event["event"], loads(event["data"])
                    event = dict.fromkeys(event, "")


def _stored(path: Path) -> list[str]:
    """URL, workspace and key of a credentials.json."""
    try:
        stored = loads(path.read_text(encoding="utf-8"))
        found = [stored[key] for key in ("url", "workspace", "api_key")]
    except OSError as error:
        raise click.ClickException(
            f"no server to talk to: set {', '.join(_NAMES)}, or run where {path} is ({error.strerror})."
        ) from None
    except (ValueError, KeyError, TypeError):
        found = [None]
    if not all(isinstance(value, str) for value in found):
        raise click.ClickException(f"{path} is damaged: set {', '.join(_NAMES)} instead.")
    return found


def explain(response: httpx.Response) -> str:
    """An error answer in words, with its details."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return f"{response.request.url} answered {response.status_code}: {shown(response.text[:300])}"
    lines = [f"{error['code']}: {error['message']}"]
    for detail in error.get("details", []):
        place = f" (line {detail['line']}, column {detail['column']})" if "line" in detail else ""
        lines.append(f"  {detail.get('field', '')}: {detail.get('message', '')}{place}")
    return shown("\n".join(lines), keep="\n")
