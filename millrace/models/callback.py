"""Outcomes of runs, on their way to those who asked to be told."""

import peewee

from millrace.models.base import Json, Millis, Model
from millrace.models.run import Run
from millrace.models.script import Script
from millrace.models.workspace import Workspace


class Callback(Model):
    """The outcome of one run, to be told to one address. `next_at` is null once it is delivered or given up.

    `deliveries` is a list of {"at", "status", "error", "duration_ms"}, the latest last. Whoever delivers it holds it
    until `leased_until`.
    """

    id = peewee.CharField(max_length=36, primary_key=True)
    workspace = peewee.ForeignKeyField(Workspace, backref="callbacks", on_delete="CASCADE")
    workspace_id: str
    script = peewee.ForeignKeyField(Script, backref="callbacks", on_delete="CASCADE")
    script_id: str
    run = peewee.ForeignKeyField(Run, backref="callbacks", unique=True, on_delete="CASCADE")
    run_id: str
    url = peewee.CharField(max_length=2000)
    status = peewee.CharField(max_length=10, default="pending")  # pending | delivered | failed
    deliveries = Json()
    created_at = Millis()
    next_at = Millis(null=True)
    leased_until = Millis(null=True)


Callback.add_index(Callback.index(Callback.next_at, name="callback_due", where=Callback.next_at.is_null(False)))
Callback.add_index(
    Callback.index(Callback.workspace, Callback.next_at, Callback.id, name="callback_workspace_due",
                   where=Callback.next_at.is_null(False))
)
