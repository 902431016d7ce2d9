"""The handler's second argument, and the calls that it makes to the platform."""

from __future__ import annotations

import json
import re
import time
from _collections_abc import Mapping
from _thread import allocate_lock

from . import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Iterator
    from typing import Any, Self

_ARTIFACT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CONTENT_TYPE = re.compile(r"[\x20-\x7e]{1,200}")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_MAX_CALLS = 100_000
_MAX_CALL_BYTES = 1024 * 1024
_NAMES = ("run_id", "workspace_id", "script_id", "script_uuid", "script_version", "attempt", "trigger")
# What the platform tells the SDK shows in here as far as it has no older meaning.
_TOLD = {
    "tenant_id": "tenantId", "user_id": "userId", "organization_id": "organizationId", "execution_id": "executionId"
}  # fmt: skip

clock = time.monotonic
_parse = json.JSONDecoder().decode
_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_readable = json.JSONEncoder(ensure_ascii=False, allow_nan=False, indent=2).encode
_snake: dict[str, str] = {}


class CallRefused(Exception):
    """The platform said no, or is not asked any more."""

    def __init__(self, message: str, code: str | None = None, retry_after_ms: int | None = None) -> None:
        """The platform may say why in a word, and when to ask again."""
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms


CallRefused.__module__ = "builtins"  # what tracebacks leave out


class Calls:
    """The calls of one run."""

    def __init__(self) -> None:
        self.made = 0
        self.entered = False
        """The handler has been entered."""
        self._open = True
        self._reading = allocate_lock()
        self._futures: dict[int, Future[Any]] = {}
        """Of the calls that are awaited; blocking ones have none."""

    def make(self, frame_type: bytes, header: dict[str, Any], data: bytes) -> Any:
        """Make a call and wait for its answer. Raises CallRefused."""
        with self._reading:
            number = self._begin()
            channel.send(frame_type, {**header, "id": number}, data)
            while True:
                header, value = _answer()
                if header["id"] == number:
                    return _taken(header, value)
                self._settle(header, value)

    async def make_soon(self, frame_type: bytes, header: dict[str, Any], data: bytes) -> Any:
        """The same for an event loop, which goes on meanwhile."""
        from asyncio import get_running_loop  # noqa: PLC0415  # whoever awaits has loaded it

        loop = get_running_loop()
        future: Future[Any] = loop.create_future()
        with self._reading:
            number = self._begin()
            self._futures[number] = future
            channel.send(frame_type, {**header, "id": number}, data)
        loop.add_reader(channel.JOB_FD, self._hear)
        try:
            return _taken(*await future)
        finally:
            self._futures.pop(number, None)
            if not self._awaited_by(loop):
                loop.remove_reader(channel.JOB_FD)

    def close(self) -> None:
        self._open = False
        self._futures.clear()

    def _begin(self) -> int:
        if not self._open:
            raise CallRefused("This run has ended")
        if not self.entered:
            raise CallRefused("The platform can be called once the handler runs, not while the script is loaded")
        if self.made >= _MAX_CALLS:
            raise CallRefused(f"A run may make at most {_MAX_CALLS} calls")
        self.made += 1
        return self.made

    def _hear(self) -> None:
        from select import select  # noqa: PLC0415  # event loops have loaded it

        with self._reading:
            # Another thread may have read what this one was woken for.
            if select([channel.JOB_FD], [], [], 0)[0]:
                self._settle(*_answer())

    def _settle(self, header: dict[str, Any], value: Any) -> None:
        future = self._futures.get(header["id"])
        if future is not None:
            future.get_loop().call_soon_threadsafe(_resolve, future, (header, value))

    def _awaited_by(self, loop: AbstractEventLoop) -> bool:
        return any(future.get_loop() is loop for future in self._futures.values())


def call(calls: Calls, is_async: bool, method: str, params: dict[str, Any], label: str) -> Any:
    """The platform's answer, or what is to be awaited to get it. `label` is what the script calls the method."""
    try:
        data = channel.utf8(_compact(params))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{label}: the data is not JSON: {error}") from None
    if len(data) > _MAX_CALL_BYTES:
        raise ValueError(f"{label}: the data is {len(data)} bytes; at most {_MAX_CALL_BYTES} are allowed")
    return (calls.make_soon if is_async else calls.make)(b"C", {"method": method}, data)


def _answer() -> tuple[dict[str, Any], Any]:
    _, header, data = channel.read_frame()
    return header, _parse(data.decode())


def _taken(header: dict[str, Any], value: Any) -> Any:
    if header["ok"]:
        return value
    raise CallRefused(value, header.get("code"), header.get("retry_after_ms"))


def _resolve(future: Future[Any], reply: tuple[dict[str, Any], Any]) -> None:
    if not future.done():
        future.set_result(reply)


class Secrets(Mapping[str, str]):
    """The run's secrets by name. Printing them does not show them."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(dict.fromkeys(self._values, "***"))


class _Artifacts:
    """What a run may still write."""

    def __init__(self, limits: dict[str, int]) -> None:
        self._limits = limits
        self._count = 0
        self._bytes = 0

    def prepare(self, name: str, data: Any, content_type: str | None) -> tuple[dict[str, Any], bytes]:
        """The header and the data of the call that writes this artifact; raises TypeError and ValueError."""
        if not isinstance(name, str) or _ARTIFACT_NAME.fullmatch(name) is None:
            raise ValueError(
                f"write_artifact: name is {name!r}, but must be 1 to 128 letters, digits, dots, hyphens and "
                "underscores, and start with a letter or digit"
            )
        if content_type is not None and (
            not isinstance(content_type, str) or _CONTENT_TYPE.fullmatch(content_type) is None
        ):
            raise ValueError(
                f"write_artifact: content_type is {content_type!r}, but must be 1 to 200 printable ASCII characters"
            )
        content, natural = _artifact_bytes(data)
        limits = self._limits
        if self._count + 1 > limits["artifacts"]:
            raise ValueError(f"write_artifact: a run may write at most {limits['artifacts']} artifacts")
        if self._bytes + len(content) > limits["artifact_bytes"]:
            raise ValueError(
                f"write_artifact: {name} is {len(content)} bytes; {limits['artifact_bytes'] - self._bytes} of the "
                f"{limits['artifact_bytes']} bytes of a run are left"
            )
        self._count += 1
        self._bytes += len(content)
        return {"name": name, "content_type": content_type or natural}, content


def _artifact_bytes(data: Any) -> tuple[bytes, str]:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data), "application/octet-stream"
    if isinstance(data, str):
        return channel.utf8(data), "text/plain; charset=utf-8"
    try:
        return channel.utf8(_readable(data)), "application/json"
    except (TypeError, ValueError) as error:
        raise TypeError(f"write_artifact: data must be a str, bytes or a JSON value: {error}") from None


def _event(name: str, data: Any) -> tuple[dict[str, Any], bytes]:
    if not isinstance(name, str) or not name:
        raise ValueError("publish: name must be a str that is not empty")
    try:
        content = channel.utf8(_compact({"name": name, "data": data}))
    except (TypeError, ValueError) as error:
        raise TypeError(f"publish: the data is not JSON: {error}") from None
    if len(content) > _MAX_CALL_BYTES:
        raise ValueError(f"publish: the data is {len(content)} bytes; at most {_MAX_CALL_BYTES} are allowed")
    return {"method": "events.publish"}, content


class _Base:
    """What a handler knows of its run: read-only attributes, and the time that is left."""

    __slots__ = ("_artifacts", "_calls", "_deadline", "_members", "_warning_s")

    def __init__(
        self, job: dict[str, Any], told: dict[str, Any] | None, payload: Any, calls: Calls, arrived: float
    ) -> None:
        """`job` is the job frame's header, `told` what the platform has the SDK know, `arrived` the reading of `clock`
        when they came."""
        seconds = job["timeout_ms"] / 1000
        members: dict[str, Any] = dict.fromkeys(_NAMES)
        members.update(_in_snake_case(job["context"]))
        if told is not None:
            members.update({name: told.get(known) for name, known in _TOLD.items()})
            members["input"] = payload
        members["secrets"] = Secrets(job["secrets"])
        put = super().__setattr__
        put("_members", members)
        put("_artifacts", _Artifacts(job["limits"]))
        put("_calls", calls)
        put("_deadline", arrived + seconds)
        put("_warning_s", min(seconds / 10, 5))

    def __getattr__(self, name: str) -> Any:
        try:
            return self._members[name]
        except KeyError:
            raise AttributeError(f"the context has no {name!r}; it has {', '.join(dir(self))}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"the context is read-only: {name!r} can't be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"the context is read-only: {name!r} can't be deleted")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __dir__(self) -> list[str]:
        return [*self._members, "get_remaining_time_ms", "is_timing_out", "publish", "write_artifact"]

    def __repr__(self) -> str:
        return f"Context({', '.join(f'{name}={value!r}' for name, value in self._members.items())})"

    def get_remaining_time_ms(self) -> int:
        seconds: float = self._deadline - clock()
        return max(0, round(1000 * seconds))

    def is_timing_out(self) -> bool:
        """True in the last tenth of the time limit, but never earlier than 5 seconds before its end."""
        is_late: bool = self._deadline - clock() < self._warning_s
        return is_late


class Context(_Base):
    """For a handler that is a plain function: its calls wait for the platform's answer."""

    __slots__ = ()

    def publish(self, name: str, data: Any = None) -> Any:
        return self._calls.make(b"C", *_event(name, data))

    def write_artifact(self, name: str, data: Any, content_type: str | None = None) -> None:
        self._calls.make(b"A", *self._artifacts.prepare(name, data, content_type))


class AsyncContext(_Base):
    """For a handler that is a coroutine: its calls are awaited."""

    __slots__ = ()

    async def publish(self, name: str, data: Any = None) -> Any:
        return await self._calls.make_soon(b"C", *_event(name, data))

    async def write_artifact(self, name: str, data: Any, content_type: str | None = None) -> None:
        await self._calls.make_soon(b"A", *self._artifacts.prepare(name, data, content_type))


def _in_snake_case(members: dict[str, Any]) -> dict[str, Any]:
    return {
        _snake_case(name): _in_snake_case(value) if type(value) is dict else value for name, value in members.items()
    }


def _snake_case(name: str) -> str:
    known = _snake.get(name)
    if known is None:
        known = _snake[name] = _HUMP.sub("_", name).lower()
    return known
