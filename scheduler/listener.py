"""Events: whatever is announced on the bus is routed to the scripts that subscribed."""

import logging
import os
import socket
import threading
import time
from collections import deque

from millrace import database, events, metrics, triggers
from millrace.bus import Delivery
from millrace.errors import PlatformError
from millrace.services import Services
from scheduler.loop import Patience

WAIT_MS = 1_000
RECLAIM_EVERY_S = 3.0
HELD_TOO_LONG_MS = 12_000  # longer than a wait for a locked row; what is routed twice starts nothing twice

log = logging.getLogger(__name__)


class Listener:
    """Receives and routes in one thread until `stopping` is set."""

    def __init__(self, services: Services, stopping: threading.Event) -> None:
        self.services = services
        self.stopping = stopping
        self.consumer = f"{socket.gethostname()}-{os.getpid()}"
        self.inbox: deque[Delivery] = deque()  # received, and not done yet
        self.patience = Patience()
        self.reclaim_at = 0.0

    def run(self) -> None:
        """Returns within `WAIT_MS` after `stopping` is set."""
        while not self.stopping.is_set():
            try:
                self.step()
            except Exception as error:
                # The stores come back some time; what was received stays in the inbox until then.
                pause = self.patience.failed("event routing", error)
                database.revive(self.services.database)
                self.stopping.wait(pause)
            else:
                self.patience.succeeded()

    def step(self, wait_ms: int = WAIT_MS) -> None:
        """Receive once, and route all that is there."""
        if time.monotonic() >= self.reclaim_at:
            self.inbox += self.services.bus.reclaim(self.consumer, HELD_TOO_LONG_MS)
            self.reclaim_at = time.monotonic() + RECLAIM_EVERY_S
        if not self.inbox:
            self.inbox += self.services.bus.receive(self.consumer, wait_ms)
        while self.inbox and not self.stopping.is_set():
            if self._route(self.inbox[0].event_id):
                self.services.bus.done(self.inbox[0])
            self.inbox.popleft()

    def _route(self, event_id: str) -> bool:
        """Start what the event is for. False: it stays on the bus, and is taken up again after a while."""
        with self.services.database.connection_context():
            try:
                started = triggers.route(self.services, event_id)
            except (*database.UNREACHABLE, PlatformError) as error:
                if not database.is_contended(error):
                    raise
                log.warning("an event is routed later, a script is locked: %s", error, extra={"event": event_id})
                return False
            except Exception as error:
                # One event that we cannot handle must not keep the others from being routed.
                log.exception("an event was not routed", extra={"event": event_id})
                metrics.events_routed().labels("failed").inc()
                return events.note_failure(self.services, event_id, f"{type(error).__name__} in the router")
        metrics.events_routed().labels("routed").inc()
        if started:
            log.info("event started %d runs", started, extra={"event": event_id})
        return True
