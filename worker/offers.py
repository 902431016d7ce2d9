"""Tells everybody which languages and libraries scripts can use here."""

import logging
import time

from millrace import runtimes
from millrace.database import revive
from millrace.services import Services
from sandbox.runtimes import catalogue
from worker.vital import DATABASE_AWAY

LOOK_S = 2.0
REPEAT_S = 60.0

log = logging.getLogger(__name__)


class Offers:
    """What is installed on this host, read once: who installs more starts the worker again."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._offers = [
            runtimes.Offer(
                name=each.name,
                version=each.version,
                libraries=[runtimes.Library(*item) for item in each.libraries.items()],
                modules=each.modules,
            )
            for each in catalogue.installed()
        ]
        self._due = float("-inf")

    def announce(self) -> None:
        """Make them known."""
        with self._services.database.connection_context():
            runtimes.register(self._services, self._offers)

    def repeat(self) -> None:
        """Keep them known, every `REPEAT_S`. A database that is away hears it as soon as it is back."""
        if time.monotonic() < self._due:
            return
        try:
            self.announce()
            self._due = time.monotonic() + REPEAT_S
        except DATABASE_AWAY as error:
            log.error("the runtimes are not made known: %s", error)
            revive(self._services.database)
