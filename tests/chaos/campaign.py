"""One whole round: a load, faults, quiet, and the comparison of the books."""

import time
from collections import Counter
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.chaos import judge, rig
from tests.chaos.faults import Faults, Pace
from tests.chaos.load import Load
from tests.platform import stop_platform, wait_until

WARM_UP_S = 2.0  # of load before the first fault
QUIET_S = 150.0  # more than all leases, pauses and sweeps together
LEFT_S = 15.0
_Left = TypeVar("_Left", bound=Sized)


@dataclass
class Report:
    """What was done to the platform, and what became of it."""

    seed: int
    faults: Counter[str]
    tries: Counter[str]
    promises: Counter[str]
    verdict: judge.Verdict
    repairs: dict[str, float]
    diary: list[str] = field(default_factory=list)

    def table(self) -> str:
        """For a person."""
        lines = [f"chaos, seed {self.seed}"]
        for title, rows in (
            ("faults", self.faults), ("what clients heard", self.tries), ("accepted", self.promises),
            ("runs", {f"{trigger}: {end}": n for (trigger, end), n in sorted(self.verdict.runs.items())}),
            ("tried again", {"attempts before the last": self.verdict.retries}), ("logs", self.verdict.logs),
            ("counted by the platform", self.repairs),
        ):  # fmt: skip
            lines += ["", title, *(f"  {name:<58} {count:>7g}" for name, count in rows.items())]
        lines += ["", f"problems: {len(self.verdict.problems)}", *(f"  {each}" for each in self.verdict.problems)]
        return "\n".join(lines)


def run(folder: Path, seconds: float, seed: int, pace: Pace) -> Report:
    """At least one round of all faults, and rounds until the time is over. What breaks a promise is in the report.

    The load goes on for a few seconds more than the faults.
    """
    with rig.start(folder) as started:
        load, faults = Load(started, seed), Faults(started, seed, pace)
        load.start()
        try:
            time.sleep(WARM_UP_S)
            faults.rounds(seconds)
        finally:
            load.stop()
        wait_until(lambda: not load.overdue(), QUIET_S, started.platform.output)
        load.stop_schedules()
        unrest = _settle(lambda: judge.unrest(started), QUIET_S)
        verdict = judge.compare(started, load)
        verdict.problems += [f"not quiet within {QUIET_S:.0f} s: {unrest}"] if unrest else []
        repairs = {name: count for name, count in judge.metrics(started).items()
                   if name.startswith(("millrace_repairs_total", "millrace_platform_failures_total"))}  # fmt: skip
        groups = started.control_groups()
        code = stop_platform(started.platform)
        verdict.problems += [f"the platform ended with {code}"] if code else []
        verdict.problems += _settle(lambda: judge.leftovers(started, groups), LEFT_S)
    kinds = Counter(promise.kind for promise in load.ledger.promises)
    return Report(seed, faults.done, load.ledger.tries, kinds, verdict, repairs, faults.diary)


def _settle(left: Callable[[], _Left], seconds: float) -> _Left:
    """What is left when nothing is, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(0.25)
    return found
