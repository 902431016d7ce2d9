"""Names of scripts that may not repeat in a workspace, and the ids that are made from them."""

import re
import unicodedata

from millrace.errors import Conflict, Invalid
from millrace.models import Script
from millrace.models.script import DELETED
from millrace.vault import Randomness

LENGTH = (3, 100)
SLUG = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_STEM = 50  # characters of an id that come from the name; the rest is for what tells it from others
_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # 32, without those that are taken for each other
_SUFFIX = 5
_TRIES = 5


def check(name: str) -> None:
    """Raises Invalid for a name that is too short, too long, or has what nobody could see."""
    low, high = LENGTH
    if not low <= len(name) <= high:
        raise Invalid(f"name must have {low} to {high} characters, this one has {len(name)}.", field="display_name",
                      value=name)  # fmt: skip
    if not name.isprintable():
        raise Invalid("name must have printable characters alone.", field="display_name", value=name)
    if name != name.strip():
        raise Invalid("name must not begin or end with a blank.", field="display_name", value=name)


def key(name: str) -> str:
    """What two names must not have in common: they are the same but for upper and lower case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_free(workspace_id: str, name: str, uuid: str) -> None:
    """Raises Conflict if another script than this one has the name.

    Names of scripts that care for no uniqueness count as well, though nothing keeps those from taking it later.
    """
    others = Script.select(Script.uuid).where(
        Script.workspace == workspace_id, Script.status != DELETED, Script.uuid != uuid,
        (Script.unique_name == key(name)) | (Script.display_name == name),
    )  # fmt: skip
    if others.exists():
        raise taken(name)


def is_taken(workspace_id: str, name: str) -> bool:
    """Whether a script whose name may not repeat has this one."""
    wanted = Script.workspace == workspace_id, Script.unique_name == key(name)
    return bool(Script.select(Script.uuid).where(*wanted).exists())


def taken(name: str) -> Conflict:
    """The answer for a name that another script has."""
    return Conflict(f"A script with the name '{name}' exists already.")


def slug_for(workspace_id: str, name: str, random: Randomness) -> str:
    """A free id made from a name: its Latin letters and digits, with a few random ones if that is taken or too little.

    Whoever is about to use it may still find it taken. Raises Conflict if chance finds none that is free.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    stem = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_STEM].strip("-")
    candidates = [stem] if SLUG.fullmatch(stem) else []
    candidates += [f"{stem or 'script'}-{_few_letters(random)}" for _ in range(_TRIES)]
    for slug in candidates:
        if not Script.select(Script.uuid).where(Script.workspace == workspace_id, Script.slug == slug).exists():
            return slug
    raise Conflict(f"No free id was found for a script with the name '{name}'.")


def _few_letters(random: Randomness) -> str:
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in random(_SUFFIX))
