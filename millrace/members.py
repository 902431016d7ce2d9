"""Who belongs to a workspace, with which role."""

from dataclasses import dataclass

from millrace import audit, invitations, roles, users
from millrace.errors import Conflict, Forbidden, NotFound
from millrace.models import Member, Role, Session, User, Workspace
from millrace.models.script import DELETED
from millrace.roles import Actor
from millrace.services import Services

MAX_MEMBERS = 1000


@dataclass(frozen=True)
class Invited:
    """Who was invited, and the token of their link, which is shown once.

    With it they choose a password, and are a member already; or they join, and until then there is no member.
    """

    user: User
    member: Member | None
    token: str


def of(workspace_id: str) -> list[Member]:
    """The members of a workspace, each with its user, by email."""
    query = Member.select(Member, User).join(User).where(Member.workspace == workspace_id)
    return list(query.order_by(User.email))


def find(workspace_id: str, member_id: str) -> Member:
    """One of them. Raises NotFound."""
    query = Member.select(Member, User).join(User)
    found = query.where(Member.id == member_id, Member.workspace == workspace_id).get_or_none()
    if found is None:
        raise NotFound(f"There is no member '{member_id}'.")
    return found


def workspaces_of(user: User) -> list[Workspace]:
    """Where the user is a member, or with platform.manage all, by name; without their data keys."""
    columns = Workspace.id, Workspace.name, Workspace.status, Workspace.created_at
    query = Workspace.select(*columns).where(Workspace.status != DELETED)
    if roles.PLATFORM not in roles.given(user.role, None, None):
        query = query.join(Member).where(Member.user == user.id)
    return list(query.order_by(Workspace.name, Workspace.id))


def invite(services: Services, workspace_id: str, email: str, role: str, by: Actor) -> Invited:
    """Make whoever has this email a member if they are new, or offer a place to who is known already.

    Somebody else may have chosen the password of who is known, having invited them first. So their place begins when
    they, signed in, use the link themselves, see `millrace.joining`; a second link replaces the first.
    Raises Invalid, NotFound for the role, Conflict for who is a member already, Forbidden for a role that may more than
    `by` may.
    """
    with roles.exclusively(workspace_id):
        given = _may_give(workspace_id, role, by)
        user = users.hold(users.add(services, email)[0])
        check_room(workspace_id, user)
        if user.password_hash is not None or _known_elsewhere(user, workspace_id):
            token = invitations.issue_to_join(services, user, workspace_id, given.name)
            audit.record(services, workspace_id, by.name, "member.invited", user.email, {"role": role})
            return Invited(user, None, token)
        invitations.withdraw(user.id, workspace_id)
        token = invitations.issue(services, user, invitations.INVITED_MS)
        member = add(services, workspace_id, user, given.name)
        audit.record(services, workspace_id, by.name, "member.added", user.email, {"role": role})
    return Invited(user, member, token)


def check_room(workspace_id: str, user: User) -> None:
    """Raises Conflict for who is a member already, and when there are too many."""
    if Member.select().where(Member.workspace == workspace_id, Member.user == user.id).exists():
        raise Conflict(f"'{user.email}' is a member already.")
    if Member.select().where(Member.workspace == workspace_id).count() >= MAX_MEMBERS:
        raise Conflict(f"A workspace can have {MAX_MEMBERS} members.")


def add(services: Services, workspace_id: str, user: User, role: str) -> Member:
    """A place in a workspace, in the caller's transaction."""
    return Member.create(
        id=services.new_id(), workspace=workspace_id, user=user, role=role, created_at=services.clock()
    )


def set_role(services: Services, workspace_id: str, member_id: str, role: str, by: Actor) -> Member:
    """Give a member another role; it holds at once.

    Raises NotFound, Forbidden when the old or the new role may more than `by` may, Conflict for the last who manages.
    """
    with roles.exclusively(workspace_id):
        given = _may_give(workspace_id, role, by)
        member = _weaker(workspace_id, member_id, by)
        before, member.role = member.role, given.name
        Member.update(role=given.name).where(Member.id == member.id).execute()
        details = {"role": role, "before": before}
        audit.record(services, workspace_id, by.name, "member.changed", member.user.email, details)
    return member


def remove(services: Services, workspace_id: str, member_id: str, by: Actor) -> None:
    """Take a member's place and end their sessions there. Raises as `set_role` does."""
    with roles.exclusively(workspace_id):
        member = _weaker(workspace_id, member_id, by)
        Member.delete().where(Member.id == member.id).execute()
        Session.delete().where(Session.user == member.user_id, Session.workspace == workspace_id).execute()
        audit.record(services, workspace_id, by.name, "member.removed", member.user.email, {"role": member.role})


def reset(services: Services, workspace_id: str, member_id: str, by: Actor) -> str:
    """The token of a link with which a member chooses another password; their old one works until then.

    Raises NotFound, and Forbidden for who may more than `by`, or belongs elsewhere as well: that is for an operator.
    """
    with roles.exclusively(workspace_id):
        member = _weaker(workspace_id, member_id, by)
        users.hold(member.user)  # so that they join no other workspace meanwhile
        if roles.PLATFORM not in by.permissions and _known_elsewhere(member.user, workspace_id):
            raise Forbidden("They belong to other workspaces as well; an operator can make a link for them.")
        return _link(services, workspace_id, member.user, by)


def reset_any(services: Services, email: str, by: Actor) -> str:
    """The same for any user. Raises NotFound, and Forbidden unless `by` manages the platform."""
    by.check_all([roles.PLATFORM])
    return _link(services, None, users.find(email), by)


def _link(services: Services, workspace_id: str | None, user: User, by: Actor) -> str:
    token = invitations.issue(services, user, invitations.FORGOTTEN_MS)
    audit.record(services, workspace_id, by.name, "user.reset", user.email)
    return token


def _may_give(workspace_id: str, name: str, by: Actor) -> Role:
    role = roles.find(workspace_id, name)
    by.check_all(role.permissions)
    return role


def _weaker(workspace_id: str, member_id: str, by: Actor) -> Member:
    member = find(workspace_id, member_id)
    by.check_all(roles.given(None, member.role, workspace_id))
    return member


def _known_elsewhere(user: User, workspace_id: str) -> bool:
    elsewhere = Member.select().where(Member.user == user.id, Member.workspace != workspace_id)
    return user.role is not None or bool(elsewhere.exists())
