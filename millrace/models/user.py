"""The people who sign in: who they are, what they may do in which workspace, and where they are signed in."""

import peewee

from millrace.models.base import Json, Millis, Model
from millrace.models.workspace import Workspace


class User(Model):
    """A person, known by an email in lower case. `role` is one that holds in every workspace, for most it is null.

    `password_hash` is argon2's, and null for who has not chosen a password yet or signs in elsewhere.
    """

    id = peewee.AutoField()
    email = peewee.CharField(max_length=254, unique=True)
    name = peewee.CharField(max_length=100, null=True)
    password_hash = peewee.CharField(max_length=200, null=True)
    role = peewee.CharField(max_length=30, null=True)
    language = peewee.CharField(max_length=8, null=True)  # null is what the browser asks for
    theme = peewee.CharField(max_length=10, null=True)  # light | dark; null is what the browser prefers
    created_at = Millis()

    class Meta:
        table_name = "users"  # `user` is a reserved word of SQL


class Role(Model):
    """What a role allows: names of permissions, see `millrace.roles`. Those without a workspace are Millrace's own."""

    id = peewee.AutoField()
    workspace = peewee.ForeignKeyField(Workspace, backref="roles", index=False, null=True, on_delete="CASCADE")
    workspace_id: str | None
    name = peewee.CharField(max_length=30)
    title = peewee.CharField(max_length=60)
    permissions = Json()

    class Meta:
        indexes = ((("workspace", "name"), True),)


class Member(Model):
    """A user's place in a workspace."""

    id = peewee.CharField(max_length=36, primary_key=True)
    workspace = peewee.ForeignKeyField(Workspace, backref="members", index=False, on_delete="CASCADE")
    workspace_id: str
    user = peewee.ForeignKeyField(User, backref="members", on_delete="CASCADE")
    user_id: int
    role = peewee.CharField(max_length=30)
    created_at = Millis()

    class Meta:
        indexes = ((("workspace", "user"), True),)


class Session(Model):
    """A browser that is signed in. The id is the SHA-256 of the token in its cookie, which is 256 random bits.

    `workspace` is the one that it looks at.
    """

    id = peewee.CharField(max_length=64, primary_key=True)
    user = peewee.ForeignKeyField(User, backref="sessions", on_delete="CASCADE")
    user_id: int
    workspace = peewee.ForeignKeyField(Workspace, backref="sessions", null=True, on_delete="CASCADE")
    workspace_id: str | None
    agent = peewee.CharField(max_length=200, default="")  # what the browser calls itself
    created_at = Millis()
    seen_at = Millis()
    expires_at = Millis(index=True)


class Invitation(Model):
    """A link, good once. The id is the SHA-256 of its token.

    Without a workspace it is one with which a user chooses a password; else one with which they join that workspace.
    """

    id = peewee.CharField(max_length=64, primary_key=True)
    user = peewee.ForeignKeyField(User, backref="invitations", on_delete="CASCADE")
    user_id: int
    workspace = peewee.ForeignKeyField(Workspace, backref="invitations", index=False, null=True, on_delete="CASCADE")
    workspace_id: str | None
    role = peewee.CharField(max_length=30, null=True)
    created_at = Millis()
    expires_at = Millis(index=True)

    class Meta:
        indexes = ((("workspace", "user"), True),)
