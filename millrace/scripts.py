"""Scripts: create, change, read, delete; their versions, diff and rollback."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import peewee

from millrace import callbacks, diffs, events, languages, limits, objects, paging, runs, schedules, secrets, triggers
from millrace.compiled import Row, place
from millrace.database import UNREACHABLE, transaction
from millrace.errors import Conflict, Invalid, NotFound, TooLarge
from millrace.models import Script, Version
from millrace.models.script import DELETED
from millrace.paging import Position
from millrace.retries import Policy
from millrace.services import Services
from millrace.triggers import Triggers
from millrace.vault import Randomness

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
MEMORY_MB = (128, 1024)
TIMEOUT_SECONDS = (5, 900)
MAX_CONCURRENT_RUNS = (1, 1000)
ISOLATION = ("reuse", "fresh")
STATUS = ("active", "inactive")
MAX_DIFF_LINES = 10_000

# Columns that a booted jail has seen; changing one makes jails kept from before unfit.
_SEEN_BY_JAIL = ("entry_point", "memory_mb", "timeout_seconds", "isolation", "egress_hosts")


@dataclass(frozen=True)
class NewScript:
    """All that makes a script. `source` has passed the checks of `millrace.checks`."""

    slug: str
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


@dataclass(frozen=True)
class Change:
    """What an update sets: `columns` of the script by name, and the rest where it is not None.

    `schedule` of "" removes the schedule. `time_zone` alone moves the schedule that is there; `schedule_policy` sets
    what it names and leaves the rest.
    """

    columns: Mapping[str, Any] = field(default_factory=dict)
    source: bytes | None = None
    schedule: str | None = None
    time_zone: str | None = None
    schedule_policy: Mapping[str, Any] | None = None
    secrets: Mapping[str, str] | None = None
    triggers: Triggers | None = None
    callback_secret: str | None = field(default=None, repr=False)


def create(services: Services, workspace_id: str, new: NewScript, random: Randomness = os.urandom) -> Script:
    """A new script with version 1. Raises Conflict for a taken id, Invalid for a broken rule; then nothing is left."""
    if not SLUG.fullmatch(new.slug):
        raise Invalid("id must have 3 to 63 lowercase letters, digits and hyphens, and begin and end with a letter "
                      "or digit.", field="id", value=new.slug)
    if not new.schedule:
        _check_no_more_of_schedule(new)
    _check_callback(new.callback_url, new.callback_secret)
    now = services.clock()
    script = Script(
        uuid=services.new_id(), workspace=workspace_id, slug=new.slug, display_name=new.display_name,
        description=new.description, runtime=new.runtime,
        entry_point=new.entry_point or languages.of(new.runtime).entry_point, status=new.status, version=1,
        memory_mb=new.memory_mb, timeout_seconds=new.timeout_seconds, isolation=new.isolation,
        max_concurrent_runs=new.max_concurrent_runs, egress_hosts=new.egress_hosts, tags=dict(new.tags),
        retry=_checked_retry(new.retry), concurrency=new.concurrency, callback_url=new.callback_url,
        created_at=now, updated_at=now,
    )
    if _exists(workspace_id, new.slug):
        raise _taken(new.slug)
    key = _store_source(services, script, 1, new.source)
    try:
        with transaction():
            callbacks.secure(services, script, new.callback_secret, random)
            script.save(force_insert=True)
            _add_version(script, 1, new.source, key, now)
            secrets.replace(services, script, new.secrets)
            triggers.replace(services, script, new.triggers)
            schedules.replace(services, script, new.schedule or None, new.time_zone, new.schedule_policy)
    except UNREACHABLE:
        raise  # nobody knows whether the commit was done: a script without its source would be worse than a stray one
    except Exception as error:
        # Whatever was refused inside, the source must not stay behind without a script.
        objects.discard(services.objects, [key])
        if isinstance(error, peewee.IntegrityError) and _exists(workspace_id, new.slug):
            raise _taken(new.slug) from None
        raise
    return script


def _checked_retry(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    policy = Policy.of(given)
    if policy is None:
        return None
    policy.check()
    return policy.as_json()


def _check_callback(url: str | None, secret: str | None) -> None:
    if url is not None:
        callbacks.check_url(url)
    if secret is not None:
        callbacks.check_secret(secret)


def _exists(workspace_id: str, slug: str) -> bool:
    return bool(Script.select().where(Script.workspace == workspace_id, Script.slug == slug).exists())


def _taken(slug: str) -> Conflict:
    return Conflict(f"A script with the id '{slug}' exists already.")


def update(services: Services, script: Script, change: Change, random: Randomness = os.urandom) -> Script:
    """Change what is given and nothing else. New content makes a new version; the same content does not."""
    _check_callback(change.columns.get("callback_url"), change.callback_secret)
    now = services.clock()
    current = version(script, script.version)
    fresh = change.source is not None and _sha256(change.source) != current.hash
    key = ""
    if fresh and change.source is not None:
        key = _store_source(services, script, script.version + 1, change.source)
    try:
        with transaction():
            script = runs.lock_script(script.uuid)  # so that two updates at once do not undo each other
            if change.source is not None:
                _check_unchanged(script, current.number)
            if fresh and change.source is not None:
                _bump_version(script, change.source, key, now)
            _apply(services, script, change)
            callbacks.secure(services, script, change.callback_secret, random)
            script.updated_at = now
            script.save()
            fact = events.record_fact(
                services, script.workspace_id, "script.updated",
                {"script_id": script.slug, "script_version": script.version}, subject=script.slug,
            )
    except UNREACHABLE:
        raise  # as in `create`
    except Exception:
        if key:
            objects.discard(services.objects, [key])
        raise
    if fact is not None:
        services.bus.announce(fact)
    return script


def _apply(services: Services, script: Script, change: Change) -> None:
    seen_before = [getattr(script, name) for name in _SEEN_BY_JAIL]
    for name, value in change.columns.items():
        setattr(script, name, _checked_retry(value) if name == "retry" else value)
    dirty = seen_before != [getattr(script, name) for name in _SEEN_BY_JAIL]
    if change.secrets is not None:
        dirty |= secrets.replace(services, script, change.secrets)
    if dirty:
        script.revision += 1
    if change.triggers is not None:
        triggers.replace(services, script, change.triggers)
    if change.schedule is not None or change.time_zone is not None or change.schedule_policy is not None:
        _apply_schedule(services, script, change)


def _apply_schedule(services: Services, script: Script, change: Change) -> None:
    expression = change.schedule
    if expression is None and (present := schedules.of(script)) is not None:
        expression = present.expression
    if not expression:
        _check_no_more_of_schedule(change)
    schedules.replace(services, script, expression or None, change.time_zone, change.schedule_policy)


def _check_no_more_of_schedule(wanted: NewScript | Change) -> None:
    for name in ("time_zone", "schedule_policy"):
        value = getattr(wanted, name)
        if value is not None:
            raise Invalid(f"{name} has no meaning without a schedule.", field=name, value=value)


def _check_unchanged(script: Script, expected: int) -> None:
    if script.version != expected:
        raise Conflict(f"Script '{script.slug}' was changed meanwhile: it has version {script.version} now.")


def _bump_version(script: Script, source: bytes, key: str, now: int, restored: int | None = None) -> None:
    script.version += 1
    _add_version(script, script.version, source, key, now, restored)


def find(workspace_id: str, slug: str) -> Script:
    """The script of this id in this workspace, or NotFound."""
    script = None
    if SLUG.fullmatch(slug):  # nothing else can be one, and PostgreSQL refuses to look for a NUL
        script = _BY_SLUG.get(workspace=workspace_id, slug=slug)
    if script is None:
        raise not_found(slug)
    return script


_BY_SLUG = Row(Script, lambda: (Script.workspace == place("workspace")) & (Script.slug == place("slug")))


def not_found(slug: str) -> NotFound:
    """The answer for an id that is not there, or not yours."""
    return NotFound(f"There is no script '{slug}'.")


def page(workspace_id: str, before: Position | None, size: int) -> tuple[list[Script], Position | None]:
    """Scripts, newest first, and where the next page begins."""
    query = Script.select().where(Script.workspace == workspace_id, Script.status != DELETED)
    if before is not None:
        query = query.where(paging.older(Script.created_at, Script.uuid, before))
    rows = list(query.order_by(Script.created_at.desc(), Script.uuid.desc()).limit(size + 1))
    return paging.cut(rows, size, lambda script: (script.created_at, script.uuid))


def version(script: Script, number: int) -> Version:
    """One version, or NotFound."""
    # A number beyond the column's range is no question for a database.
    found = None
    if 1 <= number < 2**31:
        found = Version.get_or_none(Version.script == script.uuid, Version.number == number)
    if found is None:
        raise NotFound(f"Script '{script.slug}' has no version {number}.")
    return found


def versions(script: Script, *, before: int | None = None, size: int | None = None) -> list[Version]:
    """Versions, newest first: all, or `size` of those that are older than number `before`."""
    query = Version.select().where(Version.script == script.uuid)
    if before is not None:
        query = query.where(Version.number < before)
    return list(query.order_by(Version.number.desc()).limit(size))


def source(services: Services, stored: Version) -> bytes:
    """A version's source. Raises NotFound when the store has lost it."""
    content = services.objects.get(stored.object_key)
    if content is None:
        raise NotFound(f"The source of version {stored.number} is missing in the object store.")
    return content


def diff(services: Services, script: Script, number: int, against: int) -> str:
    """What changed from version `against` to version `number`, as a unified diff; "" when nothing did.

    Raises TooLarge for more than `MAX_DIFF_LINES`.
    """
    old, new = (source(services, version(script, each)) for each in (against, number))
    longer = max(text.count(b"\n") for text in (old, new))
    if longer > MAX_DIFF_LINES:
        raise TooLarge(f"A source of {longer} lines is not compared, {MAX_DIFF_LINES} at most.")
    return diffs.unified(old.decode(), new.decode(), f"{script.slug}@{against}", f"{script.slug}@{number}")


def rollback(services: Services, script: Script, number: int) -> Script:
    """A new version with the content of an old one; versions are never rewritten."""
    now = services.clock()
    content = source(services, version(script, number))
    expected = script.version
    key = _store_source(services, script, expected + 1, content)
    try:
        with transaction():
            script = runs.lock_script(script.uuid)  # so that two updates at once do not undo each other
            _check_unchanged(script, expected)
            _bump_version(script, content, key, now, restored=number)
            script.updated_at = now
            script.save()
            fact = events.record_fact(
                services, script.workspace_id, "script.updated",
                {"script_id": script.slug, "script_version": script.version}, subject=script.slug,
            )
    except UNREACHABLE:
        raise  # as in `create`
    except Exception:
        objects.discard(services.objects, [key])
        raise
    if fact is not None:
        services.bus.announce(fact)
    return script


def _add_version(
    script: Script, number: int, content: bytes, key: str, now: int, restored: int | None = None
) -> None:
    Version.create(script=script.uuid, number=number, hash=_sha256(content), size=len(content), object_key=key,
                   created_at=now, restored_from=restored)


def _store_source(services: Services, script: Script, number: int, content: bytes) -> str:
    limits.check_stored(script.workspace_id)
    language = languages.of(script.runtime)
    # The hash keeps two updates at once from writing to the same key; a token keeps a failed one from deleting
    # what the other wrote, should both carry the same content.
    key = f"scripts/{script.uuid}/{number}-{_sha256(content)[:12]}-{services.new_id()[-8:]}{language.suffix}"
    services.objects.put(key, content, content_type=language.content_type)
    return key


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
