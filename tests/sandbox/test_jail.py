"""How a jail's process is started, with plain programs in nsjail's place."""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sandbox import cgroups, jail

TALKS = "read word <&3; echo $word >&4; echo log >&5; echo boot >&6; echo out; echo err >&2"
STARTER = """
import os, sys, time
from sandbox import cgroups, jail
started = jail.start(["/bin/sleep", "60"], cgroups.NoTree().create("s0"))
print(started.pid, flush=True)
time.sleep(60)
"""


class Joined(cgroups.Group):
    """A control group of plain files."""

    def __init__(self, *files: Path) -> None:
        self.join_files = tuple(map(str, files))


@pytest.fixture
def started() -> Iterator[list[jail.JailProcess]]:
    """Ended and closed after the test."""
    made: list[jail.JailProcess] = []
    yield made
    for each in made:
        each.kill_hard()
        each.reap()
        each.close()


def until_its_end(process: jail.JailProcess) -> None:
    assert select.select([process.pidfd], [], [], 30)[0]


def start(started: list[jail.JailProcess], command: Sequence[str], group: cgroups.Group) -> jail.JailProcess:
    started.append(jail.start(command, group))
    return started[-1]


def test_it_joins_every_group_before_the_program_begins(tmp_path: Path, started: list[jail.JailProcess]) -> None:
    files = [tmp_path / name for name in ("a b", "$HOME", "it's", '"')]
    for file in files:
        file.touch()
    script = 'for each do read -r word <"$each" && echo "$word"; done'
    process = start(started, ["/bin/sh", "-c", script, "sh", *map(str, files)], Joined(*files))
    until_its_end(process)
    assert os.read(process.pipes.stdout, 100) == b"0\n" * 4


def test_it_does_not_begin_outside_of_its_groups(tmp_path: Path, started: list[jail.JailProcess]) -> None:
    there, missing, proof = tmp_path / "there", tmp_path / "no" / "group", tmp_path / "proof"
    process = start(started, ["/bin/touch", str(proof)], Joined(there, missing))
    until_its_end(process)
    assert str(missing) in process.boot_log()
    assert not proof.exists()


@pytest.mark.parametrize("closed", [(), (3, 4, 5, 6, 7, 8)])
def test_its_pipes_are_where_a_jail_looks_for_them(closed: tuple[int, ...]) -> None:
    """Also when this process's own ends would get those numbers."""
    code = f"""
import os, select
for fd in {closed}:
    try: os.close(fd)
    except OSError: pass
from sandbox import cgroups, jail
process = jail.start(["/bin/sh", "-c", {TALKS!r} + "; ls /proc/self/fd"], cgroups.NoTree().create("s0"))
os.write(process.pipes.job, b"word\\n")
select.select([process.pidfd], [], [], 30)
pipes = process.pipes
print([os.read(fd, 100) for fd in (pipes.control, pipes.log, pipes.stdout, pipes.stderr)], process.boot_log())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    # The last one is that of the folder which lists them.
    expected = [b"word\n", b"log\n", b"out\n0\n1\n2\n3\n4\n5\n6\n7\n", b"err\n"]
    assert (done.stdout, done.stderr) == (f"{expected} boot\n", "")


def test_it_ignores_no_signal(started: list[jail.JailProcess]) -> None:
    ignored = signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM
    before = [signal.signal(each, signal.SIG_IGN) for each in ignored]
    try:
        process = start(started, ["/bin/sleep", "60"], cgroups.NoTree().create("s0"))
    finally:
        for each, handler in zip(ignored, before, strict=True):
            signal.signal(each, handler)
    status = dict(line.split(":\t") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    # From 32 on they are the C library's and of programs that handle them.
    assert [int(status[name], 16) % 2**31 for name in ("SigIgn", "SigBlk")] == [0, 0]


def test_it_dies_with_the_process_that_started_it() -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    end = os.pidfd_open(pid)
    starter.kill()
    starter.communicate()
    assert select.select([end], [], [], 30)[0]
    os.close(end)


def test_a_host_without_descriptors_loses_none_to_a_jail_that_could_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe, made = os.pipe, []

    def scarce() -> tuple[int, int]:
        if len(made) == 4:
            raise OSError(errno.EMFILE, "Too many open files")
        made.append(pipe())
        return made[-1]

    gc.collect()  # so that no loop of an earlier test closes meanwhile
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched, pytest.raises(OSError):
        patched.setattr(os, "pipe", scarce)
        jail.start(["/bin/true"], cgroups.NoTree().create("s0"))
    assert len(made) == 4 and len(os.listdir("/proc/self/fd")) == before


def test_a_program_that_is_not_there_is_an_error_and_leaves_nothing() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        jail.start(["/no/such/program"], cgroups.NoTree().create("s0"))
    assert len(os.listdir("/proc/self/fd")) == before
