"""The supervisor, with small programs in the place of the Procfile's."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from millrace import processes, supervisor
from millrace.supervisor import Line, ProcfileError, Supervisor, parse_procfile
from tests.polling import alive, wait_until

ROOT = Path(__file__).parents[2]
SLEEPER = "import time; print('up', flush=True); time.sleep(60)"


def program(name: str, code: str, *arguments: str) -> Line:
    return Line(name, tuple(processes.python("-c", code, *arguments)))


Ending = Callable[[str], bool]


def run(
    lines: list[Line], ending: Ending = lambda _: False, *, ready: bool = True, timeout_s: float = 30
) -> tuple[int, str, str | None]:
    """Run until the output so far satisfies `ending`, or until a failure.

    Returns the exit code, the output and the failure.
    """
    out, over = io.StringIO(), threading.Event()
    overseer = Supervisor(lines, os.environ, ROOT, out)

    def watch() -> None:
        deadline = time.monotonic() + timeout_s
        while not over.wait(0.01):
            if ending(out.getvalue()) or time.monotonic() > deadline:
                os.kill(os.getpid(), signal.SIGTERM)
                break
        else:
            return
        assert time.monotonic() <= deadline, out.getvalue()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        code = overseer.run(lambda: ready)
    finally:
        over.set()
        thread.join()
    return code, out.getvalue(), overseer.failure


def end_when(*texts: str) -> Ending:
    return lambda out: all(text in out for text in texts)


def test_a_procfile_is_read_in_the_order_to_start() -> None:
    text = "# ours\nweb: python -m web\n\nextra: echo 'a b'\nscheduler: s\nworker: w  \nlauncher: l\n"

    assert parse_procfile(text) == [
        Line("launcher", ("l",)), Line("worker", ("w",)), Line("scheduler", ("s",)),
        Line("web", ("python", "-m", "web")), Line("extra", ("echo", "a b")),
    ]  # fmt: skip


@pytest.mark.parametrize("text, rule", [
    ("", "names no process"), ("# nothing\n", "names no process"),
    ("web\n", "Line 1"), ("web:\n", "Line 1"), ("w b: c", "Line 1"),
    ("a: b\nweb: x 'y\n", "Line 2"), ("a: b\n b", "Line 2"), ("a: b\na: c\n", "second time"),
])  # fmt: skip
def test_a_wrong_procfile_names_its_line(text: str, rule: str) -> None:
    with pytest.raises(ProcfileError, match=rule):
        parse_procfile(text)


def test_output_is_prefixed_whole_and_survives_any_bytes() -> None:
    code = (
        "import sys, os, time\n"
        "os.write(1, b'half '); time.sleep(0.1); os.write(1, b'line\\n')\n"
        "os.write(2, b'bad \\xff byte\\r\\nno end')\n"
        "sys.stdout.flush()\n"
        "time.sleep(0.2)"
    )
    _, out, _ = run([program("web", code), program("worker", SLEEPER)], end_when("no end"))

    lines = out.splitlines()
    assert "web      | half line" in lines
    assert "web      | bad \\xff byte" in lines
    assert "web      | no end" in lines
    assert "worker   | up" in lines


def test_a_flood_without_an_end_of_line_is_printed_in_bounded_pieces() -> None:
    code = (
        "import os, time\nfor _ in range(64): os.write(1, b'x' * 65536)\n"
        "os.write(1, b'\\nflood over\\n'); time.sleep(60)"
    )

    _, out, _ = run([program("web", code)], end_when("flood over"))

    pieces = [line for line in out.splitlines() if line.endswith("x")]
    assert sum(line.count("x") for line in pieces) == 64 * 65536
    assert max(map(len, pieces)) < 3 * 65536


def test_one_that_dies_is_started_again_after_a_pause(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    code = f"with open({str(marks)!r}, 'a') as file: file.write('x')\nraise SystemExit(3)"

    lines = [program("worker", code), program("web", SLEEPER)]
    code_, out, failure = run(lines, lambda _: marks.exists() and len(marks.read_text()) == 3)

    assert (code_, failure) == (0, None)
    assert "worker ended with exit code 3; it starts again in 0.5 s" in out
    assert "worker ended with exit code 3; it starts again in 1 s" in out
    assert "web ended" not in out


def test_one_that_keeps_dying_stops_all_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_S", 0.01)
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"

    code_, out, failure = run([program("worker", code), program("web", SLEEPER)])

    assert code_ == 1
    assert failure is not None and "worker ended with signal SIGSEGV" in failure
    assert f"{supervisor.RESTARTS + 1} times" in failure
    assert out.count("it starts again") == supervisor.RESTARTS


def test_before_all_was_ready_fewer_deaths_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_S", 0.01)

    code, out, failure = run([program("worker", "raise SystemExit(1)")], ready=False)

    assert code == 1 and failure is not None
    assert out.count("it starts again") == supervisor.EARLY_RESTARTS


def test_deaths_of_long_ago_are_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(supervisor, "RESTART_WINDOW_S", 0.2)
    code = "import time; time.sleep(0.15)"

    code_, _, failure = run(
        [program("worker", code)], lambda out: out.count("it starts again") > supervisor.RESTARTS + 2
    )

    assert (code_, failure) == (0, None)


def test_a_wrong_configuration_is_not_tried_twice() -> None:
    code = f"print('FOO is 1 but must be 2', flush=True); raise SystemExit({supervisor.WRONG_CONFIGURATION})"

    code_, out, failure = run([program("web", SLEEPER), program("worker", code)])

    assert code_ == 1
    assert failure is not None and "worker" in failure and "configuration is wrong" in failure
    assert out.count("FOO is 1 but must be 2") == 1


def test_a_command_that_does_not_exist_stops_all_with_a_sentence() -> None:
    code, _, failure = run([program("web", SLEEPER), Line("worker", ("no-such-program",))])

    assert code == 1
    assert failure == "worker cannot be started: No such file or directory."


def test_processes_stop_in_order_and_the_launcher_after_all_others_have_ended() -> None:
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    print('told', flush=True); time.sleep(float(sys.argv[1]))\n"
        "    print('ended', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True); time.sleep(60)"
    )
    lines = parse_procfile("web: x\nworker: x\nscheduler: x\nlauncher: x\n")
    lines = [program(line.name, code, "0.5" if line.name == "worker" else "0") for line in lines]

    code_, out, failure = run(lines, end_when(*(f"{line.name:<9} | up" for line in lines)))

    assert (code_, failure) == (0, None)
    events = [line.split() for line in out.splitlines() if line.endswith(("told", "ended"))]
    order = [f"{name} {what}" for name, _, what in events]
    assert order.index("launcher told") > order.index("worker ended") > order.index("worker told")
    assert set(order) == {f"{line.name} {what}" for line in lines for what in ("told", "ended")}


def test_one_that_ignores_sigterm_is_killed_with_all_that_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(supervisor, "STOP_TIMEOUT_S", 0.3)
    pids = tmp_path / "pids"
    code = (
        "import signal, subprocess, sys, time, os\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"with open({str(pids)!r}, 'w') as file: file.write(f'{{os.getpid()}} {{child.pid}}')\n"
        "print('up', flush=True); time.sleep(60)"
    )

    code_, out, _ = run([program("worker", code)], end_when("| up"))

    assert code_ == 0
    assert "worker did not stop in time and was killed" in out
    for pid in pids.read_text().split():
        wait_until(lambda pid=int(pid): not alive(pid))


def test_a_second_signal_does_not_wait() -> None:
    code = (
        "import signal, time, os\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True)); print('up', flush=True)\n"
        "while True: time.sleep(60)"
    )
    out = io.StringIO()
    overseer = Supervisor([program("worker", code)], os.environ, ROOT, out)

    def impatient() -> None:
        for text in ("| up", "told"):
            while text not in out.getvalue():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=impatient)
    thread.start()
    begun = time.monotonic()
    code_ = overseer.run(lambda: True)
    thread.join()

    assert code_ == 0
    assert time.monotonic() - begun < supervisor.STOP_TIMEOUT_S / 2


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from millrace.supervisor import *\n"
        "child = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
        f"line = Line('web', ({sys.executable!r}, '-c', child))\n"
        "Supervisor([line], os.environ, pathlib.Path('.'), sys.stdout).run(lambda: None)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline().rsplit(b"|", 1)[1])

    starter.kill()
    starter.wait()
    starter.stdout.close()

    wait_until(lambda: not alive(pid))


def test_when_nobody_reads_the_output_everything_stops() -> None:
    code = (
        "import os, sys, pathlib; from millrace.supervisor import *\n"
        "child = 'import time\\nwhile True: print(1, flush=True); time.sleep(0.01)'\n"
        f"line = Line('web', ({sys.executable!r}, '-c', child))\n"
        "sys.exit(Supervisor([line], os.environ, pathlib.Path('.'), sys.stdout).run(lambda: None))"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert starter.stdout is not None
    starter.stdout.readline()
    starter.stdout.close()

    assert starter.wait(20) == 1
