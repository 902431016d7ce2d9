"""Runs, and what is kept with them."""

import peewee

from millrace.models.base import Json, Millis, Model
from millrace.models.script import Script
from millrace.models.workspace import Workspace

QUEUED, RUNNING, WAITING = "queued", "running", "waiting"
SUCCEEDED, FAILED, TIMED_OUT, CANCELLED = "succeeded", "failed", "timed_out", "cancelled"
FINAL = (SUCCEEDED, FAILED, TIMED_OUT, CANCELLED)
PLATFORM_ERROR = "PLATFORM_ERROR"  # the platform could not carry the run, and the script is not to blame
NOT_YET = 2**62
"""When a run is due whose batch has as many under way as it may; see `millrace.admission`."""
WORKER_LOST = "WORKER_LOST"  # the error code of a run whose worker died while the handler ran


class Run(Model):
    """One execution of one version.

    `attempt` is the fencing token: every write of a worker names the attempt that it claimed. `tries` counts how often
    the handler was entered before this attempt.
    `sent_at` is null while the run waits for a free place; `available_at` is the moment before which it may not start,
    and `order_at` its place in the line: that moment, less what its priority is worth.
    `payload` and `result` hold JSON text; a large one lives in the object store under `payload_key` or `result_key`
    instead. `log_chunks` without a `log_key` says that the log still has to be made of its chunks; an empty `log_key`
    that it was removed because of its age.
    """

    id = peewee.CharField(max_length=36, primary_key=True)
    workspace = peewee.ForeignKeyField(Workspace, backref="runs", index=False, on_delete="CASCADE")
    workspace_id: str
    script = peewee.ForeignKeyField(Script, backref="runs", index=False, on_delete="CASCADE")
    script_id: str
    version = peewee.IntegerField()
    status = peewee.CharField(max_length=12)
    trigger = peewee.CharField(max_length=10)  # api | manual | schedule | http | event | batch
    mode = peewee.CharField(max_length=5)  # sync | async
    caller_ip = peewee.CharField(max_length=64, default="")
    user_id = peewee.IntegerField(null=True)  # who started it, if it was a person
    payload = peewee.TextField(null=True)
    payload_key = peewee.CharField(max_length=200, null=True)

    created_at = Millis()
    available_at = Millis()
    order_at = Millis(default=0)
    expires_at = Millis(null=True)
    sent_at = Millis(null=True)
    started_at = Millis(null=True)
    completed_at = Millis(null=True)
    duration_ms = peewee.IntegerField(null=True)

    attempt = peewee.IntegerField(default=0)
    tries = peewee.IntegerField(default=0)
    worker = peewee.CharField(max_length=80, null=True)
    lease_until = Millis(null=True)
    cancel_requested_at = Millis(null=True)

    error = peewee.TextField(null=True)
    error_code = peewee.CharField(max_length=40, null=True)
    error_stack = peewee.TextField(null=True)
    result = peewee.TextField(null=True)
    result_key = peewee.CharField(max_length=200, null=True)
    summary = Json(null=True)
    log_key = peewee.CharField(max_length=200, null=True)
    log_chunks = peewee.IntegerField(default=0)
    usage = Json(null=True)

    event_id = peewee.CharField(max_length=36, null=True)
    due_at = Millis(null=True)
    delivery_id = peewee.CharField(max_length=255, null=True)
    depth = peewee.IntegerField(default=0)  # how many events lie between this run and a start from outside
    concurrency_key = peewee.CharField(max_length=64, null=True)  # a digest: the value may be long, or personal
    debounce_key = peewee.CharField(max_length=255, null=True)
    replay_of = peewee.CharField(max_length=36, null=True)
    batch_id = peewee.CharField(max_length=36, null=True)
    batch_index = peewee.IntegerField(null=True)  # which item of its batch, from 0
    callback_url = peewee.CharField(max_length=2000, null=True)  # of this run alone; else its script's

    class Meta:
        indexes = (
            (("script", "created_at", "id"), False),
            (("workspace", "created_at", "id"), False),
            (("workspace", "trigger", "created_at", "id"), False),
            # One run per (event, script), per due time and per delivery; nulls do not collide.
            (("event_id", "script"), True),
            (("script", "due_at"), True),
            (("script", "delivery_id"), True),
        )


# The few runs that are not over, whatever the length of the history.
# Their conditions have no parameters, for SQLite takes a partial index only if it can prove that it applies.
Run.add_index(
    Run.index(Run.script, Run.available_at, Run.id, name="run_waiting",
              where=Run.sent_at.is_null() & Run.completed_at.is_null())
)
Run.add_index(
    Run.index(Run.script, Run.order_at, Run.id, name="run_waiting_order",
              where=Run.sent_at.is_null() & Run.completed_at.is_null())
)
Run.add_index(
    Run.index(Run.workspace, Run.sent_at, name="run_workspace_holding",
              where=Run.sent_at.is_null(False) & Run.completed_at.is_null())
)
Run.add_index(
    Run.index(Run.expires_at, name="run_expiring",
              where=Run.expires_at.is_null(False) & Run.started_at.is_null() & Run.completed_at.is_null())
)
Run.add_index(
    Run.index(Run.script, Run.debounce_key, unique=True, name="run_debounced",
              where=Run.debounce_key.is_null(False) & Run.sent_at.is_null() & Run.completed_at.is_null())
)
Run.add_index(
    Run.index(Run.workspace, Run.completed_at, name="run_completed_at", where=Run.completed_at.is_null(False))
)
Run.add_index(
    Run.index(Run.script, Run.sent_at, name="run_holding",
              where=Run.sent_at.is_null(False) & Run.completed_at.is_null())
)
Run.add_index(
    Run.index(Run.sent_at, name="run_sent",
              where=Run.sent_at.is_null(False) & Run.started_at.is_null() & Run.completed_at.is_null())
)
Run.add_index(Run.index(Run.lease_until, name="run_leased", where=Run.lease_until.is_null(False)))
Run.add_index(
    Run.index(Run.completed_at, name="run_log_in_chunks",
              where=Run.log_key.is_null() & Run.completed_at.is_null(False) & peewee.SQL("log_chunks > 0"))
)
Run.add_index(
    Run.index(Run.batch_id, Run.batch_index, unique=True, name="run_batch_item", where=Run.batch_id.is_null(False))
)
Run.add_index(
    Run.index(Run.batch_id, Run.available_at, Run.batch_index, name="run_batch_open",
              where=Run.batch_id.is_null(False) & Run.completed_at.is_null())
)
Run.add_index(Run.index(Run.batch_id, Run.status, name="run_batch_status", where=Run.batch_id.is_null(False)))
# What people look for in a long history. Its conditions stand as queries write them, see `millrace.history`: SQLite
# takes the index for one of several terms only if that very term is asked for.
_WENT_WRONG = peewee.SQL("status = 'failed' OR status = 'timed_out' OR status = 'cancelled'")
Run.add_index(
    Run.index(Run.workspace, Run.status, Run.created_at, Run.id, name="run_workspace_wrong", where=_WENT_WRONG)
)
Run.add_index(Run.index(Run.script, Run.status, Run.created_at, Run.id, name="run_script_wrong", where=_WENT_WRONG))
Run.add_index(
    Run.index(Run.workspace, Run.created_at, Run.id, name="run_workspace_open", where=Run.completed_at.is_null())
)
Run.add_index(Run.index(Run.script, Run.created_at, Run.id, name="run_script_open", where=Run.completed_at.is_null()))


class Attempt(Model):
    """One that ended without being the run's last. The last one is the run itself, so that most runs have none here."""

    id = peewee.AutoField()
    run = peewee.ForeignKeyField(Run, backref="attempts", index=False, on_delete="CASCADE")
    run_id: str
    number = peewee.IntegerField()
    status = peewee.CharField(max_length=12)
    worker = peewee.CharField(max_length=80, null=True)
    started_at = Millis(null=True)
    completed_at = Millis()
    duration_ms = peewee.IntegerField(null=True)
    error = peewee.TextField(null=True)
    error_code = peewee.CharField(max_length=40, null=True)
    error_stack = peewee.TextField(null=True)
    log_key = peewee.CharField(max_length=200, null=True)
    usage = Json(null=True)

    class Meta:
        indexes = ((("run", "number"), True),)


Attempt.add_index(
    Attempt.index(Attempt.id, name="attempt_lost_log",
                  where=Attempt.log_key.is_null() & peewee.SQL("error_code = 'WORKER_LOST'"))
)


class DeadLetter(Model):
    """A run that the platform has given up, until a person sends it again."""

    id = peewee.CharField(max_length=36, primary_key=True)
    workspace = peewee.ForeignKeyField(Workspace, backref="dead_letters", index=False, on_delete="CASCADE")
    workspace_id: str
    script = peewee.ForeignKeyField(Script, backref="dead_letters", on_delete="CASCADE")
    script_id: str
    run = peewee.ForeignKeyField(Run, backref="dead_letters", unique=True, on_delete="CASCADE")
    run_id: str
    reason = peewee.CharField(max_length=300)
    created_at = Millis()
    redriven_at = Millis(null=True)
    redriven_run_id = peewee.CharField(max_length=36, null=True)

    class Meta:
        indexes = ((("workspace", "created_at", "id"), False),)


class IdempotencyKey(Model):
    """The run that an earlier request with this key started, and the digest of that request's body."""

    id = peewee.AutoField()
    script = peewee.ForeignKeyField(Script, backref="idempotency_keys", index=False, on_delete="CASCADE")
    script_id: str
    key = peewee.CharField(max_length=255)
    digest = peewee.CharField(max_length=64)
    run_id = peewee.CharField(max_length=36)
    created_at = Millis(index=True)

    class Meta:
        indexes = ((("script", "key"), True),)


class Artifact(Model):
    """A file that a run wrote. The content type is kept here, since the object store may lose it."""

    id = peewee.AutoField()
    run = peewee.ForeignKeyField(Run, backref="artifacts", index=False, on_delete="CASCADE")
    run_id: str
    name = peewee.CharField(max_length=255)
    size = peewee.BigIntegerField()
    content_type = peewee.CharField(max_length=100)
    object_key = peewee.CharField(max_length=400)
    created_at = Millis()

    class Meta:
        indexes = ((("run", "name"), True),)
