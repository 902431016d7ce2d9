"""Tells the ends of runs to whoever asked for it.

One thread looks for what is due, takes it with a lease, has it posted, and records what came of it. All posts go side
by side, a few for each workspace, and those of whom the fewest are under way go first: a receiver that hangs takes
places from its own workspace's, and eight workspaces whose receivers all hang hold up the others until they time out.
"""

import logging
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from millrace import callbacks
from millrace.callbacks import Due, Taken, Try
from millrace.database import revive
from millrace.services import Services
from worker.posting import Answer, Post
from worker.repeated import Repeated
from worker.vital import DATABASE_AWAY

LOOK_S = 1.0
REST = 10
"""For so many times as long as a look took there is no other: where very many are due it is the database's work."""
AT_ONCE = 64
"""Posts under way in one process."""
LAST_WORDS_S = 1.0
"""For the receivers that are being told when the process is to end."""
GONE = 410
"""The status by which a receiver says that it never wants to hear of it again."""

log = logging.getLogger(__name__)


class Posts(Protocol):
    """What this needs of `worker.posting.Poster`."""

    def submit(self, post: Post, answered: Callable[[Answer], None], over: Callable[[], None]) -> None:
        """Send it."""

    def close(self) -> None:
        """Break off what is under way."""


class Deliverer(Repeated):
    """See the module. `draw` gives numbers from 0 to 1, for the jitter."""

    def __init__(
        self, services: Services, posts: Posts, *, draw: Callable[[], float] = random.random, every_s: float = LOOK_S
    ) -> None:
        self._services = services
        self._posts = posts
        self._draw = draw
        self._every_s = every_s
        self._stopping = threading.Event()
        self._heard: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._out: dict[str, Taken] = {}  # no answer yet
        self._places: Counter[str] = Counter()  # of posts that are not over, by workspace
        self._ended: list[tuple[Taken, Try]] = []  # not recorded yet
        self._line: list[Due] = []  # what was due at the last look, and is not taken yet
        self._saw_some = False
        self._looked_at = self._rests_until = float("-inf")
        super().__init__(self.look, every_s, "callbacks")

    def look(self) -> None:
        """Deliver what is due, until nothing is and every answer is recorded. A database that is away is for later."""
        self._looked_at = float("-inf")
        while not self._stopping.is_set():
            self._hear(0)
            try:
                with self._services.database.connection_context():
                    self._record()
                    self._begin()
                    self._record()  # those whose end was plain at once
            except DATABASE_AWAY as error:
                log.error("callbacks wait for the database: %s", error)
                revive(self._services.database)
                return
            if not self._out and not self._ended:
                return
            self._hear(self._every_s)

    def stop(self) -> None:
        """Take no more."""
        super().stop()
        self._stopping.set()
        self._heard.put(lambda: None)  # so that the thread sees it

    def close(self) -> None:
        """Give receivers a moment, record what they said, and leave the others to whoever looks next."""
        super().close()
        deadline = time.monotonic() + LAST_WORDS_S
        while self._out and (left := deadline - time.monotonic()) > 0:
            self._hear(left)
        self._posts.close()
        try:
            with self._services.database.connection_context():
                self._record()
                callbacks.release(list(self._out.values()))
                self._out = {}
        except DATABASE_AWAY as error:
            log.error("callbacks are left until their leases lapse: %s", error)

    def _begin(self) -> None:
        self._see()
        while chosen := callbacks.choose(self._line, AT_ONCE - self._places.total(), self._places):
            taken = callbacks.take(self._services, chosen)
            going = {each.id for each in chosen}
            self._line = [each for each in self._line if each.id not in going]
            if self._stopping.is_set():  # it took so long that whoever closes this did not wait
                callbacks.release(taken)
                return
            for each in taken:
                self._send(each)

    def _see(self) -> None:
        """Look what is due, if it is time to: every so often, and when all that was due is taken."""
        begun = time.monotonic()
        used_up = self._saw_some and not self._line
        if begun < self._rests_until or not (used_up or begun >= self._looked_at + self._every_s):
            return
        self._line = callbacks.due(self._services, self._draw)
        self._saw_some = bool(self._line)
        self._looked_at = begun
        self._rests_until = begun + REST * (time.monotonic() - begun)

    def _send(self, taken: Taken) -> None:
        if taken.secret is None:
            return self._end(taken, Answer(None, "its secret could not be opened", 0))
        self._places[taken.workspace_id] += 1
        self._out[taken.id] = taken
        post = Post(taken.url, taken.headers(self._services.clock()), taken.body)
        return self._posts.submit(
            post,
            lambda answer: self._heard.put(lambda: self._end(taken, answer)),
            lambda: self._heard.put(lambda: self._free(taken.workspace_id)),
        )

    def _end(self, taken: Taken, answer: Answer) -> None:
        self._out.pop(taken.id, None)
        tried = Try(
            at=self._services.clock() - answer.duration_ms, status=answer.status, error=answer.error,
            duration_ms=answer.duration_ms, for_good=answer.refused or answer.status == GONE,
        )  # fmt: skip
        self._ended.append((taken, tried))

    def _free(self, workspace_id: str) -> None:
        self._places[workspace_id] -= 1
        self._places += Counter()  # without those that are zero

    def _hear(self, patience_s: float) -> None:
        """All that posts had to say, after waiting so long for the first word."""
        try:
            self._heard.get(timeout=patience_s)() if patience_s else self._heard.get_nowait()()
            while True:
                self._heard.get_nowait()()
        except queue.Empty:
            return

    def _record(self) -> None:
        if self._ended:
            callbacks.settle(self._services, self._ended, self._draw)
            self._ended = []
