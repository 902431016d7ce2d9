"""Links with which a person chooses a password: after an invitation, or when it was forgotten.

Millrace sends no mail: whoever asks for a link sees it once and hands it on. So nobody gets one for a person who may
do more than they themselves, see `millrace.members`.
"""

import hashlib
from collections.abc import Callable

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
    """A token of a new link; earlier ones of this user no longer work."""
    token, now = new_token(), services.clock()
    with transaction():
        Invitation.delete().where(Invitation.user == user.id).execute()
        Invitation.create(id=_digest(token), user=user.id, created_at=now, expires_at=now + life_ms)
    return token


def revoke(user: User) -> None:
    """End the user's links, in the caller's transaction."""
    Invitation.delete().where(Invitation.user == user.id).execute()


def find(services: Services, token: str) -> User:
    """Whose link it is. Raises NotFound for one that was used, is too old, or never was."""
    row = _live(services, token)
    if row is None:
        raise _gone()
    return row.user


def accept(services: Services, token: str, password: str) -> User:
    """Make this the user's password, once; all of their sessions end. Raises NotFound, Invalid, Conflict."""
    user = find(services, token)
    passwords.check(password, user.email)
    digest = passwords.digest(password)
    with transaction():
        mine = Invitation.delete().where(Invitation.id == _digest(token), Invitation.expires_at > services.clock())
        if not mine.execute():
            raise _gone()
        Invitation.delete().where(Invitation.user == user.id).execute()
        users.set_digest(user, digest)
        audit.record(services, None, user.email, "user.password_chosen", user.email)
    return user


def remove_expired(services: Services) -> int:
    """Remove links that are too old. Returns how many."""
    with transaction():
        return int(Invitation.delete().where(Invitation.expires_at <= services.clock()).execute())


def _live(services: Services, token: str) -> Invitation | None:
    query = Invitation.select(Invitation, User).join(User)
    return query.where(Invitation.id == _digest(token), Invitation.expires_at > services.clock()).get_or_none()


def _gone() -> NotFound:
    return NotFound("This link was used already, or is too old. Ask for a new one.")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
