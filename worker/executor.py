"""Carries one run: gathers, takes a jail, claims, runs, records.

What can go wrong, and what happens then:

- before the claim the run is still queued: this tries again for a while if that may help, then counts the
  attempt, whatever went wrong, and sends the next; an object store that is away counts for nothing, and the
  sweeper sends the run again until it is back;
- after the claim and before the handler, the run goes back to the queue as the next attempt;
- after the handler was entered nobody knows what it did: the run is recorded as lost, not run again unasked;
- the third attempt that fails so is recorded as a failure of the platform;
- a database that does not answer: the outcome is offered again for two minutes, and a run that has not begun
  is left to the sweeper if not even the attempt can be counted.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from millrace import assignments, audit, logs, metrics, removal, runs
from millrace.assignments import Assignment
from millrace.database import revive
from millrace.errors import Missing, PlatformError, Unavailable
from millrace.models import Run
from millrace.observability import context
from millrace.runs import Ending
from millrace.services import Services
from millrace.vault import VaultError
from sandbox.job import Abandoned, Job, LogLine, Outcome, SandboxUnavailable, Sink
from worker import endings, jobs
from worker.jobs import Gathered
from worker.keeper import Held, Keeper, Why
from worker.opened import OpenedSecrets
from worker.runlog import RunLog, Shipper
from worker.sdk import Databases
from worker.session import ClaimUnheard, Session
from worker.sources import Sources
from worker.vital import DATABASE_AWAY

MAX_ATTEMPTS = 3
BEGIN_PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
RECORD_PAUSES = (0.1, 0.3, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0)
_STORE_PAUSES = (0.2, 1.0)
_T = TypeVar("_T")

log = logging.getLogger(__name__)


class Jails(Protocol):
    """What the executor needs of `sandbox.client.Sandbox`."""

    def run(self, job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        """Carry the job to its end, as the sandbox promises it."""


def _in_vain(run: Run, attempt: int) -> int:
    """How many of its attempts up to this one did not get as far as the handler, since the last that did."""
    return attempt - logs.part_of(run.id, run.tries).after


class _NotBegun(Exception):
    """The platform could not get as far as the claim; the run is still queued."""

    def __init__(
        self, message: str, *, may_pass: bool, claim_unheard: bool = False, counts: bool = True
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.counts = counts  # whether it uses up one of the run's attempts
        self.may_pass = may_pass  # whether it is worth a wait
        self.claim_unheard = claim_unheard  # whether the run may be ours all the same


class Executor:
    """One per process, used by all its threads."""

    def __init__(
        self, services: Services, jails: Jails, keeper: Keeper, shipper: Shipper, databases: Databases, *,
        begin_pauses: Sequence[float] = BEGIN_PAUSES, record_pauses: Sequence[float] = RECORD_PAUSES,
    ) -> None:  # fmt: skip
        self._services = services
        self._jails = jails
        self._keeper = keeper
        self._shipper = shipper
        self._databases = databases
        self._sources = Sources(services.objects)
        self._secrets = OpenedSecrets(services)
        self._begin_pauses = begin_pauses
        self._record_pauses = record_pauses
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._sessions: set[Session] = set()

    def execute(self, run_id: str, attempt: int) -> None:
        """Handle one message. Returns when the run is recorded, or is not ours to record."""
        claim_unheard = False
        for pause in (*self._begin_pauses, None):
            try:
                return self._carry(run_id, attempt, claim_unheard=claim_unheard)
            except _NotBegun as trouble:
                claim_unheard |= trouble.claim_unheard
                log.error("the run could not begin: %s", trouble)
                metrics.platform_failures().labels(kind="begin").inc()
                if pause is None or not trouble.may_pass:
                    return self._give_up(run_id, attempt, trouble)
            if self._stopping.wait(pause):
                return self._hand_on(run_id, attempt)

    def stop(self) -> None:
        """Begin no more runs: those that wait for a jail go back to the queue. Running handlers go on."""
        self._stopping.set()
        for session in self._all_sessions():
            session.stop_waiting()

    def end_all(self) -> None:
        """End what still runs; each is recorded as stopped with the platform."""
        for session in self._all_sessions():
            session.held.end(Why.STOPPED)

    def _all_sessions(self) -> list[Session]:
        with self._lock:
            return list(self._sessions)

    def _carry(self, run_id: str, attempt: int, *, claim_unheard: bool) -> None:
        try:
            assignment = assignments.load(run_id)
            if assignment is None or not assignment.is_next(attempt):
                if claim_unheard and self._release(run_id, attempt):
                    return log.warning("the run was claimed and its handler not entered: the next attempt may")
                return log.info("nothing to do: the run has ended, or somebody else has it")
            with context(workspace=assignment.run.workspace_id, script=assignment.script.slug):
                gathered = jobs.gather(self._services, self._sources, self._secrets, assignment, attempt)
                return self._run(gathered, attempt)
        except _NotBegun:
            raise
        except VaultError as error:
            # What it says of keys is the operator's, who reads the log, and no tenant's, who reads the run.
            log.error("a secret does not open: %s", error)
            raise _NotBegun("a secret of the script could not be opened.", may_pass=False) from error
        except PlatformError as error:
            may_pass = isinstance(error, Unavailable) and not isinstance(error, Missing)
            # A store that is away says nothing of the run, which was accepted, and finishes however long that takes.
            raise _NotBegun(str(error), may_pass=may_pass, counts=not may_pass) from error
        except (ClaimUnheard, *DATABASE_AWAY) as error:
            revive(self._services.database)
            unheard = isinstance(error, ClaimUnheard)
            raise _NotBegun(f"the database does not answer: {error}", may_pass=True, claim_unheard=unheard) from error
        except Exception as error:
            log.exception("the run could not begin because of an error of ours")
            # No descriptor left, or no memory for one: others will give some back.
            raise _NotBegun("an internal error", may_pass=isinstance(error, OSError)) from error

    def _run(self, gathered: Gathered, attempt: int) -> None:
        run = gathered.assignment.run
        held = Held(run.id, attempt)
        run_log = RunLog(
            self._services, run.workspace_id, run.id, attempt, gathered.redactor, self._shipper, held.cancel,
            logs.part_of(run.id, run.tries),
        )  # fmt: skip
        session = Session(
            self._services, gathered.assignment, held, self._keeper, run_log, self._databases, self._stopping
        )
        with self._lock:
            self._sessions.add(session)
        try:
            self._converse(gathered, session)
        except Exception:
            if not session.claimed:
                raise
            # Its handler may have been entered, so it must not begin anew: the sweeper ends it.
            log.exception("the run's outcome is not recorded")
        finally:
            with self._lock:
                self._sessions.discard(session)
            session.close()

    def _converse(self, gathered: Gathered, session: Session) -> None:
        try:
            outcome = self._in_jail(gathered.job, session)
        except Abandoned:
            return self._let_go(session.held)
        except SandboxUnavailable as error:
            return self._jail_failed(gathered.assignment, session, error)
        except Exception:
            if not session.claimed:
                raise
            log.exception("the run was interrupted by an error of ours")
            if not session.sent:
                return self._begin_anew(gathered.assignment.run, session, "an internal error")
            ending = endings.platform_failure("an internal error")
            return self._record(gathered.assignment.run, session, ending)
        if not session.claimed:  # told to stop while it waited for a jail
            return self._let_go(session.held)
        metrics.jails_used().labels(origin=outcome.usage.jail).inc()
        metrics.log_bytes().inc(outcome.usage.log_bytes)
        if outcome.refused_counts:
            self._tell_of_refused(gathered.assignment.run, outcome.refused_counts)
        ending = endings.of_outcome(outcome, gathered.job.limits, gathered.redactor, session.held.why)
        return self._record(gathered.assignment.run, session, ending)

    def _in_jail(self, job: Job, session: Session) -> Outcome:
        try:
            return self._jails.run(job, session, session.held.cancel)
        finally:
            session.end_calls()  # what it has open in its data sources must not wait for its record

    def _tell_of_refused(self, run: Run, counts: Mapping[str, int]) -> None:
        """Connections that the proxy did not allow, for whoever watches the workspace and the platform."""
        for kind, count in counts.items():
            metrics.egress_refused().labels(kind=kind).inc(count)
        try:
            audit.add_up(self._services, run.workspace_id, "egress", "egress.refused", counts)
        except DATABASE_AWAY as error:
            log.error("refused connections are not in the audit trail: %s", error)
            revive(self._services.database)

    def _jail_failed(self, assignment: Assignment, session: Session, error: SandboxUnavailable) -> None:
        held = session.held
        if not session.claimed:
            raise _NotBegun(str(error), may_pass=True) from error
        log.error("the sandbox failed: %s", error)
        metrics.platform_failures().labels(kind="sandbox").inc()
        if held.why is Why.CANCELLED:
            return self._record(assignment.run, session, endings.cancelled())
        if session.reached or error.reached_handler:
            words = "the sandbox was lost here: what the script wrote after this is missing"
            session.log.add([LogLine(self._services.clock(), "SYSTEM", words)])
            return self._record(assignment.run, session, endings.lost())
        return self._begin_anew(assignment.run, session, str(error))

    def _begin_anew(self, run: Run, session: Session, reason: str) -> None:
        """Its handler was not entered, so the next attempt may have it; the last one says why there is none."""
        held = session.held
        if _in_vain(run, held.attempt) >= MAX_ATTEMPTS:
            return self._record(run, session, endings.platform_failure(reason))
        self._keeper.remove(held)
        if not self._persist(lambda: self._release(held.run_id, held.attempt)):
            self._throw_away(run, session)
        return None

    def _release(self, run_id: str, attempt: int) -> bool:
        """Leave it to the next attempt, unless another thread with a copy of the message has it."""
        if self._keeper.holds(run_id, attempt):
            return False
        return runs.release(self._services, run_id, attempt, self._keeper.worker)

    def _let_go(self, held: Held) -> None:
        if self._stopping.is_set():
            self._hand_on(held.run_id, held.attempt)
        else:
            log.info("nothing to do: somebody else has the run")

    def _hand_on(self, run_id: str, attempt: int) -> None:
        """Have another worker carry it: this one stops. At worst two messages name the same attempt."""
        self._services.queue.send(run_id, attempt)

    def _give_up(self, run_id: str, attempt: int, trouble: _NotBegun) -> None:
        if not trouble.counts:
            return log.error("the run is left to the sweeper until the store answers")
        try:
            self._count(run_id, attempt, trouble)
        except DATABASE_AWAY as error:
            log.error("the run is left to the sweeper: %s", error)
            revive(self._services.database)

    def _count(self, run_id: str, attempt: int, trouble: _NotBegun) -> None:
        assignment, held = assignments.load(run_id), Held(run_id, attempt)
        if assignment is None or _in_vain(assignment.run, attempt) < MAX_ATTEMPTS:
            self._release(run_id, attempt)
            return
        if self._keeper.claim(held):
            self._keeper.remove(held)
            self._finish(assignment.run, attempt, endings.platform_failure(str(trouble)))

    def _record(self, run: Run, session: Session, ending: Ending) -> None:
        """The log first, so that a run which is over always has one; then the outcome."""
        held = session.held
        if held.why is Why.LOST or not self._persist(lambda: self._keeper.is_ours(held)):
            return self._throw_away(run, session)
        stored = session.log.close()
        # From here on "not running any more" is what we did ourselves.
        self._keeper.remove(held)
        return self._finish(run, held.attempt, endings.with_log(endings.with_counts(ending, session.counts()), stored))

    def _throw_away(self, run: Run, session: Session) -> None:
        log.warning("the result is thrown away: the run is not ours any more")
        session.log.discard()
        self._clean_up_after(run)

    def _finish(self, run: Run, attempt: int, ending: Ending) -> None:
        try:
            recorded = self._persist(lambda: self._offer(run, attempt, ending))
        except Unavailable as error:
            log.error("the result could not be stored: %s", error)
            ending = endings.without_result(ending)
            recorded = self._persist(lambda: runs.finish(self._services, run, attempt, ending))
        if not recorded:
            log.warning("the result is thrown away: the run is not ours any more")
            return self._clean_up_after(run)
        return log.info("the run ended: %s", ending.status)

    def _offer(self, run: Run, attempt: int, ending: Ending) -> bool:
        for pause in _STORE_PAUSES:
            try:
                return runs.finish(self._services, run, attempt, ending)
            except Unavailable as error:
                log.error("the result is not stored yet: %s", error)
            time.sleep(pause)
        return runs.finish(self._services, run, attempt, ending)

    def _clean_up_after(self, run: Run) -> None:
        """The script may have been deleted while it ran, and what it kept before we wrote the last of it."""
        if self._persist(lambda: assignments.load(run.id)) is None:
            removal.remove_objects_of_run(self._services, run.workspace_id, run.id)
            self._services.cache.forget(run.workspace_id, run.script_id)

    def _persist(self, step: Callable[[], _T]) -> _T:
        """Do it, again and again while the database is away, which it raises when that lasts too long."""
        for pause in self._record_pauses:
            try:
                return step()
            except DATABASE_AWAY as error:
                log.error("the database does not answer: %s", error)
                revive(self._services.database)
            time.sleep(pause)
        return step()
