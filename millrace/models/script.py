"""Scripts, their versions, their secrets and what starts them."""

import peewee

from millrace.models.base import Json, Millis, Model
from millrace.models.workspace import Workspace

DELETED = "deleted"  # gone for everybody; its history is still being removed, see `millrace.removal`


class Script(Model):
    """Code with its configuration. `slug` is the id that people choose; `uuid` never changes.

    `revision` counts changes of anything that a booted jail has seen (secrets, limits, hosts), so that
    a jail kept from before is not used again.
    """

    uuid = peewee.CharField(max_length=36, primary_key=True)
    workspace = peewee.ForeignKeyField(Workspace, backref="scripts", index=False, on_delete="CASCADE")
    workspace_id: str
    slug = peewee.CharField(max_length=63)
    display_name = peewee.CharField(max_length=200)
    description = peewee.TextField(null=True)
    runtime = peewee.CharField(max_length=30)
    entry_point = peewee.CharField(max_length=200)
    # draft | active | paused | disabled | archived, see `millrace.scripts`; or deleted
    status = peewee.CharField(max_length=20, default="active")
    type = peewee.CharField(max_length=10, default="oneoff")  # scheduled | http | event | oneoff | embedded
    unique_name = peewee.CharField(max_length=300, null=True)  # see `millrace.scriptnames`; null: it may repeat
    version = peewee.IntegerField()
    revision = peewee.IntegerField(default=1)
    memory_mb = peewee.IntegerField()
    timeout_seconds = peewee.IntegerField()
    ephemeral_storage_mb = peewee.IntegerField(default=32)
    limits = Json(null=True)  # what is finer than the columns before; see `millrace.scriptlimits`
    isolation = peewee.CharField(max_length=10, default="reuse")  # reuse | fresh
    max_concurrent_runs = peewee.IntegerField(default=10)
    egress_hosts = Json(null=True)  # list of host patterns; null is any public host
    retry = Json(null=True)  # see `millrace.retries`; null is none
    concurrency = Json(null=True)  # {"key": path in the payload, "limit": runs at once per value}
    callback_url = peewee.CharField(max_length=2000, null=True)  # who is told when a run is over
    callback_secret = peewee.TextField(null=True)  # sealed; signs what is told
    fresh_callback_secret: str | None = None  # no column: in the clear, for whoever just had it made
    tags = Json()
    created_by = peewee.IntegerField(null=True)  # the user's id
    created_at = Millis()
    updated_at = Millis()

    class Meta:
        indexes = (
            (("workspace", "slug"), True),
            (("workspace", "unique_name"), True),  # nulls do not collide
            (("workspace", "created_at", "uuid"), False),
        )


class Version(Model):
    """One immutable bundle of source, numbered from 1 within its script."""

    id = peewee.AutoField()
    script = peewee.ForeignKeyField(Script, backref="versions", index=False, on_delete="CASCADE")
    script_id: str
    number = peewee.IntegerField()
    hash = peewee.CharField(max_length=64)  # SHA-256 of the raw source, hex
    size = peewee.IntegerField()
    object_key = peewee.CharField(max_length=200)
    created_at = Millis()
    restored_from = peewee.IntegerField(null=True)  # the number that a rollback brought back
    created_by = peewee.IntegerField(null=True)  # the user's id
    note = peewee.CharField(max_length=500, null=True)  # what changed, in its author's words

    class Meta:
        indexes = ((("script", "number"), True),)


class Secret(Model):
    """A sealed value; only the worker opens it, for the run at hand."""

    id = peewee.AutoField()
    script = peewee.ForeignKeyField(Script, backref="secrets", index=False, on_delete="CASCADE")
    script_id: str
    name = peewee.CharField(max_length=128)
    sealed = peewee.TextField()
    created_at = Millis()

    class Meta:
        indexes = ((("script", "name"), True),)


class Schedule(Model):
    """When a script runs by itself. `next_fire_at` is null when it will never fire again.

    `overlap` says what becomes of a due time while an earlier run goes on, `catch_up` of those that passed while no
    scheduler ran, within the last `catch_up_minutes`; see `millrace.schedules`.
    """

    script = peewee.ForeignKeyField(Script, backref="schedules", primary_key=True, on_delete="CASCADE")
    script_id: str
    expression = peewee.CharField(max_length=300)
    time_zone = peewee.CharField(max_length=64, default="UTC")
    anchor_at = Millis()  # where the clock of rate() starts
    next_fire_at = Millis(null=True, index=True)
    overlap = peewee.CharField(max_length=10, default="allow")  # allow | skip | queue | cancel
    catch_up = peewee.CharField(max_length=10, default="last")  # none | last | all
    catch_up_minutes = peewee.IntegerField(default=1440)
    paused_at = Millis(null=True)


class Firing(Model):
    """The record of one due time: exactly one row, and at most one run, per script and due time."""

    id = peewee.AutoField()
    script = peewee.ForeignKeyField(Script, backref="firings", index=False, on_delete="CASCADE")
    script_id: str
    due_at = Millis()
    fired_at = Millis()
    outcome = peewee.CharField(max_length=20)  # ran | skipped
    reason = peewee.CharField(max_length=200, null=True)
    run_id = peewee.CharField(max_length=36, null=True)

    class Meta:
        indexes = ((("script", "due_at"), True),)


class Subscription(Model):
    """A script's wish to hear of events whose name matches `pattern` and whose fields match `filter`."""

    id = peewee.AutoField()
    script = peewee.ForeignKeyField(Script, backref="subscriptions", on_delete="CASCADE")
    script_id: str
    workspace = peewee.ForeignKeyField(Workspace, backref="subscriptions", on_delete="CASCADE")
    workspace_id: str
    pattern = peewee.CharField(max_length=255)
    filter = Json(null=True)


class Hook(Model):
    """A path under /hooks/{workspace} that starts a script. `secret` is sealed like a script's secrets."""

    script = peewee.ForeignKeyField(Script, backref="hooks", primary_key=True, on_delete="CASCADE")
    script_id: str
    workspace = peewee.ForeignKeyField(Workspace, backref="hooks", index=False, on_delete="CASCADE")
    workspace_id: str
    path = peewee.CharField(max_length=200)
    methods = Json()
    auth = peewee.CharField(max_length=20)  # none | key | signature; or member: signed in, at /api/scripts alone
    scheme = peewee.CharField(max_length=20, null=True)  # standard | github | stripe
    secret = peewee.TextField(null=True)
    mode = peewee.CharField(max_length=10)  # sync | async

    class Meta:
        indexes = ((("workspace", "path"), True),)
