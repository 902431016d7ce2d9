"""What a script may ask of the platform while it runs: events, requests to the outside, data sources, its cache.

One for each run. Nothing that a script sends is taken for what it should be: whatever is wrong about it is refused in
words for the script's author, and so is what goes beyond a limit, naming the limit and its value.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from millrace import events, metrics, scriptlimits
from millrace.assignments import Assignment
from millrace.cache import Full, Namespace
from millrace.database import revive
from millrace.errors import DomainError, Invalid, TooLarge, Unavailable
from millrace.services import Services
from sandbox.job import CallRefused, Pending
from worker.buckets import TokenBucket
from worker.vital import DATABASE_AWAY

MAX_PUBLISHED = 1000
MAX_API_CALLS = 100  # sdk.http and sdk.db together, whatever their rates are
CACHE_PER_MINUTE = 120
EVENTS_PER_MINUTE = 30  # through the SDK; the older context.publish has only MAX_PUBLISHED

RATE_LIMITED, LIMIT_REACHED, UNAVAILABLE = "RATE_LIMITED", "LIMIT_REACHED", "UNAVAILABLE"
_CODES: tuple[tuple[type[DomainError], str], ...] = (
    (Full, LIMIT_REACHED), (TooLarge, "TOO_LARGE"), (Invalid, "INVALID_ARGUMENT"),
)  # fmt: skip

log = logging.getLogger(__name__)


class DatabaseSession(Protocol):
    """One run's connections to its workspace's data sources."""

    def call(self, method: str, params: dict[str, Any]) -> Pending:
        """Begin what a method such as `db.query` asks for."""

    def close(self) -> None:
        """Undo what is open, and give the connections back."""


class Databases(Protocol):
    """Where those come from: one per process."""

    def session(self, workspace_id: str) -> DatabaseSession:
        """For one run. Opens nothing before the first call."""


def could_not(services: Services, what: str, error: Exception) -> CallRefused:
    """The refusal of a call that failed because of us. What we know of the reason is not for the script."""
    log.error("could not %s: %s", what, error)
    metrics.platform_failures().labels(kind="call").inc()
    if isinstance(error, DATABASE_AWAY):
        revive(services.database)
    return CallRefused(f"The platform could not {what} now.", code=UNAVAILABLE)


class Sdk:
    """The calls of one run, from its own thread."""

    def __init__(
        self, services: Services, assignment: Assignment, databases: Databases, note: Callable[[str], None]
    ) -> None:
        """`note` writes a line into the run's log."""
        self._services = services
        self._run = assignment.run
        self._script = assignment.script
        self._databases = databases
        self._note = note
        self._buckets: dict[str, TokenBucket] = {}
        self._session: DatabaseSession | None = None
        self._published = 0
        self._ends_left = 0
        self._counts: Counter[str] = Counter()

    def call(self, method: str, params: dict[str, Any]) -> Any:
        """The answer to a call, or a Pending. Raises CallRefused."""
        answer = _METHODS.get(method)
        if answer is None:
            raise CallRefused(f"There is no method '{method[:100]}'.")
        try:
            return answer(self, method, params)
        except DomainError as error:
            code = next((code for kind, code in _CODES if isinstance(error, kind)), "")
            raise CallRefused(error.message, code=code) from None

    def counts(self) -> Mapping[str, int]:
        """What the run asked for and got, without what it did not: a part of its usage."""
        return dict(self._counts)

    def close(self) -> None:
        """The run is over."""
        if self._session is not None:
            self._session.close()

    # Events

    def publish(self, method: str, params: dict[str, Any]) -> dict[str, str]:
        """`sdk` says who asks: events.publish of the SDK, or the older context.publish."""
        name, subject = params.get("name"), params.get("subject")
        if not isinstance(name, str) or not isinstance(subject, str | None):
            raise Invalid("An event's name and subject must be text.")
        if params.get("sdk") is True:
            self._take("events.publish", "events", EVENTS_PER_MINUTE)
        if self._published >= MAX_PUBLISHED:
            raise CallRefused(f"A run can publish {MAX_PUBLISHED} events.", code=LIMIT_REACHED)
        self._published += 1
        try:
            event = events.publish(
                self._services, self._run.workspace_id, name, params.get("data"), source=self._script.slug,
                subject=subject, depth=self._run.depth + 1,
            )  # fmt: skip
        except DATABASE_AWAY as error:
            raise could_not(self._services, "store the event", error) from error
        self._counts["events_published"] += 1
        if event.outcome == "cut":
            self._note(f"event '{name}' starts nothing: {event.reason}")
        return {"event_id": str(event.id)}

    # The outside, and data sources

    def begin_request(self, method: str, params: dict[str, Any]) -> None:
        """Allow one request of sdk.http. What it may reach is the egress proxy's to say."""
        self._count_api_call("sdk.http", "requests")

    def ask_database(self, method: str, params: dict[str, Any]) -> Pending:
        """Statements and the beginning of a transaction count. Its end does not: that must always be possible."""
        if method in _ENDS:
            self._count_end()
        else:
            self._count_api_call("sdk.db", "calls")
            self._ends_left += 2 * (method == "db.begin")  # a commit that fails, and a rollback after it
        if method in _QUERIES:
            self._counts["db_queries"] += 1
        if self._session is None:
            self._session = self._databases.session(self._run.workspace_id)
        return self._session.call(method, params)

    def _count_end(self) -> None:
        if self._ends_left == 0:
            raise Invalid("There is no transaction to end.")
        self._ends_left -= 1

    def _count_api_call(self, name: str, things: str) -> None:
        if self._counts["api_calls"] >= MAX_API_CALLS:
            raise CallRefused(
                f"A run can make at most {MAX_API_CALLS} API calls, of sdk.http and sdk.db together.",
                code=LIMIT_REACHED,
            )
        self._take(name, things, scriptlimits.of(self._script).api_calls_per_minute)
        self._counts["api_calls"] += 1

    # The cache

    def ask_cache(self, method: str, params: dict[str, Any]) -> Any:
        """All methods of sdk.cache."""
        self._take("sdk.cache", "calls", CACHE_PER_MINUTE)
        if "key" not in params:
            raise Invalid("A cache key must be given.", field="key")
        namespace = Namespace(self._run.workspace_id, self._script.uuid)
        try:
            answer = _CACHE[method](self._services, namespace, params)
        except Unavailable as error:
            raise could_not(self._services, "reach the cache", error) from error
        self._counts["cache_calls"] += 1
        return answer

    # Rates

    def _take(self, name: str, things: str, per_minute: int) -> None:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(per_minute, self._services.clock)
        wait_ms = bucket.take()
        if wait_ms:
            tenths = -(-wait_ms // 100)
            raise CallRefused(
                f"Rate limit exceeded: at most {per_minute} {name} {things} a minute; try again in {tenths / 10} s.",
                code=RATE_LIMITED, retry_after_ms=wait_ms,
            )  # fmt: skip


def _set(services: Services, namespace: Namespace, params: dict[str, Any]) -> bool:
    if "value" not in params:
        raise Invalid("A value to cache must be given.", field="value")
    services.cache.set(namespace, params["key"], params["value"], params.get("ttl"))
    return True


_CACHE: dict[str, Callable[[Services, Namespace, dict[str, Any]], Any]] = {
    "cache.get": lambda services, namespace, params: services.cache.get(namespace, params["key"]),
    "cache.exists": lambda services, namespace, params: services.cache.exists(namespace, params["key"]),
    "cache.delete": lambda services, namespace, params: services.cache.delete(namespace, params["key"]),
    "cache.set": _set,
    "cache.increment": lambda services, namespace, params: services.cache.increment(
        namespace, params["key"], params.get("delta", 1)
    ),
    "cache.expire": lambda services, namespace, params: services.cache.expire(
        namespace, params["key"], params.get("ttl")  # type: ignore[arg-type]  # the cache looks at it
    ),
}
_QUERIES = frozenset({"db.query", "db.queryOne", "db.execute"})
_ENDS = frozenset({"db.commit", "db.rollback"})
_METHODS: dict[str, Callable[[Sdk, str, dict[str, Any]], Any]] = {
    "events.publish": Sdk.publish,
    "http.begin": Sdk.begin_request,
    **dict.fromkeys((*_QUERIES, "db.begin", *_ENDS), Sdk.ask_database),
    **dict.fromkeys(_CACHE, Sdk.ask_cache),
}
