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
    pool = database.connect(settings.database_url)
    try:
        applied = migrations.migrate(pool)
    except peewee.PeeweeException as error:
        kind = settings.database_url.partition(":")[0]
        raise click.ClickException(f"{kind} cannot be migrated: {error}. DATABASE_URL names it.") from None
    finally:
        pool.close_all()  # type: ignore[attr-defined]  # a pool's method, and ours is always a pool
    click.echo("\n".join(applied) or "nothing to do")
