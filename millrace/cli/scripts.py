"""millrace scripts push | list | delete"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from millrace.cli.client import Client


@click.group()
def scripts() -> None:
    """Upload, list and delete scripts."""


@scripts.command("push")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--id", "script_id", help="The script's id; default: script.json's, else the file's name.")
@click.option("--secrets", "env_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A file of NAME=value lines. These become the script's only secrets.")
@click.option("--schedule", help="hourly, daily, weekly, rate(...) or cron(...); \"\" removes it.")
def push(path: Path, script_id: str | None, env_file: Path | None, schedule: str | None) -> None:
    """Create a script, or update it if its id exists.

    PATH is a JavaScript file, or a folder with index.js and script.json (any field of the API).
    """
    body = describe(path, script_id)
    if env_file is not None:
        body["secrets"] = read_env(_text(env_file))
    if schedule is not None:
        body["schedule"] = schedule
    client = Client.from_environment()
    name = body["id"]
    existing = client.call("GET", f"/scripts/{name}", ok_missing=True)
    if existing is None:
        script = client.call("POST", "/scripts", json=body)
    else:
        change = {key: value for key, value in body.items() if key not in ("id", "runtime")}
        script = client.call("PUT", f"/scripts/{name}", json=change)
    verb = "created" if existing is None else "updated"
    click.echo(f"{verb} {name}, version {script['script_version']}")


def describe(path: Path, script_id: str | None) -> dict[str, Any]:
    """The request body for a file or a folder."""
    body: dict[str, Any] = {}
    source = path
    if path.is_dir():
        source = path / "index.js"
        if (path / "script.json").exists():
            body = _object(path / "script.json")
    if not source.exists():
        raise click.ClickException(f"{path} holds no index.js.")
    raw = source.read_bytes()
    name = script_id or body.get("id") or path.resolve().stem
    defaults = {"display_name": name, "runtime": "nodejs20"}
    return defaults | body | {
        "id": name,
        "script_content": base64.b64encode(raw).decode(),
        "script_hash": hashlib.sha256(raw).hexdigest(),
    }


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except ValueError as error:
        raise click.ClickException(f"{path} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise click.ClickException(f"{path} must hold a JSON object.")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise click.ClickException(f"{path} is not UTF-8 text.") from None


def read_env(text: str) -> dict[str, str]:
    """NAME=value lines; blank lines, comments and a leading `export` are passed over, outer quotes are removed."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip().removeprefix("export ")
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise click.ClickException(f"line {number} of the secrets file is not NAME=value.")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        values[name.strip()] = value
    return values


@scripts.command("list")
@click.option("--limit", default=100, show_default=True)
def list_(limit: int) -> None:
    """Show the workspace's scripts, newest first."""
    table = Table("id", "version", "status", "schedule", "updated", box=None)
    for each in Client.from_environment().pages("/scripts", "scripts", limit):
        table.add_row(each["id"], str(each["script_version"]), each["status"], each["schedule"] or "",
                      each["updated_at"])
    Console().print(table)


@scripts.command("delete")
@click.argument("script_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(script_id: str, yes: bool) -> None:
    """Delete a script with its runs and logs."""
    if not yes:
        click.confirm(f"Delete '{script_id}' with all its runs and logs?", abort=True)
    Client.from_environment().call("DELETE", f"/scripts/{script_id}")
    click.echo(f"deleted {script_id}")
