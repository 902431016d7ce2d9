"""This face's words for runs, and the house's: the only place where one becomes the other."""

from datetime import UTC, datetime, timedelta

from millrace import logs
from millrace.models import run as states

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STATUS = {
    states.QUEUED: "pending",
    states.WAITING: "pending",
    states.RUNNING: "running",
    states.SUCCEEDED: "completed",
    states.FAILED: "failed",
    states.TIMED_OUT: "timed_out",
    states.CANCELLED: "cancelled",
}
_TRIGGER = {
    "api": "http",
    "http": "http",
    "schedule": "scheduled",
    "manual": "manual",
    "event": "event",
    "batch": "batch",
}
STATUSES = tuple(dict.fromkeys(_STATUS.values()))
TRIGGERS = tuple(dict.fromkeys(_TRIGGER.values()))
# What a caller may say of their own call.
CALLER_TRIGGERS = {"http": "api", "scheduled": "schedule", "manual": "manual"}


def status(internal: str) -> str:
    """A run's status in this face's words."""
    return _STATUS[internal]


def statuses(word: str) -> list[str]:
    """The house's states that this word covers."""
    return [internal for internal, said in _STATUS.items() if said == word]


def trigger(internal: str) -> str:
    """A run's trigger in this face's words."""
    return _TRIGGER[internal]


def triggers(word: str) -> list[str]:
    """The house's triggers that this word covers."""
    return [internal for internal, said in _TRIGGER.items() if said == word]


def time(at_ms: int | None) -> str | None:
    """A moment as ISO 8601 in UTC with milliseconds; None stays None."""
    return None if at_ms is None else logs.timestamp(at_ms)


def millis(moment: datetime) -> int:
    """A moment with a zone as milliseconds since 1970."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)
