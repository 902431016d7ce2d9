"""Checks of uploaded sources: syntax, the entry point, forbidden constructs, unknown modules.

A lint with good messages, made with a real parser for each language: `javascript/`, `python/`. It is no boundary:
code that hides what it does passes here and meets the jail. Everything is pure: no I/O, no clock, no randomness; the
same source gives the same findings in the same order.
"""

from millrace.checks.check import check_source
from millrace.checks.findings import MAX_FINDINGS, Finding, Rule
from millrace.checks.source import MAX_SOURCE_BYTES, decode_content, entry_name

__all__ = [
    "MAX_FINDINGS",
    "MAX_SOURCE_BYTES",
    "Finding",
    "Rule",
    "check_source",
    "decode_content",
    "entry_name",
]
