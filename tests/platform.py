"""A whole Millrace, started as its user would start it; for the flows and the benchmarks."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 120


@dataclass
class Platform:
    """A running `millrace up` and how to talk to it."""

    home: Path
    url: str
    workspace: str
    api_key: str
    environ: dict[str, str] = field(repr=False)
    process: subprocess.Popen[bytes]
    output: Path

    def client(self) -> httpx.Client:
        """The Script Management API as the workspace's owner."""
        return httpx.Client(
            base_url=f"{self.url}/v1/scripting", timeout=60,
            headers={"Authorization": f"ApiKey {self.api_key}", "Account-Id": self.workspace},
        )

    def command(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """The `millrace` command, as in another terminal."""
        return subprocess.run(
            [sys.executable, "-m", "millrace.cli", *arguments], env=self.environ, cwd=ROOT, input=stdin,
            capture_output=True, text=True, timeout=90, check=False,
        )


def start_platform(home: Path, **settings: str) -> Platform:
    """`millrace up` in this home, ready to be used."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MILLRACE_", "S3_"))}
    inherited.pop("DATABASE_URL", None)
    inherited.pop("REDIS_URL", None)
    port = free_port()
    environ = inherited | {"MILLRACE_HOME": str(home), "MILLRACE_PORT": str(port)} | settings
    output = home.parent / f"{home.name}.out"
    with output.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "millrace.cli", "up"], env=environ, cwd=ROOT, stdout=sink, stderr=sink
        )
    wait_until(lambda: "ready" in _health(port) or process.poll() is not None, START_TIMEOUT_S, output)
    wait_until(lambda: b"Hello, " in output.read_bytes() or process.poll() is not None, START_TIMEOUT_S, output)
    assert process.poll() is None, output.read_text(errors="replace")[-4000:]
    stored = json.loads((home / "credentials.json").read_text())
    return Platform(home, stored["url"], stored["workspace"], stored["api_key"], environ, process, output)


def stop_platform(running: Platform) -> int:
    """SIGTERM, and the exit code."""
    running.process.send_signal(signal.SIGTERM)
    return running.process.wait(timeout=60)


def _health(port: int) -> str:
    try:
        response = httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5)
    except httpx.HTTPError:
        return ""
    return "ready" if response.status_code == 200 else ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], object], timeout_s: float, output: Path | None = None) -> None:
    """Look again every 50 ms until it holds; fail with the platform's last words after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            tail = output.read_text(errors="replace")[-4000:] if output else ""
            raise AssertionError(f"did not come true within {timeout_s} s\n{tail}")
        time.sleep(0.05)
