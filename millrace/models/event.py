"""Facts on the bus."""

import peewee

from millrace.models.base import Json, Millis, Model
from millrace.models.workspace import Workspace


class Event(Model):
    """A named fact. `outcome` is null until it was routed: then `routed`, `cut` or `failed`; `reason` says why."""

    id = peewee.CharField(max_length=36, primary_key=True)
    workspace = peewee.ForeignKeyField(Workspace, backref="events", index=False, on_delete="CASCADE")
    workspace_id: str
    name = peewee.CharField(max_length=255)
    source = peewee.CharField(max_length=255, null=True)
    subject = peewee.CharField(max_length=255, null=True)
    data = Json()
    depth = peewee.IntegerField(default=0)
    created_at = Millis()
    routed_at = Millis(null=True)
    outcome = peewee.CharField(max_length=10, null=True)
    reason = peewee.CharField(max_length=300, null=True)

    class Meta:
        indexes = ((("workspace", "created_at", "id"), False),)


Event.add_index(Event.index(Event.created_at, name="event_unrouted", where=Event.routed_at.is_null()))
