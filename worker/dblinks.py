"""Connections to data sources: what they promise, and the few that are kept for the next statement."""

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from millrace.sql.catalog import Catalog
from millrace.sql.prover import Proved

IDLE_S = 60.0
"""How long a connection waits for the next statement before it is closed."""


class SourceFailed(Exception):
    """The database, or the way to it, failed. The text is for the script's author and holds no secret of ours."""


class Link(Protocol):
    """A connection to a data source, used by one thread at a time.

    Between `begin` and `commit` or `rollback` there is a transaction. Each method raises SourceFailed; `rows` and
    `change` end within the time of a statement.
    """

    broken: bool  # not to be used again

    def begin(self, tenant: str) -> None:
        """Open a transaction."""

    def catalog(self, fresh: bool = False) -> Catalog:
        """The source's tables; `fresh` when it must be as the transaction has it."""

    def rows(self, proved: Proved, most: int) -> list[dict[str, Any]]:
        """What the statement returns. Raises dbvalues.TooMuch for one row more than `most`."""

    def first(self, proved: Proved) -> dict[str, Any] | None:
        """The first row that the statement returns."""

    def change(self, proved: Proved) -> int:
        """Carry out the statement; returns how many rows it changed."""

    def commit(self) -> None:
        """Keep what was changed."""

    def rollback(self) -> None:
        """Undo what was changed; afterwards the link may be `broken`."""

    def abort(self) -> None:
        """End whatever runs, from any thread. The link is broken then."""

    def close(self) -> None:
        """Let go of the connection. To do so twice is no error."""


class Pool:
    """The connections of one source, as it was registered when the first one was opened."""

    def __init__(self, open_link: Callable[[bool], Link], most: int) -> None:
        self._open = open_link
        self._most = most
        self._guard = threading.Lock()
        self._idle: list[tuple[float, bool, Link]] = []
        self._count = 0
        self._closed = False

    def take(self, write: bool) -> Link:
        """A connection for one that reads, or one that writes. Raises SourceFailed when too many are in use."""
        surplus: Link | None = None
        with self._guard:
            for place in range(len(self._idle) - 1, -1, -1):
                if self._idle[place][1] is write:
                    return self._idle.pop(place)[2]
            if self._count >= self._most:
                if not self._idle:
                    raise SourceFailed(f"All {self._most} connections to this data source are in use.")
                surplus = self._idle.pop(0)[2]
                self._count -= 1
            self._count += 1
        try:
            if surplus is not None:
                surplus.close()
            return self._open(write)
        except BaseException:
            self._forget()
            raise

    def give(self, link: Link, write: bool) -> None:
        """Have it back."""
        with self._guard:
            if not link.broken and not self._closed:
                self._idle.append((time.monotonic(), write, link))
                return
        link.close()
        self._forget()

    def tidy(self) -> bool:
        """Close what has waited for long. Returns whether there is no connection now."""
        oldest = time.monotonic() - IDLE_S
        with self._guard:
            stale = [link for since, _, link in self._idle if since < oldest]
            self._idle = [each for each in self._idle if each[0] >= oldest]
            self._count -= len(stale)
            is_empty = self._count == 0
        for link in stale:
            link.close()
        return is_empty

    def close(self) -> None:
        """Close what is idle now, and the rest when it is given back."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
            self._count -= len(idle)
        for _, _, link in idle:
            link.close()

    def _forget(self) -> None:
        with self._guard:
            self._count -= 1
