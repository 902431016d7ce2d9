"""The statuses of a script, and which may follow which. Only an active script runs."""

from millrace.errors import Conflict, Invalid
from millrace.models import Script

DRAFT, ACTIVE, PAUSED, DISABLED, ARCHIVED = "draft", "active", "paused", "disabled", "archived"
STATUS = (DRAFT, ACTIVE, PAUSED, DISABLED, ARCHIVED)
OF_NEW = (DRAFT, ACTIVE)
NEXT: dict[str, tuple[str, ...]] = {
    DRAFT: (ACTIVE,), ACTIVE: (PAUSED, DISABLED), PAUSED: (ACTIVE,), DISABLED: (ARCHIVED,), ARCHIVED: (),
}  # fmt: skip


def check_new(status: str) -> None:
    """Raises Invalid for a status that a new script can't have."""
    if status not in OF_NEW:
        raise Invalid(f"status of a new script must be {' or '.join(OF_NEW)}.", field="status", value=status)


def check(script: Script, wanted: str) -> bool:
    """Whether this is a change at all. Raises Invalid for no status, Conflict for one that may not follow."""
    if wanted not in STATUS:
        raise Invalid(f"status must be one of {', '.join(STATUS)}.", field="status", value=wanted)
    if wanted == script.status:
        return False
    following = NEXT[script.status]
    if wanted not in following:
        final = f"Script '{script.slug}' is {script.status}, which is final: it can't become {wanted}."
        other = f"Script '{script.slug}' is {script.status} and can't become {wanted}, only {' or '.join(following)}."
        raise Conflict(other if following else final)
    return True
