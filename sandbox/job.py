"""What goes into the sandbox and what comes out: plain frozen values, and the answers that come later."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

JSON = Any
"""A JSON value: None, bool, int, float, str, list or dict with str keys."""

MIB = 1024 * 1024

LogLevel = Literal["DEBUG", "INFO", "WARN", "ERROR", "STDOUT", "STDERR", "SYSTEM"]
JailOrigin = Literal["reused", "warm", "cold"]


class Kind(enum.StrEnum):
    """How a run ended. Only `SUCCEEDED` has a result; every other kind has an error."""

    SUCCEEDED = "succeeded"
    EXCEPTION = "exception"
    """The handler threw, its promise was rejected, or an error was left unhandled."""
    TIMEOUT = "timeout"
    MEMORY = "memory"
    """The memory limit was reached, in the jail's cgroup or in the runtime's own heap."""
    KILLED = "killed"
    """A forbidden system call, or a signal from outside."""
    CRASH = "crash"
    """The runtime itself died, for instance by a segmentation fault."""
    EXIT = "exit"
    """The script ended its own process."""
    NO_RESULT = "no_result"
    """Nothing was left to wait for and the handler's promise was still pending."""
    BAD_RESULT = "bad_result"
    """What the handler returned is not JSON."""
    RESULT_TOO_LARGE = "result_too_large"
    NO_HANDLER = "no_handler"
    """The script loaded but does not export the entry point."""
    LOAD_ERROR = "load_error"
    """The script did not load: a syntax error, a missing module, an error at the top level."""
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. Raises ValueError, naming field, value and rule, when one is out of range."""

    memory_mb: int = 256
    runtime_mb: int = 0
    """What of `memory_mb` is the runtime's own reserve: the script's limit, as errors name it, is the rest."""
    timeout_ms: int = 30_000
    pids: int = 64
    """Processes and threads together; Node needs about 12 for itself."""
    cpus: float = 1.0
    result_bytes: int = 6 * MIB
    log_bytes: int = 100 * MIB
    """Of all log lines as they are stored: with time and level, and an indent for each line within."""
    artifact_bytes: int = 64 * MIB
    """All artifacts of a run together."""
    artifacts: int = 100

    def __post_init__(self) -> None:
        ranges: tuple[tuple[str, float, float], ...] = (
            ("memory_mb", 64, 16_384),
            ("runtime_mb", 0, self.memory_mb - 1),
            ("timeout_ms", 1, 900_000),
            ("pids", 16, 1_024),
            ("cpus", 0.05, 64),
            ("result_bytes", 1, 64 * MIB),
            ("log_bytes", 0, 1024 * MIB),
            ("artifact_bytes", 0, 1024 * MIB),
            ("artifacts", 0, 10_000),
        )
        for name, low, high in ranges:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, but must be between {low:g} and {high:g}")


@dataclass(frozen=True, slots=True)
class Job:
    """One execution of one handler."""

    run_id: str
    files: Mapping[str, bytes]
    """Source by relative path with forward slashes; a script of one file is {"index.js": ...}."""
    payload: bytes = b"null"
    """JSON text, handed to the handler as its first argument."""
    runtime: str = "nodejs20"
    main: str = "index.js"
    entry_point: str = "exports.handler"
    """Name of the exported function; a leading `exports.` or `module.exports.` does not matter."""
    context: Mapping[str, JSON] = field(default_factory=dict)
    """Members of the handler's second argument, such as runId and workspaceId."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    reuse_key: str | None = None
    """Jobs with equal keys may share a jail, one after the other; None means a jail of its own. The key
    must change whenever files, secrets or env change: a reused jail keeps the code that it loaded."""
    egress_hosts: tuple[str, ...] | None = None
    """Hosts that the script may reach; None means any public host, () none."""
    egress_group: str | None = None
    """Jobs of one group share the limits on connections, rate and bytes to the outside, whichever jail they run in."""
    preloaded: bool = False
    """Whether it is worth a jail that has loaded the runtime's large libraries; see `Runtime.is_preloaded_for`."""
    limits: Limits = field(default_factory=Limits)


class LogLine(NamedTuple):
    time_ms: int
    """Epoch milliseconds; never before the run's start, never later than its arrival, never falling."""
    level: LogLevel
    text: str
    """Valid Unicode without lone surrogates. May hold line breaks and control characters: it is data."""


@dataclass(frozen=True, slots=True)
class ScriptError:
    name: str
    message: str
    stack: str = ""
    """The script's own stack lines only, with file names as the script knows them. May be empty."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A connection that the egress proxy did not allow."""

    host: str
    port: int
    reason: str
    kind: str = "other"
    """One of a few words, for counting; `reason` is for people."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used, as seen from outside the jail."""

    cpu_ms: float = 0.0
    peak_memory_bytes: int = 0
    log_bytes: int = 0
    """Bytes of log text that were delivered."""
    log_truncated: bool = False
    egress_bytes_in: int = 0
    egress_bytes_out: int = 0
    sdk_calls: int = 0
    jail: JailOrigin = "cold"


@dataclass(frozen=True, slots=True)
class Outcome:
    kind: Kind
    result: bytes | None = None
    """JSON text in UTF-8, without NaN and lone surrogates; set if and only if kind is SUCCEEDED."""
    error: ScriptError | None = None
    """Set if and only if kind is not SUCCEEDED."""
    reached_handler: bool = False
    duration_ms: float = 0.0
    """From the moment the job was handed to the jail to its end."""
    usage: Usage = field(default_factory=Usage)
    refused: tuple[Refused, ...] = ()
    """The first of the connections that were not allowed."""
    refused_counts: Mapping[str, int] = field(default_factory=dict)
    """All of them, by kind."""


class CallRefused(Exception):
    """Raised by a sink: the SDK call is refused, and the script's promise is rejected with this message."""

    def __init__(self, message: str, *, code: str = "", retry_after_ms: int | None = None) -> None:
        """`code` is a word for programs, such as RATE_LIMITED; `retry_after_ms` says when to ask again. The script's
        error has both, if they are given."""
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms


class Pending:
    """An answer to an SDK call that comes later, from any thread: what a sink's `on_call` may return instead of a
    value, so that the run's log, cancel and clock do not wait for it.

    It is given once, the first one counts, and one that comes after the run's end is dropped. The value must not be
    changed any more.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._answer: tuple[JSON, CallRefused | None] | None = None
        self._listener: Callable[[], None] | None = None

    def resolve(self, value: JSON) -> None:
        self._settle((value, None))

    def refuse(self, refused: CallRefused) -> None:
        self._settle((None, refused))

    def notify(self, listener: Callable[[], None]) -> None:
        """Have `listener` called once there is an answer: at once, or by the thread that gives it."""
        with self._guard:
            if self._answer is None:
                self._listener = listener
                return
        listener()

    def answer(self) -> JSON:
        """The value; raises the CallRefused that was given instead. Only once `notify` has told of it."""
        assert self._answer is not None, "nobody has answered yet"
        value, refused = self._answer
        if refused is not None:
            raise refused
        return value

    def _settle(self, answer: tuple[JSON, CallRefused | None]) -> None:
        with self._guard:
            if self._answer is not None:
                return
            self._answer = answer
            listener, self._listener = self._listener, None
        if listener is not None:
            listener()


class Abandoned(Exception):
    """Raised by `Sandbox.run` when the sink's `on_assigned` said no; nothing was sent to a jail."""


class SandboxUnavailable(Exception):
    """The platform failed, not the script: the launcher is gone, or no jail could be booted."""

    def __init__(self, message: str, *, reached_handler: bool = False) -> None:
        super().__init__(message)
        self.reached_handler = reached_handler
        """False promises that no line of the handler was executed, so that the run is safe to repeat."""


class Sink(Protocol):
    """Receives what a run says while it runs. Called from the thread that called `Sandbox.run` only.

    An exception from a sink kills the jail and leaves `run`; only `CallRefused` from `on_call` or
    `on_artifact` is an answer to the script.
    """

    def on_assigned(self) -> bool:
        """A jail is in hand and the job has not been sent yet. False abandons the job: `run` raises
        Abandoned."""

    def on_start(self) -> None:
        """The handler is about to be entered: the script's top level has run without an error."""

    def on_log(self, lines: Sequence[LogLine]) -> None:
        """New lines in order, at least every 250 ms while there are some."""

    def on_artifact(self, name: str, content_type: str, data: bytes) -> None:
        """A whole artifact. `name` matches [A-Za-z0-9][A-Za-z0-9._-]{0,127}."""

    def on_call(self, method: str, params: dict[str, JSON]) -> JSON | Pending:
        """A call of the script's SDK, such as `events.publish`; what is returned resolves its promise.

        A Pending is answered later: at most 256 of a run wait at a time, and further calls are refused.
        """
