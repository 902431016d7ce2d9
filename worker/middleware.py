"""What surrounds every message, and how the process stops.

None of Dramatiq's own middleware is used: runs are not retried by the queue, and no exception thrown into a
thread reaches a jail, so retries, ages and time limits are for the database, the sweeper and the sandbox.
"""

import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import dramatiq
from dramatiq import Broker, MessageProxy, Worker
from dramatiq.common import iter_queue

from millrace.dispatch import QUEUE, WakingBroker
from millrace.observability import context
from millrace.services import Services
from worker.executor import Executor
from worker.family import GRACE_S
from worker.keeper import Keeper
from worker.repeated import Repeated
from worker.runlog import Shipper

log = logging.getLogger(__name__)


class AroundMessages(dramatiq.Middleware):
    """A database connection, and the run on every line that is logged."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._thread = threading.local()

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Enter."""
        stack = self._thread.stack = ExitStack()
        run_id, attempt = message.args
        stack.enter_context(context(run=str(run_id), attempt=str(attempt)))
        stack.callback(self._services.database.close)
        # Opened here if it can be; a database that is away is for the executor, which knows what to do then.
        self._services.database.connect(reuse_if_open=True)

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None,
        exception: BaseException | None = None,
    ) -> None:  # fmt: skip
        """Leave."""
        self._thread.stack.close()

    after_skip_message = after_process_message


class Lifetime(dramatiq.Middleware):
    """Takes no more messages than there are threads; ends with every run recorded or handed back."""

    def __init__(
        self, executor: Executor, keeper: Keeper, shipper: Shipper, repeated: Sequence[Repeated] = (), *,
        grace_s: float = GRACE_S,
    ) -> None:  # fmt: skip
        self._executor = executor
        self._keeper = keeper
        self._shipper = shipper
        self._repeated = repeated
        self._grace_s = grace_s
        self._timer: threading.Timer | None = None

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """A message that waits behind a long run might run elsewhere at once: none is fetched for later."""
        worker.queue_prefetch = worker.worker_threads

    def before_worker_shutdown(self, broker: WakingBroker, worker: Worker) -> None:  # type: ignore[override]
        """No new message; handlers that run get the grace, and what remains then is ended and recorded."""
        log.info("stopping: running handlers have %.0f s", self._grace_s)
        broker.drain()
        self._executor.stop()
        self._timer = threading.Timer(self._grace_s, self._executor.end_all)
        self._timer.daemon = True
        self._timer.start()
        self._requeue(worker)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Every thread has ended, or its time is over."""
        if self._timer is not None:
            self._timer.cancel()
        # All are told before one is waited for: together they have little more than a second.
        for each in self._repeated:
            each.stop()
        self._keeper.close()
        self._shipper.close()
        for each in reversed(self._repeated):
            each.close()

    def _requeue(self, worker: Worker) -> None:
        """At once and not, as Dramatiq would, after the grace: another worker may be idle."""
        begun_by_nobody = [item.message for item in iter_queue(worker.work_queue)]
        if begun_by_nobody and QUEUE in worker.consumers:
            try:
                worker.consumers[QUEUE].requeue_messages(begun_by_nobody)
            except dramatiq.BrokerConnectionError as error:
                log.warning("%d messages are left to the sweeper: %s", len(begun_by_nobody), error)
