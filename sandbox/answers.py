"""The calls of one run whose answers come later, from threads other than the one that talks with the jail."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque

from sandbox.job import CallRefused, Pending

MOST_PENDING = 256


class Answers:
    """Collects what comes in, and wakes a poll when something did. All but the listeners of `add` belong to one thread.

    The descriptor is made with the first pending call: most runs have none.
    """

    def __init__(self) -> None:
        self.fd = -1
        """Readable while answers have come in; -1 before the first `add` and after `close`."""
        self._guard = threading.Lock()
        """Over `fd`: an answer that is late must not write to what has its number by then."""
        self._waiting: set[int] = set()
        self._come: deque[tuple[int, Pending]] = deque()

    def check(self, number: int) -> None:
        """Raise CallRefused if call `number` could not wait for its answer, be it that too many do."""
        if len(self._waiting) >= MOST_PENDING:
            raise CallRefused(f"at most {MOST_PENDING} calls of a run may wait for their answers at a time")
        if number in self._waiting:
            raise CallRefused(f"another call of the number {number} waits for its answer")

    def add(self, number: int, pending: Pending) -> None:
        """Wait for the answer to call `number`."""
        if self.fd < 0:
            self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._waiting.add(number)
        pending.notify(lambda: self._hear(number, pending))

    def _hear(self, number: int, pending: Pending) -> None:
        with self._guard:
            if self.fd >= 0:
                self._come.append((number, pending))
                os.eventfd_write(self.fd, 1)

    def still(self) -> None:
        """The poll is not woken any more by what has come so far."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def take(self) -> tuple[int, Pending] | None:
        """The number of a call and its answer, or None when there is no further one."""
        if not self._come:
            return None
        number, pending = self._come.popleft()
        self._waiting.discard(number)
        return number, pending

    def close(self) -> None:
        """Whatever comes from now on is dropped."""
        with self._guard:
            if self.fd >= 0:
                os.close(self.fd)
            self.fd = -1
            self._come.clear()
