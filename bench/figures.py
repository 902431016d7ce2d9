"""How measures are taken and printed."""

import statistics
import time
from collections.abc import Callable, Sequence

WIDTH = 60


def repeat(action: Callable[[], object], times: int, pause_s: float = 0) -> list[float]:
    """Milliseconds of each of so many calls, one at a time."""
    taken = []
    for _ in range(times):
        time.sleep(pause_s)
        began = time.perf_counter()
        action()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def report(name: str, taken: Sequence[float], aim: str = "") -> None:
    """Minimum, median, 99th percentile and maximum in milliseconds."""
    ordered = sorted(taken)
    high = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    show(name, f"{ordered[0]:8.2f} min {statistics.median(ordered):8.2f} p50 {high:8.2f} p99 {ordered[-1]:8.2f} max ms"
               f"  (n={len(ordered)})", aim)  # fmt: skip


def show(name: str, value: str, aim: str = "") -> None:
    """One line; `aim` is what we want to reach."""
    print(f"{name:<{WIDTH}} {value}{f'   [aim {aim}]' if aim else ''}", flush=True)
