"""Threads that all workspaces share, and none can have for itself."""

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Lanes:
    """Each workspace has some of the threads at a time; what it asks beyond that waits, and nobody else for it."""

    def __init__(self, threads: int, each: int) -> None:
        """`each`: how many a workspace may have."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="database")
        self._each = each
        self._guard = threading.Lock()
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._busy: Counter[str] = Counter()

    def submit(self, workspace_id: str, work: Callable[[], None]) -> None:
        """Have a thread do it. Raises RuntimeError once this is closed."""
        with self._guard:
            if self._busy[workspace_id] < self._each:
                self._threads.submit(self._next, workspace_id)
                self._busy[workspace_id] += 1
            self._waiting.setdefault(workspace_id, deque()).append(work)

    def close(self) -> None:
        """Wait for everything that was submitted."""
        self._threads.shutdown()

    def _next(self, workspace_id: str) -> None:
        while (work := self._taken(workspace_id)) is not None:
            try:
                work()
            finally:
                again = self._queued(workspace_id)
            if again:
                return

    def _taken(self, workspace_id: str) -> Callable[[], None] | None:
        with self._guard:
            waiting = self._waiting.get(workspace_id)
            if waiting:
                return waiting.popleft()
            self._busy[workspace_id] -= 1
            if not self._busy[workspace_id]:
                del self._busy[workspace_id]
                self._waiting.pop(workspace_id, None)
            return None

    def _queued(self, workspace_id: str) -> bool:
        """The lane goes on behind the others'; False for one that has to go on at once, since this is closing."""
        try:
            self._threads.submit(self._next, workspace_id)
        except RuntimeError:
            return False
        return True
