"""Roles as data: which permissions each gives, in one workspace or everywhere.

Millrace's own are rows without a workspace, which a migration wrote. A workspace may add its own.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import peewee

from millrace import audit, jsontext
from millrace.database import is_sqlite, transaction
from millrace.errors import Conflict, Forbidden, Invalid, NotFound
from millrace.models import Member, Role, User, Workspace
from millrace.models.script import DELETED
from millrace.services import Services

MANAGE = "workspace.manage"  # members, roles, keys, data sources, audit, settings
PLATFORM = "platform.manage"  # all workspaces
PERMISSIONS = (
    "scripts.read", "scripts.create", "scripts.update", "scripts.delete", "scripts.execute", MANAGE, PLATFORM,
)  # fmt: skip
OF_WORKSPACE = PERMISSIONS[:-1]  # what a role in a workspace can give
SUPERADMIN, ORG_ADMIN = "superadmin", "org_admin"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,29}")
MAX_ROLES = 50


@dataclass(frozen=True)
class Actor:
    """Who does something, as the audit trail names them, and what they may do here."""

    name: str
    permissions: frozenset[str]

    def check_all(self, permissions: Collection[str]) -> None:
        """Raises Forbidden unless they have all of these themselves."""
        more = sorted(set(permissions) - self.permissions)
        if more:
            raise Forbidden(f"This takes permissions that you do not have yourself: {', '.join(more)}.")


OPERATOR = Actor("operator", frozenset(PERMISSIONS))


def of(workspace_id: str) -> list[Role]:
    """The roles that a member may have: Millrace's own, then the workspace's by title."""
    rows = Role.select().where(
        (Role.workspace == workspace_id) | (Role.workspace.is_null() & (Role.name != SUPERADMIN))
    )
    return sorted(rows, key=lambda role: (role.workspace_id is not None, role.workspace_id and role.title, role.id))


def find(workspace_id: str, name: str) -> Role:
    """One of those. Raises NotFound."""
    for role in of(workspace_id):
        if role.name == name:
            return role
    raise NotFound(f"There is no role '{name}'.")


def permissions(user: User, workspace_id: str | None) -> frozenset[str]:
    """What the user may do in this workspace: by the role that they have everywhere, and by their place in it."""
    place = Member.select(Member.role).where(Member.user == user.id, Member.workspace == workspace_id).first()
    return given(user.role, None if place is None else place.role, workspace_id)


def given(everywhere: str | None, here: str | None, workspace_id: str | None) -> frozenset[str]:
    """What these two roles give together. A role that does not exist gives nothing."""
    if everywhere is None and here is None:
        return frozenset()
    rows = Role.select().where(
        Role.name.in_([name for name in (everywhere, here) if name is not None]),
        Role.workspace.is_null() | (Role.workspace == workspace_id),
    )
    found: set[str] = set()
    for role in rows:
        if role.name == everywhere and role.workspace_id is None:
            found.update(role.permissions)
        if role.name == here:
            found.update(set(role.permissions) - {PLATFORM})
    return frozenset(found)


def add(services: Services, workspace_id: str, name: str, title: str, wanted: Collection[str], by: Actor) -> Role:
    """A role of this workspace. Raises Invalid, Conflict when the name is taken, Forbidden for more than `by` has."""
    if not _NAME.fullmatch(name):
        raise Invalid("A role's name begins with a letter and has up to 30 of a-z, 0-9, '_' and '-'.",
                      field="name", value=name)
    title, chosen = _checked(title, wanted)
    by.check_all(chosen)
    with exclusively(workspace_id):
        present = Role.select().where((Role.workspace == workspace_id) | Role.workspace.is_null())
        if any(role.name == name for role in present):
            raise Conflict(f"There is a role '{name}' already.")
        if sum(role.workspace_id is not None for role in present) >= MAX_ROLES:
            raise Conflict(f"A workspace can have {MAX_ROLES} roles of its own.")
        role = Role.create(workspace=workspace_id, name=name, title=title, permissions=chosen)
        audit.record(services, workspace_id, by.name, "role.added", name, {"permissions": chosen})
    return role


def change(services: Services, workspace_id: str, name: str, title: str, wanted: Collection[str], by: Actor) -> Role:
    """Give one of the workspace's own roles another title and other permissions; they hold at once.

    Raises NotFound, Invalid, Conflict for a role of Millrace's own or when nobody could manage the workspace any
    more, Forbidden for more than `by` has.
    """
    title, chosen = _checked(title, wanted)
    by.check_all(chosen)
    with exclusively(workspace_id):
        role = _own(workspace_id, name)
        by.check_all(role.permissions)
        before, role.title, role.permissions = role.permissions, title, chosen
        role.save()
        details = {"permissions": chosen, "before": before}
        audit.record(services, workspace_id, by.name, "role.changed", name, details)
    return role


def remove(services: Services, workspace_id: str, name: str, by: Actor) -> None:
    """Remove one of the workspace's own roles. Raises NotFound, Conflict while a member has it, Forbidden."""
    with exclusively(workspace_id):
        role = _own(workspace_id, name)
        by.check_all(role.permissions)
        if Member.select().where(Member.workspace == workspace_id, Member.role == name).exists():
            raise Conflict(f"Members have the role '{name}'; give them another one first.")
        role.delete_instance()
        audit.record(services, workspace_id, by.name, "role.removed", name)


def _own(workspace_id: str, name: str) -> Role:
    role = find(workspace_id, name)
    if role.workspace_id is None:
        raise Conflict(f"The role '{name}' is Millrace's own and stays as it is.")
    return role


def _checked(title: str, wanted: Collection[str]) -> tuple[str, list[str]]:
    title = title.strip()
    if not 1 <= len(title) <= 60 or not title.isprintable():
        raise Invalid("A role's title has from 1 to 60 printable characters.", field="title", value=title)
    for each in wanted:
        if each not in OF_WORKSPACE:
            raise Invalid(f"A role of a workspace gives some of {', '.join(OF_WORKSPACE)}.",
                          field="permissions", value=each)
    return jsontext.storable(title), [each for each in OF_WORKSPACE if each in wanted]


@contextmanager
def exclusively(workspace_id: str) -> Iterator[None]:
    """A transaction in which members and roles of a workspace change: one at a time, judged by what is left.

    Raises NotFound for a workspace that is gone, and Conflict when the last who manage it could not any more.
    """
    with transaction():
        alive: Any = Workspace.select(Workspace.id).where(Workspace.id == workspace_id, Workspace.status != DELETED)
        # Every run that is added holds its workspace's key, and must not wait for this.
        held = alive if is_sqlite(Workspace._meta.database.obj) else alive.for_update("FOR NO KEY UPDATE")
        if held.first() is None:
            raise NotFound(f"There is no workspace '{workspace_id}'.")
        before = _managers(workspace_id)
        yield
        if before and not _managers(workspace_id):
            raise Conflict("Somebody has to manage the workspace; this would leave nobody who may.")


def _managers(workspace_id: str) -> int:
    managing = [role.name for role in of(workspace_id) if MANAGE in role.permissions]
    places: peewee.ModelSelect[Member] = Member.select().where(
        Member.workspace == workspace_id, Member.role.in_(managing)
    )
    return int(places.count())
