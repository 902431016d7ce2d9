"""Tells everybody which languages and libraries scripts can use here."""

import logging

from millrace import runtimes
from millrace.database import revive
from millrace.services import Services
from sandbox.runtimes import catalogue
from worker.vital import DATABASE_AWAY

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

    def announce(self) -> None:
        """Make them known."""
        with self._services.database.connection_context():
            runtimes.register(self._services, self._offers)

    def repeat(self) -> None:
        """Keep them known. A database that is away hears it the next time."""
        try:
            self.announce()
        except DATABASE_AWAY as error:
            log.error("the runtimes are not made known: %s", error)
            revive(self._services.database)
