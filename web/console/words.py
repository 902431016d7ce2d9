"""The console's words for runs, and the house's: the only place where one becomes the other.

They are those of the seed: executions are pending, running, completed, failed, timeout or cancelled, and were started
by cron, http, event, manual or api.
"""

from collections.abc import Sequence

from millrace.models import run as states

_STATUS = {
    states.QUEUED: "pending",
    states.WAITING: "pending",
    states.RUNNING: "running",
    states.SUCCEEDED: "completed",
    states.FAILED: "failed",
    states.TIMED_OUT: "timeout",
    states.CANCELLED: "cancelled",
}
_TRIGGER = {
    "api": "api", "batch": "api", "manual": "manual", "schedule": "cron", "http": "http", "event": "event",
}  # fmt: skip
STATUSES = tuple(dict.fromkeys(_STATUS.values()))
TRIGGERS = tuple(dict.fromkeys(_TRIGGER.values()))


def status(internal: str) -> str:
    """A run's status."""
    return _STATUS[internal]


def statuses(word: str) -> Sequence[str]:
    """The house's states that this word covers; none for no word of ours."""
    return [internal for internal, said in _STATUS.items() if said == word]


def trigger(internal: str) -> str:
    """A run's trigger."""
    return _TRIGGER[internal]


def triggers(word: str) -> Sequence[str]:
    """The house's triggers that this word covers."""
    return [internal for internal, said in _TRIGGER.items() if said == word]
