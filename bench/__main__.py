"""Print how long things take, and what they cost, on this machine."""

import argparse
import os
import platform

from bench import jails
from bench import platform as whole

PARTS = ("sandbox", "platform")


def main() -> None:
    """All parts, or the one that is named."""
    options = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    options.add_argument("part", nargs="?", choices=PARTS, help="one part only")
    options.add_argument("--runs", type=int, default=300, help="sync runs per measure")
    options.add_argument("--soak", type=int, default=10_000, help="runs after which nothing must be left behind")
    options.add_argument("--idle", type=float, default=60, help="seconds of silence before the first run after idling")
    options.add_argument("--idle-times", type=int, default=3)
    chosen = options.parse_args()
    print(f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}; "
          "everything on one machine, sandbox strict, SQLite")
    if chosen.part != "platform":
        jails.run(chosen.runs, chosen.soak)
    if chosen.part != "sandbox":
        whole.run(chosen.runs, chosen.idle, chosen.idle_times)


if __name__ == "__main__":
    main()
