"""Unified diffs of text, in bounded time whoever wrote the text."""

import difflib
import io
from collections.abc import Iterator
from itertools import accumulate

WORK = 500_000  # lines and pairs of equal lines to look at; about 0.3 s
_CONTEXT = 3


def unified(old: str, new: str, old_name: str, new_name: str) -> str:
    """What makes `new` of `old`, as a unified diff; "" when they are the same.

    Always a right diff. Where lines repeat so often that the shortest one would take long, what is left to compare
    is removed and added as a whole.
    """
    # At "\n" alone, as patch(1) has it: `splitlines` sees ends of lines in many more characters.
    before, after = list(io.StringIO(old, newline="\n")), list(io.StringIO(new, newline="\n"))
    numbers: dict[str, int] = {}
    matcher = _Matcher(*([numbers.setdefault(line, len(numbers)) for line in lines] for lines in (before, after)))
    text = "".join(_hunk(group, before, after) for group in matcher.get_grouped_opcodes(_CONTEXT))
    return f"--- {old_name}\n+++ {new_name}\n{text}" if text else ""


class _Matcher(difflib.SequenceMatcher[int]):
    """Takes the common beginning and end for granted, and finds nothing more once its work is used up.

    The base's time grows with the square of the lines and more when they repeat.
    """

    b2j: dict[int, list[int]]  # the base's, but not in its types

    def __init__(self, old: list[int], new: list[int]) -> None:
        super().__init__(None, old, new)
        self._old, self._new = old, new
        self._left = WORK
        self._costs = list(accumulate((1 + len(self.b2j.get(each, ())) for each in old), initial=0))

    def find_longest_match(self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
                           ) -> difflib.Match:
        """See the base, which asks it for one range after the other."""
        ahi = len(self._old) if ahi is None else ahi
        bhi = len(self._new) if bhi is None else bhi
        shorter = min(ahi - alo, bhi - blo)
        if size := next((n for n in range(shorter) if self._old[alo + n] != self._new[blo + n]), shorter):
            return difflib.Match(alo, blo, size)
        if size := next((n for n in range(shorter) if self._old[ahi - 1 - n] != self._new[bhi - 1 - n]), shorter):
            return difflib.Match(ahi - size, bhi - size, size)
        self._left -= self._costs[ahi] - self._costs[alo]
        return super().find_longest_match(alo, ahi, blo, bhi) if self._left >= 0 else difflib.Match(alo, blo, 0)


def _hunk(group: list[tuple[str, int, int, int, int]], before: list[str], after: list[str]) -> str:
    (_, a, _, b, _), (_, _, a_end, _, b_end) = group[0], group[-1]
    return f"@@ -{_range(a, a_end)} +{_range(b, b_end)} @@\n" + "".join(_lines(group, before, after))


def _range(start: int, end: int) -> str:
    """Counted from 1; an empty one names the line before it."""
    count = end - start
    return f"{start + 1}" if count == 1 else f"{start + bool(count)},{count}"


def _lines(group: list[tuple[str, int, int, int, int]], before: list[str], after: list[str]) -> Iterator[str]:
    for tag, a, a_end, b, b_end in group:
        if tag == "equal":
            yield from (_line(" ", line) for line in before[a:a_end])
        else:
            yield from (_line("-", line) for line in before[a:a_end])
            yield from (_line("+", line) for line in after[b:b_end])


def _line(sign: str, line: str) -> str:
    return f"{sign}{line}" if line.endswith("\n") else f"{sign}{line}\n\\ No newline at end of file\n"
