"""Source code from the object store, kept in memory: versions never change, so a copy is never stale."""

import threading
from collections import OrderedDict

from millrace import languages
from millrace.errors import Missing
from millrace.objects import ObjectStore

MAX_BYTES = 64 * 1024 * 1024


class Sources:
    """The least recently used go first. Safe to share among threads."""

    def __init__(self, objects: ObjectStore, max_bytes: int = MAX_BYTES) -> None:
        self._objects = objects
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def get(self, key: str, runtime: str) -> bytes:
        """The source under this key as it runs there. Raises Unavailable when the store fails, Missing when it has lost
        it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        # Two runs may fetch the same at once; a lock around the network would make every other run wait.
        source = self._objects.get(key)
        if source is None:
            raise Missing(f"The source '{key}' is missing in the object store.")
        source = languages.whole(runtime, source)
        self._keep(key, source)
        return source

    def _keep(self, key: str, source: bytes) -> None:
        with self._lock:
            if key in self._kept or len(source) > self._max_bytes:
                return
            self._kept[key] = source
            self._size += len(source)
            while self._size > self._max_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._size -= len(dropped)
