"""What the launcher shows to others: its log, its environment, the sockets of its slots."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from sandbox import environment
from sandbox.client import Sandbox
from sandbox.job import Refused
from tests.launcher import ROOT, launcher_process
from tests.sandbox.processes import children
from tests.sandbox.support import Runner

SECRET = "postgresql://user:hunter2@db/millrace"
CONNECT = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
socket.socket(socket.AF_UNIX).connect(sys.argv[1])
"""


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A home that every user of the host may walk."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        home.chmod(0o755)
        yield home


def test_a_running_launcher_logs_json_and_keeps_its_secrets_and_its_sockets_to_itself(open_home: Path) -> None:
    settings = {"MILLRACE_WARM_JAILS": "0", "MILLRACE_DATABASE_URL": SECRET}
    with launcher_process(open_home, **settings) as (process, socket_path):
        sandbox = Sandbox(socket_path)
        ran = Runner(sandbox).body("await fetch('http://169.254.169.254/')")
        assert ran.outcome.refused == (Refused("169.254.169.254", 80, "link-local address", "address"),)
        sandbox.close()
        (egress,) = [pid for pid in children(process.pid) if b"sandbox.egress" in _proc(pid, "cmdline")]
        names = {entry.partition(b"=")[0].decode() for entry in _proc(egress, "environ").split(b"\0") if entry}
        assert "PATH" in names
        assert not [name for name in names if name.startswith("MILLRACE_")]
        sock = open_home / "sandbox" / "slots" / "s0" / "run" / "egress.sock"
        _check_closed_to_others(sock)
    lines = [json.loads(line) for line in (open_home / "launcher.log").read_text().splitlines()]
    assert {tuple(line) for line in lines} == {("process", "event", "level", "logger", "time")}
    assert {(line["process"], line["logger"]) for line in lines} == {("launcher", "millrace.launcher")}
    assert lines[0]["event"] == f"launcher {process.pid} starts"
    assert lines[0]["level"] == "info"
    assert lines[0]["time"].endswith("Z")
    assert datetime.fromisoformat(lines[0]["time"]).utcoffset() == timedelta(0)


def _proc(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def _check_closed_to_others(sock: Path) -> None:
    with socket.socket(socket.AF_UNIX) as own:
        own.connect(str(sock))
    folder = sock.parent.stat()
    assert folder.st_mode & 0o007 == 0
    if os.geteuid() == 0:
        stranger = subprocess.run([sys.executable, "-c", CONNECT, str(sock)], cwd="/", capture_output=True, text=True)
        assert "PermissionError" in stranger.stderr


def test_for_people_the_launcher_logs_plain_text_and_other_arguments_are_refused(tmp_path: Path) -> None:
    def say(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sandbox.launcher", *arguments],
            cwd=ROOT,
            env={**os.environ, "MILLRACE_HOME": str(tmp_path), "MILLRACE_SANDBOX_MODE": "loose"},
            capture_output=True,
            text=True,
            timeout=30,
        )

    assert " INFO millrace.launcher launcher " in say("--plain").stderr
    wrong = say("--loud")
    assert (wrong.returncode, wrong.stderr.split()[0]) == (2, "usage:")


@pytest.mark.parametrize("name", ["MILLRACE_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "REDIS_URL", "PGPASSWORD"])
def test_a_credential_is_dropped_from_the_environment_itself(name: str) -> None:
    environ = {"PATH": "/bin", "PYTHONPATH": "/p", "LC_ALL": "C", name: SECRET}
    environment.drop_the_rest(environ)
    assert environ == {"PATH": "/bin", "PYTHONPATH": "/p", "LC_ALL": "C"}


def test_the_launcher_drops_its_secrets_after_it_has_read_its_settings(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from sandbox import launcher\n"
        "def look(config, offered):\n"
        "    print(config.home, 'MILLRACE_DATABASE_URL' in os.environ)\n"
        "    raise launcher.StartError('enough')\n"
        "launcher.Launcher = look\n"
        "launcher.main([])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "MILLRACE_HOME": str(tmp_path), "MILLRACE_DATABASE_URL": SECRET},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == f"{tmp_path} False\n"
