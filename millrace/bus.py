"""The bus between processes: events to be routed (a stream), and hints for whoever waits (pub/sub).

Neither is the truth. An event is durable in the database before its id is announced here, and a hint only says
"look again": whoever listens reads the row or the object, and looks again by itself after a while.
"""

import logging
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import redis

from millrace import redis_client
from millrace.errors import Unavailable

STREAM = "millrace:events"
GROUP = "routers"
CHANNEL = "millrace:hints"
AT_ONCE = 64

MAX_WAIT_MS = 5000  # the longest that a `receive` may wait; the client gives up on a silent server soon after

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """One announced event, held by a consumer until `done`."""

    entry: str
    event_id: str


class Listener:
    """Receives the hints of one topic, in order; bounded, since a hint may be dropped but not memory."""

    def __init__(self) -> None:
        self._hints: queue.Queue[str] = queue.Queue(maxsize=1000)

    def put(self, hint: str) -> None:
        """Add a hint; dropped when a thousand wait unread."""
        try:
            self._hints.put_nowait(hint)
        except queue.Full:
            log.debug("a slow listener misses a hint")

    def get(self, timeout: float) -> str | None:
        """The next hint, "" when some may have been lost, None after `timeout` seconds without one."""
        try:
            return self._hints.get(timeout=timeout)
        except queue.Empty:
            return None


class Bus(Protocol):
    """What every implementation promises. Whoever announces or hints never fails; readers get `Unavailable`."""

    def announce(self, event_id: str) -> bool:
        """Tell the routers of a stored event. False when the bus is away: the sweeper announces it later."""

    def receive(self, consumer: str, wait_ms: int) -> list[Delivery]:
        """Up to 64 announced events that no other consumer holds; waits for the first, `MAX_WAIT_MS` at most."""

    def reclaim(self, consumer: str, idle_ms: int) -> list[Delivery]:
        """Take over what some consumer has held for at least `idle_ms`, up to 64."""

    def done(self, delivery: Delivery) -> None:
        """This one is routed. Doing it twice is no error."""

    def backlog(self) -> int:
        """How many announced events are not done yet."""

    def hint(self, topic: str, text: str) -> bool:
        """Tell whoever listens to the topic now; nobody else will ever hear it. Returns whether it went out."""

    def listen(self, *topics: str) -> Any:
        """A context manager that yields a `Listener` of these topics."""


class _Topics:
    """The listeners of this process by topic."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: defaultdict[str, list[Listener]] = defaultdict(list)

    @contextmanager
    def joined(self, topics: Sequence[str]) -> Iterator[Listener]:
        listener = Listener()
        with self._lock:
            for topic in topics:
                self._listeners[topic].append(listener)
        try:
            yield listener
        finally:
            with self._lock:
                for topic in topics:
                    self._listeners[topic].remove(listener)
                    if not self._listeners[topic]:
                        del self._listeners[topic]

    def tell(self, topic: str, text: str) -> None:
        with self._lock:
            listeners = list(self._listeners.get(topic, ()))
        for each in listeners:
            each.put(text)

    def tell_all(self) -> None:
        with self._lock:
            listeners = [each for group in self._listeners.values() for each in group]
        for each in listeners:
            each.put("")


class MemoryBus:
    """The bus within one process."""

    def __init__(self) -> None:
        self._topics = _Topics()
        self._changed = threading.Condition()
        self._announced: deque[Delivery] = deque()
        self._held: dict[str, tuple[float, Delivery]] = {}  # with the moment since which
        self._count = 0

    def announce(self, event_id: str) -> bool:
        with self._changed:
            self._count += 1
            self._announced.append(Delivery(str(self._count), event_id))
            self._changed.notify_all()
        return True

    def receive(self, consumer: str, wait_ms: int) -> list[Delivery]:
        with self._changed:
            self._changed.wait_for(lambda: self._announced, timeout=wait_ms / 1000)
            return self._hold([self._announced.popleft() for _ in range(min(len(self._announced), AT_ONCE))])

    def reclaim(self, consumer: str, idle_ms: int) -> list[Delivery]:
        with self._changed:
            latest = time.monotonic() - idle_ms / 1000
            return self._hold([each for since, each in self._held.values() if since <= latest][:AT_ONCE])

    def _hold(self, deliveries: list[Delivery]) -> list[Delivery]:
        self._held.update({each.entry: (time.monotonic(), each) for each in deliveries})
        return deliveries

    def done(self, delivery: Delivery) -> None:
        with self._changed:
            self._held.pop(delivery.entry, None)

    def backlog(self) -> int:
        with self._changed:
            return len(self._announced) + len(self._held)

    def hint(self, topic: str, text: str) -> bool:
        self._topics.tell(topic, text)
        return True

    def listen(self, *topics: str) -> Any:
        return self._topics.joined(topics)

    def close(self) -> None:
        """Nothing to close."""


class RedisBus:
    """The bus over Redis. All hints share one channel, so that starting to listen costs no round trip."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = redis_client.connect(url)
        self._waiting_client = redis_client.connect_blocking(url, longest_s=MAX_WAIT_MS / 1000)
        self._topics = _Topics()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._following = threading.Event()

    def announce(self, event_id: str) -> bool:
        try:
            self._client.xadd(STREAM, {"event": event_id}, maxlen=100_000, approximate=True)
        except redis.RedisError as error:
            log.warning("event not announced, the sweeper will: %s", error, extra={"event": event_id})
            return False
        return True

    def receive(self, consumer: str, wait_ms: int) -> list[Delivery]:
        wait = min(wait_ms, MAX_WAIT_MS) or None
        answer = self._in_group(
            lambda: self._waiting_client.xreadgroup(GROUP, consumer, {STREAM: ">"}, count=AT_ONCE, block=wait)
        )
        return [_delivery(*entry) for _, entries in answer or [] for entry in entries]

    def reclaim(self, consumer: str, idle_ms: int) -> list[Delivery]:
        answer = self._in_group(
            lambda: self._client.xautoclaim(STREAM, GROUP, consumer, min_idle_time=idle_ms, count=AT_ONCE)
        )
        return [_delivery(*entry) for entry in answer[1] if entry[1]]

    def done(self, delivery: Delivery) -> None:
        def both() -> None:
            with self._client.pipeline() as commands:
                commands.xack(STREAM, GROUP, delivery.entry)
                commands.xdel(STREAM, delivery.entry)
                commands.execute()

        self._in_group(both)

    def backlog(self) -> int:
        # What is done is deleted, so the stream holds just what is not.
        return int(self._in_group(lambda: self._client.xlen(STREAM)))

    def hint(self, topic: str, text: str) -> bool:
        try:
            self._client.publish(CHANNEL, f"{topic}\n{text}")
        except redis.RedisError as error:
            log.warning("hint lost, listeners look by themselves: %s", error)
            return False
        return True

    def listen(self, *topics: str) -> Any:
        self._start()
        return self._topics.joined(topics)

    def close(self) -> None:
        """End the listening thread, within a second."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=2)
        self._client.close()
        self._waiting_client.close()

    def _in_group(self, command: Callable[[], Any]) -> Any:
        """Act as a member of the group, which is made again whenever Redis was emptied."""
        try:
            try:
                return command()
            except redis.ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
            self._make_group()
            return command()
        except redis.RedisError as error:
            raise Unavailable(f"Redis does not answer the bus: {error}") from error

    def _make_group(self) -> None:
        try:
            self._client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):  # another router was first
                raise

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow_always, name="bus-hints", daemon=True)
                self._thread.start()
        # Without this the first listener could miss a hint that is sent before the subscription stands.
        self._following.wait(1)

    def _follow_always(self) -> None:
        client = redis_client.connect_blocking(self._url, longest_s=None)
        while not self._stopping.is_set():
            try:
                self._follow(client)
            except redis.RedisError as error:
                self._following.clear()
                log.warning("hints are lost until Redis answers again: %s", error)
                self._stopping.wait(1)
        client.close()

    def _follow(self, client: "redis.Redis") -> None:
        with client.pubsub(ignore_subscribe_messages=False) as channel:
            channel.subscribe(CHANNEL)
            while not self._stopping.is_set():
                message = channel.get_message(timeout=0.5)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._following.set()
                    self._topics.tell_all()
                elif message["type"] == "message":
                    topic, _, text = message["data"].partition("\n")
                    self._topics.tell(topic, text)


def _delivery(entry: str, fields: dict[str, str]) -> Delivery:
    return Delivery(entry, fields.get("event", ""))
