"""Messages to method calls, a line each."""

import dramatiq

from millrace import dispatch
from worker.executor import Executor


def declare(broker: dramatiq.Broker, executor: Executor) -> None:
    """Make the broker's messages reach this executor."""

    @dramatiq.actor(broker=broker, actor_name=dispatch.ACTOR, queue_name=dispatch.QUEUE)
    def execute(run_id: str, attempt: int) -> None:
        executor.execute(run_id, attempt)
