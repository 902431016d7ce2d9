"""The queue: which broker, which names, and how a run is sent to the workers.

Dramatiq on Redis moves the messages. Its stock consumer polls with a growing pause, so the first run after an
idle time would wait up to a second; here a consumer sleeps on an event that the next enqueue sets.
"""

import logging
import threading
from collections.abc import Iterable
from typing import Any, Protocol

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer

from millrace import redis_client
from millrace.errors import Unavailable

QUEUE = "runs"
ACTOR = "execute"
NAMESPACE = "millrace"

log = logging.getLogger(__name__)

# Runs before the stock script, in the same atomic call: only the change from empty to filled needs a wake-up,
# since a consumer sleeps only after it found the list empty or its places full.
_WAKE = b"""
if (ARGV[1] == "enqueue" or ARGV[1] == "requeue") and redis.call("llen", KEYS[1] .. ":" .. ARGV[3]) == 0 then
    redis.call("publish", KEYS[1] .. ":wake:" .. ARGV[3], "1")
end
"""


class Queue(Protocol):
    """Carries a run's id and attempt to some worker: at least once, usually within 2 ms, in no strict order."""

    def send(self, run_id: str, attempt: int) -> bool:
        """Hand over. False when the queue can't be reached: the sweeper sends what is not in flight again."""

    def depth(self) -> int:
        """How many messages wait for a worker. Raises Unavailable when the queue can't be reached."""


class RedisQueue:
    """The real queue."""

    def __init__(self, broker: RedisBroker) -> None:
        self.broker = broker

    def send(self, run_id: str, attempt: int) -> bool:
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=QUEUE, actor_name=ACTOR, args=(run_id, attempt), kwargs={}, options={}
        )
        try:
            self.broker.enqueue(message)
        except (redis.RedisError, dramatiq.BrokerConnectionError) as error:
            # Also a server that is full or read-only: the run is in the database, and that is what was promised.
            log.warning("run not sent, the sweeper will: %s", error, extra={"run": run_id})
            return False
        return True

    def depth(self) -> int:
        try:
            return int(self.broker.client.llen(f"{NAMESPACE}:{QUEUE}"))
        except redis.RedisError as error:
            raise Unavailable(f"Redis does not tell how long the queue is: {error}") from error


class MemoryQueue:
    """A queue for tests: keeps what was sent, in order, until somebody takes it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []

    def send(self, run_id: str, attempt: int) -> bool:
        self.sent.append((run_id, attempt))
        return True

    def depth(self) -> int:
        return len(self.sent)

    def take(self) -> list[tuple[str, int]]:
        """Everything sent since the last call."""
        taken, self.sent = self.sent, []
        return taken


class WakingConsumer(_RedisConsumer):
    """The stock consumer, but it pauses on an event instead of a blind sleep."""

    def __init__(self, broker: "WakingBroker", queue_name: str, prefetch: int, timeout: int) -> None:
        # With no time to back off the stock loop never sleeps by itself.
        super().__init__(broker, queue_name, prefetch, timeout=0)
        self.pause = timeout / 1000
        self.woken = threading.Event()
        broker.listener.add(queue_name, self.woken)

    def __next__(self) -> Any:
        self.woken.clear()  # before the fetch, so that an enqueue after it is never missed
        if self.broker.draining.is_set() and self.queue_name == QUEUE:
            self._give_back()
            message = None
        else:
            message = super().__next__()
        if message is None:
            self.woken.wait(self.pause)
        return message

    def _give_back(self) -> None:
        """Return what was fetched and not begun; the stock consumer forgets these when it is closed."""
        fetched, self.message_cache = [dramatiq.Message.decode(data) for data in self.message_cache], []
        self.requeue(fetched)

    def requeue(self, messages: Iterable[Any]) -> None:
        try:
            super().requeue(messages)
        except redis.RedisError as error:
            raise dramatiq.ConnectionClosed(error) from None  # the one that Dramatiq expects while it stops

    def ack(self, message: Any) -> None:
        super().ack(message)
        self.woken.set()  # a place is free

    def nack(self, message: Any) -> None:
        super().nack(message)
        self.woken.set()

    def close(self) -> None:
        self.broker.listener.remove(self.queue_name, self.woken)
        self.woken.set()
        super().close()


class WakingBroker(RedisBroker):
    """RedisBroker whose idle consumers start within milliseconds; a lost wake-up costs one poll, no message."""

    def __init__(self, url: str, *, middleware: Iterable[dramatiq.Middleware] = ()) -> None:
        super().__init__(
            client=redis_client.connect(url, text=False),  # messages are decoded by Dramatiq
            namespace=NAMESPACE,
            middleware=list(middleware),
            # Messages of a dead worker return within about 10 s of traffic instead of minutes by chance.
            heartbeat_timeout=15_000,
            maintenance_chance=20_000,
        )
        self.scripts["dispatch"] = self.client.register_script(_WAKE + _stock_dispatch(self))
        self.listener = WakeListener(url)
        self.draining = threading.Event()
        self.declare_queue(QUEUE)

    @property
    def consumer_class(self) -> type[WakingConsumer]:
        return WakingConsumer

    def drain(self) -> None:
        """Fetch no more runs. The queue for delays, which stays empty, is still read: that is the heartbeat."""
        self.draining.set()
        self.listener.wake_all()

    def close(self) -> None:
        self.listener.stop()
        super().close()


def _stock_dispatch(broker: RedisBroker) -> bytes:
    script = broker.scripts["dispatch"].script
    return script.encode() if isinstance(script, str) else bytes(script)


class WakeListener:
    """One thread per process that turns wake-up messages into set events; starts with the first consumer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.Lock()
        self.events: dict[str, list[threading.Event]] = {}
        self.thread: threading.Thread | None = None
        self.stopping = threading.Event()

    def add(self, queue_name: str, event: threading.Event) -> None:
        with self.lock:
            self.events.setdefault(queue_name, []).append(event)
            if self.thread is None:
                self.thread = threading.Thread(target=self._listen, name="wake-listener", daemon=True)
                self.thread.start()

    def remove(self, queue_name: str, event: threading.Event) -> None:
        with self.lock:
            waiting = self.events.get(queue_name, [])
            if event in waiting:
                waiting.remove(event)

    def wake_all(self) -> None:
        """Set the event of every consumer."""
        self._set(None)

    def stop(self) -> None:
        """End the thread within a second."""
        self.stopping.set()
        if self.thread is not None:
            self.thread.join(timeout=2)

    def _listen(self) -> None:
        client = redis_client.connect_blocking(self.url)
        while not self.stopping.is_set():
            try:
                self._follow(client)
            except (redis.ConnectionError, redis.TimeoutError) as error:
                log.warning("wake-ups are lost until Redis answers again, polling meanwhile: %s", error)
                self.stopping.wait(1)
        client.close()

    def _follow(self, client: "redis.Redis") -> None:
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.psubscribe(f"{NAMESPACE}:wake:*")
            self.wake_all()  # whatever came while nobody listened
            while not self.stopping.is_set():
                message = channel.get_message(timeout=0.5)
                if message is not None:
                    self._set(message["channel"].rsplit(":", 1)[1])

    def _set(self, queue_name: str | None) -> None:
        with self.lock:
            names = list(self.events) if queue_name is None else [queue_name]
            for event in [each for name in names for each in self.events.get(name, [])]:
                event.set()
