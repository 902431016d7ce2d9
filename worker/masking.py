"""Masks what one run says, in slices, so that no tenant's secrets keep a thread of this process busy for long.

A long line comes in pieces, and a secret may stand across two of them. What a piece ends with is kept for the next
one of its level, so far that no secret is cut.
"""

import math
import threading
import time
from collections.abc import Iterator, Sequence

from millrace.redaction import MASK, Redactor
from sandbox import output
from sandbox.job import LogLevel, LogLine

SLICE_CHARS = 64 * 1024  # masked at one go; then the run's time is looked at
OVERTIME_S = 1.0  # of masking what a run said before its time was up or it was cancelled


class Masking:
    """For one run, used by its thread. `given_up` is set when the run is cancelled."""

    def __init__(self, redactor: Redactor | None, given_up: threading.Event) -> None:
        self._redactor = redactor
        self._given_up = given_up
        self._ends_at = math.inf
        self._overtime_s = 0.0
        self._kept: dict[LogLevel, str] = {}

    def begin(self, timeout_s: float) -> None:
        """The job is about to be sent: this is the time that it has."""
        self._ends_at = time.monotonic() + timeout_s

    def mask(self, lines: Sequence[LogLine]) -> list[str]:
        """Their texts, masked: all while the run may go on, else as many of the first as there is overtime for."""
        if self._redactor is None:
            return [line.text for line in lines]
        masked: list[str] = []
        for part in _slices(lines):
            if self._overtime_s >= OVERTIME_S:
                break
            begun = time.monotonic()
            masked += self._redactor.mask_all([self._joined(line, self._redactor) for line in part])
            now = time.monotonic()
            if now >= self._ends_at or self._given_up.is_set():
                self._overtime_s += now - begun
        return masked

    def _joined(self, line: LogLine, redactor: Redactor) -> str:
        text = self._kept.pop(line.level, "") + line.text
        if output.goes_on(line.text):
            text, self._kept[line.level] = redactor.split(text)
        return text

    def rest(self) -> list[tuple[LogLevel, str]]:
        """What was kept for a piece that never came, as where the log was cut: it may be half a secret, so it is
        a mask."""
        kept, self._kept = self._kept, {}
        return [(level, MASK.decode()) for level, text in kept.items() if text]


def _slices(lines: Sequence[LogLine]) -> Iterator[list[LogLine]]:
    part: list[LogLine] = []
    size = 0
    for line in lines:
        part.append(line)
        size += len(line.text)
        if size >= SLICE_CHARS:
            yield part
            part, size = [], 0
    if part:
        yield part
