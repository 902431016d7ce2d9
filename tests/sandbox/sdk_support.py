"""What the tests of the in-script SDK share: one call in each language, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.sandbox.python_support import RUNTIMES
from tests.sandbox.support import Ran, Recorder, Runner

TOLD: Mapping[str, Any] = {
    "tenantId": "tenant-1",
    "userId": 7,
    "organizationId": "org-1",
    "scriptId": "script-1",
    "executionId": "run-1",
    "trigger": {"type": "api", "eventType": None, "cronExpression": None},
}
CONTEXT = {"runId": "run-1", "scriptId": "older", "trigger": {"type": "older"}, "sdk": TOLD}


class Dialect:
    """A language whose handlers call the SDK: `async` is how a coroutine of Python does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_javascript = name == "javascript"
        self.awaits = "" if name == "python" else "await "

    def __repr__(self) -> str:
        return self.name

    def body(self, javascript: str, python: str) -> tuple[str, dict[str, str]]:
        """The source of a handler with one of these bodies, and the fields of its job. In Python `AWAIT ` and `ASYNC `
        are there for coroutines alone."""
        if self.is_javascript:
            return f"exports.handler = async (payload, given) => {{\n{javascript}\n}};", {}
        text = python.replace("AWAIT ", self.awaits).replace("ASYNC ", "async " if self.awaits else "")
        head = "async def" if self.awaits else "def"
        lines = "\n".join(f"    {line}" for line in text.strip("\n").split("\n"))
        return f"{head} handler(payload, given):\n{lines}\n", {
            "runtime": RUNTIMES[0], "main": "main.py", "entry_point": "handler"
        }  # fmt: skip

    def run(self, runner: Runner, javascript: str, python: str, payload: Any = None, **fields: Any) -> Ran:
        source, job = self.body(javascript, python)
        main = job.get("main", "index.js")
        return runner({main: source}, payload, **{"context": CONTEXT, **job, **fields})

    def call(self, runner: Runner, method: str, *args: Any, sink: Recorder | None = None, **options: Any) -> Any:
        """What `method`, in snake case, gave, or a `Failure`. Options are the last argument in JavaScript.

        All calls of a language share a jail.
        """
        source, job = self.body(*_CALLS)
        names = method.split(".")
        payload = {"names": names, "args": list(args), "options": options}
        if self.is_javascript:
            payload = {"names": list(map(_camel, names)), "args": [*args, *([options] if options else [])]}
        fields = {"context": CONTEXT, "reuse_key": f"calls {self}", **job}
        ran = runner({job.get("main", "index.js"): source}, payload, sink=sink, **fields)
        return Failure(*ran.result["error"]) if "error" in ran.result else ran.result["value"]


_CALLS = (
    """
    const names = [...payload.names];
    const last = names.pop();
    const target = names.reduce((found, name) => found[name], names[0] === 'events' ? { events } : sdk);
    try {
      return { value: await target[last](...payload.args) };
    } catch (e) {
      return { error: [e.name, e.message, e.code ?? null, e.retryAfterMs ?? null] };
    }
    """,
    """
target = None if payload["names"][0] == "events" else sdk
for name in payload["names"]:
    target = events if target is None else getattr(target, name)
try:
    value = target(*payload["args"], **payload["options"])
    return {"value": (AWAIT value) if hasattr(value, "__await__") else value}
except Exception as e:
    return {"error": [type(e).__name__, str(e), getattr(e, "code", None), getattr(e, "retry_after_ms", None)]}
""",
)


class Failure:
    """What a call was rejected with."""

    def __init__(self, name: str, message: str, code: str | None, retry_after_ms: int | None) -> None:
        self.name = name
        self.message = message
        self.code = code
        self.retry_after_ms = retry_after_ms

    def __repr__(self) -> str:
        return f"Failure({self.name}, {self.message!r}, {self.code}, {self.retry_after_ms})"


DIALECTS = [Dialect(name) for name in ("javascript", "python", "async")]


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)
