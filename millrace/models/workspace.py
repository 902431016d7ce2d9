"""Tenants and their keys."""

import peewee

from millrace.models.base import Json, Millis, Model


class Workspace(Model):
    """The tenant. `data_key` is its key for secrets, wrapped under a master key (see `millrace.vault`).

    `limits` are what it may use, see `millrace.limits`; `stored_bytes` is what it held at `stored_at`, when that was
    last measured.
    """

    id = peewee.CharField(max_length=64, primary_key=True)
    name = peewee.CharField(max_length=200)
    status = peewee.CharField(max_length=20, default="ready")  # ready | suspended
    data_key = peewee.TextField()
    limits = Json(null=True)
    stored_bytes = peewee.BigIntegerField(null=True)
    stored_at = Millis(null=True)
    created_at = Millis()


class ApiKey(Model):
    """A key `mr_<id>_<secret>`: only the SHA-256 of the secret is kept, which is 256 random bits."""

    id = peewee.CharField(max_length=24, primary_key=True)
    workspace = peewee.ForeignKeyField(Workspace, backref="api_keys", on_delete="CASCADE")
    workspace_id: str
    name = peewee.CharField(max_length=100)
    digest = peewee.CharField(max_length=64)
    created_at = Millis()
    revoked_at = Millis(null=True)
