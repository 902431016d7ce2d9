"""What a worker does every so often beside its runs."""

import threading
from collections.abc import Callable

from worker.vital import VitalThread


class Repeated:
    """Does it again and again in a thread of its own, until it is closed. What it raises ends the process."""

    def __init__(self, action: Callable[[], None], every_s: float, name: str) -> None:
        self._action = action
        self._every_s = every_s
        self._closing = threading.Event()
        self._thread = VitalThread(self._work, name)
        self._thread.start()

    def stop(self) -> None:
        """Do it no more; `close` waits until it is done for the last time."""
        self._closing.set()

    def close(self) -> None:
        """End the thread."""
        self.stop()
        self._thread.join(timeout=5)

    def _work(self) -> None:
        while not self._closing.wait(self._every_s):
            self._action()
