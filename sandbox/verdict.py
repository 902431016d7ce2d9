"""How a run ended that gave no answer: judged by exit code and kernel counters, never by what the script
says."""

from __future__ import annotations

import signal

from sandbox import nsjail
from sandbox.job import Kind, Limits, ScriptError

_HEAP_MESSAGES = (b"heap out of memory", b"Fatal process out of memory", b"Allocation failed")
_ABORT_CODES = (128 + signal.SIGTRAP, 128 + signal.SIGABRT, 128 + signal.SIGSEGV)
"""V8 aborts when its heap is full; pid 1 survives its own SIGABRT and then dies of a trap or a fault."""


def judge(exit_code: int, oom_kills: int, stderr_tail: bytes, limits: Limits) -> tuple[Kind, ScriptError]:
    """Kind and error of a jail that ended by itself with `exit_code`, as nsjail reports it."""
    heap_full = exit_code in _ABORT_CODES and any(text in stderr_tail for text in _HEAP_MESSAGES)
    if oom_kills > 0 or heap_full:
        script_mb = limits.memory_mb - limits.runtime_mb
        return Kind.MEMORY, ScriptError(
            "MemoryLimit", f"The script needed more than its limit of {script_mb} MB of memory"
        )
    if exit_code == nsjail.FILTERED_CODE:
        return Kind.KILLED, ScriptError(
            "ForbiddenCall", "The script made a system call that is forbidden, and was killed"
        )
    if exit_code == 0:
        return Kind.NO_RESULT, ScriptError("NoResult", "The script's process ended before its handler returned")
    if exit_code <= 128 or exit_code == 255:
        return Kind.EXIT, ScriptError(
            "ProcessExit", f"The script's process ended with code {exit_code} before its handler returned"
        )
    name = _signal_name(exit_code - 128)
    if exit_code - 128 in (signal.SIGKILL, signal.SIGTERM):
        return Kind.KILLED, ScriptError("Killed", f"The script's process was killed by {name}")
    return Kind.CRASH, ScriptError("Crash", f"The script's process crashed with {name}")


def timed_out(limits: Limits) -> ScriptError:
    return ScriptError("TimeLimit", f"The run took longer than its time limit of {limits.timeout_ms / 1000:g} s")


def not_started(seconds: float) -> ScriptError:
    return ScriptError("Killed", f"What an earlier run left behind kept the handler from starting for {seconds:g} s")


def cancelled() -> ScriptError:
    return ScriptError("Cancelled", "The run was cancelled")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
