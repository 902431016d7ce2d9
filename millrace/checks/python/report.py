"""What a check of a Python source has found so far."""

import ast
import heapq
from collections.abc import Callable

from millrace.checks.findings import MAX_FINDINGS, Finding, Rule
from millrace.checks.python.text import Text

Place = ast.stmt | ast.expr | ast.alias | ast.excepthandler | tuple[int, int]


class Report:
    """Findings by their places. A message may be a function, as only those that are shown are worth their making."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self._found: dict[tuple[int, int, Rule], str | Callable[[], str]] = {}

    def add(self, where: Place, rule: Rule, message: str | Callable[[], str]) -> None:
        """Keep a finding: the first of each rule at each place. A tuple is a line and an offset in its bytes."""
        line, offset = where if isinstance(where, tuple) else (where.lineno, where.col_offset)
        self._found.setdefault((line, offset, rule), message)

    def findings(self) -> list[Finding]:
        """What was found, in the order of the source."""
        found = []
        for line, offset, rule in heapq.nsmallest(MAX_FINDINGS, self._found):
            message = self._found[line, offset, rule]
            found.append(Finding(*self.text.at(line, offset), rule, message if isinstance(message, str) else message()))
        return found

    def show(self, node: ast.expr) -> str:
        """The first line of an expression for a message."""
        end = node.end_col_offset if node.end_lineno == node.lineno else None
        return self.text.show(node.lineno, node.col_offset, end)
