"""millrace scripts push | list | delete"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import click

from millrace import languages
from millrace.cli.client import Client, path_of
from millrace.cli.terminal import print_table
from millrace.languages import Language


@click.group()
def scripts() -> None:
    """Upload, list and delete scripts."""


@scripts.command("push")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--id", "script_id", help="The script's id; default: script.json's, else the file's name.")
@click.option("--secrets", "env_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A file of NAME=value lines. These become the script's only secrets.")
@click.option("--runtime", help="One of GET /runtimes; default: script.json's, else the first one of the language.")
@click.option("--schedule", help="hourly, daily, weekly, rate(...) or cron(...); \"\" removes it.")
def push(
    path: Path, script_id: str | None, env_file: Path | None, runtime: str | None, schedule: str | None
) -> None:  # fmt: skip
    """Create a script, or update it if its id exists.

    PATH is a JavaScript or Python file, or a folder with index.js or main.py and script.json (any field of the API).
    """
    body = describe(path, script_id)
    if env_file is not None:
        body["secrets"] = read_env(_text(env_file))
    if schedule is not None:
        body["schedule"] = schedule
    client = Client.from_environment()
    if runtime is not None:
        body["runtime"] = runtime
    elif "runtime" not in body:
        found = offered(client, path)
        if found is None:
            raise click.ClickException(f"no runtime is offered for {language_of(path).name}; GET /runtimes lists all.")
        body["runtime"] = found
    name = body["id"]
    existing = client.call("GET", path_of("scripts", name), ok_missing=True)
    if existing is None:
        script = client.call("POST", "/scripts", json=body)
    else:
        change = {key: value for key, value in body.items() if key not in ("id", "runtime")}
        script = client.call("PUT", path_of("scripts", name), json=change)
    verb = "created" if existing is None else "updated"
    click.echo(f"{verb} {name}, version {script['script_version']}")


def describe(path: Path, script_id: str | None) -> dict[str, Any]:
    """The request body for a file or a folder."""
    body: dict[str, Any] = {}
    source = source_of(path)
    if path.is_dir() and (path / "script.json").exists():
        body = _object(path / "script.json")
    if not source.exists():
        raise click.ClickException(f"{path} holds no index.js and no main.py.")
    raw = source.read_bytes()
    name = script_id or body.get("id") or path.resolve().stem
    return {"display_name": name} | body | {
        "id": name,
        "script_content": base64.b64encode(raw).decode(),
        "script_hash": hashlib.sha256(raw).hexdigest(),
    }


def source_of(path: Path) -> Path:
    """The file with the source: the path itself, or the one in that folder."""
    if not path.is_dir():
        return path
    python = path / languages.PYTHON.main
    return python if python.exists() else path / languages.JAVASCRIPT.main


def language_of(path: Path) -> Language:
    """Told by the name of the source's file."""
    return languages.PYTHON if source_of(path).suffix == languages.PYTHON.suffix else languages.JAVASCRIPT


def offered(client: Client, path: Path) -> str | None:
    """The first runtime for this script's language, if there is one."""
    language = language_of(path)
    names = (str(each["name"]) for each in client.call("GET", "/runtimes"))
    return next((name for name in names if languages.of(name) is language), None)


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
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise click.ClickException(f"{path} is not UTF-8 text.") from None


_EXPORT = re.compile(r"^export[ \t]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_QUOTED = re.compile(r"""(["'])(.*?)\1(?:\s+#.*)?""")
_COMMENT = re.compile(r"\s#.*")


def read_env(text: str) -> dict[str, str]:
    """NAME=value lines, as dotenv reads them; raises ClickException with the number of a line that is not one.

    Blank lines, comments and a leading `export` are passed over. A blank and # begin a comment, but not within quotes,
    which are removed.
    """
    values: dict[str, str] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = _EXPORT.sub("", line.strip(), count=1)
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        # What stands there may be a part of a secret, so it is not repeated.
        if not equals or not _NAME.fullmatch(name.strip()):
            raise click.ClickException(f"line {number} of the secrets file is not NAME=value.")
        values[name.strip()] = _env_value(value, number)
    return values


def _env_value(text: str, number: int) -> str:
    value = text.strip()
    if value[:1] not in ('"', "'"):
        return _COMMENT.sub("", text).strip()
    quoted = _QUOTED.fullmatch(value)
    if quoted is None:
        raise click.ClickException(f"line {number} of the secrets file has a quote that is not closed in that line.")
    return quoted[2]


@scripts.command("list")
@click.option("--limit", default=100, show_default=True)
def list_(limit: int) -> None:
    """Show the workspace's scripts, newest first."""
    found = Client.from_environment().pages("/scripts", "scripts", limit)
    print_table(("id", "version", "status", "updated", "schedule"), [
        (each["id"], str(each["script_version"]), each["status"], each["updated_at"], each["schedule"] or "")
        for each in found
    ])  # fmt: skip


@scripts.command("delete")
@click.argument("script_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(script_id: str, yes: bool) -> None:
    """Delete a script with its runs and logs."""
    if not yes:
        click.confirm(f"Delete '{script_id}' with all its runs and logs?", abort=True)
    Client.from_environment().call("DELETE", path_of("scripts", script_id))
    click.echo(f"deleted {script_id}")
