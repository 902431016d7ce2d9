"""Masking stops soon after a run's time is up, however much it said."""

import threading
from collections.abc import Iterator

import pytest

from millrace.redaction import Redactor
from worker import masking
from worker.masking import SLICE_CHARS, Masking

TEXTS = ["hunter2!" + "x" * SLICE_CHARS] * 5


class SlowRedactor(Redactor):
    """Takes four tenths of a second for each slice, by a clock of its own."""

    def __init__(self) -> None:
        super().__init__(["hunter2!"])
        self.now = 0.0
        self.slices: list[int] = []

    def mask_all(self, texts: list[str]) -> list[str]:
        self.now += 0.4
        self.slices.append(len(texts))
        return super().mask_all(texts)


@pytest.fixture
def redactor(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowRedactor]:
    redactor = SlowRedactor()
    monkeypatch.setattr(masking.time, "monotonic", lambda: redactor.now)
    yield redactor
    monkeypatch.undo()


def test_while_a_run_may_go_on_everything_is_masked_slice_by_slice(redactor: SlowRedactor) -> None:
    mine = Masking(redactor, threading.Event())
    mine.begin(60)
    assert mine.mask([*TEXTS, "a", "b"]) == [*["***" + "x" * SLICE_CHARS] * 5, "a", "b"]
    assert redactor.slices == [1, 1, 1, 1, 1, 2]


def test_after_a_cancel_masking_ends_within_its_overtime(redactor: SlowRedactor) -> None:
    given_up = threading.Event()
    mine = Masking(redactor, given_up)
    mine.begin(60)
    given_up.set()
    assert len(mine.mask(TEXTS)) == 3
    assert mine.mask(TEXTS) == []


def test_after_the_time_limit_masking_ends_within_its_overtime(redactor: SlowRedactor) -> None:
    mine = Masking(redactor, threading.Event())
    mine.begin(0.7)
    assert len(mine.mask(TEXTS)) == 4  # the first one was in time
    redactor.now += 100  # until the jail was gone: that is not masking
    assert mine.mask(TEXTS) == []


def test_without_secrets_nothing_is_cut() -> None:
    given_up = threading.Event()
    given_up.set()
    assert Masking(None, given_up).mask(TEXTS * 10) == TEXTS * 10
