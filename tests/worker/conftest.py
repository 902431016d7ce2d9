"""The worker's tests run on real databases; `local` keeps objects, messages and hints in memory."""

from collections.abc import Iterator

import peewee
import pytest

import millrace.database
from millrace import ids, vault
from millrace.bus import MemoryBus
from millrace.cache import MemoryCache
from millrace.dispatch import MemoryQueue
from millrace.services import Services
from millrace.settings import Settings
from tests.worker.support import FlakyObjects


@pytest.fixture
def database(database_url: str) -> Iterator[peewee.Database]:
    """Connected when first used, as a thread of a worker is, which may have to close and connect again."""
    database = millrace.database.connect(database_url)
    yield database
    database.close_all()


@pytest.fixture
def local(database: peewee.Database) -> Services:
    """Services without a network."""
    key = vault.new_master_key()
    return Services(
        settings=Settings.from_env({"MILLRACE_SECRET_KEYS": key}),
        database=database,
        objects=FlakyObjects(),
        queue=MemoryQueue(),
        bus=MemoryBus(),
        cache=MemoryCache(ids.now_ms),
        keyring=vault.Keyring.parse(key),
        clock=ids.now_ms,
        new_id=ids.new_id,
    )


@pytest.fixture
def objects_of(local: Services) -> FlakyObjects:
    """The object store of `local`, which can be taken away."""
    assert isinstance(local.objects, FlakyObjects)
    return local.objects


@pytest.fixture
def queue_of(local: Services) -> MemoryQueue:
    """The queue of `local`, which tells what was sent."""
    assert isinstance(local.queue, MemoryQueue)
    return local.queue
