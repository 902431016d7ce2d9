"""How a run is recorded: from what the sandbox says to what the database keeps. Nobody else translates."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from millrace import jsontext
from millrace.models.run import CANCELLED, FAILED, SUCCEEDED, TIMED_OUT
from millrace.redaction import Redactor
from millrace.runs import Ending
from sandbox.job import Kind, Limits, Outcome, ScriptError, Usage
from worker.keeper import Why
from worker.runlog import Stored

SUMMARY_BYTES = 16 * 1024
PREVIEW_CHARS = 1000
ERROR_CHARS = 16 * 1024
NAME_CHARS = 200
STACK_CHARS = 32 * 1024
STACK_LINE_CHARS = 2000
MAX_DEPTH = 100  # of a result that is shown as it is; a deeper one is shown as text
MAX_REFUSED = 20
_MASK_MARGIN = 256 * 1024  # a secret that begins within what is shown ends within this

# Kind to status and code. The words are the sandbox's, but for those that only a limit can say.
_ENDS = {
    Kind.EXCEPTION: (FAILED, "SCRIPT_ERROR"),
    Kind.TIMEOUT: (TIMED_OUT, "TIMED_OUT"),
    Kind.MEMORY: (FAILED, "OUT_OF_MEMORY"),
    Kind.KILLED: (FAILED, "KILLED"),
    Kind.CRASH: (FAILED, "CRASHED"),
    Kind.EXIT: (FAILED, "EXITED"),
    Kind.NO_RESULT: (FAILED, "NO_RESULT"),
    Kind.BAD_RESULT: (FAILED, "BAD_RESULT"),
    Kind.RESULT_TOO_LARGE: (FAILED, "RESULT_TOO_LARGE"),
    Kind.NO_HANDLER: (FAILED, "NO_HANDLER"),
    Kind.LOAD_ERROR: (FAILED, "LOAD_ERROR"),
    Kind.CANCELLED: (CANCELLED, "CANCELLED"),
}
_NAMED = (Kind.EXCEPTION, Kind.LOAD_ERROR)  # whose error has a name that its author knows


def of_outcome(outcome: Outcome, limits: Limits, redactor: Redactor | None, why: Why | None) -> Ending:
    """What to record. `why` is the reason if this process had the run ended."""
    if outcome.kind is Kind.CANCELLED and why is Why.STOPPED:
        ending = stopped()
    elif outcome.kind is Kind.SUCCEEDED:
        ending = _success(outcome.result or b"null", redactor)
    else:
        ending = _failure(outcome, limits, redactor)
    return dataclasses.replace(ending, duration_ms=round(outcome.duration_ms), usage=_usage(outcome))


def with_log(ending: Ending, log: Stored) -> Ending:
    """The same, with where its log is and what is missing in it."""
    lost = {"log_lost_bytes": log.lost_bytes} if log.lost_bytes else {}
    usage = (ending.usage or {}) | lost or None
    return dataclasses.replace(ending, log_key=log.key, log_chunks=log.chunks, usage=usage)


def with_counts(ending: Ending, counts: Mapping[str, int]) -> Ending:
    """The same, with how much the script asked of the platform."""
    return dataclasses.replace(ending, usage=(ending.usage or {}) | dict(counts) or None)


def without_result(ending: Ending) -> Ending:
    """For a result that the object store does not take: the run is a failure of the platform then."""
    size = len((ending.result or "").encode())
    failure = platform_failure(f"its result of {size} bytes could not be stored.")
    return dataclasses.replace(
        ending, result=None, summary=None,
        status=failure.status, error=failure.error, error_code=failure.error_code,
    )  # fmt: skip


def cancelled() -> Ending:
    """A person asked for it."""
    return Ending(CANCELLED, 0, error="Cancelled while it was running.", error_code="CANCELLED")


def stopped() -> Ending:
    """The platform went down before the handler was done."""
    return Ending(FAILED, 0, error="Stopped with the platform before it ended.", error_code="WORKER_LOST")


def lost() -> Ending:
    """The sandbox failed after the handler was entered, so that nobody knows what it did."""
    return Ending(FAILED, 0, error="The platform lost this run while its handler was running.",
                  error_code="WORKER_LOST")  # fmt: skip


def platform_failure(reason: str) -> Ending:
    """The platform could not carry the run, and the script is not to blame."""
    return Ending(FAILED, 0, error=f"The platform could not carry out this run: {_clean(reason, 1000)}",
                  error_code="PLATFORM_ERROR")  # fmt: skip


def _success(result: bytes, redactor: Redactor | None) -> Ending:
    text = result.decode("utf-8", "replace")
    return Ending(SUCCEEDED, 0, result=text, summary=_summary(text, len(result), redactor))


def _failure(outcome: Outcome, limits: Limits, redactor: Redactor | None) -> Ending:
    status, code = _ENDS[outcome.kind]
    error = outcome.error or ScriptError("Error", "no reason is known")
    name, message = _mask(error.name, redactor, NAME_CHARS), _mask(error.message, redactor, ERROR_CHARS)
    words = _words(outcome.kind, ScriptError(name, message), limits)[:ERROR_CHARS]
    said = f"{error.name}: {error.message}"
    rest = _beginning(error.stack, redactor, STACK_CHARS).removeprefix(said)
    # However much the script said, where it said it comes after that.
    stack = f"{name}: {message}"[:ERROR_CHARS] if error.stack.startswith(said) else ""
    stack += _mask_lines(rest, redactor)
    return Ending(status, 0, error=words, error_code=code, error_stack=stack[:STACK_CHARS] or None)


def _words(kind: Kind, error: ScriptError, limits: Limits) -> str:
    if kind is Kind.TIMEOUT:
        return f"The run took longer than its time limit of {limits.timeout_ms / 1000:g} s."
    if kind is Kind.MEMORY:
        own_mb = limits.memory_mb - limits.runtime_mb
        return f"Out of memory: the script needs more than its limit of {own_mb} MB."
    if kind is Kind.CANCELLED:
        return str(cancelled().error)
    return f"{error.name}: {error.message}" if kind in _NAMED else error.message


def _summary(text: str, size: int, redactor: Redactor | None) -> dict[str, Any]:
    """The result for lists and pages, masked: itself when it is a small object, else a part of it."""
    if size <= SUMMARY_BYTES:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):  # numbers of thousands of digits, or too deep for this parser
            value = None
        else:
            if not jsontext.is_deeper(value, MAX_DEPTH):
                masked = value if redactor is None else redactor.mask_json(value)
                return masked if isinstance(masked, dict) else {"value": masked}
    preview = _mask(text, redactor, PREVIEW_CHARS)
    return {"truncated": True, "size_bytes": size, "preview": preview}


def _mask(text: str, redactor: Redactor | None, limit: int) -> str:
    # Masked before it is cut: half a secret is no longer found.
    text = _beginning(text, redactor, limit)
    return _clean(text if redactor is None else redactor.mask(text), limit)


def _beginning(text: str, redactor: Redactor | None, limit: int) -> str:
    """As much of a text as may be shown of it, and as it takes to mask that; no secret is cut at its end."""
    if len(text) <= limit + _MASK_MARGIN:
        return text
    text = text[: limit + _MASK_MARGIN]
    # Many secrets may become so few masks that even this end is shown.
    return text if redactor is None else redactor.split(text)[0]


def _mask_lines(stack: str, redactor: Redactor | None) -> str:
    masked = stack if redactor is None else redactor.mask(stack)
    # A line of minified source must not push out all others.
    return _clean("\n".join(line[:STACK_LINE_CHARS] for line in masked.split("\n")), STACK_CHARS)


def _clean(text: str, limit: int) -> str:
    """As both databases take it: no NUL and no lone surrogate, cut to a length."""
    return text[:limit].replace("\x00", "\\0").encode("utf-8", "replace").decode()


def _usage(outcome: Outcome) -> dict[str, Any]:
    usage = {name: getattr(outcome.usage, name) for name in _USAGE}
    if outcome.refused:
        usage["refused_connections"] = [
            {"host": each.host[:255], "port": each.port, "reason": each.reason[:200], "kind": each.kind}
            for each in outcome.refused[:MAX_REFUSED]
        ]
        usage["refused_counts"] = dict(outcome.refused_counts)
    return usage


_USAGE = tuple(field.name for field in dataclasses.fields(Usage))
