"""Finding scripts, and reading their versions and sources."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import peewee

from millrace import diffs, jsontext, paging
from millrace.compiled import Row, place
from millrace.errors import NotFound, TooLarge
from millrace.history import LISTED
from millrace.models import Run, Script, Version
from millrace.models.script import DELETED
from millrace.paging import Position
from millrace.scripts.names import SLUG
from millrace.services import Services

MAX_DIFF_LINES = 10_000
_UUID = re.compile(r"[0-9a-f-]{36}")


def find(workspace_id: str, slug: str) -> Script:
    """The script of this id in this workspace, or NotFound."""
    script = None
    if SLUG.fullmatch(slug):  # nothing else can be one, and PostgreSQL refuses to look for a NUL
        script = _BY_SLUG.get(workspace=workspace_id, slug=slug)
    if script is None:
        raise not_found(slug)
    return script


_BY_SLUG = Row(Script, lambda: (Script.workspace == place("workspace")) & (Script.slug == place("slug")))


def find_by_uuid(workspace_id: str, uuid: str) -> Script:
    """The script with this uuid in this workspace, or NotFound."""
    script = None
    if _UUID.fullmatch(uuid):  # as in `find`
        script = Script.get_or_none(Script.uuid == uuid, Script.workspace == workspace_id, Script.status != DELETED)
    if script is None:
        raise not_found(uuid)
    return script


def not_found(slug: str) -> NotFound:
    """The answer for an id that is not there, or not yours."""
    return NotFound(f"There is no script '{slug}'.")


@dataclass(frozen=True)
class Filter:
    """Which scripts: those that have `search` in name, id or description, and are of this type and status."""

    search: str = ""
    type: str | None = None
    status: str | None = None


def page(
    workspace_id: str, before: Position | None, size: int, wanted: Filter = Filter()
) -> tuple[list[Script], Position | None]:
    """Scripts, newest first, and where the next page begins."""
    query = Script.select().where(Script.workspace == workspace_id, Script.status != DELETED)
    if wanted.search:
        if jsontext.storable(wanted.search) != wanted.search or len(wanted.search) > _LONGEST_SEARCH:
            return [], None
        query = query.where(_holds(wanted.search))
    if wanted.type is not None:
        query = query.where(Script.type == wanted.type)
    if wanted.status is not None:
        query = query.where(Script.status == wanted.status)
    if before is not None:
        query = query.where(paging.older(Script.created_at, Script.uuid, before))
    rows = list(query.order_by(Script.created_at.desc(), Script.uuid.desc()).limit(size + 1))
    return paging.cut(rows, size, lambda script: (script.created_at, script.uuid))


_LONGEST_SEARCH = 4000  # no name or description is longer, and SQLite refuses much longer patterns


def _holds(text: str) -> peewee.Expression:
    # The databases know upper and lower case of ASCII alone in common, so usual spellings of other letters are tried.
    condition: peewee.Expression | None = None
    for spelling in sorted({text, text.lower(), text.upper(), text.capitalize()}) if not text.isascii() else [text]:
        for column in (Script.display_name, Script.slug, Script.description):
            found = column.contains(spelling)  # escapes what LIKE would take for a wildcard
            condition = found if condition is None else condition | found
    assert condition is not None
    return condition


def last_runs(uuids: Sequence[str]) -> dict[str, Run]:
    """The newest run of each of these scripts that has one, by the script's uuid; without its input and result."""
    newest = Run.alias()
    of_script = (
        newest.select(newest.id).where(newest.script == Script.uuid)
        .order_by(newest.created_at.desc(), newest.id.desc()).limit(1)
    )  # fmt: skip
    query = Run.select(*LISTED).join(Script, on=Run.id == of_script).where(Script.uuid.in_(list(uuids)))
    return {run.script_id: run for run in query}


def version(script: Script, number: int) -> Version:
    """One version, or NotFound."""
    # A number beyond the column's range is no question for a database.
    found = None
    if 1 <= number < 2**31:
        found = Version.get_or_none(Version.script == script.uuid, Version.number == number)
    if found is None:
        raise NotFound(f"Script '{script.slug}' has no version {number}.")
    return found


def versions(script: Script, *, before: int | None = None, size: int | None = None) -> list[Version]:
    """Versions, newest first: all, or `size` of those that are older than number `before`."""
    query = Version.select().where(Version.script == script.uuid)
    if before is not None:
        query = query.where(Version.number < before)
    return list(query.order_by(Version.number.desc()).limit(size))


def source(services: Services, stored: Version) -> bytes:
    """A version's source. Raises NotFound when the store has lost it."""
    content = services.objects.get(stored.object_key)
    if content is None:
        raise NotFound(f"The source of version {stored.number} is missing in the object store.")
    return content


def diff(services: Services, script: Script, number: int, against: int) -> str:
    """What changed from version `against` to version `number`, as a unified diff; "" when nothing did.

    Raises TooLarge for more than `MAX_DIFF_LINES`.
    """
    old, new = (source(services, version(script, each)) for each in (against, number))
    longer = max(text.count(b"\n") for text in (old, new))
    if longer > MAX_DIFF_LINES:
        raise TooLarge(f"A source of {longer} lines is not compared, {MAX_DIFF_LINES} at most.")
    return diffs.unified(old.decode(), new.decode(), f"{script.slug}@{against}", f"{script.slug}@{number}")
