"""millrace run, runs and logs"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click
import httpx
from rich.console import Console
from rich.table import Table

from millrace.cli.client import Client

_GOOD = "completed"


@click.command()
@click.argument("script_id")
@click.argument("payload", default="{}")
@click.option("--async", "detach", is_flag=True, help="Print the run's id and leave.")
def run(script_id: str, payload: str, detach: bool) -> None:
    """Run a script, show its log as it is written, print its result.

    PAYLOAD is a JSON object, @FILE, or - for standard input. The exit code is 0 if the run completed.
    """
    client = Client.from_environment()
    body = {"mode": "async", "trigger_type": "manual", "payload": read_payload(payload)}
    run_id = client.call("POST", f"/scripts/{script_id}/execute", json=body)["run_id"]
    if detach:
        click.echo(run_id)
        return
    follow(client, script_id, run_id)
    finished = client.call("GET", f"/scripts/{script_id}/runs/{run_id}")
    if finished["status"] == _GOOD:
        result = client.call("GET", f"/scripts/{script_id}/runs/{run_id}/result")
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    click.secho(f"{finished['status']}: {finished['error']}", fg="red", err=True)
    sys.exit(1)


def read_payload(text: str) -> Any:
    """The JSON of an argument, a file (@name) or standard input (-)."""
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"{text[1:]} cannot be read: {error.strerror}.") from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.ClickException(f"the payload is not JSON: {error}.") from None


def follow(client: Client, script_id: str, run_id: str) -> None:
    """Print a run's log to standard error until the run is over; says what it waits for where a person looks."""
    waiting = Console(stderr=True)
    with waiting.status("running ...") if waiting.is_terminal else contextlib.nullcontext():
        print_stream(client, script_id, run_id, to_error=True)


def print_stream(client: Client, script_id: str, run_id: str, *, to_error: bool) -> None:
    """Every record of a run's log as it comes, until the run is over."""
    for name, data in client.stream(f"/scripts/{script_id}/runs/{run_id}/logs/stream"):
        if name == "log":
            click.echo(f"{data['time']} {data['level']:<6} {data['text']}", err=to_error)
        elif name == "end":
            return


@click.command()
@click.argument("script_id", required=False)
@click.option("--status", type=click.Choice(["pending", "running", "completed", "failed", "timed_out", "cancelled"]))
@click.option("--limit", default=20, show_default=True)
def runs(script_id: str | None, status: str | None, limit: int) -> None:
    """Show runs of the workspace or of one script, newest first."""
    query = {"script_id": script_id, "status": status}
    table = Table("run", "script", "status", "trigger", "started", "ms", "error", box=None)
    for each in Client.from_environment().pages(
        "/runs", "runs", limit, **{key: value for key, value in query.items() if value}
    ):
        table.add_row(each["id"], each["script_id"], each["status"], each["trigger_type"], each["started_at"] or "",
                      str(each["duration_ms"] if each["duration_ms"] is not None else ""), (each["error"] or "")[:60])
    Console().print(table)


@click.command()
@click.argument("script_id")
@click.argument("run_id", required=False)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the run is over.")
def logs(script_id: str, run_id: str | None, following: bool) -> None:
    """Print the log of a run; of the script's latest run if none is named."""
    client = Client.from_environment()
    if run_id is None:
        latest = next(client.pages(f"/scripts/{script_id}/runs", "runs", 1), None)
        if latest is None:
            raise click.ClickException(f"'{script_id}' has no runs yet.")
        run_id = latest["id"]
    if following:
        print_stream(client, script_id, run_id, to_error=False)
        return
    url = client.call("GET", f"/scripts/{script_id}/runs/{run_id}/logs")["url"]
    with httpx.stream("GET", url, timeout=60) as response:
        response.raise_for_status()
        for chunk in response.iter_text():
            click.echo(chunk, nl=False)
