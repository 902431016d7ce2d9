"""Databases that a workspace's scripts may ask."""

import peewee

from millrace.models.base import Json, Millis, Model
from millrace.models.workspace import Workspace


class DataSource(Model):
    """A database of a workspace, see `millrace.datasources`. `place` says where it is, `sealed` is its password.

    Every table has `tenant_column`, whose value is the workspace's id in rows that belong to it.
    """

    id = peewee.CharField(max_length=36, primary_key=True)
    workspace = peewee.ForeignKeyField(Workspace, backref="data_sources", index=False, on_delete="CASCADE")
    workspace_id: str
    name = peewee.CharField(max_length=63)
    kind = peewee.CharField(max_length=12)  # postgresql | sqlite
    place = Json()
    sealed = peewee.TextField(null=True)
    tenant_column = peewee.CharField(max_length=63)
    tenant_setting = peewee.CharField(max_length=63, null=True)  # what policies of row-level security compare with
    created_at = Millis()
    updated_at = Millis()

    class Meta:
        indexes = ((("workspace", "name"), True),)
