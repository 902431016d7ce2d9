"""Starts a real launcher for tests, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
START_DEADLINE_S = 30.0


@contextlib.contextmanager
def start_launcher(home: Path, **env: str) -> Iterator[Path]:
    """Run `python -m sandbox.launcher` with MILLRACE_HOME=home and `env`; yields its socket's path.

    What the launcher says goes to home/launcher.log. At the end it gets SIGTERM and must end within ten
    seconds.
    """
    with launcher_process(home, **env) as (process, socket_path):
        yield socket_path
        process.terminate()
        assert process.wait(timeout=10) == 0, (home / "launcher.log").read_text()


@contextlib.contextmanager
def launcher_process(home: Path, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The same, with the process for tests that kill it; it is ended, jobs and all, if it still runs."""
    home.mkdir(parents=True, exist_ok=True)
    socket_path = home / "run" / "launcher.sock"
    log = home / "launcher.log"
    settings = {"MILLRACE_WARM_JAILS": "2", **env, "MILLRACE_HOME": str(home)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sandbox.launcher"],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + START_DEADLINE_S
        while f"listening on {socket_path}" not in _tail(log, process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the launcher did not start: {log.read_text()}")
            time.sleep(0.01)
        yield process, socket_path
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The second signal ends running jobs at once. Killing comes last, since it leaves control groups behind."""
    for _ in range(2):
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path, pid: int) -> str:
    """What this launcher said: a log may hold that of one before it in the same home."""
    return log.read_text().partition(f"launcher {pid} starts")[2]
