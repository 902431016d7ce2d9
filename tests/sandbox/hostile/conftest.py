from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.client import Sandbox
from tests.launcher import launcher_process
from tests.sandbox import egress_support, processes

pytest.register_assert_rewrite("tests.sandbox.hostile.arena")

from tests.sandbox.hostile.arena import Arena  # noqa: E402


def at_rest(launcher: int) -> tuple[int, int]:
    """How many jails and descriptors the launcher has, once that stays the same for a while."""
    deadline, found, since = time.monotonic() + 60, (0, 0), 0.0
    while time.monotonic() - since < 0.3:
        now = (len(processes.jails(launcher)), len(os.listdir(f"/proc/{launcher}/fd")))
        if now != found:
            found, since = now, time.monotonic()
        assert time.monotonic() < deadline, "the launcher does not come to rest"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="session")
def outside() -> Iterator[int]:
    """The port of an HTTP server on the host's loopback, which the operator let scripts reach."""
    with egress_support.http_server() as port:
        yield port


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory, outside: int) -> Iterator[Arena]:
    """One launcher for every attack. When all are over it holds nothing but its jails, and leaves nothing."""
    home: Path = tmp_path_factory.mktemp("hostile")
    allow = f"127.0.0.1:{outside}"
    with launcher_process(home, MILLRACE_WARM_JAILS="2", MILLRACE_EGRESS_ALLOW=allow) as (process, socket_path):
        sandbox = Sandbox(socket_path)
        arena = Arena(sandbox, process.pid)
        arena.check_next_run()
        jails, descriptors = at_rest(process.pid)
        yield arena
        for _ in range(4):
            arena.check_fresh_run()
        # Jails that honest runs left for their keys are still kept, with eight descriptors each.
        kept = at_rest(process.pid)
        assert kept[1] <= descriptors + 8 * (kept[0] - jails + 1)
        sandbox.close()
        process.terminate()
        assert process.wait(timeout=20) == 0, (home / "launcher.log").read_text()
        assert processes.groups(home) == []
