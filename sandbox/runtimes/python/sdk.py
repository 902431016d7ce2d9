"""What is behind the names context, sdk and events: about the run that is under way when it is used. So what a script
keeps of it when it is loaded serves all runs. All of it is read-only.

In a plain handler every call waits for its answer; in one that is a coroutine it is to be awaited.
"""

from __future__ import annotations

import time
from json import JSONEncoder
from math import ceil

from . import arguments, channel, logs
from .context import CallRefused
from .underway import ReadOnly, Record, State, ask, running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .database import Source
    from .httpclient import Http
    from .underway import Run

_MOST_SECONDS = 31_536_000  # a year, as millrace/cache.py
_MOST_DELTA = 2**53 - 1
_LINES_PER_MINUTE = 100
_S_PER_LINE = 60 / _LINES_PER_MINUTE
_MAX_LINE_BYTES = 256 * 1024 - 4
"""A longer one would be cut into several lines, none of which is JSON."""
_LEVELS = {"debug": b"D", "info": b"I", "warn": b"W", "error": b"E"}  # the letters are sandbox/protocol.py's
_encode = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_clock, _now, _gmtime, _strftime = time.monotonic, time.time, time.gmtime, time.strftime


def _trigger_of(told: dict[str, Any] | None, payload: Any) -> Record | None:
    if told is None:
        return None
    kind = told.get("type")
    of_event = payload.get("data") if kind == "event" and isinstance(payload, dict) else None
    return Record(
        type=kind,
        event_type=told.get("eventType"),
        event_payload=of_event,
        http_request=payload if kind == "http" else None,
        cron_expression=told.get("cronExpression"),
    )


class Context(ReadOnly):
    """What the run is about."""

    __slots__ = ()

    @property
    def tenant_id(self) -> Any:
        return None if State.run is None else State.run.told.get("tenantId")

    @property
    def script_id(self) -> Any:
        return None if State.run is None else State.run.told.get("scriptId")

    @property
    def user_id(self) -> Any:
        return _told("user_id", "userId")

    @property
    def organization_id(self) -> Any:
        return _told("organization_id", "organizationId")

    @property
    def execution_id(self) -> Any:
        return _told("execution_id", "executionId")

    @property
    def input(self) -> Any:
        run = _entered("input")
        return None if run is None else run.payload

    @property
    def trigger(self) -> Any:
        run = _entered("trigger")
        if run is not None and run.trigger is None:
            run.trigger = _trigger_of(run.told.get("trigger"), run.payload)
        return None if run is None else run.trigger

    def __dir__(self) -> list[str]:
        return ["tenant_id", "user_id", "organization_id", "script_id", "execution_id", "input", "trigger"]

    def __repr__(self) -> str:
        is_entered = State.run is not None and State.run.calls.entered
        names = dir(self) if is_entered else ("tenant_id", "script_id")
        return f"context({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def _entered(name: str) -> Run | None:
    if State.run is not None and not State.run.calls.entered:
        raise RuntimeError(
            f"context.{name} is known once the handler runs: a script is loaded once for many runs"
        )
    return State.run


def _told(name: str, member: str) -> Any:
    run = _entered(name)
    return None if run is None else run.told.get(member)


class Cache(ReadOnly):
    """Values that outlive a run."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "sdk.cache"

    def get(self, key: str) -> Any:
        return ask("cache.get", {"key": arguments.text("sdk.cache.get", "key", key)})

    def set(self, key: str, value: Any, ttl_seconds: int | None = None) -> Any:
        arguments.text("sdk.cache.set", "key", key)
        if ttl_seconds is not None:
            arguments.integer("sdk.cache.set", "ttl_seconds", ttl_seconds, 1, _MOST_SECONDS)
        return ask("cache.set", {"key": key, "value": value, "ttl": ttl_seconds})

    def delete(self, key: str) -> Any:
        return ask("cache.delete", {"key": arguments.text("sdk.cache.delete", "key", key)})

    def exists(self, key: str) -> Any:
        return ask("cache.exists", {"key": arguments.text("sdk.cache.exists", "key", key)})

    def increment(self, key: str, delta: int = 1) -> Any:
        arguments.text("sdk.cache.increment", "key", key)
        arguments.integer("sdk.cache.increment", "delta", delta, -_MOST_DELTA, _MOST_DELTA)
        return ask("cache.increment", {"key": key, "delta": delta})

    def expire(self, key: str, ttl_seconds: int) -> Any:
        arguments.text("sdk.cache.expire", "key", key)
        arguments.integer("sdk.cache.expire", "ttl_seconds", ttl_seconds, 1, _MOST_SECONDS)
        return ask("cache.expire", {"key": key, "ttl": ttl_seconds})


class Log(ReadOnly):
    """One line of JSON each, with what the run is about, so that a program can read the log. Nothing is awaited."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "sdk.log"

    def debug(self, message: str, metadata: dict[str, Any] | BaseException | None = None) -> None:
        _log("debug", message, metadata)

    def info(self, message: str, metadata: dict[str, Any] | BaseException | None = None) -> None:
        _log("info", message, metadata)

    def warn(self, message: str, metadata: dict[str, Any] | BaseException | None = None) -> None:
        _log("warn", message, metadata)

    def error(self, message: str, metadata: dict[str, Any] | BaseException | None = None) -> None:
        _log("error", message, metadata)


def _log(level: str, message: str, metadata: dict[str, Any] | BaseException | None) -> None:
    label = f"sdk.log.{level}"
    if not isinstance(message, str):
        raise arguments.wrong(label, "message", "a str", message)
    if isinstance(metadata, BaseException):
        metadata = {"name": type(metadata).__name__, "message": str(metadata)}
    if metadata is not None:
        arguments.mapping(label, "metadata", metadata)
    run = State.run
    if run is None:
        return
    text = _line(label, run.told, level, message, metadata)
    _take_token(run)
    logs.line(_LEVELS[level], text)


def _line(label: str, told: dict[str, Any], level: str, message: str, metadata: dict[str, Any] | None) -> str:
    at = _now()
    fields = {
        "timestamp": f"{_strftime('%Y-%m-%dT%H:%M:%S', _gmtime(at))}.{int(at * 1000) % 1000:03}Z",
        "level": level,
        "message": message,
        "tenant_id": told.get("tenantId"),
        "user_id": told.get("userId"),
        "script_id": told.get("scriptId"),
        "execution_id": told.get("executionId"),
    }
    if metadata is not None:
        fields["metadata"] = metadata
    try:
        text = _encode(fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{label}: metadata is not JSON: {error}") from None
    size = len(channel.utf8(text))
    if size > _MAX_LINE_BYTES:
        raise TypeError(f"{label}: the line is {size} bytes; at most {_MAX_LINE_BYTES} are allowed")
    return text


def _take_token(run: Run) -> None:
    """Takes one of the run's tokens, which come back evenly; raises CallRefused when there is none."""
    now = _clock()
    before, counted_at = run.bucket or (float(_LINES_PER_MINUTE), now)
    tokens = min(_LINES_PER_MINUTE, before + (now - counted_at) / _S_PER_LINE)
    if tokens < 1:
        wait_ms = ceil((1 - tokens) * _S_PER_LINE * 1000)
        message = f"Rate limit exceeded: sdk.log takes {_LINES_PER_MINUTE} lines a minute; try again in {wait_ms} ms"
        raise CallRefused(message, "RATE_LIMITED", wait_ms)
    run.bucket = (tokens - 1, now)


class Events(ReadOnly):
    """Facts for other scripts."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "events"

    def publish(self, type: str, payload: Any = None) -> Any:
        # The platform counts these apart from those of the handler's second argument.
        params = {"name": arguments.event_type("events.publish", type), "data": payload, "sdk": True}
        answer = ask("events.publish", params, "events.publish")
        return _true_after(answer) if running().is_async else True


async def _true_after(answer: Any) -> bool:
    await answer
    return True


class Sdk(ReadOnly):
    __slots__ = ()

    cache = Cache()
    log = Log()
    events = Events()

    @property
    def db(self) -> Source:
        from .database import DEFAULT  # noqa: PLC0415

        return DEFAULT

    @property
    def http(self) -> Http:
        from .httpclient import HTTP  # noqa: PLC0415  # it loads much of the standard library

        return HTTP

    def __dir__(self) -> list[str]:
        return ["cache", "db", "events", "http", "log"]

    def __repr__(self) -> str:
        return "sdk"


sdk = Sdk()
events = sdk.events
context = Context()
