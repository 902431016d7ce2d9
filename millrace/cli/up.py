"""millrace up: everything on this machine, with one command."""

import contextlib
import dataclasses
import fcntl
import json
import os
import queue
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

import millrace
from millrace import processes, supervisor, workspaces
from millrace.cli import jail, migrate, stores, welcome
from millrace.embedded import EmbeddedError, attach, home
from millrace.errors import Conflict
from millrace.services import Services
from millrace.settings import SettingError, Settings

WORKSPACE = "default"
EMAIL = "owner@localhost"


class WrongSetting(click.ClickException):
    """A person has to change something before a start can succeed."""

    exit_code = 2


@click.command()
def up() -> None:
    """Start Millrace: embedded servers, migrations, and every process of the Procfile.

    Exits with 0 after Ctrl-C or SIGTERM, 2 when a setting is wrong or names a server that cannot be used, 1 when
    something else fails.
    """
    try:
        settings = Settings.from_env()
        jail.check_settings()
        root = project_root()
        lines = supervisor.parse_procfile((root / "Procfile").read_text(encoding="utf-8"))
        with ExitStack() as stack:
            stack.enter_context(locked(settings.home))
            check_port(settings)
            settings, credentials, first = prepare(settings, stack)
            code = watch(settings, credentials, first, root, lines)
    except (SettingError, supervisor.ProcfileError) as error:
        raise WrongSetting(str(error)) from None
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(code)


def project_root() -> Path:
    """The folder of the Procfile: beside the package, else the current one."""
    for folder in (Path(millrace.__file__).parents[1], Path.cwd()):
        if (folder / "Procfile").is_file():
            return folder
    raise WrongSetting("There is no Procfile here: run `millrace up` in the folder of the project.")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the home, and keep a second `millrace up` out of it as long as this process lives."""
    try:
        # Others may pass through, as the users that jails run as must, but not look around.
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        lock = (folder / "up.lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise SettingError(f"MILLRACE_HOME is '{folder}', which cannot be used: {error.strerror}.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise click.ClickException(
                f"Millrace is already running in '{folder}' (process {lock.read().strip() or 'unknown'})."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def check_port(settings: Settings) -> None:
    """Raises SettingError when web could not listen."""
    if problem := processes.port_problem(settings.host, settings.port):
        raise SettingError(
            f"MILLRACE_HOST and MILLRACE_PORT are {settings.host} and {settings.port}, "
            f"where web cannot listen: {problem}."
        )


def prepare(settings: Settings, stack: ExitStack) -> tuple[Settings, dict[str, Any], bool]:
    """Start what is embedded, see that the rest can be used, migrate, and make the first workspace.

    Returns complete settings, the credentials, and whether this is the home's first start. Raises SettingError.
    """
    chosen = settings
    path = settings.home / "credentials.json"
    first = not path.exists()
    home.ensure_keys(settings, first_start=first)
    for server in home.needed(settings):
        stack.enter_context(server)
        click.echo(f"{server.name} listens on 127.0.0.1:{server.port}")
    settings = attach(settings)
    wired = stores.build(settings)
    with contextlib.closing(wired):
        stores.wait_for_own(chosen, wired.services)
        applied = migrate.apply(wired.services.database, settings)
        if applied:
            click.echo(f"migrated: {', '.join(applied)}")
        database = settings.home / "millrace.db"
        if database.exists():
            database.chmod(0o600)
        with wired.services.database.connection_context():
            stores.check_keys(wired.services)
            credentials = credentials_of(wired.services, path, first)
    return settings, credentials, first


def credentials_of(services: Services, path: Path, first: bool) -> dict[str, Any]:
    """What credentials.json says; written, with what it names, when it is not there."""
    if first:
        try:
            owner = workspaces.bootstrap(services, WORKSPACE, EMAIL, first=True)
            known = dataclasses.asdict(owner)
        except Conflict:
            # The database is older than this home: the password cannot be known, but a new key can be had.
            api_key = workspaces.new_api_key(services, WORKSPACE, "from millrace up")
            known = {"workspace": WORKSPACE, "api_key": api_key, "email": EMAIL, "password": None}
    else:
        known = json.loads(path.read_text(encoding="utf-8"))
    current = {"url": services.settings.url} | known | {"url": services.settings.url}
    if first or current != known:
        processes.write_private(path, json.dumps(current, indent=2) + "\n")
    return current


def metrics_folder(folder: Path) -> Path:
    """Where the processes leave their numbers for /metrics: empty at every start, as prometheus-client wants it."""
    metrics = folder / "run" / "metrics"
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir(mode=0o700, parents=True)
    return metrics


def watch(
    settings: Settings, credentials: dict[str, Any], first: bool, root: Path, lines: list[supervisor.Line]
) -> int:
    """Run the Procfile until a signal or a failure. Returns the exit code."""
    environ = os.environ | home.environment(settings) | {
        # The processes are started with this interpreter, whether or not its environment is activated.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "PYTHONUNBUFFERED": "1",
        # Web shows what they all count, and only one could have the port.
        "PROMETHEUS_MULTIPROC_DIR": str(metrics_folder(settings.home)),
        "MILLRACE_METRICS_PORT": "0",
        "MILLRACE_METRICS_PORT_FILE": "",
    }
    overseer = supervisor.Supervisor(lines, environ, root, sys.stdout)
    local_url = dataclasses.replace(settings, public_url="").url
    news: queue.Queue[str | welcome.NotWorking | None] = queue.Queue()

    def greet() -> None:
        try:
            welcome.greet(news.put, local_url, credentials, root / "examples", everything=first)
            news.put(None)
        except welcome.NotWorking as error:
            news.put(error)

    def tick() -> bool:
        ready = False
        while not news.empty():
            each = news.get()
            if isinstance(each, welcome.NotWorking):
                overseer.fail(f"the self-check failed: {each}")
            elif each is None:
                ready = True
                # Without the prefix of other lines, so that it can be pasted.
                overseer.show(welcome.next_steps(credentials, settings.home / "credentials.json"))
            else:
                overseer.say(each)
        return ready

    threading.Thread(target=greet, name="welcome", daemon=True).start()
    return overseer.run(tick)


if __name__ == "__main__":
    up()
