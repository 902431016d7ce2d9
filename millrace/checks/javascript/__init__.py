"""Checks of JavaScript: syntax, the exported entry point, forbidden constructs, unknown modules."""

from millrace.checks.javascript.check import check

__all__ = ["check"]
