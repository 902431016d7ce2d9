"""The launcher's life: start, crash and restart, workers that vanish, an orderly end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.client import Sandbox
from sandbox.job import Job, Kind, Limits, SandboxUnavailable
from sandbox.launcher import _listen
from tests.launcher import ROOT, launcher_process, start_launcher
from tests.sandbox.processes import alive, children, groups, jails, launcher_of, settled_census
from tests.sandbox.support import Recorder, Runner

SPIN = "exports.handler = async () => { console.log('on'); for (;;); }"


def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class Background(threading.Thread):
    """Runs a job in a thread; `ended` has its outcome or its error."""

    def __init__(self, sandbox: Sandbox, source: str, *, wait: bool = True, **fields: object) -> None:
        super().__init__(daemon=True)
        self.sink = Recorder()
        self.ended: list[object] = []
        self._sandbox = sandbox
        self._job = Job("run-1", {"index.js": source.encode()}, **fields)  # type: ignore[arg-type]
        self.start()
        if wait:
            until(lambda: bool(self.sink.lines or self.ended))

    def run(self) -> None:
        try:
            self.ended.append(self._sandbox.run(self._job, self.sink, threading.Event()))
        except SandboxUnavailable as error:
            self.ended.append(error)


def test_jails_are_kept_warm_and_refilled(tmp_path: Path) -> None:
    with launcher_process(tmp_path, MILLRACE_WARM_JAILS="3") as (process, socket_path):
        until(lambda: len(jails(process.pid)) == 3)
        run = Runner(Sandbox(socket_path))
        settled_census(process.pid, tmp_path)
        assert run("exports.handler = () => 1").outcome.usage.jail == "warm"
        assert settled_census(process.pid, tmp_path).jails == 3


def test_an_empty_pool_boots_at_once(tmp_path: Path) -> None:
    with start_launcher(tmp_path, MILLRACE_WARM_JAILS="0") as socket_path:
        ran = Runner(Sandbox(socket_path))("exports.handler = () => 1")
        assert (ran.result, ran.outcome.usage.jail) == (1, "cold")


def test_when_a_workers_connection_closes_its_jail_is_killed(tmp_path: Path) -> None:
    worker = """
import sys, threading
from pathlib import Path
from sandbox.client import Sandbox
from sandbox.job import Job
from tests.sandbox.support import Recorder
class Loud(Recorder):
    def on_log(self, lines):
        print("on", flush=True)
Sandbox(Path(sys.argv[1])).run(Job("r", {"index.js": sys.argv[2].encode()}), Loud(), threading.Event())
"""
    with launcher_process(tmp_path, MILLRACE_WARM_JAILS="0") as (process, socket_path):
        child = subprocess.Popen(
            [sys.executable, "-c", worker, str(socket_path), SPIN], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"on\n"
        assert len(jails(process.pid)) == 1
        child.kill()
        child.wait()
        child.stdout.close()
        until(lambda: not jails(process.pid), seconds=5)
        assert groups(tmp_path) == []


def test_when_the_launcher_is_killed_its_jails_die_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    with launcher_process(tmp_path) as (process, socket_path):
        run = Background(Sandbox(socket_path), SPIN)
        doomed = jails(process.pid)
        assert doomed
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not any(alive(pid) for pid in doomed), seconds=5)
        run.join(10)
        (error,) = run.ended
        assert isinstance(error, SandboxUnavailable)
        assert error.reached_handler
    leftover = tmp_path / "sandbox" / "slots" / "s400"
    leftover.mkdir()
    with start_launcher(tmp_path) as socket_path:
        assert Runner(Sandbox(socket_path))("exports.handler = () => 1").result == 1
        assert not leftover.exists()
    assert groups(tmp_path) == []
    assert not (tmp_path / "sandbox" / "slots").exists()


def test_a_client_survives_a_restart_of_the_launcher(tmp_path: Path) -> None:
    with start_launcher(tmp_path) as socket_path:
        run = Runner(Sandbox(socket_path))
        assert run("exports.handler = () => 1").result == 1
    with pytest.raises(SandboxUnavailable, match="no launcher listens") as caught:
        run("exports.handler = () => 1")
    assert not caught.value.reached_handler
    with start_launcher(tmp_path):
        assert run("exports.handler = () => 2").result == 2


def test_sigterm_lets_running_jobs_end_and_takes_no_new_ones(tmp_path: Path) -> None:
    source = """
        exports.handler = async () => {
          console.log('on'); await new Promise((r) => setTimeout(r, 1500)); return 'finished';
        };
    """
    with launcher_process(tmp_path) as (process, socket_path):
        sandbox = Sandbox(socket_path)
        run = Background(sandbox, source)
        process.terminate()
        until(lambda: not socket_path.exists())
        with pytest.raises(SandboxUnavailable):
            Runner(sandbox)("exports.handler = () => 1")
        run.join(10)
        assert run.ended[0].result == b'"finished"'  # type: ignore[attr-defined]
        sandbox.close()
        assert process.wait(timeout=10) == 0
    assert groups(tmp_path) == []


def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    with launcher_process(tmp_path) as (process, socket_path):
        run = Background(Sandbox(socket_path), SPIN)
        process.terminate()
        until(lambda: not socket_path.exists())
        process.terminate()
        assert process.wait(timeout=10) == 0
        run.join(10)
        ended = run.ended[0]
        # The launcher may or may not have been there long enough to say how the jail ended.
        assert isinstance(ended, SandboxUnavailable) or ended.kind is Kind.KILLED


def test_one_home_has_one_launcher(tmp_path: Path) -> None:
    with start_launcher(tmp_path):
        second = subprocess.run(
            [sys.executable, "-m", "sandbox.launcher"],
            cwd=ROOT,
            env={**os.environ, "MILLRACE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert second.returncode == 1
    assert "another launcher serves this home" in second.stderr


def test_a_home_with_a_very_long_path_works(tmp_path: Path) -> None:
    with start_launcher(tmp_path / ("long" * 30) / "home") as socket_path:
        assert len(str(socket_path)) > 108
        assert Runner(Sandbox(socket_path))("exports.handler = () => 1").result == 1


def test_the_socket_is_the_owners_alone(launcher_socket: Path) -> None:
    assert launcher_socket.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("name", "value"), [("MILLRACE_SANDBOX_MODE", "loose"), ("MILLRACE_WARM_JAILS", "many")])
def test_a_wrong_setting_stops_the_start_with_a_sentence_that_names_it(tmp_path: Path, name: str, value: str) -> None:
    started = subprocess.run(
        [sys.executable, "-m", "sandbox.launcher"],
        cwd=ROOT,
        env={**os.environ, "MILLRACE_HOME": str(tmp_path), name: value},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert started.returncode == os.EX_CONFIG
    assert f"{name} is '{value}', but must be" in started.stderr


def test_an_idle_launcher_uses_no_cpu(launcher_home: Path, run: Runner) -> None:
    launcher = launcher_of(launcher_home)
    settled_census(launcher, launcher_home)
    before = _cpu_ms(launcher)
    time.sleep(1)
    assert _cpu_ms(launcher) - before < 20


def _cpu_ms(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def test_a_jail_killed_from_outside_is_told_as_killed(tmp_path: Path) -> None:
    with launcher_process(tmp_path, MILLRACE_WARM_JAILS="0") as (process, socket_path):
        run = Background(Sandbox(socket_path), SPIN, limits=Limits(timeout_ms=20_000))
        (jail,) = jails(process.pid)
        (runtime,) = Path(f"/proc/{jail}/task/{jail}/children").read_text().split()
        os.kill(int(runtime), signal.SIGKILL)
        run.join(10)
        assert run.ended[0].kind == "killed"  # type: ignore[attr-defined]


def test_a_signal_to_a_child_that_is_not_yet_nsjail_is_not_heard_by_the_launcher(tmp_path: Path) -> None:
    slow = tmp_path / "sitecustomize.py"
    slow.write_text(
        "import os\n"
        "real, slow = os.setsid, os.environ.get('SLOW', '')\n"
        "def setsid():\n"
        "    real()\n"
        "    if os.path.exists(slow): import time; time.sleep(3)\n"
        "os.setsid = setsid\n"
    )
    marker = tmp_path / "slow"
    home = tmp_path / "home"
    with launcher_process(home, MILLRACE_WARM_JAILS="0", PYTHONPATH=f"{tmp_path}:{ROOT}", SLOW=str(marker)) as (
        process,
        socket_path,
    ):
        sandbox = Sandbox(socket_path)
        run = Background(sandbox, SPIN)
        before = set(children(process.pid))
        marker.touch()
        worker = Background(sandbox, "exports.handler = () => 1", wait=False)
        until(lambda: bool(set(children(process.pid)) - before))
        (young,) = set(children(process.pid)) - before
        os.kill(young, signal.SIGTERM)
        worker.join(10)
        assert isinstance(worker.ended[0], SandboxUnavailable)
        marker.unlink()
        assert Runner(sandbox)("exports.handler = () => 1").result == 1
        assert not run.ended


def test_whoever_finds_the_launchers_socket_is_listened_to(tmp_path: Path) -> None:
    refused: list[OSError] = []

    def connect(path: Path) -> None:
        while not path.exists():
            pass
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            try:
                client.connect(str(path))
            except OSError as error:
                refused.append(error)

    for number in range(100):
        path = tmp_path / f"{number}.sock"
        eager = threading.Thread(target=connect, args=(path,))
        eager.start()
        with _listen(path):
            eager.join(10)
    assert refused == []
