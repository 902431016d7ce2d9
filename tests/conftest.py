"""Real servers for every test process, and fresh namespaces on them for every test.

    redis_url      an empty Valkey
    objects        an empty bucket on a real S3 server
    database_url   an empty, migrated database; each test that uses it runs on SQLite and on PostgreSQL
    database       the same, connected and bound to the models
    settings       Settings that name the above
    services       millrace.wiring's services on the above

A package of tests that cares for one kind of database overrides the fixture `database_kind`.
A server that cannot start fails the tests that want it; nothing is skipped.
"""

import itertools
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import peewee
import pytest
import redis

import millrace.database
from millrace import migrations, vault, wiring
from millrace.embedded import S3Server, ValkeyServer
from millrace.objects import S3Objects
from millrace.services import Services
from millrace.settings import Settings
from tests.services import PostgresServer

_TEMPLATE = "millrace"


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """Where the servers of this test process keep their data; a short path, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="mr-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def valkey_server(servers_folder: Path) -> Iterator[ValkeyServer]:
    """A Valkey that keeps nothing on disk."""
    with ValkeyServer(servers_folder / "valkey", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(servers_folder: Path) -> Iterator[S3Server]:
    """A real S3 server."""
    with S3Server(servers_folder / "s3") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(servers_folder: Path) -> Iterator[PostgresServer]:
    """A real PostgreSQL."""
    with PostgresServer(servers_folder / "postgres") as server:
        yield server


@pytest.fixture
def redis_url(valkey_server: ValkeyServer) -> str:
    """The URL of an empty Valkey."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    return valkey_server.url


@pytest.fixture(scope="session")
def bucket_names() -> Iterator[str]:
    """Names for buckets that nobody has used."""
    return (f"bucket-{number}" for number in itertools.count(1))


@pytest.fixture
def objects(s3_server: S3Server, bucket_names: Iterator[str]) -> S3Objects:
    """An empty bucket on a real S3 server."""
    return s3_server.objects(next(bucket_names))


@pytest.fixture(scope="session")
def sqlite_template(servers_folder: Path) -> Path:
    """An empty, migrated SQLite file to copy."""
    path = servers_folder / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_migrated(postgres_server: PostgresServer) -> PostgresServer:
    """A PostgreSQL with one migrated database, which every test empties."""
    _migrate(postgres_server.create(_TEMPLATE))
    return postgres_server


def _migrate(url: str) -> None:
    database = millrace.database.connect(url)
    migrations.migrate(database)
    database.close_all()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Which database; override it to narrow a package of tests to one kind."""
    kind: str = request.param
    return kind


@pytest.fixture
def database_url(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty, migrated database."""
    if database_kind == "sqlite":
        path = tmp_path / "millrace.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    server: PostgresServer = request.getfixturevalue("postgres_migrated")
    server.empty(_TEMPLATE)
    return server.url(_TEMPLATE)


@pytest.fixture
def database(database_url: str) -> Iterator[peewee.Database]:
    """A pool on an empty, migrated database, bound to the models."""
    database = millrace.database.connect(database_url)
    with database.connection_context():
        yield database
    database.close_all()


@pytest.fixture
def make_settings(
    database_url: str, redis_url: str, objects: S3Objects, tmp_path: Path
) -> Callable[..., Settings]:
    """Settings that name this test's stores; keyword arguments are further environment variables."""

    def make(**environ: str) -> Settings:
        return Settings.from_env({
            "MILLRACE_HOME": str(tmp_path / "home"),
            "MILLRACE_SECRET_KEYS": vault.new_master_key(),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "S3_ENDPOINT": objects.endpoint.geturl(),
            "S3_ACCESS_KEY": objects.access_key,
            "S3_SECRET_KEY": objects.secret_key,
            "S3_BUCKET": objects.bucket,
            **environ,
        })

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Settings that name this test's stores."""
    return make_settings()


@pytest.fixture
def wired(settings: Settings) -> Iterator[wiring.Wired]:
    """Everything that a process builds at its start, with a database connection for this thread."""
    wired = wiring.build(settings)
    with wired.services.database.connection_context():
        yield wired
    wired.close()


@pytest.fixture
def services(wired: wiring.Wired) -> Services:
    """What every verb takes, on real parts."""
    return wired.services


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and so would every program that is tested here."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a whole platform share one: they stay on one process of a parallel run, and begin first."""
    flows = [item for item in items if "tests/flows/" in item.path.as_posix()]
    for item in flows:
        item.add_marker(pytest.mark.xdist_group("flows"))
    items[:] = [*flows, *(item for item in items if item not in set(flows))]
