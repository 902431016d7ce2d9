"""Time: due schedules, and runs that were delayed."""

import logging
import time
from collections.abc import Callable

from millrace import admission, metrics, runs, schedules
from millrace.services import Services

SHORTEST_S = 0.01
REST = 9  # times as long as a look took
_JUMP_MS = 2_000  # less is a clock being slewed, which harms nothing

log = logging.getLogger(__name__)


class Ticker:
    """Fires what is due. `monotonic` gives seconds that no one can set."""

    def __init__(self, services: Services, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.services = services
        self.monotonic = monotonic
        self.offset: float | None = None

    def tick(self) -> float | None:
        """Fire every due schedule. Returns the seconds until the next one is due, or has more to make up for."""
        if self._was_set_back():
            moved = schedules.realign(self.services)
            log.info("schedules were aligned with the clock: %d moved", moved)
        for fired in schedules.fire_due(self.services):
            metrics.schedule_firings().labels(fired.outcome).inc()
            if fired.outcome == schedules.RAN:  # one that was missed would count as late for days
                metrics.schedule_late_seconds().observe((self.services.clock() - fired.due_at) / 1000)
            log.info("schedule %s", fired.outcome, extra={"script": fired.script, "run": fired.run_id or ""})
        return self._until(schedules.next_due())

    def release(self) -> float | None:
        """Send delayed runs that may start by now, and those whose place came free unseen.

        Returns the seconds until the next delayed one is due.
        """
        began = self.monotonic()
        sent = runs.release_due(self.services)
        if sent:
            log.info("%d waiting runs sent", sent)
        due = admission.next_due(self.services.clock())
        # Where very many wait a look costs something, and a tenth of the time is enough for it.
        return self._until(due, least_s=REST * (self.monotonic() - began))

    def _until(self, moment: int | None, least_s: float = 0.0) -> float | None:
        return None if moment is None else max(SHORTEST_S, least_s, (moment - self.services.clock()) / 1000)

    def _was_set_back(self) -> bool:
        """Whether the wall clock lost time since the last tick; at the first tick nobody knows, so yes."""
        offset = self.services.clock() - self.monotonic() * 1000
        before, self.offset = self.offset, offset
        return before is None or offset < before - _JUMP_MS
