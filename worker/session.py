"""One run's side of the conversation with the sandbox: claims it, ships its log, answers its calls."""

import logging
import threading
from collections.abc import Sequence
from typing import Any

from millrace import artifacts, events, metrics
from millrace.assignments import Assignment
from millrace.database import revive
from millrace.errors import DomainError, Unavailable
from millrace.services import Services
from sandbox.job import CallRefused, LogLine
from worker.keeper import Held, Keeper, Why
from worker.runlog import RunLog
from worker.vital import DATABASE_AWAY

MAX_PUBLISHED = 1000

log = logging.getLogger(__name__)


class ClaimUnheard(Exception):
    """The database was asked for the run and did not answer: nobody knows whether it is ours."""


class Session:
    """A `sandbox.job.Sink`, whose `on_...` methods are called from the run's own thread."""

    def __init__(
        self, services: Services, assignment: Assignment, held: Held, keeper: Keeper, run_log: RunLog,
        stopping: threading.Event,
    ) -> None:  # fmt: skip
        self._services = services
        self._run = assignment.run
        self._script = assignment.script
        self._keeper = keeper
        self._stopping = stopping
        self._gate = threading.Lock()
        self._begun = False
        self._published = 0
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
            self.log.begin(self._script.timeout_seconds)
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
            raise self._refusal("store the artifact", error) from error

    def on_call(self, method: str, params: dict[str, Any]) -> Any:
        """Do what the script asks of the platform."""
        if method != "events.publish":
            raise CallRefused(f"There is no method '{method[:100]}'.")
        try:
            return {"event_id": self._publish(params)}
        except DomainError as error:
            raise CallRefused(error.message) from None
        except DATABASE_AWAY as error:
            raise self._refusal("store the event", error) from error

    def _publish(self, params: dict[str, Any]) -> str:
        name, subject = params.get("name"), params.get("subject")
        if not isinstance(name, str) or not isinstance(subject, str | None):
            raise CallRefused("An event's name and subject must be text.")
        if self._published >= MAX_PUBLISHED:
            raise CallRefused(f"A run can publish {MAX_PUBLISHED} events.")
        self._published += 1
        event = events.publish(
            self._services, self._run.workspace_id, name, params.get("data"), source=self._script.slug,
            subject=subject, depth=self._run.depth + 1,
        )  # fmt: skip
        if event.outcome == "cut":
            self.log.add([LogLine(self._services.clock(), "SYSTEM", f"event '{name}' starts nothing: {event.reason}")])
        return str(event.id)

    def _refusal(self, what: str, error: Exception) -> CallRefused:
        log.error("could not %s: %s", what, error)
        metrics.platform_failures().labels(kind="call").inc()
        if isinstance(error, DATABASE_AWAY):
            revive(self._services.database)
        return CallRefused(f"The platform could not {what} now.")
