"""Checks of Python: syntax, the entry point, forbidden constructs, unknown modules."""

from millrace.checks.python.check import check

__all__ = ["check"]
