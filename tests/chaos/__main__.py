"""`python -m tests.chaos`: the long form. Prints the table of faults and counts; exit code 1 if a promise broke."""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos import campaign
from tests.chaos.faults import LONG, SHORT


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="of faults; the first round is finished")
    parser.add_argument("--seed", type=int, default=None, help="decides the order; a random one unless given")
    parser.add_argument("--short", action="store_true", help="outages as short as those of `make test`")
    parser.add_argument("--folder", type=Path, default=None, help="keep the platform's files and output here")
    given = parser.parse_args()
    seed = random.randrange(10_000) if given.seed is None else given.seed
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as temporary:
        folder = given.folder or Path(temporary)
        report = campaign.run(folder, given.seconds, seed, SHORT if given.short else LONG)
    print("\n".join(report.diary))
    print(report.table())
    return 1 if report.verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
