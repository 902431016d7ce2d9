"""After a start: install the examples, prove with `hello` that everything works, and say what to try next."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import httpx

from millrace.cli.client import Client
from millrace.cli.scripts import describe, offered
from millrace.cli.terminal import shown

READY_TIMEOUT_S = 120.0
SELF_CHECK = "hello"
_POLL_S = 0.1

T = TypeVar("T")


class NotWorking(Exception):
    """The platform started but does not do its work; the message says what was tried."""


def wait_until_ready(url: str, clock: Callable[[], float] = time.monotonic) -> None:
    """Until /health/ready answers 200. Raises NotWorking after READY_TIMEOUT_S with the last answer."""
    deadline, last = clock() + READY_TIMEOUT_S, "nothing"
    while clock() < deadline:
        try:
            response = httpx.get(f"{url}/health/ready", timeout=5)
            if response.status_code == 200:
                return
            last = f"{response.status_code} {response.text[:300]}"
        except httpx.HTTPError as error:
            last = type(error).__name__
        time.sleep(_POLL_S)
    raise NotWorking(f"{url}/health/ready was not 200 within {READY_TIMEOUT_S:.0f} s, but last: {last}")


def patiently(act: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> T:
    """Do it, and again while no worker has reported its runtimes yet, up to READY_TIMEOUT_S."""
    deadline = clock() + READY_TIMEOUT_S
    while True:
        try:
            return act()
        except click.ClickException as error:
            if not error.message.startswith("WORKSPACE_NOT_READY") or clock() >= deadline:
                raise
        time.sleep(_POLL_S)


def install(client: Client, examples: Path, *, everything: bool) -> list[str]:
    """Create the example scripts that are missing; with `everything=False` the self-check's alone.

    Left out are those that would start by themselves or that a stranger could start: with a schedule, or
    with a webhook whose secret is written in the example. So are those in a language that this host has not.
    """
    created = []
    folders = sorted(each.parent for each in examples.glob("*/script.json"))
    for folder in folders:
        body = describe(folder, None)
        if body["id"] != SELF_CHECK and (not everything or _starts_by_itself(body)):
            continue
        if client.call("GET", f"/scripts/{body['id']}", ok_missing=True) is not None:
            continue
        runtime = body.get("runtime") or offered(client, folder)
        if runtime is not None:
            client.call("POST", "/scripts", json={**body, "runtime": runtime})
            created.append(body["id"])
    return created


def _starts_by_itself(body: dict[str, Any]) -> bool:
    return bool(body.get("schedule")) or "http" in body.get("triggers", {})


def self_check(client: Client, clock: Callable[[], float] = time.perf_counter) -> str:
    """Run `hello` through the public API; returns result, log and milliseconds as text. Raises NotWorking."""
    begun = clock()
    answer = client.call(
        "POST", f"/scripts/{SELF_CHECK}/execute",
        json={"mode": "sync", "trigger_type": "manual", "payload": {"name": "Millrace"}},
    )  # fmt: skip
    elapsed_ms = (clock() - begun) * 1000
    if answer.get("status") != "completed":
        raise NotWorking(f"the script '{SELF_CHECK}' did not complete: {json.dumps(answer)[:2000]}")
    # `hello` may have been changed since, and then may say anything.
    result = shown(json.dumps(answer.get("result"), ensure_ascii=False)[:2000])
    url = client.call("GET", f"/scripts/{SELF_CHECK}/runs/{answer['run_id']}/logs")["url"]
    try:
        log = httpx.get(url, timeout=10)
        log.raise_for_status()
    except httpx.HTTPError as error:
        raise NotWorking(f"the log of '{SELF_CHECK}' could not be read: {error}") from None
    lines = "\n".join(f"    {shown(line)}" for line in log.text.strip().splitlines()[:20])
    return f"self-check: {SELF_CHECK} ran in {elapsed_ms:.1f} ms\n  result {result}\n  log\n{lines}"


def next_steps(credentials: dict[str, Any], path: Path) -> str:
    """Where it is and what to try, ready to paste."""
    url, workspace = credentials["url"], credentials["workspace"]
    # What is printed here may end in a log, so the key itself stays in its file.
    api_key = f"""$(python3 -c 'import json; print(json.load(open("{path}"))["api_key"])')"""
    return f"""
Millrace is at {url}
  console      {url}/ (sign in as {credentials["email"]}; the password is in the credentials)
  reference    {url}/docs
  credentials  {path}

Try in another terminal:

curl -s -X POST {url}/v1/scripting/scripts/{SELF_CHECK}/execute \\
  -H "Authorization: ApiKey {api_key}" -H 'Account-Id: {workspace}' -H 'Content-Type: application/json' \\
  -d '{{"mode": "sync", "trigger_type": "manual", "payload": {{"name": "Ada"}}}}'

Ctrl-C stops it; the next start goes on where this one ended.
"""


def greet(
    say: Callable[[str], None], local_url: str, credentials: dict[str, Any], examples: Path, *, everything: bool
) -> None:
    """Wait, install and check. Raises NotWorking."""
    wait_until_ready(local_url)
    client = Client(local_url, credentials["workspace"], credentials["api_key"])
    try:
        with contextlib.closing(client.http):
            created = patiently(lambda: install(client, examples, everything=everything))
            if created:
                say(f"installed the examples {', '.join(created)}")
            say(patiently(lambda: self_check(client)))
    except click.ClickException as error:
        raise NotWorking(error.message) from None
