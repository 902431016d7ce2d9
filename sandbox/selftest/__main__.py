"""python -m sandbox.selftest: prints every layer, whether it holds, and how to mend those that do not.

Exits with 1 if one is missing. With --json one JSON array for machines.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

from sandbox.config import ConfigError, SandboxConfig
from sandbox.selftest import host
from sandbox.selftest.finding import Finding

_USAGE = "usage: python -m sandbox.selftest [--json]"
_MARGIN = 24
_NARROWEST = 40


def table(findings: Sequence[Finding], columns: int) -> str:
    """Three columns: layer, state, and what was found, with what to do about it where something is missing."""
    lines = [f"{'LAYER':<14} {'STATE':<8} FOUND"]
    for finding in findings:
        head = f"{finding.layer:<14} {'ok' if finding.holds else 'MISSING':<8} "
        lines += _wrapped(head, finding.detail, columns)
        if not finding.holds:
            lines += _wrapped(" " * _MARGIN, f"Mend it: {finding.remedy}.", columns)
    missing = sum(not finding.holds for finding in findings)
    lines.append(f"{missing} of {len(findings)} layers are missing" if missing else f"All {len(findings)} layers hold")
    return "\n".join(lines)


def _wrapped(head: str, text: str, columns: int) -> list[str]:
    width = max(columns, _MARGIN + _NARROWEST)
    return textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * _MARGIN, break_on_hyphens=False)


def main(arguments: Sequence[str]) -> int:
    if arguments not in ([], ["--json"]):
        print(_USAGE, file=sys.stderr)
        return os.EX_USAGE
    try:
        config = SandboxConfig.from_env(os.environ)
    except ConfigError as error:
        print(f"sandbox.selftest: {error}", file=sys.stderr)
        return os.EX_CONFIG
    findings = host.check(config.egress_allow)
    if arguments:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    else:
        print(table(findings, shutil.get_terminal_size((120, 24)).columns))
    return 0 if all(finding.holds for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
