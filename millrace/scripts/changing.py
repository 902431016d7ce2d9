"""Changes of a script: its fields, its content, its status."""

import os
from dataclasses import replace

import peewee

from millrace import audit, callbacks, objects, runs, schedules, secrets, triggers
from millrace.database import UNREACHABLE, transaction
from millrace.errors import Conflict
from millrace.models import Script
from millrace.scripts import names, reading, statuses, types, wishes
from millrace.scripts.storing import add_version, announce, record_fact, sha256, store_source
from millrace.scripts.wishes import Change
from millrace.services import Services
from millrace.triggers import Triggers
from millrace.vault import Randomness

# Columns that a booted jail has seen; changing one makes jails kept from before unfit.
_SEEN_BY_JAIL = ("entry_point", "memory_mb", "timeout_seconds", "isolation", "egress_hosts", "limits")
# A limit of `millrace.scriptlimits`, and the column that says the same less finely.
_COARSER = {"timeout_ms": "timeout_seconds", "memory_bytes": "memory_mb"}


def update(services: Services, script: Script, change: Change, random: Randomness = os.urandom) -> Script:
    """Change what is given and nothing else. New content makes a new version; the same content does not."""
    wishes.check_callback(change.columns.get("callback_url"), change.callback_secret)
    wishes.check_texts(change.columns.get("description"), change.note)
    now = services.clock()
    current = reading.version(script, script.version)
    fresh = change.source is not None and sha256(change.source) != current.hash
    key = ""
    if fresh and change.source is not None:
        key = store_source(services, script, script.version + 1, change.source)
    try:
        with transaction():
            script = runs.lock_script(script.uuid)  # so that two updates at once do not undo each other
            if change.source is not None:
                _check_unchanged(script, current.number)
            if fresh and change.source is not None:
                script.version += 1
                add_version(script, script.version, change.source, key, now, created_by=change.created_by,
                             note=change.note)
            before = script.status
            _apply(services, script, change)
            callbacks.secure(services, script, change.callback_secret, random)
            script.updated_at = now
            script.save()
            audit.record(services, script.workspace_id, change.actor, "script.updated", script.slug,
                         {"version": script.version})
            facts = [record_fact(services, script, "script.updated")]
            if script.status != before:
                facts.append(_tell_status(services, script, before, change.actor))
    except UNREACHABLE:
        raise  # as in `create`
    except Exception as error:
        if key:
            objects.discard(services.objects, [key])
        if isinstance(error, peewee.IntegrityError) and _other_has(script, script.unique_name):
            raise names.taken(script.display_name) from None
        raise
    announce(services, *facts)
    return script


def _other_has(script: Script, unique_name: str | None) -> bool:
    wanted = Script.workspace == script.workspace_id, Script.unique_name == unique_name, Script.uuid != script.uuid
    return unique_name is not None and bool(Script.select(Script.uuid).where(*wanted).exists())


def _apply(services: Services, script: Script, change: Change) -> None:
    seen_before = [getattr(script, name) for name in _SEEN_BY_JAIL]
    if "status" in change.columns:
        statuses.check(script, change.columns["status"])
    for name, value in change.columns.items():
        setattr(script, name, wishes.checked_retry(value) if name == "retry" else value)
    _apply_limits(script, change)
    _apply_name(script, change)
    dirty = seen_before != [getattr(script, name) for name in _SEEN_BY_JAIL]
    if change.secrets is not None:
        dirty |= secrets.replace(services, script, change.secrets)
    if change.secret_changes is not None:
        dirty |= secrets.amend(services, script, change.secret_changes, change.actor)
    if dirty:
        script.revision += 1
    _apply_starts(services, script, change)


def _apply_limits(script: Script, change: Change) -> None:
    if change.limits is not None:
        wishes.set_limits(script, change.limits)
    elif script.limits:
        kept = {name: value for name, value in script.limits.items() if _COARSER.get(name) not in change.columns}
        script.limits = kept or None


def _apply_name(script: Script, change: Change) -> None:
    wanted = script.unique_name is not None if change.unique_name is None else change.unique_name
    if not wanted:
        script.unique_name = None
    elif change.unique_name or "display_name" in change.columns:
        names.check(script.display_name)
        names.check_free(script.workspace_id, script.display_name, script.uuid)
        script.unique_name = names.key(script.display_name)


def _apply_starts(services: Services, script: Script, change: Change) -> None:
    """Its triggers, its schedule, and the type that comes of them or asks for them."""
    type_ = None if change.type is None else types.read(change.type)
    if type_ is not None:
        change = _fitting(script, change, type_)
    of_schedule = (change.schedule, change.time_zone, change.schedule_policy)
    replans = any(each is not None for each in of_schedule)
    if change.triggers is not None:
        triggers.replace(services, script, change.triggers)
    if replans:
        _apply_schedule(services, script, change)
    if type_ is not None:
        script.type = type_
    elif replans or change.triggers is not None:
        has = triggers.current(script)
        script.type = types.derive(
            script.type, scheduled=schedules.of(script) is not None, http=has.http is not None, event=bool(has.events)
        )


def _fitting(script: Script, change: Change, type_: str) -> Change:
    """What to change so that the script has what the type needs. Raises Invalid."""
    present, planned = triggers.current(script), schedules.of(script)
    schedule = types.schedule(type_, change.schedule, None if planned is None else planned.expression)
    types.check_triggers(type_, change.triggers, present)
    if type_ == script.type and change.triggers is None:
        return replace(change, schedule=schedule)
    given = present if change.triggers is None else change.triggers
    other = present if type_ == script.type else Triggers()
    wanted = Triggers(
        given.events if type_ == types.EVENT else other.events,
        given.http if type_ == types.HTTP else other.http,
    )
    if type_ != script.type and type_ != types.SCHEDULED and planned is not None:
        schedule = ""
    return replace(change, schedule=schedule, triggers=wanted)


def _apply_schedule(services: Services, script: Script, change: Change) -> None:
    expression = change.schedule
    if expression is None and (present := schedules.of(script)) is not None:
        expression = present.expression
    if not expression:
        wishes.check_no_more_of_schedule(change)
    schedules.replace(services, script, expression or None, change.time_zone, change.schedule_policy)


def _check_unchanged(script: Script, expected: int) -> None:
    if script.version != expected:
        raise Conflict(f"Script '{script.slug}' was changed meanwhile: it has version {script.version} now.")


def change_status(services: Services, script: Script, status: str, actor: str) -> Script:
    """Give a script another status; the one that it has is no change. Raises Invalid, Conflict, NotFound.

    Of two at once the second finds another status than it was shown, and changes nothing.
    """
    if not statuses.check(script, status):
        return script
    before = script.status
    with transaction():
        changed = Script.update(status=status, updated_at=services.clock()).where(
            Script.uuid == script.uuid, Script.status == before
        )
        moved = changed.execute()
        current = runs.lock_script(script.uuid)  # raises NotFound when it is gone
        fact = _tell_status(services, current, before, actor) if moved else None
    if not moved and current.status != status:
        raise Conflict(f"Script '{script.slug}' was changed meanwhile: it is {current.status} and no longer {before}, "
                       f"so it did not become {status}.")  # fmt: skip
    announce(services, fact)
    return current


def _tell_status(services: Services, script: Script, before: str, actor: str) -> str | None:
    change = {"from": before, "to": script.status}
    audit.record(services, script.workspace_id, actor, "script.status_changed", script.slug, change)
    return record_fact(services, script, "script.status_changed", **change)


def rollback(
    services: Services, script: Script, number: int, *, created_by: int | None = None, note: str | None = None,
    actor: str = "api",
) -> Script:  # fmt: skip
    """A new version with the content of an old one; versions are never rewritten."""
    wishes.check_texts(None, note)
    now = services.clock()
    content = reading.source(services, reading.version(script, number))
    expected = script.version
    key = store_source(services, script, expected + 1, content)
    try:
        with transaction():
            script = runs.lock_script(script.uuid)  # so that two updates at once do not undo each other
            _check_unchanged(script, expected)
            script.version += 1
            add_version(script, script.version, content, key, now, restored=number, created_by=created_by, note=note)
            script.updated_at = now
            script.save()
            audit.record(services, script.workspace_id, actor, "script.rolled_back", script.slug,
                         {"to": number, "version": script.version})
            fact = record_fact(services, script, "script.updated")
    except UNREACHABLE:
        raise  # as in `create`
    except Exception:
        objects.discard(services.objects, [key])
        raise
    announce(services, fact)
    return script
