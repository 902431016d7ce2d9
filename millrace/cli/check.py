"""millrace check: does this machine have what Millrace needs?"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for machines.")
def check(as_json: bool) -> None:
    """Try the settings, every service, and every layer of the jail. Exits with 1 if something is wrong."""
    findings, usable = _look()
    if as_json:
        layers = jail.layers() if usable else []
        well = not any(finding.problem for finding in findings) and all(layer["holds"] for layer in layers)
        click.echo(json.dumps({"well": well, "checks": list(map(asdict, findings)), "layers": layers}))
    else:
        for finding in findings:
            show(finding)
        holds = usable and jail.self_test()
        well = holds and not any(finding.problem for finding in findings)
    sys.exit(0 if well else 1)


def _look() -> tuple[list[Finding], bool]:
    """The settings and the services; and whether the settings of the jail can be used."""
    try:
        jail.check_settings()
    except SettingError as error:
        return [Finding("settings", "", str(error))], False
    try:
        settings = attach(Settings.from_env())
        wired = stores.build(settings)
    except SettingError as error:
        return [Finding("settings", "", str(error))], True
    try:
        services = [look(wired.services) for look in (_database, _redis, _objects, _keys)]
    finally:
        wired.close()
    return [Finding("settings", f"home {settings.home}, sandbox {settings.sandbox_mode}"), *services], True


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
