"""Whether a run that failed is tried again, and when: a script's retry policy."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from millrace.errors import Invalid
from millrace.models.run import FAILED, TIMED_OUT, WORKER_LOST

MOST = 20
LONGEST_S = 24 * 3600
KINDS = ("failed", "timed_out", "worker_lost")
LOST_IN_A_ROW = 3  # a run that loses its worker so often is given up, whatever its policy
# What the same code will do again: to try it anew would only take time.
_HOPELESS = frozenset({"NO_HANDLER", "BAD_RESULT", "RESULT_TOO_LARGE"})
_FOR_GOOD = _HOPELESS | {"CANCELLED", "EXPIRED", "PLATFORM_ERROR"}


@dataclass(frozen=True)
class Policy:
    """How often, how long after, and which errors. The delay grows by `factor` with each try, up to its maximum."""

    count: int
    delay_seconds: float = 2.0
    factor: float = 2.0
    max_delay_seconds: float = 600.0
    jitter: bool = True
    on: tuple[str, ...] = KINDS
    """Kinds of ends, or names of errors such as "RangeError"."""

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> "Policy | None":
        """The policy that a script has, if it has one."""
        return None if not stored else cls(**{**stored, "on": tuple(stored.get("on", KINDS))})

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "on": list(self.on)}

    def check(self) -> None:
        """Raises Invalid for a broken rule."""
        for field, low, high in (
            ("count", 1, MOST), ("delay_seconds", 0, LONGEST_S), ("factor", 1, 10), ("max_delay_seconds", 0, LONGEST_S)
        ):
            value = getattr(self, field)
            if not low <= value <= high:
                raise Invalid(f"retry.{field} must be from {low} to {high}.", field=f"retry.{field}", value=value)
        if not self.on:
            raise Invalid("retry.on must name what is tried again.", field="retry.on", value=list(self.on))

    def covers(self, status: str, error_code: str | None, error: str | None) -> bool:
        """Whether an end like this is one that is tried again."""
        if status not in (FAILED, TIMED_OUT) or error_code in _FOR_GOOD:
            return False
        kind = "worker_lost" if error_code == WORKER_LOST else status
        name = (error or "").partition(":")[0] if error_code == "SCRIPT_ERROR" else None
        return kind in self.on or name in self.on

    def gives_up(self, status: str, error_code: str | None) -> bool:
        """Whether an end like this is a failure that no further try would mend."""
        return status == FAILED and error_code in _HOPELESS

    def delay_ms(self, run_id: str, tries: int) -> int:
        """How long after its failure try number `tries` (from 0) is followed by the next.

        The jitter takes up to half of it away, by run and try: the same again for the same, other for others.
        """
        delay = min(self.max_delay_seconds, self.delay_seconds * self.factor**tries)
        if self.jitter:
            draw = int.from_bytes(hashlib.sha256(f"{run_id} {tries}".encode()).digest()[:4], "big") / 2**32
            delay *= 1 - draw / 2
        return round(delay * 1000)
