"""This face's words for runs, and the house's: the only place where one becomes the other."""

from datetime import UTC, datetime, timedelta

from millrace import logs, scripts
from millrace.errors import Unprocessable
from millrace.models import Script
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
ACTIVE, INACTIVE = "active", "inactive"  # all that this face knows of a script's status
# What they ask of a script that has this status.
_WANTED_STATUS = {
    ACTIVE: {scripts.DRAFT: scripts.ACTIVE, scripts.PAUSED: scripts.ACTIVE, scripts.ACTIVE: scripts.ACTIVE},
    INACTIVE: {scripts.ACTIVE: scripts.PAUSED},
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


def script_status(internal: str) -> str:
    """A script's status in this face's words."""
    return ACTIVE if internal == scripts.ACTIVE else INACTIVE


def wanted_script_status(script: Script, word: str) -> str:
    """The house's status that this word asks for. Raises Unprocessable for a script that is out of use for good."""
    wanted = _WANTED_STATUS[word].get(script.status)
    if wanted is None and word == ACTIVE:
        raise Unprocessable(f"Script '{script.slug}' is {script.status} and can't become active again.")
    return wanted or script.status


def time(at_ms: int | None) -> str | None:
    """A moment as ISO 8601 in UTC with milliseconds; None stays None."""
    return None if at_ms is None else logs.timestamp(at_ms)


def millis(moment: datetime) -> int:
    """A moment with a zone as milliseconds since 1970."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)
