"""The platform's metrics. Every process of a host counts; web shows the sum, see also `millrace.exposition`.

With PROMETHEUS_MULTIPROC_DIR set, to one folder for all processes of the host that is emptied at every start,
the numbers live in files there. Without it a process shows only its own.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the name is that of prometheus-client
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MAKING = threading.Lock()
_JAIL = ["runtime", "preloaded"]
_M = TypeVar("_M", Counter, Gauge, Histogram)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)


def _once(make: Callable[[], _M]) -> Callable[[], _M]:
    """The metric is made when it is first counted, since it opens a file then, and by one thread alone: a second of
    the same name is refused. `functools.cache` would let several make it."""
    made: list[_M] = []

    @functools.wraps(make)
    def get() -> _M:
        if not made:
            with _MAKING:
                if not made:
                    made.append(make())
        return made[0]

    return get


@_once
def runs_ended() -> Counter:
    """Recorded outcomes."""
    return Counter("millrace_runs", "Runs that ended, by status and trigger.", ["status", "trigger"])


@_once
def runs_retried() -> Counter:
    """Attempts that failed and are followed by another."""
    return Counter("millrace_run_retries", "Attempts that failed and are followed by another by their script's policy.")


@_once
def callbacks() -> Counter:
    """What came of telling the ends of runs."""
    return Counter("millrace_callbacks", "Tries to tell the end of a run: delivered, retried, failed.", ["outcome"])


@_once
def run_seconds() -> Histogram:
    """How long handlers took."""
    return Histogram("millrace_run_seconds", "From handing the job to a jail to its end.", ["status"], buckets=_SECONDS)


@_once
def queue_seconds() -> Histogram:
    """How long runs waited."""
    return Histogram("millrace_run_queue_seconds", "From the moment a run may start to its claim.", buckets=_SECONDS)


@_once
def runs_in_work() -> Gauge:
    """Claimed and not over."""
    return Gauge("millrace_runs_in_work", "Runs that workers of this host carry now.", multiprocess_mode="livesum")


@_once
def jails_used() -> Counter:
    """How runs came to their jail."""
    return Counter("millrace_jails_used", "Runs by how they came to their jail.", ["origin"])


@_once
def jails() -> Gauge:
    """What the pool of jails holds."""
    return Gauge("millrace_jails", "Jails of this host: booting, warm, busy, parked or dying.",
                 [*_JAIL, "state"], multiprocess_mode="livemostrecent")  # fmt: skip


@_once
def jails_wanted() -> Gauge:
    """What the pool wants to hold."""
    return Gauge("millrace_jails_wanted", "Warm jails that demand asks for.",
                 _JAIL, multiprocess_mode="livemostrecent")  # fmt: skip


@_once
def jail_boots() -> Counter:
    """Booted jails."""
    return Counter("millrace_jail_boots", "Jails that were booted.", _JAIL)


@_once
def jail_boot_seconds() -> Counter:
    """How long they took."""
    return Counter("millrace_jail_boot_seconds", "Time from starting jails to their being ready, in all.", _JAIL)


@_once
def jail_ends() -> Counter:
    """Ended jails."""
    return Counter("millrace_jail_ends", "Jails that were ended, by the rule that ended them.", [*_JAIL, "reason"])


@_once
def egress_refused() -> Counter:
    """Connections that scripts were not allowed."""
    return Counter("millrace_egress_refused", "Connections that scripts were refused, by the kind of rule.", ["kind"])


@_once
def log_bytes() -> Counter:
    """Log text of scripts."""
    return Counter("millrace_log_bytes", "Bytes of log text that scripts wrote.")


@_once
def platform_failures() -> Counter:
    """What went wrong on our side."""
    return Counter("millrace_platform_failures", "Failures of the platform while carrying a run.", ["kind"])


@_once
def schedule_firings() -> Counter:
    """What became of due times."""
    return Counter("millrace_schedule_firings", "Due times of schedules, by outcome.", ["outcome"])


@_once
def schedule_late_seconds() -> Histogram:
    """How late schedules fire."""
    return Histogram("millrace_schedule_late_seconds", "From a due time to its firing.", buckets=_SECONDS)


@_once
def events_routed() -> Counter:
    """How events ended at the router."""
    return Counter("millrace_events_routed", "Announced events that were looked at, by outcome.", ["outcome"])


@_once
def repairs() -> Counter:
    """What the sweeper mended."""
    return Counter("millrace_repairs", "What was lost and set right by the sweeper, by kind.", ["kind"])


@_once
def quota_refusals() -> Counter:
    """Runs that were not accepted."""
    return Counter("millrace_quota_refusals", "Runs that a workspace's quota refused, by the limit.", ["limit"])


@_once
def retention_removed() -> Counter:
    """What was kept long enough."""
    return Counter("millrace_retention_removed", "What was removed because of its age, by kind.", ["kind"])


@_once
def objects_collected() -> Counter:
    """Objects that no row named."""
    return Counter("millrace_objects_collected", "Objects that no row named any more, deleted by the sweeper.")


@_once
def requests() -> Counter:
    """Answers of the web process."""
    return Counter("millrace_http_requests", "Requests, by method, route and status.", ["method", "route", "status"])


@_once
def request_seconds() -> Histogram:
    """How long answers took until their first byte."""
    return Histogram("millrace_http_request_seconds", "From a request to its answer.", ["route"], buckets=_SECONDS)


def render() -> bytes:
    """All numbers of this host in the text format, see CONTENT_TYPE."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return generate_latest(REGISTRY)
    _forget_the_dead(Path(folder))
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


def forget(pid: int) -> None:
    """What this process counted stays; what it had in work is gone with it, however it ended."""
    folder = os.environ.get(FOLDER)
    if folder:
        with contextlib.suppress(FileNotFoundError):  # another who looked was faster
            mark_process_dead(pid, folder)


def _forget_the_dead(folder: Path) -> None:
    """For those whose parent did not see to it."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rsplit("_", 1)[1]
        if not Path("/proc", pid).exists():
            forget(int(pid))
