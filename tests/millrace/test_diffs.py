"""Unified diffs."""

import difflib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import diffs

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@\n")
_NO_NEWLINE = "\n\\ No newline at end of file\n"


def lines_of(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def patched(old: str, diff: str) -> str:
    """What patch(1) makes of `old`; fails for a diff that does not fit it to the line."""
    before, after, at = lines_of(old), list[str](), 0
    for line in lines_of(diff.replace(_NO_NEWLINE, "\0\n"))[2:]:
        text = line[1:].removesuffix("\0\n") if line.endswith("\0\n") else line[1:]
        if found := _HUNK.fullmatch(line):
            start, count, new_start, new_count = (1 if each is None else int(each) for each in found.groups())
            begin = start - (count > 0)
            after += before[at:begin]
            at = begin
            assert len(after) == new_start - (new_count > 0)
        elif line[0] in " -":
            assert before[at] == text
            at += 1
        if not found and line[0] in " +":
            after.append(text)
    return "".join(after + before[at:])


SOURCES = st.tuples(st.lists(st.sampled_from(["a\n", "b\n", "\n", "-\r\n", "+\u2028x\n", "@\x0c\n"]), max_size=40),
                    st.sampled_from(["", "end", "a"])).map(lambda parts: "".join(parts[0]) + parts[1])  # fmt: skip


@given(SOURCES, SOURCES, st.sampled_from([0, 50, diffs.WORK]))
def test_the_diff_makes_the_new_of_the_old_whatever_work_it_may_do(old: str, new: str, work: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffs, "WORK", work)
        diff = diffs.unified(old, new, "old", "new")
    assert patched(old, diff) == new
    assert (diff == "") == (old == new)


def test_it_is_written_as_difflib_writes_it() -> None:
    old = [f"{number}\n" for number in range(150)]
    new = ["first\n", *old[:20], "other\n", *old[21:70], *old[80:140]]
    assert diffs.unified("".join(old), "".join(new), "a", "b") == "".join(difflib.unified_diff(old, new, "a", "b"))
    assert diffs.unified("", "x\n", "a", "b") == "--- a\n+++ b\n@@ -0,0 +1 @@\n+x\n"


def test_one_changed_line_among_thousands_of_the_same_is_found() -> None:
    same = "// x\n" * 5000
    diff = diffs.unified(f"{same}one\n{same}", f"{same}two\n{same}", "a", "b")
    assert diff.count("\n") == 2 + 1 + 3 + 2 + 3


# Without a bound, each takes the better part of a minute.
@pytest.mark.timeout(20)
@pytest.mark.parametrize("period", [101, 125])
def test_lines_that_repeat_all_the_time_are_compared_in_bounded_time(period: int) -> None:
    old = "".join(f"{number % period}\n" for number in range(10_000))
    new = "".join(f"{number * 7 % period}\n" for number in range(1, 10_000)) + "end"
    assert patched(old, diffs.unified(old, new, "a", "b")) == new
