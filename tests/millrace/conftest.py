"""Verbs are tested on real databases; their other services are in memory, for contracts hold for those."""

import threading
from collections.abc import Iterator

import peewee
import pytest

from millrace.services import Services
from tests import world
from tests.fake_api import FakeApi
from tests.world import Clock


@pytest.fixture
def clock() -> Clock:
    """The clock of `memory`."""
    return Clock()


@pytest.fixture
def memory(database: peewee.Database, clock: Clock) -> Services:
    """Services on SQLite and on PostgreSQL, the rest in memory."""
    return world.in_memory(database, clock)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """A server for the command."""
    server = FakeApi()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
