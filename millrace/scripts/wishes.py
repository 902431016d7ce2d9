"""What makes a script and what changes one, and the rules for single fields of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from millrace import callbacks, jsontext, scriptlimits
from millrace.errors import Invalid
from millrace.models import Script
from millrace.retries import Policy
from millrace.triggers import Triggers

MEMORY_MB = (128, 1024)
TIMEOUT_SECONDS = (5, 900)
MAX_CONCURRENT_RUNS = (1, 1000)
ISOLATION = ("reuse", "fresh")
MAX_NOTE = 500


@dataclass(frozen=True)
class NewScript:
    """All that makes a script. `source` has passed the checks of `millrace.checks`.

    A `type` asks for what `millrace.scripttypes` says, and for a `schedule` of five fields; without one the type is
    told from what the script has. `unique_name` wants a display name that no other script of the workspace has.
    """

    slug: str | None  # None: one is made from the name
    display_name: str
    runtime: str
    source: bytes
    description: str | None = None
    entry_point: str | None = None  # the language's own unless said
    memory_mb: int = 256
    timeout_seconds: int = 30
    status: str = "active"
    isolation: str = "reuse"
    max_concurrent_runs: int = 10
    egress_hosts: list[str] | None = None
    retry: Mapping[str, Any] | None = None  # see `retries.Policy`
    concurrency: Mapping[str, Any] | None = None  # {"key", "limit"}
    callback_url: str | None = None  # who is told when a run is over
    callback_secret: str | None = field(default=None, repr=False)  # one is made for a URL without
    tags: Mapping[str, str] = field(default_factory=dict)
    schedule: str | None = None
    time_zone: str | None = None
    schedule_policy: Mapping[str, Any] | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    triggers: Triggers = field(default_factory=Triggers)
    type: str | None = None
    unique_name: bool = False
    limits: Mapping[str, int] | None = None  # see `millrace.scriptlimits`
    created_by: int | None = None  # a user's id
    note: str | None = None
    actor: str = "api"  # for the audit trail


@dataclass(frozen=True)
class Change:
    """What an update sets: `columns` of the script by name, and the rest where it is not None.

    `schedule` of "" removes the schedule. `time_zone` alone moves the schedule that is there; `schedule_policy` sets
    what it names and leaves the rest. `limits` replaces all of them; one of them gives way to a change of the column
    that says the same in other units.

    `type` is as in `NewScript`. Another one than before drops what belonged to that; the same leaves alone what
    another face gave the script besides. A name that may not repeat stays so until `unique_name` says otherwise.
    """

    columns: Mapping[str, Any] = field(default_factory=dict)
    source: bytes | None = None
    schedule: str | None = None
    time_zone: str | None = None
    schedule_policy: Mapping[str, Any] | None = None
    secrets: Mapping[str, str] | None = None  # all that there are then
    secret_changes: Mapping[str, str | None] | None = field(default=None, repr=False)  # these alone; None deletes
    triggers: Triggers | None = None
    callback_secret: str | None = field(default=None, repr=False)
    type: str | None = None
    unique_name: bool | None = None
    limits: Mapping[str, int] | None = None
    created_by: int | None = None  # of the new version, if there is one
    note: str | None = None
    actor: str = "api"  # for the audit trail


def check_texts(description: Any, note: str | None) -> None:
    if note is not None and len(note) > MAX_NOTE:
        raise Invalid(f"note has {len(note)} characters, {MAX_NOTE} at most.", field="note", value=note)
    for name, value in (("description", description), ("note", note)):
        if value is not None and jsontext.storable(value) != value:
            raise Invalid(f"{name} must not have NUL or half of a surrogate pair.", field=name, value=value)


def set_limits(script: Script, given: Mapping[str, int]) -> None:
    """The columns that say the same follow as closely as they can, for whoever reads those."""
    scriptlimits.check(dict(given))
    script.limits = dict(given) or None
    if "timeout_ms" in given:
        script.timeout_seconds = max(TIMEOUT_SECONDS[0], -(-given["timeout_ms"] // 1000))
    if "memory_bytes" in given:
        script.memory_mb = max(MEMORY_MB[0], scriptlimits.of(script).memory_mb)


def checked_retry(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    policy = Policy.of(given)
    if policy is None:
        return None
    policy.check()
    return policy.as_json()


def check_callback(url: str | None, secret: str | None) -> None:
    if url is not None:
        callbacks.check_url(url)
    if secret is not None:
        callbacks.check_secret(secret)


def check_no_more_of_schedule(wanted: NewScript | Change) -> None:
    for name in ("time_zone", "schedule_policy"):
        value = getattr(wanted, name)
        if value is not None:
            raise Invalid(f"{name} has no meaning without a schedule.", field=name, value=value)
