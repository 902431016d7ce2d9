"""Masks what one run says, in slices, so that no tenant's secrets keep a thread of this process busy for long."""

import math
import threading
import time
from collections.abc import Iterator, Sequence

from millrace.redaction import Redactor

SLICE_CHARS = 64 * 1024  # masked at one go; then the run's time is looked at
OVERTIME_S = 1.0  # of masking what a run said before its time was up or it was cancelled


class Masking:
    """For one run, used by its thread. `given_up` is set when the run is cancelled."""

    def __init__(self, redactor: Redactor | None, given_up: threading.Event) -> None:
        self._redactor = redactor
        self._given_up = given_up
        self._ends_at = math.inf
        self._overtime_s = 0.0

    def begin(self, timeout_s: float) -> None:
        """The job is about to be sent: this is the time that it has."""
        self._ends_at = time.monotonic() + timeout_s

    def mask(self, texts: list[str]) -> list[str]:
        """The texts, masked: all while the run may go on, else as many of the first as there is overtime for."""
        if self._redactor is None:
            return texts
        masked: list[str] = []
        for part in _slices(texts):
            if self._overtime_s >= OVERTIME_S:
                break
            begun = time.monotonic()
            masked += self._redactor.mask_all(part)
            now = time.monotonic()
            if now >= self._ends_at or self._given_up.is_set():
                self._overtime_s += now - begun
        return masked


def _slices(texts: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for text in texts:
        part.append(text)
        size += len(text)
        if size >= SLICE_CHARS:
            yield part
            part, size = [], 0
    if part:
        yield part
