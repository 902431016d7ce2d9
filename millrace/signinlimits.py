"""How often a password may be guessed: per email, and per address of who guesses.

The counts are in Redis, so that all web processes share them. While it is away each process counts for itself: people
can still sign in, and guesses are still bounded.

Keys: LIMITS:LIMITER/signin/<"email" or "address">/<SHA-256 of it>/...: when each guess of the window was made.
"""

import hashlib
import ipaddress
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import redis
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter

from millrace import redis_client
from millrace.errors import TooMany

MINUTES = 15
PER_EMAIL = RateLimitItemPerMinute(5, MINUTES, namespace="signin")
PER_ADDRESS = RateLimitItemPerMinute(20, MINUTES, namespace="signin")
AT_ONCE = 4  # passwords that a process works on: each takes 19 MiB
WAITING = 32  # guesses that wait for that: each takes a thread that others need
PATIENCE_S = 5.0
AWAY_S = 10.0  # how long Redis is not asked again after it failed

Answer = TypeVar("Answer")
log = logging.getLogger(__name__)


class SignInLimits:
    """One for each process. Without a URL it counts in memory."""

    def __init__(self, redis_url: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Nothing is opened yet."""
        self._redis_url = redis_url
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._shared: MovingWindowRateLimiter | None = None
        self._own: MovingWindowRateLimiter | None = None
        self._away_until = float("-inf")
        self._seats = threading.BoundedSemaphore(AT_ONCE)
        self._room = threading.BoundedSemaphore(AT_ONCE + WAITING)

    @contextmanager
    def guess(self, email: str, address: str) -> Iterator[None]:
        """Around the look at a password. Raises TooMany instead when there were too many guesses.

        An email's guess counts before it is made, so that many at once are not more than the limit. The address's
        counts when it was wrong (`wrong`): many people may share one.
        """
        with self._seat():
            origin = network(address)
            if not self._with(lambda limiter: limiter.test(PER_ADDRESS, "address", _name(origin))):
                raise self._refusal(PER_ADDRESS, "address", origin)
            if not self._with(lambda limiter: limiter.hit(PER_EMAIL, "email", _name(email))):
                raise self._refusal(PER_EMAIL, "email", email)
            yield

    @contextmanager
    def _seat(self) -> Iterator[None]:
        full = TooMany("Too many people are signing in at this moment.", retry_after=5)
        if not self._room.acquire(blocking=False):
            raise full
        try:
            if not self._seats.acquire(timeout=PATIENCE_S):
                raise full
            try:
                yield
            finally:
                self._seats.release()
        finally:
            self._room.release()

    def wrong(self, address: str) -> None:
        """The guess from this address was wrong."""
        self._with(lambda limiter: limiter.hit(PER_ADDRESS, "address", _name(network(address))))

    def right(self, email: str) -> None:
        """This email's guesses are forgotten."""
        self._with(lambda limiter: limiter.clear(PER_EMAIL, "email", _name(email)))

    def _refusal(self, item: RateLimitItem, kind: str, who: str) -> TooMany:
        stats = self._with(lambda limiter: limiter.get_window_stats(item, kind, _name(who)))
        # The library counts by the wall clock.
        wait = max(1, min(MINUTES * 60, math.ceil(stats.reset_time - time.time())))
        whose = "for this email" if kind == "email" else "from your address"
        return TooMany(f"There were too many wrong passwords {whose}. Try again in {_minutes(wait)}.", retry_after=wait)

    def _with(self, use: Callable[[MovingWindowRateLimiter], Answer]) -> Answer:
        if self._redis_url and self._monotonic() >= self._away_until:
            try:
                return use(self._on_redis())
            except redis.RedisError as error:
                self._away_until = self._monotonic() + AWAY_S
                log.warning("wrong passwords are counted in this process alone, since Redis does not answer: %s", error)
        return use(self._in_memory())

    def _on_redis(self) -> MovingWindowRateLimiter:
        with self._lock:
            if self._shared is None:
                pool = redis_client.connect(self._redis_url).connection_pool
                self._shared = MovingWindowRateLimiter(RedisStorage(self._redis_url, connection_pool=pool))
            return self._shared

    def _in_memory(self) -> MovingWindowRateLimiter:
        with self._lock:
            if self._own is None:
                self._own = MovingWindowRateLimiter(MemoryStorage())
            return self._own


def network(address: str) -> str:
    """What counts as one address: whoever has one of IPv6 has all of its /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _name(who: str) -> str:
    return hashlib.sha256(who.encode("utf-8", "surrogatepass")).hexdigest()


def _minutes(seconds: int) -> str:
    minutes = -(-seconds // 60)
    return "a minute" if minutes == 1 else f"{minutes} minutes"
