"""millrace workspaces | keys: for the operator, straight on the database."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
import peewee

from millrace import migrations, secrets, vault, workspaces
from millrace.cli import stores
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
    """Make workspaces (tenants)."""


@workspaces_group.command("create")
@click.argument("workspace")
@click.option("--email", required=True, help="The owner's, to sign in with.")
def create(workspace: str, email: str) -> None:
    """Make a workspace with an owner and an API key, and print what they need: it is shown once."""
    with operator() as services:
        owner = workspaces.bootstrap(services, workspace, email)
    click.echo(f"workspace  {owner.workspace}\napi key    {owner.api_key}\nemail      {owner.email}\n"
               f"password   {owner.password}")


@click.group("keys")
def keys() -> None:
    """API keys, and the master keys of the secrets."""


@keys.command("create")
@click.argument("workspace")
@click.option("--name", default="key", show_default=True)
def create_key(workspace: str, name: str) -> None:
    """Make an API key and print it: it is shown once."""
    with operator() as services:
        click.echo(workspaces.new_api_key(services, workspace, name))


@keys.command("revoke")
@click.argument("workspace")
@click.argument("key_id")
def revoke(workspace: str, key_id: str) -> None:
    """End an API key at once. KEY_ID is the part between the underscores: mr_KEYID_..."""
    with operator() as services:
        workspaces.revoke_api_key(services, workspace, key_id)
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
