"""The log of one run, from lines to objects: chunks while the run goes on, one object at its end.

Adding lines waits for no network. A shipper, one thread for all runs of the process, stores what is older
than a sixth of a second or has grown to a chunk. What waits is bounded: a script that logs faster than the store
takes it is held up; while the store does not answer at all, lines are dropped, counted, and the gap is said
in the log. The same becomes of lines that a run which is over left, when masking them takes too long.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from millrace import logs
from millrace.errors import Unavailable
from millrace.objects import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from millrace.redaction import Redactor
from millrace.services import Services
from sandbox.job import LogLine
from worker.masking import Masking
from worker.vital import VitalThread

CHUNK_BYTES = 1024 * 1024
SHIP_AFTER_S = 0.15  # with the jail's own tenth of a second, a line is on its way to the store within 250 ms
WAITING_BYTES = 8 * 1024 * 1024  # beyond this a run's lines wait for the store, or are dropped
HOLD_UP_S = 2.0
PAUSES = (0.2, 1.0)  # between the tries to store the end of a log
PATIENCE_S = CONNECT_TIMEOUT_S + READ_TIMEOUT_S + 2.0  # for a put under way when the log is closed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """Where a run's whole log is, None if it has none or has to be joined later; and what it lacks."""

    key: str | None
    chunks: int
    lost_bytes: int


@dataclass(frozen=True)
class _Chunk:
    """A number stands for the same bytes for ever: a put that seemed to fail may have stored them."""

    number: int
    text: bytes


class RunLog:
    """Lines in, chunks out. `add` and `close` belong to the run's thread, `ship` to the shipper's."""

    def __init__(
        self, services: Services, workspace: str, run_id: str, attempt: int, redactor: Redactor | None,
        shipper: "Shipper", given_up: threading.Event, part: logs.Part = logs.ONLY,
    ) -> None:  # fmt: skip
        self._services = services
        self._workspace = workspace
        self._run_id = run_id
        self._attempt = attempt
        self._part = replace(part, last=attempt)  # not what a later attempt may be writing by now
        self._masking = Masking(redactor, given_up)
        self._shipper = shipper
        self._given_up = given_up  # set when the run is cancelled: no line is worth a wait then
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._oldest = 0.0
        self._next = (attempt - 1) * logs.ATTEMPT_STRIDE
        self._chunk: _Chunk | None = None  # taken, and not known to be stored
        self._chunks = 0
        self._shipping = False
        self._closing = False
        self._store_away = False
        self._dropped = 0  # not yet said in the log
        self._lost = 0
        self._watched = False

    def begin(self, timeout_s: float) -> None:
        """The job is about to be sent: this is the time that it has."""
        self._masking.begin(timeout_s)

    def add(self, lines: Sequence[LogLine]) -> None:
        """Take lines, masked. Waits at most HOLD_UP_S for the store."""
        self._take_in("".join(self._format(lines)).encode("utf-8", "replace"))

    def _take_in(self, text: bytes) -> None:
        if not self._watched:
            self._watched = True
            self._shipper.watch(self)
        with self._changed:
            if self._size >= WAITING_BYTES:
                self._hold_up()
            if self._size >= WAITING_BYTES:
                self._dropped += len(text)
                self._lost += len(text)
                return
            if self._dropped:
                self._put(self._gap())
            self._put(text)
            full = self._size >= CHUNK_BYTES
        if full:
            self._shipper.wake()

    def _put(self, text: bytes) -> None:
        if not self._waiting:
            self._oldest = time.monotonic()
        self._waiting.append(text)
        self._size += len(text)

    def _gap(self) -> bytes:
        text = f"{self._dropped} bytes of log are missing here: the object store did not answer"
        self._dropped = 0
        return logs.format_record(self._services.clock(), "SYSTEM", text).encode()

    def _format(self, lines: Sequence[LogLine]) -> list[str]:
        texts = self._masking.mask(lines)
        pairs = zip(lines, texts, strict=False)
        records = [logs.format_record(line.time_ms, line.level, text) for line, text in pairs]
        if missing := sum(len(line.text.encode("utf-8", "replace")) for line in lines[len(texts) :]):
            self._lost += missing
            words = f"{missing} bytes of log are missing here: masking secrets took longer than the run had time"
            records.append(logs.format_record(self._services.clock(), "SYSTEM", words))
        return records

    def _hold_up(self) -> None:
        deadline = time.monotonic() + HOLD_UP_S
        self._shipper.wake()
        while self._size >= WAITING_BYTES and not self._store_away and not self._given_up.is_set():
            if time.monotonic() > deadline:
                return
            self._changed.wait(0.1)

    def ship(self) -> None:
        """Store what is due, a chunk at a time. What could not be stored waits for the next time."""
        while (chunk := self._take(due_only=True)) is not None:
            if not self._store(chunk):
                return

    def _take(self, *, due_only: bool) -> _Chunk | None:
        with self._changed:
            if self._shipping or (due_only and self._closing):
                return None
            if self._chunk is None:
                due = self._size >= CHUNK_BYTES or time.monotonic() - self._oldest >= SHIP_AFTER_S
                if not self._waiting or (due_only and not due):
                    return None
                self._chunk = self._cut()
            self._shipping = True
            return self._chunk

    def _cut(self) -> _Chunk:
        parts, size = [], 0
        while self._waiting and size < CHUNK_BYTES:
            size += len(self._waiting[0])
            parts.append(self._waiting.popleft())
        self._next += 1
        return _Chunk(self._next - 1, b"".join(parts))

    def _store(self, chunk: _Chunk) -> bool:
        stored = False
        try:
            logs.put_chunk(self._services, self._workspace, self._run_id, chunk.number, chunk.text)
            stored = True
        except Exception as error:
            self._complain("a log chunk waits in memory", error)
        with self._changed:
            if self._chunk is not chunk:  # given up meanwhile
                return False
            self._shipping, self._store_away = False, not stored
            if stored:
                self._size -= len(chunk.text)
                self._chunks += 1
                self._chunk = None
                self._oldest = time.monotonic()
            self._changed.notify_all()
        return stored

    def _complain(self, what: str, error: Exception) -> None:
        # A log that can't be stored costs lines and no outcome, whatever the reason is.
        unknown = not isinstance(error, Unavailable)
        log.error("%s: %s", what, error, exc_info=unknown, extra={"run": self._run_id})

    def close(self) -> Stored:
        """Store the rest and make one object of all. A store that stays away costs lines, no outcome."""
        if not self._watched:
            return Stored(None, 0, 0)
        for level, text in self._masking.rest():
            self._take_in(logs.format_record(self._services.clock(), level, text).encode())
        self._shipper.unwatch(self)
        with self._changed:
            self._closing = True
            idle = self._changed.wait_for(lambda: not self._shipping, timeout=PATIENCE_S)
            if self._dropped:
                self._put(self._gap())
            if not idle:
                self._leave_behind()
        if not idle:  # that chunk may still arrive, so the chunks are joined later
            self._store_rest(())
            return Stored(None, self._chunks, self._lost + self._size)
        # An attempt before this one may have left chunks, though it did not get as far as the handler.
        first = self._attempt == self._part.after + 1
        if not self._chunks and self._chunk is None and first and self._size < CHUNK_BYTES:
            return self._store_whole()
        if not self._store_rest(PAUSES):
            # The chunk that waits may have been stored.
            return Stored(None, self._chunks or int(self._chunk is not None), self._lost + self._size)
        key = self._patiently(self._join)
        return Stored(key, self._chunks, self._lost)

    def _leave_behind(self) -> None:
        """Count the chunk under way as lost, though it may arrive, and go on with the next number."""
        assert self._chunk is not None
        size = len(self._chunk.text)
        self._size -= size
        self._lost += size
        self._chunks += 1
        self._chunk, self._shipping = None, False

    def discard(self) -> None:
        """The run is somebody else's now: forget what was not stored. No chunk is on its way after this."""
        if not self._watched:
            return
        self._shipper.unwatch(self)
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._shipping, timeout=PATIENCE_S)

    def _store_whole(self) -> Stored:
        text = b"".join(self._waiting)
        key = self._patiently(lambda: self._put_whole(text))
        return Stored(key, int(key is None), self._lost if key is not None else self._lost + len(text))

    def _put_whole(self, text: bytes) -> str:
        return logs.put_whole(self._services, self._workspace, self._run_id, text, self._part)

    def _join(self) -> str | None:
        return logs.join_chunks(self._services.objects, self._workspace, self._run_id, self._part)

    def _store_rest(self, pauses: Sequence[float]) -> bool:
        for pause in (*pauses, None):
            while (chunk := self._take(due_only=False)) is not None:
                if not self._store(chunk):
                    break
            else:
                return True
            if pause is not None:
                time.sleep(pause)
        return False

    def _patiently(self, step: Callable[[], str | None]) -> str | None:
        for pause in (*PAUSES, None):
            try:
                return step()
            except Exception as error:
                self._complain("the log is not stored", error)
            if pause is not None:
                time.sleep(pause)
        return None


class Shipper:
    """The thread that stores chunks of all runs of this process; it sleeps while no run logs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: set[RunLog] = set()
        self._woken = threading.Event()
        self._stopping = False
        self._thread = VitalThread(self._work, "log-shipper")
        self._thread.start()

    def watch(self, run_log: RunLog) -> None:
        """Ship this log from now on."""
        with self._lock:
            idle = not self._logs
            self._logs.add(run_log)
        if idle:
            self._woken.set()

    def unwatch(self, run_log: RunLog) -> None:
        """Leave this log alone, after the chunk under way."""
        with self._lock:
            self._logs.discard(run_log)

    def wake(self) -> None:
        """Some log has a whole chunk."""
        self._woken.set()

    def close(self) -> None:
        """End the thread."""
        self._stopping = True
        self._woken.set()
        self._thread.join(timeout=5)

    def _work(self) -> None:
        while not self._stopping:
            with self._lock:
                watched = list(self._logs)
            self._woken.wait(SHIP_AFTER_S / 2 if watched else None)
            self._woken.clear()
            for each in watched:
                try:
                    each.ship()
                except Exception:  # whatever it is, the other runs' lines must not wait for it
                    log.exception("a log is not shipped because of an error of ours")
