"""The processes of a worker: kept in number, each started again by itself when it dies, ended together.

They are forks, so all run the same code and share its memory. The parent does nothing but this and has a single
thread, and so no lock that a fork could find taken. They stay in its group: who kills the group reaches them too.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from millrace import metrics, processes, supervisor

GRACE_S = 30.0  # for handlers that run at a stop
LAST_WORDS_S = 4.0  # for the outcomes of what was ended after the grace
_FAREWELL_S = 2.5  # for closing connections; a supervisor that waits no longer kills the group
STOPS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_SIGNALS = STOPS | {signal.SIGCHLD}
_IDLE_S = 5.0  # signals and deaths end the wait

log = logging.getLogger(__name__)


@dataclass
class _Place:
    """One of the processes, and those that were it before."""

    pid: int | None = None
    deaths: list[float] = field(default_factory=list)
    due: float = 0.0  # when to start it, while there is none


class Family:
    """So many processes that each do `work`, whose result is their exit code. It begins with all signals of STOPS
    blocked, so that none is lost before it waits for them."""

    def __init__(self, work: Callable[[], int], size: int) -> None:
        self._work = work
        self._places = [_Place() for _ in range(size)]
        self._code: int | None = None  # to end with

    def run(self) -> int:
        """Keep them all until a signal, or until one cannot be kept; then end them, and return the exit code.

        Who dies is started again at once, and after a growing pause when it dies again within a minute. The code is 78
        when one says that its configuration is wrong, 1 when one died too often or had to be killed in the end.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        # Whoever started this may have it ignored, and then the dead leave no exit code.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while self._code is None:
            self._start_due()
            heard = signal.sigtimedwait(_SIGNALS, self._idle_s())
            if heard is not None and heard.si_signo in STOPS:
                self._code = 0
            else:
                self._bury()
        all_ended = self._end()
        return self._code if all_ended else self._code or 1

    def _start_due(self) -> None:
        for place in self._places:
            if place.pid is None and place.due <= time.monotonic():
                try:
                    place.pid = _fork(self._work)
                except OSError as error:  # no memory for one more, which may pass
                    self._lost(place, f"a worker process cannot be started: {error.strerror or error}")

    def _idle_s(self) -> float:
        due = [place.due for place in self._places if place.pid is None]
        return max(0.0, min([_IDLE_S, *(at - time.monotonic() for at in due)]))

    def _bury(self) -> None:
        for place in self._places:
            if place.pid is None or (code := _exit_code(place.pid)) is None:
                continue
            if code == supervisor.WRONG_CONFIGURATION:
                self._code = code
            self._lost(place, f"worker process {place.pid} ended with {processes.describe_exit(code)}")

    def _lost(self, place: _Place, how: str) -> None:
        now = time.monotonic()
        place.pid = None
        place.deaths = [*(at for at in place.deaths if at > now - supervisor.RESTART_WINDOW_S), now]
        if self._code is None and len(place.deaths) > supervisor.RESTARTS:
            how = f"{how}, and those before it {supervisor.RESTARTS} times within {supervisor.RESTART_WINDOW_S:.0f} s"
            self._code = 1
        if self._code is not None:
            log.critical("%s: all end", how)
            return
        pause = _pause_s(len(place.deaths))
        place.due = now + pause
        log.error("%s; the next starts in %g s", how, pause)

    def _end(self) -> bool:
        """SIGTERM to all, and SIGKILL when their time is over. Whether that was not needed."""
        living = {place.pid for place in self._places if place.pid is not None}
        for pid in living:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S + LAST_WORDS_S + _FAREWELL_S
        while living := {pid for pid in living if _exit_code(pid) is None}:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            signal.sigtimedwait({signal.SIGCHLD}, min(left, _IDLE_S))
        for pid in living:
            log.error("worker process %d did not end in time and is killed", pid)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            metrics.forget(pid)
        return not living


def _fork(work: Callable[[], int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid != 0:
        return pid
    code = 1
    try:
        processes.tie_to(parent, signal.SIGTERM)
        code = work()
    except BaseException:
        log.critical("a worker process fails", exc_info=True)
    finally:
        os._exit(code)  # what the parent would still do at its own end is not for this one


def _exit_code(pid: int) -> int | None:
    """That of a child that has ended, which is buried by the question."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        return None
    metrics.forget(pid)
    return os.waitstatus_to_exitcode(status)


def _pause_s(deaths: int) -> float:
    return 0.0 if deaths == 1 else supervisor.FIRST_BACKOFF_S * 2 ** (deaths - 2)
