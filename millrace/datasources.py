"""Databases that a workspace registers for its scripts: `sdk.db` asks them by name.

A password is sealed with the workspace's key, bound to the workspace and the source, and never shown again. A SQLite
source is a file that the operator put into the workspace's own folder, and no other path.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peewee

from millrace import audit, vault
from millrace.database import transaction
from millrace.errors import Conflict, Invalid, NotFound
from millrace.models import DataSource, Workspace
from millrace.services import Services

POSTGRESQL = "postgresql"
SQLITE = "sqlite"
KINDS = (POSTGRESQL, SQLITE)
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
DEFAULT = "default"
"""The name that a script means when it names none."""
MAX_SOURCES = 50  # of a workspace
MAX_PASSWORD = 1_024

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?|[0-9A-Fa-f:.]{2,45}")
_TEXT = re.compile(r"[^\x00-\x1f\x7f]{1,63}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,30}\.[A-Za-z_][A-Za-z0-9_]{0,30}")
_PARTS: Mapping[str, Mapping[str, Any]] = {
    POSTGRESQL: {"host": None, "port": 5432, "database": None, "user": None, "sslmode": "prefer", "schema": "public"},
    SQLITE: {"file": None},
}


@dataclass(frozen=True)
class NewSource:
    """What a source is registered with. `tenant_setting` is for PostgreSQL alone."""

    name: str
    kind: str
    place: Mapping[str, Any]
    password: str | None = field(default=None, repr=False)
    tenant_column: str = "tenant_id"
    tenant_setting: str = "app.tenant_id"


@dataclass(frozen=True)
class Change:
    """What becomes different; None keeps what is. A place is given as a whole."""

    name: str | None = None
    place: Mapping[str, Any] | None = None
    password: str | None = field(default=None, repr=False)
    tenant_column: str | None = None
    tenant_setting: str | None = None


def register(services: Services, workspace_id: str, new: NewSource, actor: str) -> DataSource:
    """A new source of the workspace. Raises Invalid, and Conflict when the name is taken."""
    if new.kind not in KINDS:
        raise Invalid(f"A data source's kind is one of: {', '.join(KINDS)}.", field="kind", value=new.kind)
    _check_name(new.name)
    _check_password(new.kind, new.password)
    _check_tenant(new.tenant_column, new.tenant_setting)
    place = _checked_place(new.kind, new.place)
    source_id, now = services.new_id(), services.clock()
    try:
        with transaction():
            _check_count(workspace_id)
            source = DataSource.create(
                id=source_id, workspace=workspace_id, name=new.name, kind=new.kind, place=place,
                sealed=_seal(services, workspace_id, source_id, new.password), tenant_column=new.tenant_column,
                tenant_setting=new.tenant_setting if new.kind == POSTGRESQL else None, created_at=now, updated_at=now,
            )  # fmt: skip
            audit.record(services, workspace_id, actor, "data_source.created", new.name, {"kind": new.kind})
    except peewee.IntegrityError:
        raise _taken(new.name) from None
    return source


def listing(workspace_id: str) -> list[DataSource]:
    """The workspace's sources, by name."""
    return list(DataSource.select().where(DataSource.workspace == workspace_id).order_by(DataSource.name))


def find(workspace_id: str, name: str) -> DataSource:
    """The source of this name. Raises NotFound."""
    source = None
    if _NAME.fullmatch(name):  # nothing else can be one, and PostgreSQL refuses to look for a NUL
        source = DataSource.get_or_none(DataSource.workspace == workspace_id, DataSource.name == name)
    if source is None:
        raise NotFound(f"There is no data source '{name[:63]}'.")
    return source


def chosen(workspace_id: str, name: str | None) -> DataSource:
    """The source that a script means: the one that it names, else `default`, else the only one. Raises NotFound."""
    if name is not None:
        return find(workspace_id, name)
    sources = listing(workspace_id)
    named = [source for source in sources if source.name == DEFAULT]
    if named or len(sources) == 1:
        return (named or sources)[0]
    if sources:
        raise NotFound(f"There are {len(sources)} data sources and none is called '{DEFAULT}'; name the one to use.")
    raise NotFound("This workspace has no data source.")


def update(services: Services, workspace_id: str, name: str, change: Change, actor: str) -> DataSource:
    """Change a source. Raises NotFound, Invalid, and Conflict when the new name is taken or it changed meanwhile.

    A password that is kept goes nowhere else: another host, port or way of encryption needs it anew.
    """
    source = find(workspace_id, name)
    values = _changes(services, source, change)
    try:
        with transaction():
            # What was checked above is what is changed, or else nothing.
            same = (DataSource.id == source.id, DataSource.place == source.place, DataSource.name == name)
            if not DataSource.update(**values, updated_at=services.clock()).where(*same).execute():
                raise Conflict(f"The data source '{name}' was changed meanwhile.")
            audit.record(services, workspace_id, actor, "data_source.changed", name,
                         {"changed": sorted("password" if key == "sealed" else key for key in values)})
    except peewee.IntegrityError:
        raise _taken(change.name) from None
    return DataSource.get_by_id(source.id)


def delete(services: Services, workspace_id: str, name: str, actor: str) -> None:
    """Forget a source and its password; what is in the database itself stays. Raises NotFound."""
    source = find(workspace_id, name)
    with transaction():
        if DataSource.delete().where(DataSource.id == source.id).execute():
            audit.record(services, workspace_id, actor, "data_source.deleted", name)


def password_of(services: Services, source: DataSource) -> str | None:
    """The password, for a connection that is about to be made. Raises vault.VaultError when it does not open."""
    if source.sealed is None:
        return None
    workspace = Workspace.get_by_id(source.workspace_id)
    data_key = services.keyring.unwrap(workspace.data_key)
    return vault.open_(data_key, source.sealed, _bound_to(source.workspace_id, source.id))


def sqlite_file(services: Services, source: DataSource) -> Path:
    """The file of a SQLite source as it is now. Raises NotFound when it is missing or leads out of the folder."""
    folder: Path = services.settings.data_sources / source.workspace_id
    name: str = source.place["file"]
    missing = NotFound(f"The data source '{source.name}' has no file '{name}' in this workspace's folder.")
    if not _FILE.fullmatch(name):
        raise missing
    try:
        path = (folder / name).resolve(strict=True)
        root = folder.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links that lead in a circle
        raise missing from None
    if path.parent != root or not path.is_file():
        raise missing
    return path


def _changes(services: Services, source: DataSource, change: Change) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if change.name is not None:
        _check_name(change.name)
        values["name"] = change.name
    if change.place is not None:
        values["place"] = _checked_place(source.kind, change.place)
        if change.password is None and source.sealed is not None and _elsewhere(source.place, values["place"]):
            raise Invalid("Another host, port or sslmode needs the password anew.", field="password")
    if change.password is not None:
        _check_password(source.kind, change.password)
        values["sealed"] = _seal(services, source.workspace_id, source.id, change.password)
    column, setting = change.tenant_column, change.tenant_setting
    _check_tenant(column or source.tenant_column, setting or source.tenant_setting)
    if column is not None:
        values["tenant_column"] = column
    if setting is not None and source.kind == POSTGRESQL:
        values["tenant_setting"] = setting
    return values


def _elsewhere(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(old.get(part) != new.get(part) for part in ("host", "port", "sslmode"))


def _taken(name: str | None) -> Conflict:
    return Conflict(f"A data source '{name}' exists already.")


def _check_count(workspace_id: str) -> None:
    count = DataSource.select().where(DataSource.workspace == workspace_id).count()
    if count >= MAX_SOURCES:
        raise Invalid(f"A workspace can have {MAX_SOURCES} data sources.", field="name")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Invalid("A data source's name has up to 63 lower-case letters, digits and '-'.", field="name", value=name)


def _check_password(kind: str, password: str | None) -> None:
    if password is None:
        return
    if kind == SQLITE:
        raise Invalid("A SQLite file has no password.", field="password")
    if not 0 < len(password) <= MAX_PASSWORD or "\0" in password:
        raise Invalid(f"A password has 1 to {MAX_PASSWORD} characters, and no NUL.", field="password")


def _check_tenant(column: str, setting: str | None) -> None:
    if not _IDENTIFIER.fullmatch(column):
        raise Invalid("The tenant's column is a name of up to 63 letters, digits and '_'.", field="tenant_column",
                      value=column)
    if setting is not None and not _SETTING.fullmatch(setting):
        raise Invalid("The tenant's setting is two names with a dot between them, such as app.tenant_id.",
                      field="tenant_setting", value=setting)


def _checked_place(kind: str, place: Mapping[str, Any]) -> dict[str, Any]:
    parts = _PARTS[kind]
    unknown = sorted(set(place) - set(parts))
    if unknown:
        raise Invalid(f"The place of a {kind} source has no '{unknown[0]}'.", field=f"place.{unknown[0]}")
    return {part: _checked_part(part, place.get(part, default)) for part, default in parts.items()}


def _checked_part(part: str, value: Any) -> Any:
    if part == "port":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65_536:
            raise Invalid("A port is a whole number from 1 to 65535.", field="place.port", value=value)
        return value
    rules: Mapping[str, tuple[re.Pattern[str], str]] = {
        "host": (_HOST, "a host is a name or an address"),
        "database": (_TEXT, "a database has 1 to 63 characters"),
        "user": (_TEXT, "a user has 1 to 63 characters"),
        "schema": (_IDENTIFIER, "a schema is a name of up to 63 letters, digits and '_'"),
        "sslmode": (re.compile("|".join(SSL_MODES)), f"sslmode is one of {', '.join(SSL_MODES)}"),
        "file": (_FILE, "a file is a plain name of letters, digits, '.', '_' and '-' in the workspace's folder"),
    }
    pattern, rule = rules[part]
    if not isinstance(value, str) or not pattern.fullmatch(value) or _is_of_the_system(part, value):
        raise Invalid(f"place.{part}: {rule}.", field=f"place.{part}", value=value)
    return value


def _is_of_the_system(part: str, value: str) -> bool:
    return part == "schema" and (value.lower().startswith("pg_") or value.lower() == "information_schema")


def _seal(services: Services, workspace_id: str, source_id: str, password: str | None) -> str | None:
    if password is None:
        return None
    workspace: Sequence[Workspace] = list(Workspace.select().where(Workspace.id == workspace_id))
    if not workspace:
        raise NotFound(f"There is no workspace '{workspace_id}'.")
    data_key = services.keyring.unwrap(workspace[0].data_key)
    return vault.seal(data_key, password, _bound_to(workspace_id, source_id))


def _bound_to(workspace_id: str, source_id: str) -> bytes:
    return vault.binding(workspace_id, source_id, "password of a data source")
