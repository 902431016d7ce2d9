"""millrace check: does this machine have what Millrace needs?"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import click
import peewee

from millrace import migrations
from millrace.cli import jail, stores
from millrace.embedded import attach
from millrace.services import Services
from millrace.settings import SettingError, Settings


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `problem` is empty when it is well."""

    subject: str
    detail: str
    problem: str = ""


@click.command()
def check() -> None:
    """Try the settings, every service, and every layer of the jail. Exits with 1 if something is wrong."""
    try:
        settings = attach(Settings.from_env())
        jail.check_settings()
        wired = stores.build(settings)
    except SettingError as error:
        show(Finding("settings", "", str(error)))
        sys.exit(1)
    show(Finding("settings", f"home {settings.home}, sandbox {settings.sandbox_mode}"))
    try:
        findings = [look(wired.services) for look in (_database, _redis, _objects, _keys)]
    finally:
        wired.close()
    for finding in findings:
        show(finding)
    holds = jail.self_test()
    sys.exit(0 if holds and not any(each.problem for each in findings) else 1)


def show(finding: Finding) -> None:
    """One line: what, whether it holds, and what to do if not."""
    mark = click.style("FAILS", fg="red") if finding.problem else click.style("ok", fg="green")
    click.echo(f"{finding.subject:<12} {mark:<5} {finding.problem or finding.detail}")


def _database(services: Services) -> Finding:
    try:
        kind = stores.database(services)
        with services.database.connection_context():
            missing = migrations.pending(services.database)
    except stores.Unusable as error:
        return Finding("database", "", str(error))
    except peewee.PeeweeException as error:
        return Finding("database", "", f"its migrations cannot be read: {error}. DATABASE_URL names it.")
    if missing:
        return Finding("database", "", f"{len(missing)} migrations are missing: `millrace migrate` applies them.")
    return Finding("database", f"{kind}, all migrations applied")


def _redis(services: Services) -> Finding:
    return _asked("redis", stores.queue, services)


def _objects(services: Services) -> Finding:
    return _asked("objects", stores.objects, services)


def _asked(subject: str, question: Callable[[Services], str], services: Services) -> Finding:
    try:
        return Finding(subject, question(services))
    except stores.Unusable as error:
        return Finding(subject, "", str(error))


def _keys(services: Services) -> Finding:
    held = f"master keys {', '.join(services.keyring.ids)}, the first one seals"
    try:
        with services.database.connection_context():
            stores.check_keys(services)
    except SettingError as error:
        return Finding("keys", "", str(error))
    except peewee.PeeweeException:
        # What is wrong with the database stands in its own line.
        return Finding("keys", f"{held}; not compared with those of the database")
    return Finding("keys", held)
