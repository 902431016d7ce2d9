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

from millrace import fairqueue, redis_client
from millrace.errors import Unavailable

QUEUE = "runs"
ACTOR = "execute"
NAMESPACE = "millrace"

log = logging.getLogger(__name__)

class Queue(Protocol):
    """Carries a run's id and attempt to some worker: at least once, usually within 2 ms, in no strict order."""

    def send(self, run_id: str, attempt: int, workspace: str = "") -> bool:
        """Hand over. False when the queue can't be reached: the sweeper sends what is not in flight again.

        Workspaces share the workers fairly; what is sent without one is rare, and goes first. What is on its way
        already is not sent twice.
        """

    def depth(self) -> int:
        """How many messages wait for a worker. Raises Unavailable when the queue can't be reached."""

    def poisoned(self, limit: int) -> list[tuple[str, int]]:
        """Messages (run id, attempt) that killed every worker that took them, see `fairqueue`. Raises Unavailable."""

    def bury(self, run_id: str, attempt: int) -> None:
        """Forget a poisoned message: what it is of is recorded. Raises Unavailable."""


class RedisQueue:
    """The real queue."""

    def __init__(self, broker: "WakingBroker") -> None:
        self.broker = broker
        self._ids: dict[tuple[str, int], bytes] = {}

    def send(self, run_id: str, attempt: int, workspace: str = "") -> bool:
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=QUEUE, actor_name=ACTOR, args=(run_id, attempt), kwargs={},
            options={"redis_message_id": f"{workspace}/{run_id}/{attempt}"},
        )  # fmt: skip
        try:
            self.broker.enqueue(message)
        except (redis.RedisError, dramatiq.BrokerConnectionError) as error:
            # Also a server that is full or read-only: the run is in the database, and that is what was promised.
            log.warning("run not sent, the sweeper will: %s", error, extra={"run": run_id})
            return False
        return True

    def depth(self) -> int:
        return int(self._ask("depth"))

    def poisoned(self, limit: int) -> list[tuple[str, int]]:
        found: list[bytes] = self._ask("poisoned", limit)
        self._ids = {_parsed(each): each for each in found}
        return list(self._ids)

    def bury(self, run_id: str, attempt: int) -> None:
        self._ask("bury", self._ids[run_id, attempt])

    def _ask(self, command: str, *arguments: object) -> Any:
        try:
            return getattr(self.broker, f"do_{command}")(QUEUE, *arguments)
        except redis.RedisError as error:
            raise Unavailable(f"Redis does not tell of the queue: {error}") from error


def _parsed(message_id: bytes) -> tuple[str, int]:
    _, run_id, attempt = message_id.decode().split("/")
    return run_id, int(attempt)


class MemoryQueue:
    """A queue for tests: keeps what was sent, in order, until somebody takes it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.poison: list[tuple[str, int]] = []

    def send(self, run_id: str, attempt: int, workspace: str = "") -> bool:
        self.sent.append((run_id, attempt))
        return True

    def depth(self) -> int:
        return len(self.sent)

    def poisoned(self, limit: int) -> list[tuple[str, int]]:
        return self.poison[:limit]

    def bury(self, run_id: str, attempt: int) -> None:
        self.poison.remove((run_id, attempt))

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
            heartbeat_timeout=15_000,  # what a dead worker had fetched returns so much later, see `fairqueue`
            maintenance_chance=0,
        )
        self.scripts["dispatch"] = self.client.register_script(fairqueue.SCRIPT)
        self.listener = WakeListener(url)
        self.draining = threading.Event()
        self.declare_queue(QUEUE)

    @property
    def consumer_class(self) -> type[WakingConsumer]:
        return WakingConsumer

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """As the stock one, but the message keeps its own id: it is known by what it is of. Nothing is delayed."""
        self.emit_before("enqueue", message, delay)
        self.do_enqueue(message.queue_name, message.options["redis_message_id"], message.encode())
        self.emit_after("enqueue", message, delay)
        return message

    def drain(self) -> None:
        """Fetch no more runs. The queue for delays, which stays empty, is still read: that is the heartbeat."""
        self.draining.set()
        self.listener.wake_all()

    def close(self) -> None:
        self.listener.stop()
        super().close()


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
