"""Shows the launcher's pool of jails in the metrics: the launcher itself has none."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import Gauge

from millrace import metrics
from sandbox.job import SandboxUnavailable

LOOK_S = 5.0

log = logging.getLogger(__name__)


class PoolWatch:
    """To be asked every few seconds. Any number of processes may be: each count is handed out once."""

    def __init__(self, figures: Callable[[], Mapping[str, Any]]) -> None:
        self._figures = figures
        self._seen: dict[Gauge, set[tuple[str, ...]]] = {}

    def look(self) -> None:
        """Ask once, and show the answer. A launcher that is away shows as it was."""
        try:
            figures = self._figures()
        except SandboxUnavailable as error:
            log.debug("the pool of jails cannot be seen: %s", error)
            return
        self._set(metrics.jails(), figures["jails"], "state")
        self._set(metrics.jails_wanted(), figures["wanted"])
        for each in figures["boots"]:
            metrics.jail_boots().labels(*_labels(each)).inc(each["count"])
            metrics.jail_boot_seconds().labels(*_labels(each)).inc(each["seconds"])
        for each in figures["ends"]:
            metrics.jail_ends().labels(*_labels(each, "reason")).inc(each["count"])

    def _set(self, gauge: Gauge, rows: list[Mapping[str, Any]], *others: str) -> None:
        present = {_labels(each, *others): each["count"] for each in rows}
        # What is no longer told of is there no more.
        for gone in self._seen.get(gauge, set()) - set(present):
            gauge.labels(*gone).set(0)
        for labels, count in present.items():
            gauge.labels(*labels).set(count)
        self._seen[gauge] = set(present)


def _labels(row: Mapping[str, Any], *others: str) -> tuple[str, ...]:
    kind = (str(row["runtime"]), "yes" if row["preloaded"] else "no")
    return (*kind, *(str(row[name]) for name in others))
