"""The scheduler's steps on real databases, called directly; and the whole process on real servers."""

import peewee
import pytest

from millrace.services import Services
from tests import world
from tests.world import Clock


@pytest.fixture
def clock() -> Clock:
    """The clock of `memory`."""
    return Clock()


@pytest.fixture
def memory(database: peewee.Database, clock: Clock) -> Services:
    """Services on SQLite and on PostgreSQL, the rest in memory."""
    return world.in_memory(database, clock)
