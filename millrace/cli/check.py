"""millrace check: does this machine have what Millrace needs?"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import click
import peewee
import redis

from millrace import migrations, redis_client, wiring
from millrace.embedded import attach
from millrace.errors import PlatformError
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
        wired = wiring.build(settings)
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
    jail = subprocess.run([sys.executable, "-m", "sandbox.selftest"], check=False)
    sys.exit(1 if jail.returncode or any(each.problem for each in findings) else 0)


def show(finding: Finding) -> None:
    """One line: what, whether it holds, and what to do if not."""
    mark = click.style("FAILS", fg="red") if finding.problem else click.style("ok", fg="green")
    click.echo(f"{finding.subject:<12} {mark:<5} {finding.problem or finding.detail}")


def _database(services: Services) -> Finding:
    kind = services.settings.database_url.partition(":")[0]
    try:
        with services.database.connection_context():
            missing = migrations.pending(services.database)
    except peewee.PeeweeException as error:
        return Finding("database", "", f"{kind} does not answer: {error}. DATABASE_URL names it.")
    if missing:
        return Finding("database", "", f"{len(missing)} migrations are missing: `millrace migrate` applies them.")
    return Finding("database", f"{kind}, all migrations applied")


def _redis(services: Services) -> Finding:
    def version() -> str:
        client = redis_client.connect(services.settings.redis_url)
        try:
            return str(client.info("server")["redis_version"])
        finally:
            client.close()

    return _tried("redis", version, redis.RedisError, "REDIS_URL names it")


def _objects(services: Services) -> Finding:
    def write_and_read() -> str:
        key = f"checks/{services.new_id()}"
        services.objects.put(key, b"millrace check")
        intact = services.objects.get(key) == b"millrace check"
        services.objects.delete([key])
        if not intact:
            raise PlatformError("what was written did not come back")
        return f"{services.settings.s3_endpoint}, bucket {services.settings.s3_bucket}"

    return _tried("objects", write_and_read, PlatformError, "S3_ENDPOINT, S3_BUCKET and the S3 keys name it")


def _keys(services: Services) -> Finding:
    return Finding("keys", f"master keys {', '.join(services.keyring.ids)}, the first one seals")


def _tried(subject: str, attempt: Callable[[], str], failure: type[Exception], hint: str) -> Finding:
    try:
        return Finding(subject, attempt())
    except failure as error:
        return Finding(subject, "", f"{error}. {hint}.")
