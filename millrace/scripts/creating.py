"""A new script."""

import os
from dataclasses import replace

import peewee

from millrace import audit, callbacks, languages, objects, schedules, secrets, triggers
from millrace.database import UNREACHABLE, transaction
from millrace.errors import Conflict, Invalid
from millrace.models import Script
from millrace.scripts import names, statuses, types, wishes
from millrace.scripts.names import SLUG
from millrace.scripts.storing import add_version, announce, record_fact, store_source
from millrace.scripts.wishes import NewScript
from millrace.services import Services
from millrace.triggers import Triggers
from millrace.vault import Randomness

_ID_TRIES = 3  # how often an id that was just made may be taken by somebody who was faster


def create(services: Services, workspace_id: str, new: NewScript, random: Randomness = os.urandom) -> Script:
    """A new script with version 1. Raises Conflict for a taken id or name, Invalid for a broken rule; then nothing is
    left."""
    if new.slug is not None:
        return _create(services, workspace_id, new, new.slug, random)
    for tried in range(1, _ID_TRIES + 1):
        slug = names.slug_for(workspace_id, new.display_name, random)
        try:
            return _create(services, workspace_id, new, slug, random)
        except Conflict:
            if tried == _ID_TRIES or not _exists(workspace_id, slug) or _name_is_taken(workspace_id, new):
                raise
    raise AssertionError("the last try returns or raises")


def _create(services: Services, workspace_id: str, new: NewScript, slug: str, random: Randomness) -> Script:
    new = _checked_new(new, slug)
    now = services.clock()
    script = Script(
        uuid=services.new_id(), workspace=workspace_id, slug=slug, display_name=new.display_name,
        description=new.description, runtime=new.runtime,
        entry_point=new.entry_point or languages.of(new.runtime).entry_point, status=new.status, version=1,
        memory_mb=new.memory_mb, timeout_seconds=new.timeout_seconds, isolation=new.isolation,
        max_concurrent_runs=new.max_concurrent_runs, egress_hosts=new.egress_hosts, tags=dict(new.tags),
        retry=wishes.checked_retry(new.retry), concurrency=new.concurrency, callback_url=new.callback_url,
        type=new.type, unique_name=names.key(new.display_name) if new.unique_name else None,
        created_by=new.created_by, created_at=now, updated_at=now,
    )
    if new.limits is not None:
        wishes.set_limits(script, new.limits)
    if new.unique_name:  # before the id, which may have been made from it
        names.check_free(workspace_id, new.display_name, script.uuid)
    if _exists(workspace_id, slug):
        raise _taken(slug)
    key = store_source(services, script, 1, new.source)
    try:
        with transaction():
            callbacks.secure(services, script, new.callback_secret, random)
            script.save(force_insert=True)
            add_version(script, 1, new.source, key, now, created_by=new.created_by, note=new.note)
            audit.record(services, workspace_id, new.actor, "script.created", slug)
            fact = record_fact(services, script, "script.created")  # it does not hear of itself
            secrets.replace(services, script, new.secrets)
            triggers.replace(services, script, new.triggers)
            schedules.replace(services, script, new.schedule or None, new.time_zone, new.schedule_policy)
    except UNREACHABLE:
        raise  # nobody knows whether the commit was done: a script without its source would be worse than a stray one
    except Exception as error:
        # Whatever was refused inside, the source must not stay behind without a script.
        objects.discard(services.objects, [key])
        if isinstance(error, peewee.IntegrityError) and _name_is_taken(workspace_id, new):
            raise names.taken(new.display_name) from None
        if isinstance(error, peewee.IntegrityError) and _exists(workspace_id, slug):
            raise _taken(slug) from None
        raise
    announce(services, fact)
    return script


def _checked_new(new: NewScript, slug: str) -> NewScript:
    """With its type, and the schedule as it is kept. Raises Invalid."""
    if not SLUG.fullmatch(slug):
        raise Invalid("id must have 3 to 63 lowercase letters, digits and hyphens, and begin and end with a letter "
                      "or digit.", field="id", value=slug)
    if new.unique_name:
        names.check(new.display_name)
    statuses.check_new(new.status)
    wishes.check_texts(new.description, new.note)
    wishes.check_callback(new.callback_url, new.callback_secret)
    if new.type is None:
        type_ = types.derive(
            types.ONEOFF, scheduled=bool(new.schedule), http=new.triggers.http is not None,
            event=bool(new.triggers.events),
        )  # fmt: skip
        new = replace(new, type=type_)
    else:
        type_ = types.read(new.type)
        types.check_triggers(type_, new.triggers, Triggers())
        new = replace(new, type=type_, schedule=types.schedule(type_, new.schedule, None))
    if not new.schedule:
        wishes.check_no_more_of_schedule(new)
    return new


def _name_is_taken(workspace_id: str, new: NewScript) -> bool:
    return new.unique_name and names.is_taken(workspace_id, new.display_name)


def _exists(workspace_id: str, slug: str) -> bool:
    return bool(Script.select().where(Script.workspace == workspace_id, Script.slug == slug).exists())


def _taken(slug: str) -> Conflict:
    return Conflict(f"A script with the id '{slug}' exists already.")
