"""What this process cannot do without: threads that must not end, and a database that may be away."""

import logging
import os
import threading
from collections.abc import Callable

import peewee

from millrace import database

# Beside a database that does not answer: one that takes no writes now, or that forgot what was prepared. Both
# happen when another server takes over.
DATABASE_AWAY = (*database.UNREACHABLE, peewee.InternalError, peewee.NotSupportedError)

log = logging.getLogger(__name__)


class VitalThread(threading.Thread):
    """A thread whose death ends the process, so that it is started anew instead of working on without it."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        super().__init__(target=work, name=name, daemon=True)

    def run(self) -> None:
        """Work until it is told to end."""
        try:
            super().run()
        except BaseException:
            log.critical("the thread '%s' died, and this process ends with it", self.name, exc_info=True)
            end_process()


def end_process() -> None:
    """At once and with exit code 1. Its runs are recorded as lost when their leases have lapsed."""
    os._exit(1)
