"""The schema's history: numbered files, each applied once, in order.

A file's docstring says whether it may run before the new code is deployed, or must wait until after.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peewee
from playhouse.migrations import Runner

from millrace.database import is_sqlite

_LOCK = 0x4D494C4C  # any number that no other program takes as its advisory lock


def migrate(database: peewee.Database) -> list[str]:
    """Apply what is missing; any number of processes may call it at once. Returns the names applied."""
    runner = Runner(database, directory=str(Path(__file__).parent))
    if is_sqlite(database):
        with _alone(Path(database.database)), database.connection_context(), database.atomic("IMMEDIATE"):
            return list(runner.up())
    with database.connection_context():
        database.execute_sql("SET lock_timeout = 0")  # another process may need long for its migrations
        database.execute_sql("SELECT pg_advisory_lock(%s)", (_LOCK,))
        database.execute_sql("RESET lock_timeout")
        try:
            return list(runner.up())
        finally:
            database.execute_sql("SELECT pg_advisory_unlock(%s)", (_LOCK,))


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One process at a time: of two that make a new file and its log at once SQLite may refuse one without a wait."""
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def pending(database: peewee.Database) -> list[str]:
    """The names of the files that are not applied yet."""
    runner = Runner(database, directory=str(Path(__file__).parent))
    return [each.name for each in runner.status() if not each.applied]
