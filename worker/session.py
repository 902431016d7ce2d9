"""One run's side of the conversation with the sandbox: claims it, ships its log, answers its calls."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from millrace import artifacts, metrics, scriptlimits
from millrace.assignments import Assignment
from millrace.errors import DomainError, Unavailable
from millrace.services import Services
from sandbox.job import CallRefused, LogLine
from worker.keeper import Held, Keeper, Why
from worker.runlog import RunLog
from worker.sdk import Databases, Sdk, could_not
from worker.vital import DATABASE_AWAY


class ClaimUnheard(Exception):
    """The database was asked for the run and did not answer: nobody knows whether it is ours."""


class Session:
    """A `sandbox.job.Sink`, whose `on_...` methods are called from the run's own thread."""

    def __init__(
        self, services: Services, assignment: Assignment, held: Held, keeper: Keeper, run_log: RunLog,
        databases: Databases, stopping: threading.Event,
    ) -> None:  # fmt: skip
        self._services = services
        self._run = assignment.run
        self._script = assignment.script
        self._keeper = keeper
        self._stopping = stopping
        self._gate = threading.Lock()
        self._begun = False
        self._sdk = Sdk(services, assignment, databases, self._note)
        self.held = held
        self.log = run_log
        self.claimed = False
        self.sent = False  # whether the jail may have the job
        self.reached = False

    def stop_waiting(self) -> None:
        """End it, unless it was about to be claimed already. For the thread that stops the process."""
        with self._gate:
            if not self._begun:
                self.held.end(Why.STOPPED)

    def close(self) -> None:
        """Whatever happened, nothing is kept for the run any more."""
        self._keeper.remove(self.held)
        self.log.discard()
        if self.claimed:
            metrics.runs_in_work().dec()

    def on_assigned(self) -> bool:
        """Claim the run, as late as possible: what fails before leaves it queued, safe to be sent again."""
        with self._gate:
            if self._stopping.is_set():
                return False
            self._begun = True
        try:
            self.claimed = self._keeper.claim(self.held)
        except DATABASE_AWAY as error:
            raise ClaimUnheard(f"the claim was not answered: {error}") from error
        if self.claimed:
            self.log.begin(scriptlimits.of(self._script).timeout_ms / 1000)
            metrics.runs_in_work().inc()
            metrics.queue_seconds().observe(max(self._services.clock() - self._run.available_at, 0) / 1000)
            self.sent = True
        return self.claimed

    def on_start(self) -> None:
        """The handler is about to be entered."""
        self.reached = True

    def on_log(self, lines: Sequence[LogLine]) -> None:
        """Keep what the script says."""
        self.log.add(lines)

    def on_artifact(self, name: str, content_type: str, data: bytes) -> None:
        """Keep a file that the script wrote."""
        try:
            artifacts.store(self._services, self._run, self.held.attempt, name, content_type, data)
        except DomainError as error:
            raise CallRefused(error.message) from None
        except (Unavailable, *DATABASE_AWAY) as error:
            raise could_not(self._services, "store the artifact", error) from error

    def on_call(self, method: str, params: dict[str, Any]) -> Any:
        """Do what the script asks of the platform."""
        return self._sdk.call(method, params)

    def end_calls(self) -> None:
        """There is no jail any more that could ask."""
        self._sdk.close()

    def counts(self) -> Mapping[str, int]:
        """What the script asked for and got."""
        return self._sdk.counts()

    def _note(self, text: str) -> None:
        self.log.add([LogLine(self._services.clock(), "SYSTEM", text)])
