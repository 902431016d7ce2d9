"""Scripts of a Millrace called from another program: as functions with typed results.

    with Client("https://millrace.example", "acme", os.environ["MILLRACE_API_KEY"]) as millrace:
        total = millrace.call("order-total", {"order": 17}, parse=Total.from_json).unwrap()

This module needs httpx and nothing else of Millrace, so that a copy of it works in any program.

Every call carries an idempotency key, made for it unless the caller gives one. So a request whose answer was lost is
sent again, a few times and within the call's time, and there is one run however often it was sent. An event has no
such key: it is sent again only while the server cannot have got it.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar, cast, overload
from urllib.parse import quote

import httpx

TRIES = 5  # of one request
LONGEST_PAUSE_S = 10.0
SYNC_LIMIT_S = 960.0  # no script may run for longer than 900 s
_FIRST_PAUSE_S = 0.2
_FIRST_POLL_S, _LAST_POLL_S = 0.05, 2.0
_CONNECT_S = 5.0
_SUCCEEDED = "completed"
_OVER = (_SUCCEEDED, "failed", "timed_out", "cancelled")
_LATER = (429, 502, 503, 504)  # what a server, or a proxy before it, answers that could not do it now
_NOT_DONE = (429,)
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

T = TypeVar("T")
A = TypeVar("A")
Parse = Callable[[Any], T]


class MillraceError(Exception):
    """Whatever goes wrong between this program and a Millrace."""


class Unreachable(MillraceError):
    """The server did not answer, or could not do it, as often as it was asked."""


class Refused(MillraceError):
    """The server will not do it: `code` and `details` say why, as in its API."""

    def __init__(self, status: int, code: str, message: str, details: tuple[Mapping[str, Any], ...] = ()) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = details


class NotOver(MillraceError):
    """The time is up and the run goes on. The same call with this key, or `run_id` if it is known, finds it again."""

    def __init__(self, run_id: str | None, idempotency_key: str | None) -> None:
        super().__init__(f"run {run_id or 'of this call'} is not over yet")
        self.run_id = run_id
        self.idempotency_key = idempotency_key


class ScriptFailed(MillraceError):
    """The script did not succeed: by its own error, its time limit, or because somebody cancelled it."""

    def __init__(self, run_id: str, status: str, code: str | None, message: str, stack: str | None) -> None:
        super().__init__(f"{code or status}: {message}")
        self.run_id = run_id
        self.status = status
        self.code = code
        self.message = message
        self.stack = stack


@dataclass(frozen=True)
class ScriptError:
    """Why a run did not succeed; `stack` says where in the script, if that is known."""

    code: str | None
    message: str
    stack: str | None = None


@dataclass(frozen=True)
class Result(Generic[T]):
    """The end of a run. `status` is completed, failed, timed_out or cancelled; `value` is None unless it completed."""

    run_id: str
    status: str
    value: T | None = None
    error: ScriptError | None = None
    duration_ms: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the script succeeded."""
        return self.status == _SUCCEEDED

    def unwrap(self) -> T:
        """What the script returned. Raises ScriptFailed when it did not succeed."""
        if not self.ok:
            error = self.error or ScriptError(None, f"the run ended as {self.status}")
            raise ScriptFailed(self.run_id, self.status, error.code, error.message, error.stack)
        return cast(T, self.value)


# What both clients do is written once, as generators: they say what to ask and how long to wait, and get the answers.


@dataclass(frozen=True)
class _Ask:
    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]
    timeout_s: float


@dataclass(frozen=True)
class _Wait:
    seconds: float


_Answer: TypeAlias = httpx.Response | httpx.TransportError | None
_Plan: TypeAlias = Generator[_Ask | _Wait, _Answer, A]


class _Deadline:
    """The moment when the caller's patience ends."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._at - time.monotonic()


def _as_it_is(value: Any) -> Any:
    return value


def _path(*parts: str) -> str:
    return "/v1/scripting" + "".join(f"/{quote(part, safe='', errors='replace')}" for part in parts)


def _asked(
    method: str, path: str, deadline: _Deadline, *, body: Any = None, key: str | None = None, repeatable: bool = True,
    begun: bool = False,
) -> "_Plan[httpx.Response]":  # fmt: skip
    """The answer of success. Raises Refused, Unreachable, and TimeoutError when the time is up and something may have
    begun, or has before."""
    headers = {} if key is None else {"Idempotency-Key": key}
    content = None
    if body is not None:
        # Escaped, since JSON may hold halves of characters that UTF-8 cannot.
        content, headers["Content-Type"] = json.dumps(body, allow_nan=False).encode("ascii"), "application/json"
    trouble, pause = "", 0.0
    for tried in range(TRIES):
        if tried:
            yield _Wait(min(pause, max(deadline.left, 0)))
        if deadline.left <= 0:
            break
        answer = yield _Ask(method, path, content, headers, deadline.left)
        pause = min(_FIRST_PAUSE_S * 2**tried, LONGEST_PAUSE_S)
        if isinstance(answer, httpx.Response):
            if answer.is_success:
                return answer
            if answer.status_code not in _LATER or not (repeatable or answer.status_code in _NOT_DONE):
                raise _refusal(answer)
            trouble = str(_refusal(answer))
            pause = _retry_after(answer, pause)
            begun |= answer.status_code not in _NOT_DONE
        elif answer is not None:
            trouble = str(answer) or type(answer).__name__
            sent = not isinstance(answer, _NEVER_SENT)
            begun |= sent
            if sent and not repeatable:
                break
    if begun and deadline.left <= 0:
        raise TimeoutError(trouble)
    raise Unreachable(f"{method} {path}: {trouble or 'there was no time to ask'}")


def _retry_after(answer: httpx.Response, otherwise: float) -> float:
    given = answer.headers.get("Retry-After", "")
    return min(float(given), LONGEST_PAUSE_S) if given.isascii() and given.isdigit() else otherwise


def _refusal(answer: httpx.Response) -> Refused:
    try:
        error = answer.json()["error"]
        return Refused(answer.status_code, error["code"], error["message"], tuple(error.get("details", ())))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refused(answer.status_code, f"HTTP_{answer.status_code}", answer.text[:300])


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise Unreachable(f"{answer.request.url} is not Millrace: it answers no JSON") from None


def _call(
    script: str, input: Mapping[str, Any] | None, parse: "Parse[T]", timeout: float, key: str
) -> "_Plan[Result[T]]":
    deadline = _Deadline(timeout)
    body = {"mode": "sync", "trigger_type": "http", "payload": dict(input or {})}
    try:
        answer = yield from _asked("POST", _path("scripts", script, "execute"), deadline, body=body, key=key)
    except TimeoutError:
        raise NotOver(None, key) from None
    given = _json(answer)
    if given["status"] not in _OVER:
        return (yield from _awaited(script, given["run_id"], parse, deadline, key))
    if given["status"] == _SUCCEEDED:
        return Result(given["run_id"], _SUCCEEDED, parse(given["result"]), None, given["duration"])
    # The answer says what went wrong, and not where.
    return (yield from _awaited(script, given["run_id"], parse, deadline, key))


def _submit(
    script: str, input: Mapping[str, Any] | None, timeout: float, key: str, options: Mapping[str, Any]
) -> "_Plan[str]":
    body = {"mode": "async", "trigger_type": "http", "payload": dict(input or {}), **options}
    path = _path("scripts", script, "execute")
    try:
        answer = yield from _asked("POST", path, _Deadline(timeout), body=body, key=key)
    except TimeoutError as error:
        raise Unreachable(f"POST {path}: {error}") from None
    return str(_json(answer)["run_id"])


def _awaited(
    script: str, run_id: str, parse: "Parse[T]", deadline: _Deadline, key: str | None
) -> "_Plan[Result[T]]":
    """The end of a run, which is asked for until it is there."""
    path = _path("scripts", script, "runs", run_id)
    pause = _FIRST_POLL_S
    try:
        while True:
            run = _json((yield from _asked("GET", path, deadline, begun=True)))
            if run["status"] in _OVER:
                break
            yield _Wait(min(pause, max(deadline.left, 0)))
            pause = min(pause * 1.5, _LAST_POLL_S)
        if run["status"] != _SUCCEEDED:
            error = ScriptError(run["error_code"], run["error"] or "", run["error_stack"])
            return Result(run_id, run["status"], None, error, run["duration_ms"])
        value = _json((yield from _asked("GET", f"{path}/result", deadline, begun=True)))
    except TimeoutError:
        raise NotOver(run_id, key) from None
    return Result(run_id, _SUCCEEDED, parse(value), None, run["duration_ms"])


def _publish(name: str, data: Any, source: str | None, subject: str | None, timeout: float) -> "_Plan[str]":
    body = {"name": name, "data": data}
    body |= {each: value for each, value in (("source", source), ("subject", subject)) if value is not None}
    try:
        answer = yield from _asked("POST", _path("events"), _Deadline(timeout), body=body, repeatable=False)
    except TimeoutError as error:
        raise Unreachable(f"POST {_path('events')}: {error}") from None
    return str(_json(answer)["event_id"])


def _new_key() -> str:
    return str(uuid.uuid4())


def _settings(url: str, workspace: str, api_key: str) -> dict[str, Any]:
    return {"base_url": url.rstrip("/"), "headers": {"Authorization": f"ApiKey {api_key}", "Account-Id": workspace}}


def _request(ask: _Ask) -> dict[str, Any]:
    return {
        "method": ask.method, "url": ask.path, "content": ask.body, "headers": dict(ask.headers),
        "timeout": httpx.Timeout(ask.timeout_s, connect=min(_CONNECT_S, ask.timeout_s)),
    }  # fmt: skip


@dataclass(frozen=True)
class Run(Generic[T]):
    """A run that was started, to be awaited."""

    id: str
    script: str
    _client: "Client" = field(repr=False)
    _parse: "Parse[T]" = field(repr=False)

    def wait(self, timeout: float | None = None) -> Result[T]:
        """Its end. Raises NotOver when it takes longer than the timeout, which is the client's unless said."""
        patience = _Deadline(self._client.timeout if timeout is None else timeout)
        return self._client._drive(_awaited(self.script, self.id, self._parse, patience, None))

    def result(self, timeout: float | None = None) -> T:
        """What the script returned. Raises ScriptFailed, and NotOver as `wait` does."""
        return self.wait(timeout).unwrap()


class Client:
    """The scripts of one workspace. Close it, or use it in a `with`; threads may share it.

    `timeout` is how many seconds a call waits unless it says otherwise, queueing and repeats included.
    """

    def __init__(
        self, url: str, workspace: str, api_key: str, *, timeout: float = SYNC_LIMIT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        self.timeout = timeout
        self._http = httpx.Client(**_settings(url, workspace, api_key), transport=transport)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    @overload
    def call(
        self, script: str, input: Mapping[str, Any] | None = None, *, timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Result[Any]: ...  # fmt: skip

    @overload
    def call(
        self, script: str, input: Mapping[str, Any] | None = None, *, parse: Parse[T], timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Result[T]: ...  # fmt: skip

    def call(
        self, script: str, input: Mapping[str, Any] | None = None, *, parse: Parse[Any] = _as_it_is,
        timeout: float | None = None, idempotency_key: str | None = None,
    ) -> Result[Any]:  # fmt: skip
        """Run a script and wait for its end. `parse` makes the value of what the script returned.

        A script that fails is a result. Raises NotOver, Refused, Unreachable.
        """
        patience = self.timeout if timeout is None else timeout
        return self._drive(_call(script, input, parse, patience, idempotency_key or _new_key()))

    @overload
    def submit(
        self, script: str, input: Mapping[str, Any] | None = None, *, parse: Parse[T], timeout: float | None = None,
        idempotency_key: str | None = None, **options: Any,
    ) -> Run[T]: ...  # fmt: skip

    @overload
    def submit(
        self, script: str, input: Mapping[str, Any] | None = None, *, timeout: float | None = None,
        idempotency_key: str | None = None, **options: Any,
    ) -> Run[Any]: ...  # fmt: skip

    def submit(
        self, script: str, input: Mapping[str, Any] | None = None, *, parse: Parse[Any] = _as_it_is,
        timeout: float | None = None, idempotency_key: str | None = None, **options: Any,
    ) -> Run[Any]:  # fmt: skip
        """Start a run and go on. `options` are those of an async execution: delay_seconds, priority and so on.

        Once this returns the run is durable. Raises Refused, Unreachable.
        """
        patience = self.timeout if timeout is None else timeout
        run_id = self._drive(_submit(script, input, patience, idempotency_key or _new_key(), options))
        return Run(run_id, script, self, parse)

    def publish(
        self, event: str, data: Any, *, source: str | None = None, subject: str | None = None,
        timeout: float | None = None,
    ) -> str:  # fmt: skip
        """Publish an event; returns its id. Raises Refused, and Unreachable when it may or may not have been stored."""
        return self._drive(_publish(event, data, source, subject, self.timeout if timeout is None else timeout))

    def _drive(self, plan: "_Plan[A]") -> A:
        answer: _Answer = None
        while True:
            try:
                step = plan.send(answer)
            except StopIteration as done:
                return cast(A, done.value)
            answer = None
            if isinstance(step, _Wait):
                time.sleep(step.seconds)
                continue
            try:
                answer = self._http.request(**_request(step))
            except httpx.TransportError as error:
                answer = error


@dataclass(frozen=True)
class AsyncRun(Generic[T]):
    """As `Run`, to be awaited by `await`."""

    id: str
    script: str
    _client: "AsyncClient" = field(repr=False)
    _parse: "Parse[T]" = field(repr=False)

    async def wait(self, timeout: float | None = None) -> Result[T]:
        """As `Run.wait`."""
        patience = _Deadline(self._client.timeout if timeout is None else timeout)
        return await self._client._drive(_awaited(self.script, self.id, self._parse, patience, None))

    async def result(self, timeout: float | None = None) -> T:
        """As `Run.result`."""
        return (await self.wait(timeout)).unwrap()


class AsyncClient:
    """As `Client`, for asyncio."""

    def __init__(
        self, url: str, workspace: str, api_key: str, *, timeout: float = SYNC_LIMIT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        self.timeout = timeout
        self._http = httpx.AsyncClient(**_settings(url, workspace, api_key), transport=transport)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    @overload
    async def call(
        self, script: str, input: Mapping[str, Any] | None = None, *, timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Result[Any]: ...  # fmt: skip

    @overload
    async def call(
        self, script: str, input: Mapping[str, Any] | None = None, *, parse: Parse[T], timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Result[T]: ...  # fmt: skip

    async def call(
        self, script: str, input: Mapping[str, Any] | None = None, *, parse: Parse[Any] = _as_it_is,
        timeout: float | None = None, idempotency_key: str | None = None,
    ) -> Result[Any]:  # fmt: skip
        """As `Client.call`."""
        patience = self.timeout if timeout is None else timeout
        return await self._drive(_call(script, input, parse, patience, idempotency_key or _new_key()))

    @overload
    async def submit(
        self, script: str, input: Mapping[str, Any] | None = None, *, parse: Parse[T], timeout: float | None = None,
        idempotency_key: str | None = None, **options: Any,
    ) -> AsyncRun[T]: ...  # fmt: skip

    @overload
    async def submit(
        self, script: str, input: Mapping[str, Any] | None = None, *, timeout: float | None = None,
        idempotency_key: str | None = None, **options: Any,
    ) -> AsyncRun[Any]: ...  # fmt: skip

    async def submit(
        self, script: str, input: Mapping[str, Any] | None = None, *, parse: Parse[Any] = _as_it_is,
        timeout: float | None = None, idempotency_key: str | None = None, **options: Any,
    ) -> AsyncRun[Any]:  # fmt: skip
        """As `Client.submit`."""
        patience = self.timeout if timeout is None else timeout
        run_id = await self._drive(_submit(script, input, patience, idempotency_key or _new_key(), options))
        return AsyncRun(run_id, script, self, parse)

    async def publish(
        self, event: str, data: Any, *, source: str | None = None, subject: str | None = None,
        timeout: float | None = None,
    ) -> str:  # fmt: skip
        """As `Client.publish`."""
        patience = self.timeout if timeout is None else timeout
        return await self._drive(_publish(event, data, source, subject, patience))

    async def _drive(self, plan: "_Plan[A]") -> A:
        answer: _Answer = None
        while True:
            try:
                step = plan.send(answer)
            except StopIteration as done:
                return cast(A, done.value)
            answer = None
            if isinstance(step, _Wait):
                await asyncio.sleep(step.seconds)
                continue
            try:
                answer = await self._http.request(**_request(step))
            except httpx.TransportError as error:
                answer = error
