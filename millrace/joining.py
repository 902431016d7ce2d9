"""How somebody whom Millrace knows already comes into a workspace: invited there, and signed in as who they are.

Whoever invites hands the link on. It is worth nothing to anybody else, also to who invited the same email elsewhere
before and chose its password.
"""

from dataclasses import dataclass
from typing import Any

import peewee

from millrace import audit, invitations, members, roles, users
from millrace.errors import Conflict, NotFound
from millrace.models import Invitation, Member, Role, User, Workspace
from millrace.models.script import DELETED
from millrace.roles import Actor
from millrace.services import Services


@dataclass(frozen=True)
class Offer:
    """A place that waits for its user."""

    workspace_id: str
    workspace_name: str
    role: Role


def is_offer(services: Services, token: str) -> bool:
    """Whether this is a link to join a workspace, and works; for who is not signed in."""
    return _live(services, token) is not None


def find(services: Services, token: str, user: User) -> Offer:
    """What the link offers. Raises as `join` does."""
    row = _live(services, token)
    if row is None:
        raise invitations.gone()
    if row.user_id != user.id:
        raise NotFound("This invitation is for somebody else. Sign in as the person whom it is for.")
    return _offer(row)


def join(services: Services, token: str, user: User) -> Member:
    """Make the user a member, once. Links of theirs to choose a password end: others may have seen them.

    `user` is as they were when they signed in. Raises NotFound for a link that was used, is too old, never was or is
    somebody else's, and for a role that is gone; Conflict for who is a member already, when there are too many, and
    when their password was changed meanwhile.
    """
    offer = find(services, token, user)
    workspace_id = offer.workspace_id
    with roles.exclusively(workspace_id):
        if users.hold(user).password_hash != user.password_hash:
            raise Conflict("Your password was changed just now.")
        row = _live(services, token)
        mine = Invitation.delete().where(Invitation.id == invitations.digest(token), Invitation.user == user.id)
        if row is None or not mine.execute():
            raise invitations.gone()
        role = _offer(row).role.name
        members.check_room(workspace_id, user)
        invitations.revoke(user)
        member = members.add(services, workspace_id, user, role)
        audit.record(services, workspace_id, user.email, "member.joined", user.email, {"role": role})
    return member


def waiting(services: Services, workspace_id: str) -> list[Invitation]:
    """Who was invited and has not joined yet, each with its user, by email."""
    query = Invitation.select(Invitation, User).join(User)
    live = query.where(Invitation.workspace == workspace_id, Invitation.expires_at > services.clock())
    return list(live.order_by(User.email))


def withdraw(services: Services, workspace_id: str, user_id: int, by: Actor) -> None:
    """End an invitation. Raises NotFound, and Forbidden for a role that may more than `by` may."""
    with roles.exclusively(workspace_id):
        found = [each for each in waiting(services, workspace_id) if each.user_id == user_id]
        if not found:
            raise NotFound("There is no such invitation.")
        by.check_all(roles.given(None, found[0].role, workspace_id))
        invitations.withdraw(user_id, workspace_id)
        audit.record(services, workspace_id, by.name, "member.uninvited", found[0].user.email)


def _live(services: Services, token: str) -> Invitation | None:
    """With its workspace, without its data key."""
    query = Invitation.select(Invitation, Workspace.id, Workspace.name).join(Workspace, peewee.JOIN.INNER)
    return query.where(
        Invitation.id == invitations.digest(token), Invitation.expires_at > services.clock(),
        Workspace.status != DELETED,
    ).get_or_none()  # fmt: skip


def _offer(row: Invitation) -> Offer:
    workspace: Any = row.workspace
    try:
        return Offer(workspace.id, workspace.name, roles.find(workspace.id, str(row.role)))
    except NotFound:
        raise NotFound("The role of this invitation is gone. Ask for a new one.") from None
