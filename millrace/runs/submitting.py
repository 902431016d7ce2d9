"""Every start of a run."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import peewee

from millrace import admission, callbacks, jsontext, limits, logs, objects
from millrace.admission import Room
from millrace.compiled import Compiled, place
from millrace.database import UNREACHABLE, transaction
from millrace.errors import Conflict, Invalid, NotReady, Unprocessable
from millrace.models import IdempotencyKey, Run, Script, Workspace
from millrace.models.run import QUEUED
from millrace.runs import locks, sending
from millrace.services import Services

INLINE_LIMIT = 64 * 1024  # bytes of JSON kept in the row; more goes to the object store


MAX_DELAY_MS = 366 * 24 * 3600 * 1000


KEY_LIFE_MS = 24 * 3600 * 1000  # how long an idempotency key is remembered


@dataclass(frozen=True)
class Order:
    """A wish to run a script: what, with which input, and what caused it."""

    workspace: str
    script: str  # uuid
    payload: Any
    trigger: str  # api | manual | schedule | http | event | batch
    mode: str = "async"
    caller_ip: str = ""
    available_at: int | None = None
    event_id: str | None = None
    due_at: int | None = None
    delivery_id: str | None = None
    depth: int = 0
    idempotency_key: str | None = None
    request_digest: str = ""
    version: int | None = None  # the script's current one unless said
    priority: int = 0  # seconds that it goes ahead of in the line
    expires_after_s: int | None = None  # it is given up if it has not started so long after it was due
    debounce_key: str | None = None  # takes the place of one with this key that still waits
    serial: bool = False  # waits until earlier serial runs of its script have ended
    replay_of: str | None = None
    callback_url: str | None = None  # who is told of its end, instead of the script's
    user_id: int | None = None  # who started it, if it was a person


@dataclass(frozen=True)
class Submitted:
    """The accepted run; `created` is False when the same cause had started it before.

    `merged` says that it took the place of one that still waited, see `Order.debounce_key`.
    """

    run: Run
    created: bool
    merged: bool = False
    admitted: Sequence[tuple[str, int]] = ()
    stale_payload: str | None = None


def digest(body: Any) -> str:
    """A digest of a JSON value that is the same for equal values, for idempotency keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def submit(services: Services, order: Order, because: Callable[[Run], None] | None = None) -> Submitted:
    """Accept a run durably, then send it if there is a free place for it; else it waits its turn.

    `because` writes what caused the run, in the same transaction. The same event, due time, delivery or
    idempotency key (for `KEY_LIFE_MS`) returns the run that it started before. Raises Unprocessable for a script
    that is not active, NotReady for a suspended workspace, Conflict for a reused key with another request, TooMany
    for a workspace whose quota is used up.
    """
    now = services.clock()
    run = draft(services, order, now)
    try:
        accepted = _accept(services, order, run, now, because)
    except UNREACHABLE:
        raise  # nobody knows whether the commit was done: a run without its payload would be worse than a stray object
    except Exception:
        forget_payload(services, run)
        raise
    if not accepted.created:
        forget_payload(services, run)
    if accepted.stale_payload is not None:
        objects.discard(services.objects, [accepted.stale_payload])
    sending.send(services, order.workspace, accepted.admitted)
    return accepted


def _accept(
    services: Services, order: Order, run: Run, now: int, because: Callable[[Run], None] | None
) -> Submitted:
    try:
        with transaction():
            script, workspace = locks.to_submit(order.script)
            # A repeat is answered whatever became of the script since.
            key = order.idempotency_key
            if key and (earlier := started_before(script, key, order.request_digest, now)):
                return Submitted(Run.get_by_id(earlier), created=False)
            check_may_run(script, workspace)
            if run.callback_url is not None:
                callbacks.check_signed(script)
            if workspace.limits:
                limits.check(services, workspace.id, workspace.limits, workspace.stored_bytes, now)
            run.version = order.version or script.version
            run.concurrency_key = admission.SERIAL if order.serial else concurrency_key(script, order.payload)
            waiting, stale = _debounced(script, order, run) if order.debounce_key else (None, None)
            admitted = _add(script, workspace, run, now) if waiting is None else []
            accepted = waiting or run
            if order.idempotency_key:
                IdempotencyKey.create(
                    script=script.uuid, key=order.idempotency_key, digest=order.request_digest, run_id=accepted.id,
                    created_at=now,
                )
            if because is not None:
                because(accepted)
    except peewee.IntegrityError:
        # The database settled a race: the same cause was there first.
        found = _started_by(order)
        if found is None:
            raise
        return Submitted(found, created=False)
    return Submitted(accepted, created=True, merged=waiting is not None, admitted=admitted, stale_payload=stale)


def _add(script: Script, workspace: Workspace, run: Run, now: int) -> list[tuple[str, int]]:
    """Write the run's row; returns what is to be sent now: it, others that waited for a place, or nothing."""
    bounds = locks.bounds(script, workspace)
    plain = run.concurrency_key is None and bounds.workspace_runs is None
    room = admission.room(script, now) if run.available_at <= now else Room.FULL
    if plain and room is Room.FREE:
        run.sent_at = now
    _INSERT.execute(**{each.name: each.db_value(run.__data__.get(each.name)) for each in _COLUMNS})
    if run.sent_at is not None:
        return [(run.id, 1)]
    if room is Room.FULL:
        return []
    locks.lock_workspace(workspace.id, bounds)
    return admission.admit_waiting(script, now, bounds)


def concurrency_key(script: Script, payload: Any) -> str | None:
    """What a run shares places with: others of the same value in their payload."""
    if not script.concurrency:
        return None
    value = payload
    for name in script.concurrency["key"].split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return None if value is None else digest(value)


def _debounced(script: Script, order: Order, run: Run) -> tuple[Run | None, str | None]:
    """The run with this key that still waits, with the new input and the new time, and the key of its old input; None
    if there is none."""
    waiting = Run.get_or_none(Run.script == script.uuid, Run.debounce_key == order.debounce_key, admission.WAITING)
    if waiting is None:
        return None, None
    stale = waiting.payload_key
    names = ("version", "payload", "payload_key", "available_at", "order_at", "expires_at", "concurrency_key",
             "callback_url")  # fmt: skip
    for name in names:
        setattr(waiting, name, getattr(run, name))
    waiting.save(only=names)
    return waiting, stale


_COLUMNS = Run._meta.sorted_fields


_INSERT = Compiled(lambda: Run.insert({each: place(each.name) for each in _COLUMNS}))


def check_may_run(script: Script, workspace: Workspace) -> None:
    """Raises NotReady for a workspace that is not ready, Unprocessable for a script that is not active."""
    if workspace.status != "ready":
        raise NotReady(f"Workspace '{workspace.id}' is {workspace.status} and can't run scripts now.")
    if script.status != "active":
        raise Unprocessable(f"Script '{script.slug}' is {script.status}; only an active script can run.")


def draft(services: Services, order: Order, now: int) -> Run:
    """The run's row, not written yet; a large payload is in the object store already. Raises Invalid, Unavailable."""
    if order.available_at is not None and order.available_at - now > MAX_DELAY_MS:
        raise Invalid("run_at must be within 366 days from now.", field="run_at",
                      value=logs.timestamp(order.available_at))
    if order.callback_url is not None:
        callbacks.check_url(order.callback_url)
    available_at = max(order.available_at or now, now)
    run = Run(
        id=services.new_id(), workspace=order.workspace, script=order.script, status=QUEUED,
        trigger=order.trigger, mode=order.mode, caller_ip=order.caller_ip[:64], user_id=order.user_id, created_at=now,
        available_at=available_at, order_at=available_at - order.priority * 1000, attempt=0,
        expires_at=None if order.expires_after_s is None else available_at + order.expires_after_s * 1000,
        event_id=order.event_id, due_at=order.due_at, delivery_id=order.delivery_id, depth=order.depth,
        debounce_key=order.debounce_key, replay_of=order.replay_of, callback_url=order.callback_url,
    )
    payload = jsontext.dump(order.payload, "payload")
    if len(payload) <= INLINE_LIMIT:
        run.payload = payload
    else:
        # Before the row, so that an accepted run always finds its input.
        run.payload_key = f"payloads/{order.workspace}/{run.id}.json"
        services.objects.put(run.payload_key, payload.encode(), content_type="application/json")
    return run


def forget_payload(services: Services, run: Run) -> None:
    """Delete the stored payload of a draft that did not become a run."""
    if run.payload_key is not None:
        objects.discard(services.objects, [run.payload_key])


def started_before(script: Script, idempotency_key: str, request_digest: str, now: int) -> str | None:
    """The id of what an earlier request with this key started. Raises Conflict if that was another request."""
    key = IdempotencyKey.get_or_none(IdempotencyKey.script == script.uuid, IdempotencyKey.key == idempotency_key)
    if key is None:
        return None
    if key.created_at <= now - KEY_LIFE_MS:
        key.delete_instance()
        return None
    if key.digest != request_digest:
        raise Conflict(f"Idempotency-Key '{idempotency_key}' was used before with a different request.")
    return str(key.run_id)


def _started_by(order: Order) -> Run | None:
    for field, value in (
        (Run.event_id, order.event_id), (Run.due_at, order.due_at), (Run.delivery_id, order.delivery_id)
    ):
        if value is not None:
            found = Run.get_or_none(Run.script == order.script, field == value)
            if found is not None:
                return found
    return None
