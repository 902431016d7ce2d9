"""What one run of a script may use, where that is finer than the script's columns say.

A script's `timeout_seconds` and `memory_mb` are the Script Management API's. The console's limits are milliseconds and
bytes of the script alone, without what its runtime needs for itself; they stand in the column `limits`.
"""

from dataclasses import dataclass
from typing import Any

from millrace.errors import Invalid
from millrace.models import Script

MIB = 1024 * 1024
RUNTIME_MB = 64  # what a runtime itself takes, with a reserve; a limit in bytes does not count it

# Smallest, largest and usual value; seeds_upstream 4a and 4b.
TIMEOUT_MS = (1_000, 300_000, 30_000)
MEMORY_BYTES = (1_048_576, 536_870_912, 67_108_864)
CONCURRENT_RUNS = (1, 1_000, 5)
API_CALLS_PER_MINUTE = (1, 10_000, 60)
OUTPUT_BYTES = (1_024, 6_291_456, 1_048_576)
RANGES = {
    "timeout_ms": TIMEOUT_MS, "memory_bytes": MEMORY_BYTES, "api_calls_per_minute": API_CALLS_PER_MINUTE,
    "output_bytes": OUTPUT_BYTES,
}  # fmt: skip


@dataclass(frozen=True)
class ScriptLimits:
    """All of them, whichever face set them. `memory_bytes` is None when `memory_mb` counts the runtime as well."""

    timeout_ms: int
    memory_mb: int
    memory_bytes: int | None
    api_calls_per_minute: int
    output_bytes: int


def of(script: Script) -> ScriptLimits:
    """The limits of a run of this script."""
    finer = script.limits or {}
    memory_bytes = finer.get("memory_bytes")
    return ScriptLimits(
        timeout_ms=finer.get("timeout_ms") or script.timeout_seconds * 1000,
        memory_mb=script.memory_mb if memory_bytes is None else RUNTIME_MB + -(-memory_bytes // MIB),
        memory_bytes=memory_bytes,
        api_calls_per_minute=finer.get("api_calls_per_minute") or API_CALLS_PER_MINUTE[2],
        output_bytes=finer.get("output_bytes") or OUTPUT_BYTES[1],
    )


def check(given: dict[str, Any]) -> None:
    """Raises Invalid for the first that is unknown or out of its range."""
    for name, value in given.items():
        if name not in RANGES:
            raise Invalid(f"There is no limit '{name}'.", field=name, value=value)
        low, high, _ = RANGES[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Invalid(f"{name} must be a whole number from {low} to {high}.", field=name, value=value)
