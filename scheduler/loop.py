"""The pace: jobs that are done again and again in one thread, whatever fails."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import peewee
import schedule

from millrace import database
from millrace.errors import PlatformError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """`do` is called every `every_s` seconds; it may answer in how many seconds it wants to be called sooner."""

    name: str
    every_s: int
    do: Callable[[], float | None]


class Patience:
    """How long to wait after so many failures in a row: twice as long each time, `LONGEST_PAUSE_S` at most."""

    def __init__(self) -> None:
        self.failures = 0

    def succeeded(self) -> None:
        """The next failure is the first again."""
        self.failures = 0

    def failed(self, what: str, error: Exception) -> float:
        """Note a failure in the log; returns the seconds to wait."""
        self.failures += 1
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.failures - 1, 10))
        if isinstance(error, (PlatformError, *database.UNREACHABLE)):
            log.warning("%s has to wait %.1f s: %s", what, pause, error)
        else:
            log.error("%s failed, the next try is in %.1f s", what, pause, exc_info=error)
        return pause


class Loop:
    """Does jobs one after the other, at their pace, until `stopping` is set."""

    def __init__(self, pool: peewee.Database, jobs: Sequence[Job], stopping: threading.Event) -> None:
        self.pool = pool
        self.jobs = jobs
        self.stopping = stopping
        self.pace = schedule.Scheduler()
        self.patience = {job.name: Patience() for job in jobs}
        self.wishes: dict[str, float] = {}

    def run(self) -> None:
        """Returns when `stopping` is set and the job at hand is done."""
        self.plan()
        while not self.stopping.is_set():
            self.pace.run_pending()
            self._grant_wishes()
            self.stopping.wait(max(0.0, self.idle_seconds()))

    def plan(self) -> None:
        """Have every job done now, and from then on at its pace."""
        self.pace.clear()
        for job in self.jobs:
            planned = self.pace.every(job.every_s).seconds.do(self._attempt, job).tag(job.name)
            planned.next_run = datetime.now()

    def idle_seconds(self) -> float:
        """Until the next job. The library reckons in local time, which may be set back: then all is planned anew."""
        idle = self.pace.idle_seconds
        if idle is None or idle > LONGEST_PAUSE_S + max(job.every_s for job in self.jobs):
            log.warning("the clock was set back; all jobs are due")
            self.plan()
            return 0.0
        return float(idle)

    def _attempt(self, job: Job) -> None:
        try:
            with self.pool.connection_context():
                wish = job.do()
        except Exception as error:
            # Whatever it is, the other jobs go on, and this one is tried again at a bounded pace.
            self.wishes[job.name] = self.patience[job.name].failed(job.name, error)
            database.revive(self.pool)
            return
        self.patience[job.name].succeeded()
        if wish is not None:
            self.wishes[job.name] = min(wish, job.every_s)

    def _grant_wishes(self) -> None:
        for name, seconds in self.wishes.items():
            for planned in self.pace.get_jobs(name):
                planned.next_run = datetime.now() + timedelta(seconds=seconds)
        self.wishes.clear()
