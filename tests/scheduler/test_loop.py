"""The pace of jobs."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator

import peewee
import pytest
import time_machine

from millrace import database as databases
from millrace.errors import Unavailable
from scheduler.loop import LONGEST_PAUSE_S, Job, Loop, Patience
from tests.world import until


@pytest.fixture
def database_kind() -> str:
    """No job here has SQL."""
    return "sqlite"


@pytest.fixture
def begin(database: peewee.Database) -> Iterator[Callable[..., Loop]]:
    """Runs a loop in a thread until the test is over."""
    stopping, threads = threading.Event(), []

    def run(*jobs: Job) -> Loop:
        loop = Loop(database, jobs, stopping)
        threads.append(threading.Thread(target=loop.run))
        threads[-1].start()
        return loop

    yield run
    stopping.set()
    for thread in threads:
        thread.join(2)
        assert not thread.is_alive()


def test_every_job_is_done_at_once_and_then_at_its_pace(begin: Callable[..., Loop]) -> None:
    calls: list[float] = []
    begin(Job("a", 1, lambda: calls.append(time.monotonic())))
    until(lambda: len(calls) == 3)
    assert calls[2] - calls[0] > 1.9


def test_a_job_may_ask_to_be_called_sooner_but_never_later(begin: Callable[..., Loop]) -> None:
    soon, late = [], []

    def sooner() -> float:
        soon.append(time.monotonic())
        return 0.05

    def later() -> float:
        late.append(time.monotonic())
        return 3600.0

    begin(Job("soon", 60, sooner), Job("late", 1, later))
    until(lambda: len(soon) > 10 and len(late) > 1)
    assert min(after - before for before, after in itertools.pairwise(soon)) >= 0.04


@pytest.mark.parametrize("error", [
    RuntimeError("a bug"), Unavailable("Redis does not answer"), peewee.OperationalError("gone"),
    databases.MaxConnectionsExceeded("full"),
])
def test_a_job_that_fails_is_tried_again_and_keeps_no_other_waiting(
    begin: Callable[..., Loop], error: Exception
) -> None:
    failures, good = [], []

    def fail() -> None:
        failures.append(1)
        if len(failures) < 3:
            raise error

    begin(Job("bad", 1, fail), Job("good", 1, lambda: good.append(1)))
    until(lambda: len(failures) > 3 and len(good) > 3)


def test_failures_in_a_row_are_tried_at_a_bounded_pace(caplog: pytest.LogCaptureFixture) -> None:
    patience = Patience()
    pauses = [patience.failed("it", Unavailable("away")) for _ in range(2000)]
    assert pauses[:6] == [0.5, 1, 2, 4, 8, LONGEST_PAUSE_S]
    assert set(pauses[6:]) == {LONGEST_PAUSE_S}
    patience.succeeded()
    assert patience.failed("it", Unavailable("away")) == 0.5


def test_a_bug_is_logged_with_its_traceback_and_an_absent_store_without(caplog: pytest.LogCaptureFixture) -> None:
    patience = Patience()
    with caplog.at_level(logging.WARNING):
        patience.failed("it", Unavailable("away"))
        patience.failed("it", ZeroDivisionError())
    assert [(record.levelname, bool(record.exc_info)) for record in caplog.records] == [
        ("WARNING", False), ("ERROR", True),
    ]


def test_a_clock_set_back_makes_all_due_and_one_set_ahead_harms_nothing(database: peewee.Database) -> None:
    with time_machine.travel("2027-03-28T03:00:00Z", tick=False) as traveller:
        loop = Loop(database, [Job("a", 2, lambda: None)], threading.Event())
        loop.plan()
        loop.pace.run_pending()
        assert loop.idle_seconds() == 2.0
        traveller.shift(-3600)
        assert loop.idle_seconds() == 0.0
        loop.pace.run_pending()
        assert loop.idle_seconds() == 2.0
        traveller.shift(365 * 86400)
        assert loop.idle_seconds() < 0
        loop.pace.run_pending()
        assert loop.idle_seconds() == 2.0


def test_a_job_has_a_connection_and_the_loop_keeps_none(
    begin: Callable[..., Loop], database: peewee.Database
) -> None:
    seen: list[bool] = []
    begin(Job("a", 60, lambda: seen.append(not database.is_closed())))
    until(lambda: seen)
    assert seen == [True]
    until(lambda: len(database._in_use) == 1)  # type: ignore[attr-defined]  # this test's own
