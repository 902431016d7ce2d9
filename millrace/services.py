"""What a verb needs from the world, in one frozen value that is passed along."""

from collections.abc import Callable
from dataclasses import dataclass

import peewee

from millrace.bus import Bus
from millrace.cache import Cache
from millrace.dispatch import Queue
from millrace.objects import ObjectStore
from millrace.settings import Settings
from millrace.vault import Keyring


@dataclass(frozen=True)
class Services:
    """The stores, the queue, the bus, the cache, the keys, and time and identity as functions."""

    settings: Settings
    database: peewee.Database
    objects: ObjectStore
    queue: Queue
    bus: Bus
    cache: Cache
    keyring: Keyring
    clock: Callable[[], int]  # milliseconds since 1970, UTC
    new_id: Callable[[], str]
