"""How many calls of HTTP scripts a workspace may make in a minute, over all web processes."""

import logging
import math
import time

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter

from millrace import redis_client
from millrace.errors import TooMany

PER_MINUTE = 100
_ANSWER_S = 1.0
_PREFIX = "millrace:httpscripts"

log = logging.getLogger(__name__)


class Rate:
    """A moving window for each workspace. Without Redis it counts for this process alone."""

    def __init__(self, redis_url: str, per_minute: int) -> None:
        storage: MemoryStorage | RedisStorage = MemoryStorage()
        if redis_url:
            pool = redis_client.connect_once(redis_url, _ANSWER_S).connection_pool
            storage = RedisStorage(redis_url, connection_pool=pool, key_prefix=_PREFIX, wrap_exceptions=True)
        self._limit = RateLimitItemPerMinute(per_minute)
        self._window = MovingWindowRateLimiter(storage)

    def take(self, workspace_id: str) -> None:
        """Count a call. Raises TooMany with the seconds after which one is free again.

        A Redis that does not answer stops nobody: the rate is for fairness, and what starts a run does without Redis.
        """
        try:
            if self._window.hit(self._limit, workspace_id):
                return
            free_at = self._window.get_window_stats(self._limit, workspace_id).reset_time
        except StorageError as error:
            log.warning("calls of HTTP scripts are not counted: %s", error.storage_error)
            return
        raise TooMany(
            f"Workspace '{workspace_id}' has made {self._limit.amount} calls of HTTP scripts within a minute, which is "
            "the most.", retry_after=max(1, math.ceil(free_at - time.time())),
        )  # fmt: skip
