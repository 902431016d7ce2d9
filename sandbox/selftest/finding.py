"""What the self-test found out about one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sandbox.selftest import remedies


@dataclass(frozen=True, slots=True)
class Finding:
    layer: str
    holds: bool
    detail: str
    remedy: str
    """How to mend it; empty if it holds."""


def found(layer: str, holds: bool, detail: str) -> Finding:
    return Finding(layer, holds, detail, "" if holds else remedies.remedy(layer))


def judged(layer: str, faults: Sequence[str], well: str) -> Finding:
    """The layer holds if there are no faults; `well` says what was seen then."""
    return found(layer, not faults, "; ".join(faults) or well)


def summary(findings: Sequence[Finding]) -> str:
    """One line: what holds, and what does not."""
    missing = [finding.layer for finding in findings if not finding.holds]
    holding = [finding.layer for finding in findings if finding.holds]
    return f"holds: {', '.join(holding) or 'nothing'}" + (f"; MISSING: {', '.join(missing)}" if missing else "")
