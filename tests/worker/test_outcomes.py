"""Whatever the order in which workers, people and the sweeper act on a run, one outcome is recorded, once."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import booleans, integers, sampled_from

import millrace.database
from millrace import repair, runs, vault
from millrace.bus import MemoryBus
from millrace.cache import MemoryCache
from millrace.dispatch import MemoryQueue
from millrace.errors import Conflict
from millrace.models import Run
from millrace.models.run import FINAL
from millrace.objects import MemoryObjects
from millrace.services import Services
from millrace.settings import Settings
from tests.worker.support import new_script, submit
from worker.executor import MAX_ATTEMPTS

LEASE_MS = 15_000
WORKERS = ("anna", "ben", "cleo")


class OneRun(RuleBasedStateMachine):
    """A run, three workers that each believe what they last saw, a person and the sweeper."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mr-"))
        shutil.copyfile(self.template, self.folder / "m.db")
        self.database = millrace.database.connect(f"sqlite:///{self.folder}/m.db")
        self.now = 1_700_000_000_000
        self.bus = MemoryBus()
        key = vault.new_master_key()
        self.services = Services(
            Settings.from_env({}), self.database, MemoryObjects(), MemoryQueue(), self.bus,
            MemoryCache(lambda: self.now), vault.Keyring.parse(key), clock=lambda: self.now,
            new_id=self._ids().__next__,
        )  # fmt: skip
        self.believes: dict[str, int] = {}  # worker: the attempt that it thinks it holds
        self.claimed: list[int] = []
        self.seen = (0, False)  # the row's attempt, and whether it had ended, after the last step
        self.entered: list[int] = []  # attempts whose handler was entered
        self.recorded: list[str] = []  # outcomes that somebody was told are the recorded one

    def _ids(self) -> Any:
        number = 0
        while True:
            number += 1
            yield f"id-{number}"

    @initialize(taken_over=booleans())
    def accept(self, taken_over: bool) -> None:
        """Half of the histories begin where it is hardest: two workers that both believe that they have the run."""
        self.run = submit(self.services, new_script(self.services))
        self.messages = list(self.services.queue.take())  # type: ignore[attr-defined]
        if taken_over:
            self.claim("anna", 0)
            self.take_over()
            self.claim("ben", 0)

    def row(self) -> Run:
        found: Run = Run.get_by_id(self.run.id)
        return found

    def holder(self, which: int) -> tuple[str, int]:
        """One of the workers that believe that they have the run, and the attempt that they believe in."""
        believers = sorted(self.believes.items())
        return believers[which % len(believers)]

    @rule(worker=sampled_from(WORKERS), age=integers(0, 2))
    def claim(self, worker: str, age: int) -> None:
        """Any message that was ever sent may come again; the latest are the likeliest."""
        self.messages += self.services.queue.take()  # type: ignore[attr-defined]
        _, attempt = self.messages[-1 - age % len(self.messages)]
        if runs.claim(self.services, self.run.id, attempt, worker, LEASE_MS):
            assert attempt not in self.claimed, "an attempt that was claimed before"
            self.claimed.append(attempt)
            self.believes[worker] = attempt

    @precondition(lambda self: self.believes)
    @rule(which=integers(0, 2))
    def enter(self, which: int) -> None:
        """A worker that was taken over hears of it before it gets there, or is too late for all."""
        row, (_, attempt) = self.row(), self.holder(which)
        if (row.status, row.attempt) == ("running", attempt) and attempt not in self.entered:
            self.entered.append(attempt)

    @precondition(lambda self: self.believes)
    @rule(which=integers(0, 2), status=sampled_from(FINAL))
    def finish(self, which: int, status: str) -> None:
        worker, attempt = self.holder(which)
        del self.believes[worker]
        ending = runs.Ending(status, 1, result=f'"{attempt}"' if status == "succeeded" else None)
        if runs.finish(self.services, self.run, attempt, ending):
            assert attempt == self.row().attempt, "an attempt that had lost the run"
            self.recorded.append(status)

    @precondition(lambda self: self.believes)
    @rule(which=integers(0, 2))
    def release(self, which: int) -> None:
        """Only before the handler, as the executor does."""
        worker, attempt = self.holder(which)
        if attempt not in self.entered and attempt < MAX_ATTEMPTS:
            del self.believes[worker]
            self.give_back(attempt, worker)

    @precondition(lambda self: self.believes)
    @rule()
    def take_over(self) -> None:
        """Somebody gives the run to another worker; the one that had it does not hear of it."""
        row = self.row()
        if row.status == "running" and row.attempt not in self.entered and row.attempt < MAX_ATTEMPTS:
            assert self.give_back(row.attempt, row.worker)

    def give_back(self, attempt: int, worker: str) -> bool:
        """A run that was to be cancelled ends instead of going back to the queue. False: it was not this attempt's."""
        before = self.row()
        to_be_cancelled = before.cancel_requested_at is not None
        back = runs.release(self.services, self.run.id, attempt, worker)
        ended = before.status not in FINAL and self.row().status == "cancelled"
        assert not (back and to_be_cancelled)
        if ended:
            assert to_be_cancelled
            self.recorded.append("cancelled")
        return back or ended

    @precondition(lambda self: len(self.claimed) > 1)
    @rule()
    def cancel(self) -> None:
        queued = self.row().status == "queued"
        try:
            runs.cancel(self.services, self.row())
        except Conflict:
            assert self.row().status in FINAL
        else:
            if queued:
                self.recorded.append("cancelled")

    @precondition(lambda self: self.believes)
    @rule(which=integers(0, 2), seconds=sampled_from((1, 14, 16)))
    def renew_later(self, which: int, seconds: int) -> None:
        self.now += seconds * 1000
        runs.renew(self.services, [(self.run.id, self.holder(which)[1])], LEASE_MS)

    @precondition(lambda self: self.claimed)
    @rule(seconds=sampled_from((1, 16)))
    def sweep_later(self, seconds: int) -> None:
        self.now += seconds * 1000
        for lease in repair.leases():
            if lease.until < self.now and repair.fail_lost(self.services, lease):
                self.recorded.append(self.row().status)

    @invariant()
    def one_outcome(self) -> None:
        """What holds after every step."""
        row = self.row()
        final = row.status in FINAL
        assert len(self.recorded) == (1 if final else 0), self.recorded
        assert (row.attempt, final) >= self.seen, "an attempt or an end was taken back"
        self.seen = (row.attempt, final)
        if final:
            assert row.status == self.recorded[0]
        if row.status == "succeeded":
            assert row.result == f'"{row.attempt}"'
        # A handler that was entered is never followed by another one.
        assert len(self.entered) <= 1 or row.attempt == max(self.entered)
        assert not [attempt for attempt in self.entered if attempt < row.attempt], "a second execution"

    def teardown(self) -> None:
        self.database.close_all()
        shutil.rmtree(self.folder)


def test_any_order_of_claims_ends_cancels_and_takeovers_records_one_outcome(sqlite_template: Path) -> None:
    OneRun.template = sqlite_template
    run_state_machine_as_test(
        OneRun,
        settings=settings(
            max_examples=40, stateful_step_count=20, deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )  # fmt: skip
