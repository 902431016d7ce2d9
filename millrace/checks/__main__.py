"""One check in a process of its own, with bounds on its memory and time: `python -m millrace.checks`.

Standard input: a line of JSON (what `check_source` takes, and `limits`), then the source. Standard output: the
findings as JSON. `millrace.checks.apart` starts this. What is imported here is what the start costs.
"""

import json
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Final

from millrace.checks.check import check_source

OUT_OF_MEMORY: Final = 3


def main() -> int:
    """The exit code: 0, or `OUT_OF_MEMORY`. Over another limit a signal ends the process."""
    header = json.loads(sys.stdin.buffer.readline())
    _limit(header["limits"])
    try:
        findings = check_source(
            sys.stdin.buffer.read(),
            runtime=header["runtime"],
            entry_point=header["entry_point"],
            modules=frozenset(header["modules"]),
            language=header["language"],
        )
    except MemoryError:
        return OUT_OF_MEMORY
    json.dump([vars(finding) for finding in findings], sys.stdout)
    return 0


def _limit(limits: Mapping[str, int]) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_AS, limits["memory_bytes"])
    _lower(resource.RLIMIT_CPU, limits["cpu_s"])
    signal.alarm(limits["wall_s"])  # should whoever started this be gone


def _lower(which: int, limit: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard == resource.RLIM_INFINITY or limit < hard:  # nobody but root may raise one
        resource.setrlimit(which, (limit, hard))


if __name__ == "__main__":
    sys.exit(main())
