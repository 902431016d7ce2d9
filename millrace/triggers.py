"""What starts a script besides the API: its subscriptions to events and its webhook path."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import peewee

from millrace import events, patterns, runs, secrets, signatures
from millrace.errors import Conflict, DomainError, Invalid
from millrace.events import Routed
from millrace.models import Event, Hook, Script, Subscription
from millrace.services import Services

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
MEMBER = "member"
AUTH = ("none", "key", "signature", MEMBER)
_WITHOUT_SECRET = ("none", MEMBER)
_PATH = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+){1,10}")  # a client would resolve . and .. away
_HOOK_SECRET = "http trigger"  # the name under which a hook's secret is sealed; no script's secret can have a space


@dataclass(frozen=True)
class EventTrigger:
    """A pattern of event names, and an optional filter on the event's fields."""

    pattern: str
    filter: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class HttpTrigger:
    """A path of the workspace's hooks. A `secret` of None on an update keeps the one that is stored."""

    path: str
    methods: Sequence[str] = ("POST",)
    auth: str = "key"  # none | key | signature; or member: for whoever is signed in, and not among the public hooks
    scheme: str | None = None  # standard | github | stripe
    secret: str | None = None
    mode: str = "sync"  # sync | async


@dataclass(frozen=True)
class Triggers:
    """All of a script's triggers; replacing them replaces all."""

    events: Sequence[EventTrigger] = ()
    http: HttpTrigger | None = None


def validate(triggers: Triggers) -> None:
    """Raises Invalid for the first rule that is broken."""
    if len(triggers.events) > 50:
        raise Invalid(f"A script can have 50 event triggers, not {len(triggers.events)}.", field="triggers.events")
    for number, event in enumerate(triggers.events):
        try:
            patterns.validate_pattern(event.pattern)
            if event.filter is not None:
                patterns.validate_filter(event.filter)
        except Invalid as error:
            raise Invalid(error.message, field=f"triggers.events[{number}]", value=error.value) from None
    if triggers.http is not None:
        _validate_http(triggers.http)


def _validate_http(http: HttpTrigger) -> None:
    def refuse(field: str, value: Any, rule: str) -> Invalid:
        return Invalid(f"triggers.http.{field} {rule}", field=f"triggers.http.{field}", value=value)

    if not _PATH.fullmatch(http.path) or len(http.path) > 200:
        raise refuse("path", http.path, "must begin with '/' and consist of up to ten segments of letters, digits, "
                                        "'.', '_', '~' and '-', 200 characters in all.")
    if not http.methods or len(set(http.methods)) != len(http.methods) or not set(http.methods) <= set(METHODS):
        raise refuse("methods", list(http.methods), f"must be one or more of {', '.join(METHODS)}, each once.")
    if http.auth not in AUTH:
        raise refuse("auth", http.auth, f"must be one of {', '.join(AUTH)}.")
    if http.auth == "signature" and http.scheme is None:
        raise refuse("scheme", None, "is required when auth is 'signature': standard, github or stripe.")
    if http.auth != "signature" and http.scheme is not None:
        raise refuse("scheme", http.scheme, f"has no meaning when auth is '{http.auth}'.")
    if http.auth in _WITHOUT_SECRET and http.secret is not None:
        raise refuse("secret", None, f"has no meaning when auth is '{http.auth}'.")
    if http.secret is not None and not 1 <= len(http.secret) <= 500:
        raise refuse("secret", None, "must have from 1 to 500 characters.")
    if http.secret is not None and http.scheme is not None:
        signatures.validate_secret(http.scheme, http.secret, "triggers.http.secret")


def replace(services: Services, script: Script, triggers: Triggers) -> None:
    """Make these the script's only triggers. In the caller's transaction. Raises Invalid, Conflict."""
    validate(triggers)
    Subscription.delete().where(Subscription.script == script.uuid).execute()
    for event in triggers.events:
        Subscription.create(script=script.uuid, workspace=script.workspace_id, pattern=event.pattern,
                            filter=event.filter)
    _replace_hook(services, script, triggers.http)


def _replace_hook(services: Services, script: Script, http: HttpTrigger | None) -> None:
    before = Hook.get_or_none(Hook.script == script.uuid)
    Hook.delete().where(Hook.script == script.uuid).execute()
    if http is None:
        return
    sealed = None
    if http.secret is not None:
        sealed = secrets.seal(services, script, _HOOK_SECRET, http.secret)
    elif http.auth not in _WITHOUT_SECRET:
        if before is None or before.secret is None:
            raise Invalid(f"triggers.http.secret is required when auth is '{http.auth}'.", field="triggers.http.secret")
        sealed = before.secret
        if http.scheme is not None:
            kept = secrets.open_one(services, script, _HOOK_SECRET, sealed)
            signatures.validate_secret(http.scheme, kept, "triggers.http.secret")
    if Hook.select().where(Hook.workspace == script.workspace_id, Hook.path == http.path).exists():
        raise Conflict(f"Another script of this workspace has the path '{http.path}'.")
    try:
        Hook.create(script=script.uuid, workspace=script.workspace_id, path=http.path, methods=list(http.methods),
                    auth=http.auth, scheme=http.scheme, secret=sealed, mode=http.mode)
    except peewee.IntegrityError:
        raise Conflict(f"Another script of this workspace has the path '{http.path}'.") from None


def hook_for(workspace_id: str, path: str) -> Hook | None:
    """The hook under this path, with its script; None for whatever is none."""
    if not _PATH.fullmatch(path) or not workspace_id.isprintable():
        return None  # PostgreSQL would refuse to look for a NUL
    found: Hook | None = (
        Hook.select(Hook, Script).join(Script).where(Hook.workspace == workspace_id, Hook.path == path).first()
    )
    return found


def hook_secret(services: Services, hook: Hook) -> str | None:
    """The hook's key or signing secret, opened."""
    return None if hook.secret is None else secrets.open_one(services, hook.script, _HOOK_SECRET, hook.secret)


def current(script: Script) -> Triggers:
    """The triggers that a script has; a hook's secret is left out, as in an update that keeps it."""
    subscribed = Subscription.select().where(Subscription.script == script.uuid).order_by(Subscription.id)
    hook = Hook.get_or_none(Hook.script == script.uuid)
    return Triggers(
        [EventTrigger(each.pattern, each.filter) for each in subscribed],
        None if hook is None else HttpTrigger(hook.path, hook.methods, hook.auth, hook.scheme, mode=hook.mode),
    )


def of(script: Script) -> dict[str, Any]:
    """The triggers as they may be shown: everything but the secret."""
    subscribed = list(Subscription.select().where(Subscription.script == script.uuid).order_by(Subscription.id))
    return shown(subscribed, Hook.get_or_none(Hook.script == script.uuid))


def shown(subscribed: Sequence[Subscription], hook: Hook | None) -> dict[str, Any]:
    """These rows in the shape that a request gives triggers, without the secret."""
    triggers: dict[str, Any] = {}
    if subscribed:
        triggers["events"] = [
            {"pattern": each.pattern} | ({} if each.filter is None else {"filter": each.filter}) for each in subscribed
        ]
    if hook is not None:
        triggers["http"] = {"path": hook.path, "methods": hook.methods, "auth": hook.auth, "mode": hook.mode}
        if hook.scheme is not None:
            triggers["http"]["scheme"] = hook.scheme
    return triggers


def route(services: Services, event_id: str) -> int:
    """Start every script that an event is for; safe to repeat. Returns how many runs it started now."""
    event = Event.get_or_none(Event.id == event_id, Event.routed_at.is_null())
    if event is None:
        return 0  # routed already, or gone with its workspace
    started, refused = 0, []
    for target in events.recipients(event):
        try:
            started += fire(services, event, target).created
        except DomainError as error:
            refused.append(error.message)
    events.mark_routed(event, services.clock(), " ".join(refused) or None)
    return started


def fire(services: Services, event: Event, target: Routed) -> runs.Submitted:
    """Start a script for an event: one run per (event, script), however often it is tried."""
    return runs.submit(
        services,
        runs.Order(workspace=target.workspace, script=target.script, payload=target.payload, trigger="event",
                   event_id=event.id, depth=target.depth),
    )
