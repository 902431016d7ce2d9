"""What the sandbox's tests share: a sink that remembers, and a short way to run a handler."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox.client import Sandbox
from sandbox.job import CallRefused, Job, Limits, LogLine, Outcome, Pending


@dataclass
class Recorder:
    """A sink that keeps everything. `answer` serves SDK calls."""

    answer: Callable[[str, dict[str, Any]], Any] | None = None
    lines: list[LogLine] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    artifacts: list[tuple[str, str, bytes]] = field(default_factory=list)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    starts: int = 0
    on_first_line: Callable[[], None] | None = None

    def on_assigned(self) -> bool:
        return True

    def on_start(self) -> None:
        self.starts += 1

    def on_log(self, lines: Sequence[LogLine]) -> None:
        if self.on_first_line is not None and not self.lines:
            self.on_first_line()
        self.batches.append(len(lines))
        self.lines += lines

    def on_artifact(self, name: str, content_type: str, data: bytes) -> None:
        self.artifacts.append((name, content_type, data))

    def on_call(self, method: str, params: dict[str, Any]) -> Any:
        self.calls.append((method, params))
        if self.answer is None:
            raise CallRefused("nobody answers here")
        return self.answer(method, params)

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.lines]

    @property
    def levels(self) -> list[tuple[str, str]]:
        return [(line.level, line.text) for line in self.lines]


@dataclass
class Later(Recorder):
    """A sink that answers nothing by itself; `on_each` hears of each call's Pending, by its number from 0."""

    on_each: Callable[[int, Pending], None] = lambda number, pending: None
    pending: list[Pending] = field(default_factory=list)

    def on_call(self, method: str, params: dict[str, Any]) -> Any:
        self.calls.append((method, params))
        self.pending.append(Pending())
        self.on_each(len(self.pending) - 1, self.pending[-1])
        return self.pending[-1]


@dataclass(frozen=True)
class Ran:
    outcome: Outcome
    sink: Recorder

    @property
    def kind(self) -> str:
        return self.outcome.kind

    @property
    def result(self) -> Any:
        assert self.outcome.result is not None, self.outcome.error
        return json.loads(self.outcome.result)

    @property
    def message(self) -> str:
        assert self.outcome.error is not None, self.outcome.result
        return self.outcome.error.message

    @property
    def texts(self) -> list[str]:
        return self.sink.texts


class Runner:
    """Runs sources in the jails of one launcher."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def __call__(
        self,
        source: str | dict[str, str],
        payload: Any = None,
        *,
        sink: Recorder | None = None,
        cancel: threading.Event | None = None,
        limits: Limits | None = None,
        **fields: Any,
    ) -> Ran:
        files = {"index.js": source} if isinstance(source, str) else source
        job = Job(
            run_id="run-1",
            files={path: text.encode() for path, text in files.items()},
            payload=json.dumps(payload).encode(),
            limits=limits or Limits(timeout_ms=20_000),
            **fields,
        )
        recorder = sink or Recorder()
        return Ran(self.sandbox.run(job, recorder, cancel or threading.Event()), recorder)

    def body(self, statements: str, payload: Any = None, **fields: Any) -> Ran:
        """Run a handler that consists of `statements`."""
        return self(f"exports.handler = async (payload, context) => {{ {statements} }};", payload, **fields)
