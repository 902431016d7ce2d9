"""A script's secrets: sealed at rest, shown as references, opened only for the run at hand."""

import re
from collections.abc import Collection, Mapping

from millrace import audit, vault
from millrace.errors import Invalid, NotFound, TooLarge
from millrace.models import Script, Secret, Workspace
from millrace.services import Services

MAX_NAMES = 100
MAX_VALUE_BYTES = 64 * 1024
MAX_TOTAL_BYTES = 64 * 1024  # of all values of a script: every log line is searched for each of them
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_SCHEME = "secret://"


def reference(script: Script, name: str) -> str:
    """The URI that stands for a value wherever a script is shown."""
    return f"{_SCHEME}millrace/scripts/{script.workspace_id}/{script.slug}/{name}"


def references(script: Script) -> dict[str, str]:
    """Name to reference, for all of the script's secrets, by name."""
    names = Secret.select(Secret.name).where(Secret.script == script.uuid).order_by(Secret.name)
    return {row.name: reference(script, row.name) for row in names}


def replace(services: Services, script: Script, given: Mapping[str, str]) -> bool:
    """Make these the script's only secrets, in the caller's transaction. True if anything changed.

    A value that is a reference to this script keeps the stored one; names left out are dropped. Raises Invalid for a
    reference to anything else, or to a name without a stored value, TooLarge for more than the limits.
    """
    _validate(given)
    stored = {row.name: row for row in Secret.select().where(Secret.script == script.uuid)}
    raw = {name: value for name, value in given.items() if not value.startswith(_SCHEME)}
    for name in given.keys() - raw.keys():
        _check_reference(script, name, given[name], stored)
    _check_total([_size(value) for value in raw.values()]
                 + [vault.size_of(stored[name].sealed) for name in given.keys() - raw.keys()])
    gone = stored.keys() - given.keys()
    if gone or raw:
        Secret.delete().where(Secret.script == script.uuid, Secret.name.in_(sorted(gone | raw.keys()))).execute()
    now = services.clock()
    for name, value in raw.items():
        Secret.create(script=script.uuid, name=name, sealed=seal(services, script, name, value), created_at=now)
    return bool(gone or raw)


def amend(services: Services, script: Script, changes: Mapping[str, str | None], actor: str) -> bool:
    """Set these secrets, or with None delete them, and keep all others, in a transaction that holds the script's row.

    True if anything changed; the audit trail says so, with names alone. Raises NotFound for one to delete that is not
    there, and what `replace` raises.
    """
    kept = references(script)
    for name in changes:
        if changes[name] is None and name not in kept:
            raise NotFound(f"Script '{script.slug}' has no secret '{name[:128]}'.")
    wanted = {**kept, **changes}
    if not replace(services, script, {name: value for name, value in wanted.items() if value is not None}):
        return False
    for name, value in changes.items():
        action = "secret.deleted" if value is None else "secret.set"
        audit.record(services, script.workspace_id, actor, action, script.slug, {"name": name})
    return True


def _validate(given: Mapping[str, str]) -> None:
    if len(given) > MAX_NAMES:
        raise Invalid(f"A script can have {MAX_NAMES} secrets, not {len(given)}.", field="secrets")
    for name, value in given.items():
        if not _NAME.fullmatch(name):
            raise Invalid(
                "A secret's name begins with a letter or '_' and has up to 128 letters, digits, '_', '.' and '-'.",
                field="secrets", value=name,
            )
        size = _size(value)
        if size > MAX_VALUE_BYTES:
            raise TooLarge(f"Secret '{name}' has {size} bytes, {MAX_VALUE_BYTES} at most.")


def _check_total(sizes: Collection[int]) -> None:
    total = sum(sizes)
    if total > MAX_TOTAL_BYTES:
        raise TooLarge(f"The script's {len(sizes)} secrets have {total} bytes in all, {MAX_TOTAL_BYTES} at most.")


def _size(value: str) -> int:
    return len(value.encode("utf-8", "surrogatepass"))


def _check_reference(script: Script, name: str, value: str, stored: Collection[str]) -> None:
    # The upstream guide shows one reference per script; ours names the secret as well. Both mean the stored value.
    ours = {reference(script, name), reference(script, name).rsplit("/", 1)[0]}
    if value not in ours:
        raise Invalid(f"secrets.{name} is a reference to something else; only this script's own can be kept.",
                      field=f"secrets.{name}", value=value)
    if name not in stored:
        raise Invalid(f"secrets.{name} is a reference, but no value is stored under this name.",
                      field=f"secrets.{name}", value=value)


def seal(services: Services, script: Script, name: str, value: str) -> str:
    """The value, encrypted under the workspace's key and bound to this script and name."""
    data_key = services.keyring.unwrap(script.workspace.data_key)
    return vault.seal(data_key, value, _bound_to(script, name))


def open_one(services: Services, script: Script, name: str, sealed: str) -> str:
    """The value again. Raises vault.VaultError when it was moved or no key fits."""
    data_key = services.keyring.unwrap(script.workspace.data_key)
    return vault.open_(data_key, sealed, _bound_to(script, name))


def open_all(services: Services, script: Script) -> dict[str, str]:
    """All of the script's secrets by name, for a run that is about to begin."""
    rows = list(Secret.select().where(Secret.script == script.uuid))
    if not rows:
        return {}
    data_key = services.keyring.unwrap(script.workspace.data_key)
    return {row.name: vault.open_(data_key, row.sealed, _bound_to(script, row.name)) for row in rows}


def rewrap_data_keys(services: Services) -> int:
    """Wrap every workspace's key under the newest master key, so that an old one can be retired. Returns how many."""
    changed = 0
    for workspace in list(Workspace.select()):
        wrapped = services.keyring.rewrap(workspace.data_key)
        if wrapped != workspace.data_key:
            changed += (
                Workspace.update(data_key=wrapped)
                .where(Workspace.id == workspace.id, Workspace.data_key == workspace.data_key)
                .execute()
            )
    return changed


def _bound_to(script: Script, name: str) -> bytes:
    return vault.binding(script.workspace_id, script.uuid, name)
