"""Many runs that were asked for at once."""

import peewee

from millrace.models.base import Millis, Model
from millrace.models.script import Script
from millrace.models.workspace import Workspace


class Batch(Model):
    """Many runs of one script that were accepted at once, one for each of its items.

    At most `concurrency` of them are in the line of their script or on their way at a time, the others wait outside
    (`available_at` is NOT_YET) and come in at `order_at`; null is no limit.
    """

    id = peewee.CharField(max_length=36, primary_key=True)
    workspace = peewee.ForeignKeyField(Workspace, backref="batches", index=False, on_delete="CASCADE")
    workspace_id: str
    script = peewee.ForeignKeyField(Script, backref="batches", index=False, on_delete="CASCADE")
    script_id: str
    total = peewee.IntegerField()
    concurrency = peewee.IntegerField(null=True)
    created_at = Millis()
    order_at = Millis()
    cancelled_at = Millis(null=True)

    class Meta:
        indexes = ((("script", "created_at", "id"), False), (("workspace", "created_at", "id"), False))
