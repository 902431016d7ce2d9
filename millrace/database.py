"""The connection to SQLite or PostgreSQL, and the one way to open a transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peewee
from playhouse.db_url import parse as parse_url
from playhouse.pool import MaxConnectionsExceeded, PooledPostgresqlDatabase, PooledSqliteDatabase

from millrace import models

# What a database raises that is away, overloaded or locked for too long.
UNREACHABLE = (peewee.OperationalError, peewee.InterfaceError, MaxConnectionsExceeded)

_CONTENDED = ("55P03", "40P01")  # lock_not_available, deadlock_detected

_SQLITE_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": 2,  # full: a commit that was answered survives a loss of power
    "foreign_keys": 1,
    "busy_timeout": 10_000,
    "cache_size": -16_000,
}
# So that a server which vanished without a word is noticed within seconds, not after the kernel's two hours.
_POSTGRESQL_PATIENCE = {
    "connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

# So that a process which froze in a transaction does not hold up all others for ever; what the URL says comes later
# and wins. No transaction of ours waits for anything but the database.
_POSTGRESQL_OPTIONS = "-c lock_timeout=10s -c idle_in_transaction_session_timeout=15s"


def connect(url: str, *, max_connections: int = 40) -> peewee.Database:
    """A pool for this URL, with the models bound to it; nothing is opened yet.

    Waits up to 10 s for a free connection, then raises peewee's MaxConnectionsExceeded.
    """
    make = _postgresql if url.startswith("postgres") else _sqlite
    database = make(url, max_connections)
    models.proxy.initialize(database)
    return database


def _sqlite(url: str, max_connections: int) -> peewee.Database:
    # sqlite:////absolute and sqlite:///relative, as SQLAlchemy made customary; a folder's name may hold '?' and '#'.
    path = url.partition(":///")[2]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    database: peewee.Database = PooledSqliteDatabase(
        path, max_connections=max_connections, timeout=10, pragmas=_SQLITE_PRAGMAS, check_same_thread=False
    )
    return database


def _postgresql(url: str, max_connections: int) -> peewee.Database:
    parameters = parse_url(
        url.replace("postgres://", "postgresql://", 1), unquote_password=True, unquote_user=True
    )
    name = parameters.pop("database")
    parameters = _POSTGRESQL_PATIENCE | parameters
    parameters["options"] = f"{_POSTGRESQL_OPTIONS} {parameters.get('options', '')}".rstrip()
    database: peewee.Database = PooledPostgresqlDatabase(
        name, max_connections=max_connections, timeout=10, stale_timeout=300, prefer_psycopg3=True, **parameters
    )
    return database


@contextmanager
def transaction() -> Iterator[None]:
    """One transaction on the bound database; nests as a savepoint.

    SQLite takes its write lock at once: a transaction that first reads and then writes would else fail with
    "database is locked" when another one wrote in between, whatever the busy timeout.
    """
    database = models.proxy.obj
    context = database.atomic("IMMEDIATE") if is_sqlite(database) else database.atomic()
    with context:
        yield


def is_sqlite(database: peewee.Database) -> bool:
    """Whether this is the embedded kind, which has one writer and no row locks."""
    return isinstance(database, peewee.SqliteDatabase)


def is_contended(error: Exception) -> bool:
    """Whether somebody else held just these rows for too long: the database is well, and other rows are free."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) in _CONTENDED  # peewee keeps the driver's error


def revive(database: peewee.Database) -> None:
    """After a failed query: close this thread's connection and the idle ones, so that the next query opens a new one.

    A server that was restarted leaves a pool of connections that look alive.
    """
    if not database.in_transaction():
        database.manual_close()  # type: ignore[attr-defined]  # a pool's method, and ours is always a pool
        database.close_idle()  # type: ignore[attr-defined]
