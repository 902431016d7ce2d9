"""The types of a script: what starts it, and which fields each type needs.

A face that speaks of types says one, and then the script has what the type needs and gets nothing that belongs to
another. A face that does not has it told from what the script has.
"""

from collections.abc import Sequence

from millrace import cron
from millrace.errors import Invalid
from millrace.triggers import Triggers

SCHEDULED, HTTP, EVENT, ONEOFF, EMBEDDED = "scheduled", "http", "event", "oneoff", "embedded"
TYPES = (SCHEDULED, HTTP, EVENT, ONEOFF, EMBEDDED)
UNTRIGGERED = (ONEOFF, EMBEDDED)
_ALIASES = {"manual": ONEOFF}


def read(given: str) -> str:
    """The type that this word means. Raises Invalid."""
    found = _ALIASES.get(given, given)
    if found not in TYPES:
        raise Invalid(f"type must be one of {', '.join(TYPES)}.", field="type", value=given)
    return found


def derive(before: str, *, scheduled: bool, http: bool, event: bool) -> str:
    """The type of a script that has these; `before` decides between those that have none."""
    if scheduled or http or event:
        return SCHEDULED if scheduled else HTTP if http else EVENT
    return before if before in UNTRIGGERED else ONEOFF


def schedule(type_: str, given: str | None, present: str | None) -> str | None:
    """What a script of this type makes of the five fields that it is given: the schedule to set, "" to have none,
    None to leave what is there. Raises Invalid.

    A schedule of another form that is there already may be given again, and so may one of ours.
    """
    if type_ != SCHEDULED:
        if given:
            raise _no_meaning("schedule", type_, given)
        return given
    if given is None and present is not None:
        return None
    if not given:
        raise Invalid("schedule is required for a script of type 'scheduled'.", field="schedule", value=given)
    return given if given == present else cron.of_crontab(given)


def check_triggers(type_: str, given: Triggers | None, present: Triggers) -> None:
    """Raises Invalid for triggers that the type has no place for, or lacks. None is those that are there."""
    if given is not None:
        for name, wanted, some in (("http", HTTP, given.http is not None), ("events", EVENT, bool(given.events))):
            if some and type_ != wanted:
                raise _no_meaning(f"triggers.{name}", type_)
    has = present if given is None else given
    if type_ == HTTP and has.http is None:
        raise _required("triggers.http", type_, ("path", "methods"))
    if type_ == EVENT and not has.events:
        raise _required("triggers.events", type_, ("one event at least",))


def _required(field: str, type_: str, parts: Sequence[str]) -> Invalid:
    return Invalid(f"{field} is required for a script of type '{type_}': {' and '.join(parts)}.", field=field)


def _no_meaning(field: str, type_: str, value: str | None = None) -> Invalid:
    return Invalid(f"{field} has no meaning for a script of type '{type_}'.", field=field, value=value)
