"""Many lines at once count and end as they do one after the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import output, protocol

LINES = st.lists(st.text(alphabet="ab\r\x00\x85\u2028é\U0001f600 "), max_size=8)
PIECE = protocol.LOG_RECORD_BYTES


@given(LINES, st.integers(0, 600))
def test_lines_that_come_together_are_counted_as_if_they_came_alone(lines: list[str], limit: int) -> None:
    together, alone = output.LogFeed(limit, 0), output.LogFeed(limit, 0)
    together.add_raw("STDOUT", lines)
    for line in lines:
        alone.add_raw("STDOUT", [line])
    kept = [line.text for line in together.take()]
    assert kept == [line.text for line in alone.take()]
    assert together.kept_bytes == alone.kept_bytes == sum(map(output.stored_bytes, kept)) <= limit
    assert together.dropped_bytes == alone.dropped_bytes


@given(st.lists(st.integers(0, 10**13 - 1), max_size=8))
def test_times_of_records_never_fall(times: list[int]) -> None:
    feed = output.LogFeed(10_000, 5)
    feed.add_records(protocol.Records(["INFO"] * len(times), times, ["x"] * len(times)))
    found = [line.time_ms for line in feed.take()]
    assert found == sorted(found)
    assert len(found) == len(times)


@given(LINES, st.integers(1, 7))
def test_raw_lines_survive_being_cut_anywhere(lines: list[str], step: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    raw = output.RawLines()
    found = [line for at in range(0, len(data), step) for line in raw.feed(data[at : at + step])]
    assert [*found, *raw.end()] == lines


@pytest.mark.parametrize("size", [PIECE - 4, PIECE - 3, PIECE, PIECE + 1, 3 * PIECE])
def test_a_long_line_among_short_ones_comes_in_pieces(size: int) -> None:
    found = output.RawLines().feed(b"a\n" + b"x" * size + b"\nb\n")
    assert (found[0], found[-1]) == ("a", "b")
    assert sum(map(len, found[1:-1])) == size
    assert all(output.goes_on(piece) for piece in found[1:-2])
    assert not output.goes_on(found[-2])
