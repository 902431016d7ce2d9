"""Checks with the settings that most tests share."""

import sys

from millrace.checks import Finding, check_source
from millrace.checks.wording import words

MODULES = words(
    "asyncio base64 builtins collections concurrent csv dataclasses datetime decimal functools gc hashlib httpx "
    "importlib inspect io itertools json logging math os pickle re requests sys time types typing urllib"
)
HERE = f"python{sys.version_info.major}.{sys.version_info.minor}"
HANDLER = "\n\ndef handler(payload, context): ...\n"


def check(source: str, **changes: object) -> list[Finding]:
    """The findings of a script whose entry point is handler."""
    settings: dict[str, object] = {
        "runtime": HERE,
        "entry_point": "handler",
        "modules": MODULES,
        "language": "python",
    }
    return check_source(source.encode(), **(settings | changes))  # type: ignore[arg-type]


def check_body(source: str, **changes: object) -> list[Finding]:
    """The same, without the finding that a fragment defines no handler."""
    return [finding for finding in check(source, **changes) if finding.rule != "entry-point"]


def rules(source: str, **changes: object) -> set[str]:
    return {finding.rule for finding in check_body(source, **changes)}
