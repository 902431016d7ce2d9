"""How many requests of one workspace may wait at once, so that nobody's waiting takes every thread."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from millrace.errors import TooMany


class Seats:
    """At most `each` for a workspace and `all_` together, in this process."""

    def __init__(self, what: str, each: int, all_: int) -> None:
        self.what = what
        self.each = each
        self.all = all_
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many there are now."""
        with self._lock:
            return self._taken.total()

    def take(self, workspace_id: str) -> None:
        """Sit down; to be followed by one `leave`. Raises TooMany."""
        with self._lock:
            if self._taken[workspace_id] >= self.each:
                raise TooMany(f"This workspace has {self.each} {self.what} already, which is the most.", retry_after=1)
            if self._taken.total() >= self.all:
                raise TooMany(f"There are {self.all} {self.what} already, which is the most.", retry_after=1)
            self._taken[workspace_id] += 1

    def leave(self, workspace_id: str) -> None:
        """Get up."""
        with self._lock:
            self._taken[workspace_id] -= 1
            if not self._taken[workspace_id]:
                del self._taken[workspace_id]

    @contextmanager
    def seat(self, workspace_id: str) -> Iterator[None]:
        """A seat for as long as the block lasts. Raises TooMany."""
        self.take(workspace_id)
        try:
            yield
        finally:
            self.leave(workspace_id)
