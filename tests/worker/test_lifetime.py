"""A worker within the test: Dramatiq's threads on the real broker, with jails that do as they are told."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace

import pytest
import redis
from dramatiq import MessageProxy, Worker

from millrace import runs
from millrace.dispatch import QUEUE
from millrace.models import Run
from millrace.services import Services
from millrace.wiring import Wired
from sandbox.job import Job, Outcome, Sink
from tests.worker.support import (
    FakeJails,
    NoDatabases,
    eventually,
    new_script,
    outcome,
    reload,
    submit,
    until_cancelled,
)
from worker import actors
from worker.executor import Executor
from worker.keeper import Keeper
from worker.middleware import AroundMessages, Lifetime
from worker.runlog import Shipper


@pytest.fixture
def database_kind() -> str:
    """The queue is what is tested."""
    return "sqlite"


Starter = Callable[..., AbstractContextManager[Worker]]


@pytest.fixture
def start(wired: Wired) -> Iterator[Starter]:
    """Starts a worker process's threads; leaving the block stops it as SIGTERM does."""

    @contextmanager
    def started(jails: FakeJails, *, threads: int = 2, grace_s: float = 10.0) -> Iterator[Worker]:
        keeper, shipper = Keeper(wired.services, worker="test-worker"), Shipper()
        executor = Executor(wired.services, jails, keeper, shipper, NoDatabases())
        wired.broker.add_middleware(AroundMessages(wired.services))
        wired.broker.add_middleware(Lifetime(executor, keeper, shipper, grace_s=grace_s))
        actors.declare(wired.broker, executor)
        worker = Worker(wired.broker, worker_threads=threads, worker_timeout=100)
        worker.start()
        try:
            yield worker
        finally:
            worker.stop(timeout=20_000)

    yield started


def messages(services: Services) -> int:
    """How many messages wait in Redis."""
    return services.queue.depth()


def test_a_message_makes_a_run(services: Services, start: Starter) -> None:
    with start(FakeJails()):
        run = submit(services, new_script(services))
        assert runs.await_end(services, run.id, 15).status == "succeeded"
    assert messages(services) == 0


def test_a_message_that_comes_again_after_the_end_does_nothing(services: Services, start: Starter) -> None:
    jails = FakeJails()
    script = new_script(services)
    with start(jails):
        run = submit(services, script)
        runs.await_end(services, run.id, 15)
        completed = reload(run).completed_at
        services.queue.send(run.id, 1)
        services.queue.send(run.id, 2)
        after = submit(services, script)
        assert runs.await_end(services, after.id, 15).status == "succeeded"
        eventually(lambda: messages(services) == 0)
    assert [job.run_id for job in jails.jobs] == [run.id, after.id]
    assert reload(run).completed_at == completed


def test_no_more_messages_are_taken_than_there_are_threads(services: Services, start: Starter) -> None:
    release = threading.Event()

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        assert release.wait(15)
        return outcome()

    jails = FakeJails(behave)
    with start(jails, threads=2):
        script = new_script(services)
        accepted = [submit(services, script) for _ in range(5)]
        eventually(lambda: len(jails.jobs) == 2)
        assert messages(services) == 3
        release.set()
        assert {runs.await_end(services, run.id, 15).status for run in accepted} == {"succeeded"}


def test_a_tenant_with_a_single_run_waits_for_one_of_a_busy_tenants_runs_to_end(
    services: Services, start: Starter
) -> None:
    """The busy one has as many scripts as it likes: its places do not count, only the workers that it takes."""
    begun: queue.Queue[str] = queue.Queue()
    go_on = threading.Semaphore(0)

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        begun.put(job.run_id)
        assert go_on.acquire(timeout=30)
        return outcome()

    with start(FakeJails(behave), threads=2):
        for number in range(10):
            script = new_script(services, slug=f"busy-{number}", max_concurrent_runs=100)
            for _ in range(20):
                submit(services, script)
        taken = {begun.get(timeout=15) for _ in range(2)}
        quiet = new_script(services, owner="quiet")
        single = runs.submit(services, runs.Order("quiet", quiet.uuid, None, "api")).run
        go_on.release()
        assert begun.get(timeout=15) == single.id not in taken
        for _ in range(300):
            go_on.release()


def test_after_the_stop_no_message_is_begun_and_what_runs_may_end(services: Services, start: Starter) -> None:
    release = threading.Event()

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        assert release.wait(15)
        return outcome()

    jails = FakeJails(behave)
    script = new_script(services)
    with start(jails, threads=1) as worker:
        first, second = submit(services, script), submit(services, script)
        eventually(lambda: len(jails.jobs) == 1)
        stopping = threading.Thread(target=worker.stop, kwargs={"timeout": 20_000})
        stopping.start()
        eventually(worker.broker.draining.is_set)  # type: ignore[attr-defined]
        third = submit(services, script)
        release.set()
        stopping.join(20)
        assert not stopping.is_alive()
    assert [reload(run).status for run in (first, second, third)] == ["succeeded", "queued", "queued"]
    assert messages(services) == 2
    assert len(jails.jobs) == 1


def test_what_runs_longer_than_the_grace_is_recorded_as_stopped(services: Services, start: Starter) -> None:
    with start(FakeJails(until_cancelled), grace_s=0.2):
        run = submit(services, new_script(services))
        eventually(lambda: reload(run).status == "running")
    done = reload(run)
    assert (done.status, done.error_code) == ("failed", "WORKER_LOST")
    assert messages(services) == 0


def test_an_idle_worker_is_woken_and_does_not_wait_for_its_next_look(services: Services, start: Starter) -> None:
    with start(FakeJails()) as worker:
        script = new_script(services)
        consumer = worker.consumers[QUEUE].consumer
        assert consumer is not None
        consumer.pause = 3600  # type: ignore[attr-defined]  # without a wake-up this would be the next look
        for _ in range(5):
            run = submit(services, script)
            assert runs.await_end(services, run.id, 10).status == "succeeded"
        consumer.pause = 0.1  # type: ignore[attr-defined]
        consumer.woken.set()  # type: ignore[attr-defined]


def test_the_threads_give_their_database_connections_back(services: Services, wired: Wired, start: Starter) -> None:
    with start(FakeJails(), threads=3):
        script = new_script(services)
        accepted = [submit(services, script) for _ in range(10)]
        for run in accepted:
            runs.await_end(services, run.id, 15)
        eventually(lambda: messages(services) == 0)
        eventually(lambda: len(wired.services.database._in_use) <= 1)  # type: ignore[attr-defined]
    assert Run.select().where(Run.status == "succeeded").count() == 10


def test_what_runs_gets_its_grace_and_its_end_though_redis_is_away(
    services: Services, wired: Wired, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise redis.ConnectionError("connection refused")

    with start(FakeJails(until_cancelled), grace_s=0.2):
        run = submit(services, new_script(services))
        eventually(lambda: reload(run).status == "running")
        message = MessageProxy(wired.broker.get_actor("execute").message("another", 1).copy(options={
            "redis_message_id": "1"
        }))
        monkeypatch.setattr("worker.middleware.iter_queue", lambda _queue: [SimpleNamespace(message=message)])
        monkeypatch.setattr(wired.broker, "do_requeue", away)
    assert reload(run).error_code == "WORKER_LOST"
