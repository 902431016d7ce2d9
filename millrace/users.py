"""People: who they are, and how they prove it with a password."""

import logging
import re
from collections.abc import Iterable
from typing import Any

import peewee

from millrace import audit, jsontext, passwords, roles
from millrace.database import is_sqlite, transaction
from millrace.errors import Conflict, Denied, Invalid, NotFound, Unprocessable
from millrace.models import Session, User
from millrace.roles import Actor
from millrace.services import Services
from millrace.signinlimits import SignInLimits

LANGUAGES = ("en", "ru", "uz")
THEMES = ("light", "dark")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,253}")
_WRONG = "The email or the password is not right."

log = logging.getLogger(__name__)


def normal(email: str) -> str:
    """The email as it is stored and compared: in lower case. Raises Invalid."""
    text = email.strip().lower()
    if len(text) > 254 or not text.isprintable() or not _EMAIL.fullmatch(text):
        raise Invalid("An email has the form name@host, of up to 254 characters.", field="email", value=text)
    return text


def find(email: str) -> User:
    """Raises NotFound, also for what is no email."""
    user = User.get_or_none(User.email == jsontext.storable(email.strip().lower()))
    if user is None:
        raise NotFound(f"There is no user '{email}'.")
    return user


def add(services: Services, email: str, password: str | None = None) -> tuple[User, bool]:
    """The user with this email, and whether they are new: only then do they get the password. Raises Invalid."""
    email = normal(email)
    digest = None if password is None else passwords.digest(password)
    try:
        with transaction():
            return User.create(email=email, password_hash=digest, created_at=services.clock()), True
    except peewee.IntegrityError:
        return User.get(User.email == email), False


def hold(user: User) -> User:
    """The user as they are now. In the caller's transaction nobody else gives them a place, a link or a password."""
    row: Any = User.select().where(User.id == user.id)
    held: User = (row if is_sqlite(User._meta.database.obj) else row.for_update("FOR NO KEY UPDATE")).get()
    return held


def authenticate(services: Services, limits: SignInLimits, email: str, password: str, address: str) -> User:
    """The user whose password this is. Raises Denied in the same words, after the same work, for whatever is wrong.

    `address` is where the guess comes from. Raises TooMany when there were too many.
    """
    email = email.strip().lower()[:255]  # more is nobody's
    with limits.guess(email, address):
        user = User.get_or_none(User.email == jsontext.storable(email))
        digest = None if user is None else user.password_hash
        if not passwords.matches(digest, password) or user is None or digest is None:
            limits.wrong(address)
            log.warning("a wrong password from %s", address)
            raise Denied(_WRONG)
        limits.right(email)
    if passwords.is_outdated(digest):
        # Unless it was changed meanwhile.
        same = (User.id == user.id) & (User.password_hash == digest)
        User.update(password_hash=passwords.digest(password)).where(same).execute()
    audit.record(services, None, user.email, "user.signed_in", user.email, {"address": address})
    return user


def change_password(
    services: Services, limits: SignInLimits, user: User, old: str, new: str, address: str, keep: str | None = None
) -> None:
    """Choose another password; every session of the user ends but `keep`.

    The old one is guessed no more often than at the sign-in. Raises Denied, Invalid, TooMany, and Unprocessable for
    who has none.
    """
    if user.password_hash is None:
        raise Unprocessable("You have no password here: you sign in elsewhere.")
    passwords.check(new, user.email)
    with limits.guess(user.email, address):
        if not passwords.matches(user.password_hash, old):
            limits.wrong(address)
            raise Denied("The old password is not right.")
        limits.right(user.email)
    digest = passwords.digest(new)
    with transaction():
        set_digest(user, digest, keep)
        audit.record(services, None, user.email, "user.password_changed", user.email)


def set_digest(user: User, digest: str, keep: str | None = None) -> None:
    """Store the digest of a new password and end the user's sessions but `keep`, in the caller's transaction.

    Raises Conflict when the password that `user` has was changed meanwhile.
    """
    same = User.password_hash.is_null() if user.password_hash is None else User.password_hash == user.password_hash
    if not User.update(password_hash=digest).where(User.id == user.id, same).execute():
        raise Conflict("Your password was changed just now.")
    user.password_hash = digest
    others = Session.delete().where(Session.user == user.id)
    (others if keep is None else others.where(Session.id != keep)).execute()


def set_preferences(
    services: Services, user: User, name: str | None, language: str | None, theme: str | None
) -> User:
    """How the user is shown, and how pages are for them; None is what the browser asks for. Raises Invalid."""
    name = (name or "").strip() or None
    if name is not None and (len(name) > 100 or not name.isprintable()):
        raise Invalid("A name has up to 100 printable characters.", field="name", value=name)
    if language is not None and language not in LANGUAGES:
        raise Invalid(f"The language is one of {', '.join(LANGUAGES)}.", field="language", value=language)
    if theme is not None and theme not in THEMES:
        raise Invalid(f"The theme is one of {', '.join(THEMES)}.", field="theme", value=theme)
    changes = {"name": name, "language": language, "theme": theme}
    with transaction():
        User.update(changes).where(User.id == user.id).execute()
        audit.record(services, None, user.email, "user.changed", user.email, changes)
    return User.get_by_id(user.id)


def promote(services: Services, email: str, by: Actor) -> User:
    """Let the user manage every workspace. Raises NotFound, and Forbidden unless `by` may."""
    return _set_role(services, email, roles.SUPERADMIN, by)


def demote(services: Services, email: str, by: Actor) -> User:
    """Take the role that holds everywhere; places in workspaces stay. Raises as `promote` does."""
    return _set_role(services, email, None, by)


def _set_role(services: Services, email: str, role: str | None, by: Actor) -> User:
    by.check_all([roles.PLATFORM])
    with transaction():
        user = find(email)
        User.update(role=role).where(User.id == user.id).execute()
        audit.record(services, None, by.name, "user.demoted" if role is None else "user.promoted", user.email)
    return User.get_by_id(user.id)


def has_superadmin() -> bool:
    """Whether anybody may manage every workspace."""
    return bool(User.select().where(User.role == roles.SUPERADMIN).exists())


def everybody() -> "peewee.ModelSelect[User]":
    """All users, by email."""
    return User.select().order_by(User.email)


def names(ids: Iterable[int | None]) -> dict[int, str]:
    """How these users are called, by id: their name, or their email if they gave none. Who is gone is left out."""
    wanted = {each for each in ids if each is not None}
    if not wanted:
        return {}
    rows = User.select(User.id, User.name, User.email).where(User.id.in_(sorted(wanted)))
    return {user.id: user.name or user.email for user in rows}
