"""Who did what, for the people of a workspace and for the operator."""

import peewee

from millrace.models.base import Json, Millis, Model
from millrace.models.workspace import Workspace


class Audit(Model):
    """One deed. Without a workspace it concerns the whole platform."""

    id = peewee.AutoField()
    workspace = peewee.ForeignKeyField(Workspace, backref="audits", index=False, null=True, on_delete="CASCADE")
    workspace_id: str | None
    at = Millis()
    actor = peewee.CharField(max_length=254)  # a member's email, an API key's name, or the process that did it
    action = peewee.CharField(max_length=60)
    subject = peewee.CharField(max_length=300)
    details = Json()

    class Meta:
        indexes = ((("workspace", "at", "id"), False),)
