"""The commands' way to a server: over its public API, like anybody else."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import httpx


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
        names = ("MILLRACE_URL", "MILLRACE_WORKSPACE", "MILLRACE_API_KEY")
        given = [environ.get(name, "") for name in names]
        if all(given):
            return cls(*given)
        path = Path(environ.get("MILLRACE_HOME", "var")) / "credentials.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            found = [stored[key] for key in ("url", "workspace", "api_key")]
        except OSError as error:
            raise click.ClickException(
                f"no server to talk to: set {', '.join(names)}, or run where {path} is ({error.strerror})."
            ) from None
        except (ValueError, KeyError, TypeError):
            raise click.ClickException(f"{path} is damaged: set {', '.join(names)} instead.") from None
        return cls(*(value or default for value, default in zip(given, found, strict=True)))

    def call(self, method: str, path: str, *, ok_missing: bool = False, **request: Any) -> Any:
        """The answer's JSON; None for an empty one, or for a 404 that the caller expects."""
        try:
            response = self.http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise click.ClickException(f"{self.http.base_url} does not answer: {error}") from None
        if ok_missing and response.status_code == 404:
            return None
        if response.is_error:
            raise click.ClickException(explain(response))
        return response.json() if response.content else None

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
        """Server-sent events as (name, data)."""
        with self.http.stream("GET", path, headers={"Accept": "text/event-stream"}) as response:
            if response.is_error:
                response.read()
                raise click.ClickException(explain(response))
            name, data = "", ""
            for line in response.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    data = value
                elif not line and data:
                    yield name, json.loads(data)
                    name, data = "", ""


def explain(response: httpx.Response) -> str:
    """An error answer in words, with its details."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return f"{response.request.url} answered {response.status_code}: {response.text[:300]}"
    lines = [f"{error['code']}: {error['message']}"]
    for detail in error.get("details", []):
        place = f" (line {detail['line']}, column {detail['column']})" if "line" in detail else ""
        lines.append(f"  {detail.get('field', '')}: {detail.get('message', '')}{place}")
    return "\n".join(lines)
