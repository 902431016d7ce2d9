"""The self-test's programs make the calls that they are told, and report what was answered."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

from sandbox.selftest.program import Answer, Buffer, Program, Report

READ, WRITE, OPEN, CLOSE, DUP, GETPID, MKDIR, CHDIR = 0, 1, 2, 3, 32, 39, 83, 80


def run(program: Program, folder: Path) -> tuple[Report | None, int, int]:
    """On this host and without a jail; returns the report, the exit code and the process id."""
    file = folder / "program"
    file.write_bytes(program.executable())
    file.chmod(0o755)
    with subprocess.Popen([file], cwd=folder, stdout=subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=10)
    return program.read(output), process.returncode, process.pid


def test_answers_errors_texts_and_what_a_call_writes_are_reported(tmp_path: Path) -> None:
    (tmp_path / "greeting").write_text("good morning")
    program = Program()
    program.call("pid", GETPID)
    program.call("nowhere", OPEN, b"/nowhere/at/all", os.O_RDONLY)
    program.call("file", OPEN, b"greeting", os.O_RDONLY)
    program.call("half", READ, Answer("file"), Buffer(8), 4)
    program.call("rest", READ, Answer("file"), Buffer(100), 50)
    program.call("close", CLOSE, Answer("file"))
    program.call("again", CLOSE, Answer("file"))
    report, code, pid = run(program, tmp_path)
    assert report is not None and code == 0
    answers = dict(report.answers)
    assert answers.pop("file") > 2
    assert answers == {
        "pid": pid, "nowhere": -errno.ENOENT, "half": 4, "rest": 8, "close": 0, "again": -errno.EBADF,
    }  # fmt: skip
    assert report.buffer[8:12] + report.buffer[100:108] == b"good morning"
    assert not any(report.buffer[:8] + report.buffer[12:100] + report.buffer[108:])


def test_repeated_calls_stop_at_the_first_error_or_after_the_most_rounds(tmp_path: Path) -> None:
    program = Program()
    program.repeat("nest", 3, (MKDIR, b"d", 0o700), (CHDIR, b"d"))
    program.repeat("close", 100, (CLOSE, 2))
    report, _, _ = run(program, tmp_path)
    assert report is not None
    assert report.answers == {"nest": 0, "nest count": 3, "close": -errno.EBADF, "close count": 1}
    assert (tmp_path / "d" / "d" / "d").is_dir()


def test_a_program_that_dies_before_it_reports_says_nothing(tmp_path: Path) -> None:
    program = Program()
    program.call("kill", 62, 0, 9)
    assert program.read(b"") is None
    file = tmp_path / "program"
    file.write_bytes(program.executable())
    file.chmod(0o755)
    done = subprocess.run([file], capture_output=True, start_new_session=True)
    assert (done.returncode, program.read(done.stdout)) == (-9, None)


def test_threads_are_started_and_counted(tmp_path: Path) -> None:
    program = Program()
    program.start_threads("threads", 5)
    report, code, _ = run(program, tmp_path)
    assert report is not None and code == 0
    assert report.answers["threads count"] == 5
