"""What one run costs in statements and commands, from its acceptance to its record.

Not a measure of time: these are the round trips, and each one that is added is paid by every run.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from millrace.dispatch import QUEUE
from millrace.services import Services
from millrace.wiring import Wired
from tests.worker.support import FakeJails, new_script, reload, submit, worker_on

SUBMIT = 4  # the script's row, who waits, who runs, the run's row
CARRY = 6  # gather, claim; at the end the script's row, the run's, who waits, who listens
REDIS = 4  # send, fetch, acknowledge; tell whoever waits


class Statements(logging.Handler):
    """What the database was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        sql = str(record.args[0] if isinstance(record.args, tuple) and record.args else record.msg)
        self.seen.append(sql)


@contextmanager
def counted() -> Iterator[list[str]]:
    """The statements of a block."""
    logger, handler = logging.getLogger("peewee"), Statements()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler.seen
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def test_a_run_costs_few_statements(local: Services) -> None:
    script = new_script(local)
    with worker_on(local, FakeJails()) as executor:
        executor.execute(submit(local, script).id, 1)  # a source that is not in memory yet
        with counted() as submitted:
            run = submit(local, script)
        with counted() as carried:
            executor.execute(run.id, 1)
    assert reload(run).status == "succeeded"
    assert len(_plain(submitted)) <= SUBMIT, submitted
    assert len(_plain(carried)) <= CARRY, carried


def _plain(statements: list[str]) -> list[str]:
    return [each for each in statements if each.split()[0].strip("('") in ("SELECT", "INSERT", "UPDATE", "DELETE")]


def test_an_idle_worker_asks_the_database_nothing(local: Services) -> None:
    with worker_on(local, FakeJails(), look_s=0.01, renew_s=0.01) as executor:
        executor.execute(submit(local, new_script(local)).id, 1)
        with counted() as idle:
            executor._keeper._thread.join(0.2)
    assert idle == []


def test_a_run_costs_four_commands_of_redis(wired: Wired, redis_url: str) -> None:
    script = new_script(wired.services)
    consumer = wired.broker.consume(QUEUE, prefetch=1, timeout=1000)

    def once() -> None:
        run = submit(wired.services, script)
        message = next(consumer)
        assert message is not None
        executor.execute(*message.args)
        consumer.ack(message)
        assert reload(run).status == "succeeded"

    with worker_on(wired.services, FakeJails()) as executor:
        once()  # scripts are loaded, connections made
        with redis.Redis.from_url(redis_url) as client, client.monitor() as monitor:
            once()
            client.echo("end")
            seen = []
            while not (command := monitor.next_command())["command"].startswith("ECHO"):
                if command["client_type"] != "lua":
                    seen.append(command["command"].split()[0])
    seen = [name for name in seen if name not in ("HELLO", "CLIENT")]  # of the connection that says "end"
    consumer.close()
    assert len(seen) <= REDIS, seen
