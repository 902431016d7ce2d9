"""What workspaces used, hour by hour."""

import peewee

from millrace.models.base import Json, Millis, Model
from millrace.models.workspace import Workspace


class UsageHour(Model):
    """The runs of a workspace that ended within one hour, summed up once it is over; see `millrace.usage`.

    `durations` counts them by how long they took: {"number of a bucket": count}.
    """

    id = peewee.AutoField()
    workspace = peewee.ForeignKeyField(Workspace, backref="usage_hours", index=False, on_delete="CASCADE")
    workspace_id: str
    hour = Millis(index=True)  # when it began
    runs = peewee.IntegerField()
    failed = peewee.IntegerField()  # with those that timed out
    worker_ms = peewee.BigIntegerField()
    durations = Json()

    class Meta:
        indexes = ((("workspace", "hour"), True),)
