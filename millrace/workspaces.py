"""Tenants: made at the start or by an operator; their keys, and who is asking."""

import hashlib
import hmac
import re
from dataclasses import dataclass

import peewee

from millrace import audit, ids, members, roles, users
from millrace.compiled import Compiled, place
from millrace.database import transaction
from millrace.errors import Conflict, Denied, Invalid, NotFound
from millrace.models import ApiKey, Workspace
from millrace.models.script import DELETED
from millrace.roles import Actor
from millrace.services import Services

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_KEYS = 1000
_KEY = re.compile(r"mr_([A-Za-z0-9]{16})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Owner:
    """What a new workspace's owner needs to sign in; shown once. Without a password they are known, and have theirs."""

    workspace: str
    api_key: str
    email: str
    password: str | None


def create(services: Services, workspace_id: str, name: str) -> Workspace:
    """A new tenant with a data key of its own. Raises Conflict when the id is taken."""
    if not _ID.fullmatch(workspace_id):
        raise Invalid("A workspace's id has up to 64 letters, digits, '_' and '-'.", field="workspace",
                      value=workspace_id)
    try:
        with transaction():
            return Workspace.create(
                id=workspace_id, name=name, data_key=services.keyring.new_data_key(), created_at=services.clock()
            )
    except peewee.IntegrityError:
        raise Conflict(f"A workspace '{workspace_id}' exists already, or is still being deleted.") from None


def bootstrap(services: Services, workspace_id: str, email: str, *, first: bool = False) -> Owner:
    """A workspace with an Org Admin and an API key. Who has this email already is made a member, and keeps all else.

    `first` is for the start of an installation: unless there is one, they become its Superadmin.
    Raises Conflict when the workspace exists already, Invalid for what is no email.
    """
    password = ids.new_token(12)
    with transaction():
        create(services, workspace_id, workspace_id)
        user, new = users.add(services, email, password)
        members.add(services, workspace_id, user, roles.ORG_ADMIN)
        if first and not users.has_superadmin():
            users.promote(services, user.email, roles.OPERATOR)
        api_key = new_api_key(services, workspace_id, "first key")
    return Owner(workspace_id, api_key, user.email, password if new else None)


def api_keys(workspace_id: str) -> list[ApiKey]:
    """The keys of this workspace, the newest first; those that were revoked last."""
    rows = ApiKey.select().where(ApiKey.workspace == workspace_id)
    return list(rows.order_by(ApiKey.revoked_at.is_null(False), ApiKey.created_at.desc(), ApiKey.id))


def new_api_key(services: Services, workspace_id: str, name: str, by: Actor | None = None) -> str:
    """A new key for this workspace; the only time that its text exists. Raises NotFound, Invalid, Conflict.

    `by` is None for one that comes with its workspace. A key may do whatever can be done here, so who may less
    makes none: Forbidden.
    """
    if by is not None:
        by.check_all(roles.OF_WORKSPACE)
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise Invalid("An API key's name has from 1 to 100 printable characters.", field="name", value=name)
    public = re.sub("[^A-Za-z0-9]", "", ids.new_token(32))[:16].ljust(16, "0")
    secret = ids.new_token(32)
    with transaction():
        if not Workspace.select().where(Workspace.id == workspace_id, Workspace.status != DELETED).exists():
            raise NotFound(f"There is no workspace '{workspace_id}'.")
        live = ApiKey.select().where(ApiKey.workspace == workspace_id, ApiKey.revoked_at.is_null())
        if live.count() >= MAX_KEYS:
            raise Conflict(f"A workspace can have {MAX_KEYS} API keys; revoke some first.")
        ApiKey.create(id=public, workspace=workspace_id, name=name, digest=_digest(secret), created_at=services.clock())
        if by is not None:
            audit.record(services, workspace_id, by.name, "api_key.created", public, {"name": name})
    return f"mr_{public}_{secret}"


def revoke_api_key(services: Services, workspace_id: str, key_id: str, actor: str | None = None) -> None:
    """The key stops working at once. Raises NotFound."""
    with transaction():
        changed = (
            ApiKey.update(revoked_at=services.clock())
            .where(ApiKey.id == key_id, ApiKey.workspace == workspace_id, ApiKey.revoked_at.is_null())
            .execute()
        )
        if not changed:
            raise NotFound(f"There is no API key '{key_id}'.")
        if actor is not None:
            audit.record(services, workspace_id, actor, "api_key.revoked", key_id)


def authenticate(api_key: str) -> Workspace:
    """The workspace that this key belongs to, without its data key. Raises Denied for anything but a live key."""
    parts = _KEY.fullmatch(api_key)
    found = _LIVE_KEY.execute(id=parts[1]).fetchone() if parts is not None else None
    if parts is None or found is None or not hmac.compare_digest(found[0], _digest(parts[2])):
        raise Denied("The API key is not valid.")
    return Workspace(id=found[1], name=found[2], status=found[3])


_LIVE_KEY = Compiled(
    lambda: ApiKey.select(ApiKey.digest, Workspace.id, Workspace.name, Workspace.status)
    .join(Workspace)
    .where(ApiKey.id == place("id"), ApiKey.revoked_at.is_null(), Workspace.status != DELETED)
)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
