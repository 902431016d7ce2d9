"""Links with which a person chooses a password, after an invitation or when it was forgotten, or joins a workspace.

Millrace sends no mail: whoever asks for a link sees it once and hands it on. So nobody gets one for the password of a
person who may do more than they themselves, see `millrace.members`. A link to join says nothing of who opens it: they
sign in, see `millrace.joining`.
"""

import hashlib
from collections.abc import Callable

import peewee

from millrace import audit, ids, passwords, users
from millrace.database import transaction
from millrace.errors import NotFound
from millrace.models import Invitation, User
from millrace.services import Services

DAY_MS = 24 * 3600 * 1000
INVITED_MS = 7 * DAY_MS
FORGOTTEN_MS = DAY_MS
NewToken = Callable[[], str]


def issue(services: Services, user: User, life_ms: int, new_token: NewToken = ids.new_token) -> str:
    """A token of a new link to choose a password; earlier ones of this user no longer work."""
    token, now = new_token(), services.clock()
    with transaction():
        revoke(user)
        Invitation.create(id=digest(token), user=user.id, created_at=now, expires_at=now + life_ms)
    return token


def issue_to_join(
    services: Services, user: User, workspace_id: str, role: str, new_token: NewToken = ids.new_token
) -> str:
    """A token of a new link to join this workspace; the earlier one of this user to there no longer works."""
    token, now = new_token(), services.clock()
    with transaction():
        withdraw(user.id, workspace_id)
        Invitation.create(id=digest(token), user=user.id, workspace=workspace_id, role=role, created_at=now,
                          expires_at=now + INVITED_MS)  # fmt: skip
    return token


def revoke(user: User) -> None:
    """End the user's links to choose a password, in the caller's transaction."""
    Invitation.delete().where(Invitation.user == user.id, Invitation.workspace.is_null()).execute()


def withdraw(user_id: int, workspace_id: str) -> None:
    """End the user's link to join this workspace, if there is one, in the caller's transaction."""
    Invitation.delete().where(Invitation.user == user_id, Invitation.workspace == workspace_id).execute()


def find(services: Services, token: str) -> User:
    """Whose password the link is for. Raises NotFound for one that was used, is too old, or never was."""
    row = _live(services, token)
    if row is None:
        raise gone()
    return row.user


def accept(services: Services, token: str, password: str) -> User:
    """Make this the user's password, once; all of their sessions end. Raises NotFound, Invalid, Conflict."""
    user = find(services, token)
    passwords.check(password, user.email)
    chosen = passwords.digest(password)
    with transaction():
        users.hold(user)
        if not Invitation.delete().where(*_to_choose(services, token)).execute():
            raise gone()
        revoke(user)
        users.set_digest(user, chosen)
        audit.record(services, None, user.email, "user.password_chosen", user.email)
    return user


def remove_expired(services: Services) -> int:
    """Remove links that are too old. Returns how many."""
    with transaction():
        return int(Invitation.delete().where(Invitation.expires_at <= services.clock()).execute())


def _live(services: Services, token: str) -> Invitation | None:
    query = Invitation.select(Invitation, User).join(User)
    return query.where(*_to_choose(services, token)).get_or_none()


def _to_choose(services: Services, token: str) -> tuple[peewee.Expression, ...]:
    """The conditions for the live link to choose a password; who may join a workspace may not do that."""
    return Invitation.id == digest(token), Invitation.workspace.is_null(), Invitation.expires_at > services.clock()


def gone() -> NotFound:
    """What is said of a link that does not work."""
    return NotFound("This link was used already, or is too old. Ask for a new one.")


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
