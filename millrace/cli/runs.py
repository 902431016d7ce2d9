"""millrace run, runs, logs and cancel"""

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
import httpx
from rich.console import Console

from millrace.cli.client import Client, Unreachable, path_of
from millrace.cli.terminal import as_json, print_table, shown

_GOOD = "completed"
_OPEN = ("pending", "running")
_INTERRUPTED = 130
_LINES = "\n\t"


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
    run_id = client.call("POST", path_of("scripts", script_id, "execute"), json=body)["run_id"]
    if detach:
        click.echo(run_id)
        return
    path = path_of("scripts", script_id, "runs", run_id)
    with _going_on(script_id, run_id):
        follow(client, script_id, run_id)
        finished = client.call("GET", path)
        if finished["status"] == _GOOD:
            click.echo(as_json(client.call("GET", f"{path}/result")))
            return
    click.secho(shown(f"{finished['status']}: {finished['error']}", keep="\n"), fg="red", err=True)
    sys.exit(1)


@contextlib.contextmanager
def _going_on(script_id: str, run_id: str) -> Iterator[None]:
    """Whoever stops watching a run, or has to, is told that it goes on and how to get back to it."""
    names = shlex.join((script_id, run_id))
    hint = f"The run {run_id} goes on: `millrace logs -f {names}` follows it, `millrace cancel {names}` ends it."
    try:
        yield
    except Unreachable as error:
        raise click.ClickException(f"{error.message} {hint}") from None
    except KeyboardInterrupt:
        click.echo(f"\n{hint}", err=True)
        sys.exit(_INTERRUPTED)


def read_payload(text: str) -> Any:
    """The JSON of an argument, a file (@name) or standard input (-)."""
    where = "the payload"
    try:
        if text == "-":
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        elif text.startswith("@"):
            where = text[1:]
            text = Path(where).read_text(encoding="utf-8-sig")
        return json.loads(text, parse_constant=_no_json)
    except OSError as error:
        raise click.ClickException(f"{where} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise click.ClickException(f"{where} is not UTF-8 text.") from None
    except ValueError as error:
        raise click.ClickException(f"{where} is not JSON: {error}.") from None
    except RecursionError:
        raise click.ClickException(f"{where} is nested too deeply.") from None


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def follow(client: Client, script_id: str, run_id: str) -> None:
    """Print a run's log to standard error until the run is over; says what it waits for where a person looks."""
    waiting = Console(stderr=True)
    with waiting.status("running ...") if waiting.is_terminal else contextlib.nullcontext():
        print_stream(client, script_id, run_id, to_error=True)


def print_stream(client: Client, script_id: str, run_id: str, *, to_error: bool) -> None:
    """Every record of a run's log as it comes, until the run is over."""
    for name, data in client.stream(path_of("scripts", script_id, "runs", run_id, "logs", "stream")):
        if name == "log":
            click.echo(f"{data['time']} {data['level']:<6} {shown(data['text'], keep=_LINES)}", err=to_error)


@click.command()
@click.argument("script_id", required=False)
@click.option("--status", type=click.Choice(["pending", "running", "completed", "failed", "timed_out", "cancelled"]))
@click.option("--limit", default=20, show_default=True)
def runs(script_id: str | None, status: str | None, limit: int) -> None:
    """Show runs of the workspace or of one script, newest first."""
    query = {"script_id": script_id, "status": status}
    found = Client.from_environment().pages(
        "/runs", "runs", limit, **{key: value for key, value in query.items() if value}
    )
    print_table(("run", "script", "status", "trigger", "started", "ms", "error"), [
        (each["id"], each["script_id"], each["status"], each["trigger_type"], each["started_at"] or "",
         "" if each["duration_ms"] is None else str(each["duration_ms"]), each["error"] or "")
        for each in found
    ])  # fmt: skip


@click.command()
@click.argument("script_id")
@click.argument("run_id", required=False)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the run is over.")
def logs(script_id: str, run_id: str | None, following: bool) -> None:
    """Print the log of a run; of the script's latest run if none is named."""
    client = Client.from_environment()
    if run_id is None:
        latest = next(client.pages(path_of("scripts", script_id, "runs"), "runs", 1), None)
        if latest is None:
            raise click.ClickException(f"'{shown(script_id)}' has no runs yet.")
        run_id = str(latest["id"])
    if following:
        with _going_on(script_id, run_id):
            print_stream(client, script_id, run_id, to_error=False)
        return
    _download(_log_url(client, script_id, run_id), run_id)


def _log_url(client: Client, script_id: str, run_id: str) -> str:
    """Where the log of a run that is over can be had."""
    path = path_of("scripts", script_id, "runs", run_id)
    # Until then there is nothing to download, whatever the run has printed.
    status = client.call("GET", path)["status"]
    if status in _OPEN:
        raise click.ClickException(
            f"the run {run_id} is still {status}: `millrace logs -f {shlex.join((script_id, run_id))}` follows it."
        )
    return str(client.call("GET", f"{path}/logs")["url"])


def _download(url: str, run_id: str) -> None:
    try:
        with httpx.stream("GET", url, timeout=60) as response:
            if not response.is_success:
                raise click.ClickException(
                    f"the log of {run_id} cannot be downloaded: the object store answered {response.status_code}."
                )
            for chunk in response.iter_text():
                click.echo(shown(chunk, keep=_LINES), nl=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise click.ClickException(f"the log of {run_id} cannot be downloaded: {reason}.") from None


@click.command()
@click.argument("script_id")
@click.argument("run_id")
def cancel(script_id: str, run_id: str) -> None:
    """Cancel a run: at once if it waits, within a second if it runs."""
    Client.from_environment().call("POST", path_of("scripts", script_id, "runs", run_id, "cancel"))
    click.echo(f"cancelled {run_id}")
