"""`python -m scheduler`: four threads, and a main one that waits for a signal."""

import logging
import signal
import sys
import threading
from collections.abc import Sequence

from millrace import exposition, observability, wiring
from millrace.services import Services
from millrace.settings import SettingError, Settings
from scheduler.listener import Listener
from scheduler.loop import Job, Loop
from scheduler.sweeper import Sweeper
from scheduler.ticker import Ticker

STOP_S = 1.5
WRONG_CONFIGURATION = 78  # EX_CONFIG of sysexits.h: starting again would not help

log = logging.getLogger("scheduler")


def start(services: Services, stopping: threading.Event) -> list[threading.Thread]:
    """Begin all work; it ends when `stopping` is set.

    Daemon threads: one that hangs in a store must not keep the process from ending. All they do is safe to cut.
    """
    ticker, sweeper = Ticker(services), Sweeper(services)
    time_jobs = (Job("schedules", 1, ticker.tick), Job("delayed runs", 1, ticker.release))
    work = {
        "time": Loop(services.database, time_jobs, stopping).run,
        "repair": Loop(services.database, sweeper.jobs(), stopping).run,
        "chores": Loop(services.database, sweeper.chores(), stopping).run,
        "events": Listener(services, stopping).run,
    }
    threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in work.items()]
    for thread in threads:
        thread.start()
    return threads


def watch(threads: Sequence[threading.Thread], stopping: threading.Event) -> int:
    """Wait for the end: returns 0 when `stopping` was set, 1 when a thread died, so that a supervisor starts anew."""
    while not stopping.wait(1):
        dead = [thread.name for thread in threads if not thread.is_alive()]
        if dead:
            log.critical("a thread ended: %s", ", ".join(dead))
            return 1
    for thread in threads:
        thread.join(timeout=STOP_S / len(threads))
    return 0


def main() -> int:
    """Returns the exit code."""
    try:
        settings = Settings.from_env()
        observability.set_up_logging("scheduler", settings.log_level)
        wired = wiring.build(settings)
        listener = exposition.listen(settings)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 1 if isinstance(error, exposition.PortTaken) else WRONG_CONFIGURATION
    if listener is not None:
        exposition.serve(listener)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    log.info("scheduler started")
    code = watch(start(wired.services, stopping), stopping)
    log.info("scheduler ended")
    return code


if __name__ == "__main__":
    sys.exit(main())
