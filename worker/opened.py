"""Opened secrets and what masks them, kept in memory: both stay the same as long as the script's revision does."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from millrace import secrets
from millrace.assignments import Assignment
from millrace.redaction import Redactor
from millrace.services import Services

MAX_SCRIPTS = 32


@dataclass(frozen=True)
class Opened:
    """A script's secrets by name; `redactor` is None when there is nothing to hide."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    redactor: Redactor | None = None


class OpenedSecrets:
    """The least recently used go first. Safe to share among threads."""

    def __init__(self, services: Services, max_scripts: int = MAX_SCRIPTS) -> None:
        self._services = services
        self._max_scripts = max_scripts
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Opened] = OrderedDict()

    def get(self, assignment: Assignment) -> Opened:
        """What the run's script may know. Raises vault.VaultError when a secret does not open."""
        if not assignment.has_secrets:
            return Opened()
        key = (assignment.script.uuid, assignment.script.revision)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        # Two runs may open the same at once; a lock around the work would make every other run wait.
        values = secrets.open_all(self._services, assignment.script)
        opened = Opened(values, Redactor(values.values()))
        with self._lock:
            self._kept[key] = opened
            while len(self._kept) > self._max_scripts:
                self._kept.popitem(last=False)
        return opened
