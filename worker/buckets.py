"""Token buckets: so many calls at once, and then as many as come back evenly over a minute."""

from collections.abc import Callable

_MINUTE_MS = 60_000


class TokenBucket:
    """Holds as many tokens as come back in a minute, and begins full.

    Counts in whole numbers, a token being 60,000 parts: nothing is rounded however often it is asked. A clock that is
    set back gives nothing and takes nothing.
    """

    def __init__(self, per_minute: int, clock: Callable[[], int]) -> None:
        """`clock` tells milliseconds."""
        self.per_minute = per_minute
        self._clock = clock
        self._parts = per_minute * _MINUTE_MS
        self._as_of = clock()

    def take(self) -> int:
        """Take a token. Returns 0, or in how many milliseconds there will be one."""
        now = self._clock()
        back = max(now - self._as_of, 0) * self.per_minute
        self._parts = min(self._parts + back, self.per_minute * _MINUTE_MS)
        self._as_of = now
        if self._parts < _MINUTE_MS:
            return -(-(_MINUTE_MS - self._parts) // self.per_minute)
        self._parts -= _MINUTE_MS
        return 0
