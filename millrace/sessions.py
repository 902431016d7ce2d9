"""Browsers that are signed in: from a token in a cookie to who it is, where they look, and what they may do there."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import peewee

from millrace import ids, jsontext, members, roles
from millrace.compiled import Compiled, place
from millrace.database import transaction
from millrace.errors import NotFound
from millrace.models import Member, Model, Session, User, Workspace
from millrace.models.script import DELETED
from millrace.roles import Actor
from millrace.services import Services

DAY_MS = 24 * 3600 * 1000
IDLE_MS = 7 * DAY_MS  # how long one lives that nobody uses
LONGEST_MS = 30 * DAY_MS
SEEN_EVERY_MS = 60_000  # a use is written down no more often

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class SignedIn:
    """Who is asking. `workspace` is where they look, without its data key; None if there is none for them."""

    session: Session
    user: User
    workspace: Workspace | None
    permissions: frozenset[str]

    def may(self, permission: str) -> bool:
        """Whether they may do this here."""
        return permission in self.permissions

    @property
    def actor(self) -> Actor:
        """As verbs want them."""
        return Actor(self.user.email, self.permissions)


def begin(
    services: Services, user: User, workspace_id: str | None, agent: str,
    new_token: Callable[[], str] = ids.new_token,
) -> str:  # fmt: skip
    """Sign a browser in: the token for its cookie, of 256 random bits, of which only the SHA-256 is kept.

    Without a workspace, or with one that is not theirs, the session looks at the first that is.
    """
    token, now = new_token(), services.clock()
    Session.create(
        id=digest(token), user=user.id, workspace=workspace_id if _is_theirs(user, workspace_id) else _first(user),
        agent=jsontext.storable(agent)[:200], created_at=now, seen_at=now, expires_at=now + IDLE_MS,
    )  # fmt: skip
    return token


def find(services: Services, token: str) -> SignedIn | None:
    """Who holds this token; None for one that is not live. Their use of it is noted."""
    now = services.clock()
    row = _LIVE.execute(id=digest(token), now=now).fetchone()
    if row is None:
        return None
    session = _made(Session, _OF_SESSION, row)
    user = _made(User, _OF_USER, row[len(_OF_SESSION):])
    workspace_id, name, status, created_at, role = row[len(_OF_SESSION) + len(_OF_USER):]
    if now - session.seen_at >= SEEN_EVERY_MS:
        _see(session, now)
    permissions = roles.given(user.role, role, workspace_id)
    if workspace_id is None or (role is None and roles.PLATFORM not in permissions):
        return _elsewhere(session, user)
    return SignedIn(session, user, Workspace(id=workspace_id, name=name, status=status, created_at=created_at),
                    permissions)


# Every request of a browser asks this, of whatever page.
_OF_SESSION = tuple(Session._meta.sorted_fields)
_OF_USER = tuple(User._meta.sorted_fields)
_OF_WORKSPACE = Workspace.id, Workspace.name, Workspace.status, Workspace.created_at
_LIVE = Compiled(
    lambda: Session.select(*_OF_SESSION, *_OF_USER, *_OF_WORKSPACE, Member.role)
    .join(User)
    .join(Workspace, peewee.JOIN.LEFT_OUTER, on=(Workspace.id == Session.workspace) & (Workspace.status != DELETED))
    .join(Member, peewee.JOIN.LEFT_OUTER, on=(Member.workspace == Workspace.id) & (Member.user == User.id))
    .where(Session.id == place("id"), Session.expires_at > place("now"))
)


def _made(model: type[M], fields: Sequence[Any], row: Sequence[Any]) -> M:
    return model(**{each.name: each.python_value(value) for each, value in zip(fields, row, strict=False)})


def _see(session: Session, now: int) -> None:
    expires_at = min(now + IDLE_MS, session.created_at + LONGEST_MS)
    # Of many requests at once, one writes.
    changed = Session.update(seen_at=now, expires_at=expires_at).where(
        Session.id == session.id, Session.seen_at == session.seen_at
    )
    changed.execute()
    session.seen_at, session.expires_at = now, expires_at


def _elsewhere(session: Session, user: User) -> SignedIn:
    """Their workspace is gone, or they no longer belong to it."""
    workspace_id = _first(user)
    Session.update(workspace=workspace_id).where(Session.id == session.id).execute()
    return _looking(session, user, workspace_id)


def _looking(session: Session, user: User, workspace_id: str | None) -> SignedIn:
    session.workspace_id = workspace_id
    alive = Workspace.select(*_OF_WORKSPACE).where(Workspace.id == workspace_id, Workspace.status != DELETED)
    return SignedIn(session, user, alive.first(), roles.permissions(user, workspace_id))


def _first(user: User) -> str | None:
    """The workspace that they have belonged to for longest, else the first that they may manage."""
    query = Member.select(Member.workspace).join(Workspace).where(Workspace.status != DELETED, Member.user == user.id)
    oldest = query.order_by(Member.created_at, Member.id).first()
    if oldest is not None:
        return str(oldest.workspace_id)
    return next((workspace.id for workspace in members.workspaces_of(user)), None)


def switch(services: Services, signed_in: SignedIn, workspace_id: str) -> SignedIn:
    """Look at another workspace of theirs. Raises NotFound for one that is not."""
    if not _is_theirs(signed_in.user, workspace_id):
        raise NotFound(f"There is no workspace '{workspace_id}'.")
    Session.update(workspace=workspace_id).where(Session.id == signed_in.session.id).execute()
    return _looking(signed_in.session, signed_in.user, workspace_id)


def _is_theirs(user: User, workspace_id: str | None) -> bool:
    return workspace_id is not None and any(each.id == workspace_id for each in members.workspaces_of(user))


def of(services: Services, user: User) -> list[Session]:
    """The user's live sessions, the last used first."""
    live = Session.select().where(Session.user == user.id, Session.expires_at > services.clock())
    return list(live.order_by(Session.seen_at.desc(), Session.id))


def end(user: User, session_id: str) -> None:
    """Sign out one of the user's sessions. Raises NotFound."""
    if not Session.delete().where(Session.id == session_id, Session.user == user.id).execute():
        raise NotFound("There is no such session.")


def end_all(user: User, keep: str | None = None) -> int:
    """Sign out all of the user's sessions but `keep`. Returns how many."""
    theirs = Session.delete().where(Session.user == user.id)
    return int((theirs if keep is None else theirs.where(Session.id != keep)).execute())


def remove_expired(services: Services) -> int:
    """Remove sessions that are over. Returns how many."""
    with transaction():
        return int(Session.delete().where(Session.expires_at <= services.clock()).execute())


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
