"""Events: stored, announced, and routed to the scripts that subscribed."""

import logging
import re
from dataclasses import dataclass
from typing import Any

from millrace import jsontext, metrics, paging, patterns
from millrace.compiled import Compiled, place
from millrace.database import transaction
from millrace.errors import Invalid, NotFound, TooLarge
from millrace.models import Event, Script, Subscription
from millrace.paging import Position
from millrace.services import Services

MAX_DEPTH = 10  # events that may follow from each other before a loop is assumed
MAX_DATA_BYTES = 256 * 1024
GIVE_UP_MS = 3600 * 1000  # how long routing an event is tried again when we fail at it
RESERVED = ("run", "script")  # first segments that only the platform publishes

_ID = re.compile(r"[0-9a-f-]{36}")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Routed:
    """A script that an event is for."""

    workspace: str
    script: str  # uuid
    depth: int
    payload: dict[str, Any]


def publish(
    services: Services,
    workspace_id: str,
    name: str,
    data: Any,
    *,
    source: str | None = None,
    subject: str | None = None,
    depth: int = 0,
) -> Event:
    """Store an event and announce it to the routers. Raises Invalid or TooLarge."""
    patterns.validate_name(name)
    first = name.partition(".")[0]
    if first in RESERVED:
        raise Invalid(f"Event name '{name}' begins with '{first}.', which only Millrace itself publishes.",
                      field="name", value=name)
    for field, value in (("source", source), ("subject", subject)):
        if value is not None and len(value) > 255:
            raise Invalid(f"{field} has {len(value)} characters, 255 at most.", field=field, value=value)
        if value is not None and jsontext.storable(value) != value:
            raise Invalid(f"{field} must not have NUL or half of a surrogate pair.", field=field, value=value)
    size = len(jsontext.dump(data, "data"))
    if size > MAX_DATA_BYTES:
        raise TooLarge(f"data has {size} bytes as JSON, {MAX_DATA_BYTES} at most.")
    event = _store(services, workspace_id, name, data, source, subject, depth)
    services.bus.announce(event.id)
    return event


def record_fact(
    services: Services, workspace_id: str, name: str, data: Any, *, subject: str, depth: int = 0
) -> str | None:
    """Store a fact of the platform's own, if anybody listens. Returns the id, to be announced after the commit.

    A workspace without a subscription that could match pays one look at an index and no row.
    """
    listening = _PATTERNS.execute(workspace=workspace_id).fetchall()
    if not any(patterns.matches(pattern, name) for (pattern,) in listening):
        return None
    return str(_store(services, workspace_id, name, data, "millrace", subject, depth).id)


_PATTERNS = Compiled(
    lambda: Subscription.select(Subscription.pattern)
    .where(Subscription.workspace == place("workspace"))
    .distinct()
)


def _store(
    services: Services, workspace_id: str, name: str, data: Any, source: str | None, subject: str | None, depth: int
) -> Event:
    now = services.clock()
    event = Event(
        id=services.new_id(), workspace=workspace_id, name=name, data=data, source=source, subject=subject,
        depth=depth, created_at=now,
    )
    if depth > MAX_DEPTH:
        # Kept, so that a person sees where the chain was cut, but routed to nobody.
        event.routed_at, event.outcome = now, "cut"
        event.reason = f"depth {depth}: more than {MAX_DEPTH} events in a row follow from each other"
        metrics.events_routed().labels(outcome="cut").inc()
        log.warning("event '%s' is not routed: %s", name, event.reason,
                    extra={"workspace": workspace_id, "event": event.id, "script": source})
    event.save(force_insert=True)
    return event


def payload_of(event: Event) -> dict[str, Any]:
    """What a script that the event starts gets as its payload."""
    return {"id": event.id, "name": event.name, "source": event.source, "subject": event.subject,
            "data": event.data, "time": event.created_at}


def recipients(event: Event) -> list[Routed]:
    """The active scripts whose subscription matches, each once however many of its patterns do.

    A subscription that is no longer valid takes nothing, and is told of in the log.
    """
    payload = payload_of(event)
    rows = (
        Subscription.select(Subscription.script, Subscription.pattern, Subscription.filter)
        .join(Script)
        .where(Subscription.workspace == event.workspace_id, Script.status == "active")
        .order_by(Subscription.id)
    )
    matching = dict.fromkeys(
        row.script_id
        for row in rows
        if _takes(row, event, payload)
    )
    return [Routed(event.workspace_id, uuid, event.depth, payload) for uuid in matching]


def _takes(subscription: Subscription, event: Event, payload: dict[str, Any]) -> bool:
    try:
        return patterns.matches(subscription.pattern, event.name) and (
            subscription.filter is None or patterns.matches_filter(subscription.filter, payload)
        )
    except Invalid as error:
        log.error("a subscription is no longer valid: %s", error.message, extra={"script": subscription.script_id})
        return False


def mark_routed(event: Event, now: int, reason: str | None = None) -> None:
    """Every recipient has its run; `reason` says of those that could not run why."""
    Event.update(routed_at=now, outcome="routed", reason=reason and jsontext.storable(reason)[:300]).where(
        Event.id == event.id, Event.routed_at.is_null()
    ).execute()


def note_failure(services: Services, event_id: str, reason: str) -> bool:
    """Record why an event could not be routed. True when it is older than `GIVE_UP_MS`: it is not tried again."""
    now = services.clock()
    unrouted = (Event.id == event_id) & Event.routed_at.is_null()
    with transaction():
        Event.update(reason=jsontext.storable(reason)[:300]).where(unrouted).execute()
        given_up = (
            Event.update(routed_at=now, outcome="failed")
            .where(unrouted, Event.created_at <= now - GIVE_UP_MS)
            .execute()
        )
    return bool(given_up)


def count_unrouted() -> int:
    """How many events no router has finished with."""
    return int(Event.select().where(Event.routed_at.is_null()).count())


def unrouted(before: int, limit: int = 200, *, ahead: int | None = None) -> list[str]:
    """Ids of events stored before this moment, or after `ahead`, that no router has finished with, oldest first.

    Those that a router failed with come last: they are known to be on the bus, and must not hide one that is not.
    """
    stale = Event.created_at < before
    if ahead is not None:
        stale |= Event.created_at > ahead
    rows = (
        Event.select(Event.id).where(Event.routed_at.is_null(), stale)
        .order_by(Event.reason.is_null(False), Event.created_at).limit(limit)
    )
    return [event.id for event in rows]


def page(
    workspace_id: str, before: Position | None, size: int, *, name: str | None = None, outcome: str | None = None
) -> tuple[list[Event], Position | None]:
    """Events, newest first, and where the next page begins; of one name and outcome if these are given."""
    query = Event.select().where(Event.workspace == workspace_id)
    if name is not None:
        query = query.where(Event.name == name)
    if outcome is not None:
        query = query.where(Event.outcome == outcome)
    if before is not None:
        query = query.where(paging.older(Event.created_at, Event.id, before))
    rows = list(query.order_by(Event.created_at.desc(), Event.id.desc()).limit(size + 1))
    return paging.cut(rows, size, lambda event: (event.created_at, event.id))


def find(workspace_id: str, event_id: str) -> Event:
    """An event of this workspace, or NotFound."""
    found = None
    if _ID.fullmatch(event_id):
        found = Event.get_or_none(Event.id == event_id, Event.workspace == workspace_id)
    if found is None:
        raise NotFound(f"There is no event '{event_id}'.")
    return found
