"""millrace workspaces | limits | audit | keys: for the operator, straight on the database."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import peewee

from millrace import audit, limits, logs, migrations, removal, roles, secrets, vault, workspaces
from millrace.cli import stores, terminal
from millrace.embedded import attach
from millrace.errors import DomainError, PlatformError
from millrace.services import Services
from millrace.settings import SettingError, Settings


@contextmanager
def operator() -> Iterator[Services]:
    """The services of this machine's settings, on a database that is up to date."""
    try:
        wired = stores.build(attach(Settings.from_env()))
    except SettingError as error:
        raise click.ClickException(str(error)) from None
    try:
        migrations.migrate(wired.services.database)
        with wired.services.database.connection_context():
            yield wired.services
    except (DomainError, PlatformError) as error:
        raise click.ClickException(str(error)) from None
    except peewee.OperationalError as error:
        raise click.ClickException(f"the database does not answer: {error}. DATABASE_URL names it.") from None
    finally:
        wired.close()


@click.group("workspaces")
def workspaces_group() -> None:
    """Make and delete workspaces (tenants)."""


@workspaces_group.command("create")
@click.argument("workspace")
@click.option("--email", required=True, help="The owner's, to sign in with.")
def create(workspace: str, email: str) -> None:
    """Make a workspace with an owner and an API key, and print what they need: it is shown once."""
    with operator() as services:
        owner = workspaces.bootstrap(services, workspace, email)
    password = owner.password or "the one that they have: `millrace users reset` makes a link for another"
    click.echo(f"workspace  {owner.workspace}\napi key    {owner.api_key}\nemail      {owner.email}\n"
               f"password   {password}")


@workspaces_group.command("delete")
@click.argument("workspace")
@click.option("--yes", is_flag=True, help="Do not ask for the name again.")
def delete(workspace: str, yes: bool) -> None:
    """Delete a workspace with its scripts, runs, logs and files. This cannot be undone.

    Nobody can use it from then on; the scheduler removes what it held within minutes.
    """
    if not yes and click.prompt(f"This deletes all that '{workspace}' holds. Its name again") != workspace:
        raise click.ClickException("That is another name; nothing was deleted.")
    with operator() as services:
        removal.delete_workspace(services, workspace)
    click.echo(f"deleted {workspace}")


@click.command("limits")
@click.argument("workspace")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="A whole number, or none: no limit, or kept for ever. Any number of times.")
def limits_command(workspace: str, settings: tuple[str, ...]) -> None:
    """Print a workspace's limits, or set some of them.

    max_concurrent_runs, runs_per_day, stored_mb, and how many days are kept: retention_days.runs, .logs, .events,
    .artifacts and .dead_letters.
    """
    wanted = dict(_setting(each) for each in settings)
    with operator() as services:
        chosen = limits.change(services, workspace, wanted) if wanted else limits.of(workspace)
    for name, value in _flat(chosen.as_dict()):
        click.echo(f"{name:<28} {'none' if value is None else value}")


def _setting(text: str) -> tuple[str, int | str | None]:
    name, given, value = text.partition("=")
    if not given:
        raise click.UsageError(f"--set takes NAME=VALUE, not '{text}'.")
    # What is neither is refused with the rule of its limit.
    return name, None if value == "none" else int(value) if value.isascii() and value.isdigit() else value


def _flat(chosen: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in chosen.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


@click.command("audit")
@click.argument("workspace", required=False)
@click.option("--last", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many.")
def audit_command(workspace: str | None, last: int) -> None:
    """Print who did what to a workspace, newest last; without one, to the whole platform."""
    with operator():
        rows, _ = audit.page(workspace, None, last)
    for row in reversed(rows):
        line = f"{logs.timestamp(row.at)} {row.actor} {row.action} {row.subject} {json.dumps(row.details)}"
        click.echo(terminal.shown(line))


@click.group("keys")
def keys() -> None:
    """API keys, and the master keys of the secrets."""


@keys.command("create")
@click.argument("workspace")
@click.option("--name", default="key", show_default=True)
def create_key(workspace: str, name: str) -> None:
    """Make an API key and print it: it is shown once."""
    with operator() as services:
        click.echo(workspaces.new_api_key(services, workspace, name, roles.OPERATOR))


@keys.command("revoke")
@click.argument("workspace")
@click.argument("key_id")
def revoke(workspace: str, key_id: str) -> None:
    """End an API key at once. KEY_ID is the part between the underscores: mr_KEYID_..."""
    with operator() as services:
        workspaces.revoke_api_key(services, workspace, key_id, "operator")
    click.echo(f"revoked {key_id}")


@keys.command("generate")
def generate() -> None:
    """Print a new master key, to be put first in MILLRACE_SECRET_KEYS."""
    click.echo(vault.new_master_key())


@keys.command("rewrap")
def rewrap() -> None:
    """Wrap every workspace's data key under the newest master key; afterwards the older ones can be removed."""
    with operator() as services:
        click.echo(f"rewrapped {secrets.rewrap_data_keys(services)} data keys")
