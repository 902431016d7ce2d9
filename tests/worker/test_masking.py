"""Masking stops soon after a run's time is up, however much it said."""

import threading
from collections.abc import Iterator

import pytest

from millrace.redaction import Redactor
from millrace.secrets import MAX_VALUE_BYTES
from sandbox import protocol
from sandbox.job import LogLevel, LogLine
from sandbox.output import RawLines
from worker import masking
from worker.masking import SLICE_CHARS, Masking

PIECE = protocol.LOG_RECORD_BYTES


def lines(*texts: str, level: LogLevel = "INFO") -> list[LogLine]:
    return [LogLine(1, level, text) for text in texts]


TEXTS = lines(*["hunter2!" + "x" * SLICE_CHARS] * 5)


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
    assert mine.mask([*TEXTS, *lines("a", "b")]) == [*["***" + "x" * SLICE_CHARS] * 5, "a", "b"]
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
    assert Masking(None, given_up).mask(TEXTS * 10) == [line.text for line in TEXTS] * 10


def mask_pieces(secret: str, *pieces: LogLine) -> list[str]:
    mine = Masking(Redactor([secret]), threading.Event())
    return [text for piece in pieces for text in mine.mask([piece])]


@pytest.mark.parametrize("before", range(9))
def test_a_secret_across_two_pieces_of_a_line_is_masked(before: int) -> None:
    pieces = lines("x" * (PIECE - before) + "hunter2!"[:before], "hunter2!"[before:] + "yz", "next")
    shown = mask_pieces("hunter2!", *pieces)
    assert "".join(shown) == "x" * (PIECE - before) + "***yznext"
    assert shown[-1] == "next"


def test_the_longest_secret_is_masked_across_two_pieces_however_it_is_encoded() -> None:
    secret = "s" * MAX_VALUE_BYTES
    text = "x" * 100_000 + "%73" * MAX_VALUE_BYTES + "y" * 10
    shown = mask_pieces(secret, *lines(text[:PIECE], text[PIECE:]))
    assert "".join(shown) == "x" * 100_000 + "***" + "y" * 10


def test_lines_of_other_levels_between_two_pieces_do_not_hide_what_they_are() -> None:
    first, second = lines("x" * (PIECE - 4) + "hunt", "er2!", level="STDOUT")
    shown = mask_pieces("hunter2!", first, *lines("a", "b"), second)
    assert (shown[1:3], shown[0] + shown[3]) == (["a", "b"], "x" * (PIECE - 4) + "***")


def test_short_lines_are_no_pieces() -> None:
    assert mask_pieces("hunter2!", *lines("hunt", "er2!")) == ["hunt", "er2!"]


def test_what_waits_for_a_piece_that_never_comes_is_a_mask() -> None:
    mine = Masking(Redactor(["hunter2!"]), threading.Event())
    (shown,) = mine.mask(lines("x" * (PIECE - 4) + "hunt", level="STDOUT"))
    assert set(shown) == {"x"}
    assert PIECE - 200 < len(shown) < PIECE
    assert mine.rest() == [("STDOUT", "***")]
    assert mine.rest() == []


@pytest.mark.parametrize("letter", ["x", "é", "€", "😀"])
@pytest.mark.parametrize("odd", range(5))
def test_a_raw_line_comes_in_pieces_that_are_known_as_such(letter: str, odd: int) -> None:
    line = "o" * odd + letter * (PIECE // 2)
    raw = RawLines()
    data = f"{line}\n\n{line}".encode()
    pieces = [piece for at in range(0, len(data), 100_001) for piece in raw.feed(data[at : at + 100_001])] + raw.end()
    assert all(len(piece.encode()) <= PIECE for piece in pieces)
    mine = Masking(Redactor(["hunter2!"]), threading.Event())
    assert "".join(mine.mask(lines(*pieces))) == line * 2
    assert mine.rest() == []
