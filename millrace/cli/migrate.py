"""millrace migrate: the database's schema alone, as a step of a deployment."""

import click
import peewee

from millrace import database, migrations
from millrace.settings import SettingError, Settings


@click.command()
def migrate() -> None:
    """Apply the migrations that are pending and print their names. Needs no server but the database."""
    try:
        settings = Settings.from_env()
    except SettingError as error:
        raise click.ClickException(str(error)) from None
    try:
        pool = database.connect(settings.database_url)
    except OSError as error:
        raise click.ClickException(f"DATABASE_URL names a file whose folder cannot be made: {error}.") from None
    try:
        applied = apply(pool, settings)
    finally:
        pool.close_all()  # type: ignore[attr-defined]  # a pool's method, and ours is always a pool
    click.echo("\n".join(applied) or "nothing to do")


def apply(pool: peewee.Database, settings: Settings) -> list[str]:
    """Apply what is pending. Returns the names; raises ClickException with what the database says."""
    try:
        return migrations.migrate(pool)
    except peewee.PeeweeException as error:
        kind, reason = settings.database_url.partition(":")[0], " ".join(str(error).split())
        raise click.ClickException(f"{kind} cannot be migrated: {reason}. DATABASE_URL names it.") from None
