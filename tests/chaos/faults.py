"""What goes wrong: every kind at least once, in an order that the seed decides.

One thread does it all, since servers end with the thread that started them. Outages end before the next fault
begins; a worker that was stopped sleeps through several.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tests.chaos.rig import Rig, children
from tests.platform import wait_until

PAUSE_S = 27.0  # longer than a lease (15 s), and than the sweeper watches one that lapsed (8 s)
BUSY_S = 20.0  # within which some worker carries a run, unless everything stands still


@dataclass(frozen=True)
class Fault:
    """`begin` does it. With `end` it lasts so many seconds; then that undoes it."""

    name: str
    begin: Callable[[], None]
    end: Callable[[], None] | None = None
    lasts_s: float = 0.0


@dataclass(frozen=True)
class Pace:
    """How long things last, in seconds."""

    least_gap_s: float
    most_gap_s: float
    store_down_s: float
    store_full_s: float
    database_down_s: float


LONG = Pace(1.5, 4.0, store_down_s=20.0, store_full_s=8.0, database_down_s=6.0)
SHORT = Pace(0.3, 1.2, store_down_s=5.0, store_full_s=3.0, database_down_s=2.0)


class Faults:
    """Does them and keeps the list of what was done."""

    def __init__(self, rig: Rig, seed: int, pace: Pace) -> None:
        self.rig = rig
        self.pace = pace
        self.chance = random.Random(f"{seed} faults")
        self.done: Counter[str] = Counter()
        self.began = time.monotonic()
        self.diary: list[str] = []
        self._sleepers: list[tuple[float, int]] = []

    def kinds(self) -> list[Fault]:
        """All of them, but for the pause, which goes on beside the others."""
        rig, pace = self.rig, self.pace
        return [
            Fault("worker killed", self._kill_worker),
            Fault("jails killed", self._kill_jails),
            Fault("launcher killed", lambda: self._kill("-m", "sandbox.launcher")),
            Fault("web killed", lambda: self._kill("-m", "web")),
            Fault("scheduler killed", lambda: self._kill("-m", "scheduler")),
            Fault("redis killed, back empty", self._lose_redis),
            Fault("S3 down", rig.s3.stop, rig.s3.start, pace.store_down_s),
            Fault("disk of S3 full", rig.s3.disk.fill, rig.s3.disk.free, pace.store_full_s),
            Fault("PostgreSQL down", rig.postgres.stop, rig.postgres.start, pace.database_down_s),
        ]  # fmt: skip

    def rounds(self, seconds: float) -> None:
        """Whole rounds until the time is over: one at least, with every kind of fault in it."""
        deadline = time.monotonic() + seconds
        self.began = time.monotonic()
        try:
            self._round(float("inf"))
            while time.monotonic() < deadline:
                self._round(deadline)
            while self._sleepers:
                self._wait(0.1)
        finally:
            self._wake(float("inf"))

    def _round(self, deadline: float) -> None:
        kinds = self.kinds()
        self.chance.shuffle(kinds)
        self._note("worker paused past its lease")
        self._pause_worker()
        for fault in kinds:
            self._wait(self.chance.uniform(self.pace.least_gap_s, self.pace.most_gap_s))
            if time.monotonic() > deadline:
                return
            self._note(fault.name)
            fault.begin()
            if fault.end is not None:
                self._wait(fault.lasts_s)
                fault.end()
                self.diary.append(f"{self._clock()} {fault.name}: over")

    def _note(self, name: str) -> None:
        self.done[name] += 1
        self.diary.append(f"{self._clock()} {name}")

    def _clock(self) -> str:
        return f"{time.strftime('%H:%M:%S', time.gmtime())} (+{time.monotonic() - self.began:5.1f} s)"

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._wake(time.monotonic())
            time.sleep(min(0.1, left))

    def _wake(self, now: float) -> None:
        for until, pid in [each for each in self._sleepers if each[0] <= now]:
            self._sleepers.remove((until, pid))
            with suppress(ProcessLookupError):  # it may have been killed in its sleep
                os.kill(pid, signal.SIGCONT)
            self.diary.append(f"{self._clock()} worker {pid} goes on")

    def _kill(self, *words: str) -> None:
        for pid in self.rig.processes(*words):
            _kill(pid)

    def _kill_worker(self) -> None:
        _kill(self._busy_worker())

    def _pause_worker(self) -> None:
        pid = self._busy_worker()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        self._sleepers.append((time.monotonic() + PAUSE_S, pid))

    def _busy_worker(self) -> int:
        """One that carries a run right now and is awake."""
        found: list[int] = []

        def look() -> bool:
            running = self.rig.rows("SELECT DISTINCT worker FROM run WHERE status = 'running' AND worker IS NOT NULL")
            busy = {int(row["worker"].rsplit(":", 1)[1]) for row in running}
            asleep = {pid for _, pid in self._sleepers}
            found[:] = sorted((busy - asleep) & self._workers())
            return bool(found)

        wait_until(look, BUSY_S + PAUSE_S, self.rig.platform.output)
        return self.chance.choice(found)

    def _workers(self) -> set[int]:
        return {child for parent in self.rig.processes("-m", "worker") for child in children(parent)}

    def _kill_jails(self) -> None:
        wait_until(self.rig.jails, BUSY_S, self.rig.platform.output)
        for pid in self.rig.jails():
            _kill(pid)

    def _lose_redis(self) -> None:
        process = self.rig.valkey.process
        assert process is not None
        process.kill()
        process.wait()
        self.rig.valkey.start()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
