"""Which processes a worker keeps, with small programs in the place of real ones."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from millrace import supervisor
from tests.launcher import ROOT
from tests.polling import alive, wait_until
from worker import family

FAMILY = """
import logging, os, signal, sys, time
from millrace import supervisor
from worker import family
logging.basicConfig()
supervisor.FIRST_BACKOFF_S = 0.01
folder = {folder!r}
# Each leaves a note of its own, in which it says what happens to it.
def say(word):
    with open(os.path.join(folder, str(os.getpid())), "a") as file: file.write(word + "\\n")
def first():
    "Whether this is the first of the family to ask."
    try: os.close(os.open(os.path.join(folder, "mark"), os.O_CREAT | os.O_EXCL))
    except FileExistsError: return False
    return True
def told(*_):
    say("told")
    {when_told}
def work():
    {before}
    signal.signal(signal.SIGTERM, told)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    say("up")
    {then}
    while True: time.sleep(1)
{changes}
sys.exit(family.Family(work, {size}).run())
"""


class Running:
    """A family under test; its members by their notes."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self.folder = folder
        self.process = process

    def notes(self) -> dict[int, str]:
        return {int(path.name): path.read_text() for path in self.folder.glob("[0-9]*")}

    def up(self) -> set[int]:
        """The members that live and said so."""
        return {pid for pid, note in self.notes().items() if "up\n" in note and alive(pid)}

    def said(self) -> str:
        return (self.folder / "family.log").read_text()

    def wait(self) -> int:
        code = self.process.wait(30)
        assert not [pid for pid in self.notes() if alive(pid)]
        return code


Starter = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts a family of such members, in a group of its own."""
    begun: list[Running] = []

    def started(
        size: int, then: str = "", when_told: str = "os._exit(0)", before: str = "", changes: str = "", **environ: str
    ) -> Running:
        code = FAMILY.format(
            folder=str(tmp_path), size=size, then=then, when_told=when_told, before=before, changes=changes
        )
        with (tmp_path / "family.log").open("ab") as output:
            process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=output, start_new_session=True,
                                       env={**os.environ, **environ})  # fmt: skip
        begun.append(Running(tmp_path, process))
        return begun[-1]

    yield started
    for each in begun:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
            each.process.wait()


def stop(running: Running) -> int:
    running.process.terminate()
    return running.wait()


def test_who_is_killed_is_started_again_and_the_others_do_not_notice(start: Starter) -> None:
    running = start(3)
    wait_until(lambda: len(running.up()) == 3, 20)
    first = running.up()
    victim = min(first)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(running.up() - {victim}) == 3, 20)
    assert f"worker process {victim} ended with signal SIGKILL; the next starts in 0 s" in running.said()
    assert {note for pid, note in running.notes().items() if pid != victim} == {"up\n"}
    assert stop(running) == 0
    assert {running.notes()[pid] for pid in first - {victim}} == {"up\ntold\n"}
    assert len(running.notes()) == 4


def test_who_ends_by_itself_is_started_again_too(start: Starter) -> None:
    running = start(1)
    wait_until(lambda: len(running.up()) == 1, 20)
    (first,) = running.up()
    os.kill(first, signal.SIGTERM)
    wait_until(lambda: bool(running.up() - {first}), 20)
    assert stop(running) == 0


def test_who_started_it_without_an_ear_for_deaths_changes_nothing(start: Starter) -> None:
    running = start(2, changes="signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    wait_until(lambda: len(running.up()) == 2, 20)
    killed = min(running.up())
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(running.up() - {killed}) == 2, 20)
    assert stop(running) == 0


def test_pauses_grow_with_each_death_within_a_minute() -> None:
    assert [family._pause_s(deaths) for deaths in range(1, 6)] == [0, 0.5, 1, 2, 4]


def test_when_one_dies_too_often_all_end_as_at_a_stop_and_the_exit_code_says_so(start: Starter) -> None:
    running = start(2, then="if not first(): os.abort()")  # the first stays; the other dies whenever it is started
    assert running.wait() == 1
    notes = list(running.notes().values())
    assert len(notes) == 1 + supervisor.RESTARTS + 1
    assert sorted(notes) == [*["up\n"] * (supervisor.RESTARTS + 1), "up\ntold\n"]
    assert "ended with signal SIGABRT, and those before it 5 times within 60 s: all end" in running.said()


def test_deaths_of_long_ago_are_forgiven(start: Starter) -> None:
    running = start(1, then="time.sleep(0.1); os.abort()", changes="supervisor.RESTART_WINDOW_S = 0.05")
    wait_until(lambda: len(running.notes()) > supervisor.RESTARTS + 2, 30)
    assert running.process.poll() is None


def test_a_wrong_configuration_ends_all_at_once_with_its_code(start: Starter) -> None:
    running = start(2, then="if not first(): return 78")
    assert running.wait() == 78
    assert sorted(running.notes().values()) == ["up\n", "up\ntold\n"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_all_end_their_work_and_a_second_one_changes_nothing(
    start: Starter, number: signal.Signals
) -> None:
    running = start(2, when_told='time.sleep(1); say("done"); os._exit(0)')
    wait_until(lambda: len(running.up()) == 2, 20)
    running.process.send_signal(number)
    wait_until(lambda: all("told" in note for note in running.notes().values()), 20)
    running.process.send_signal(number)
    running.process.send_signal(number)
    assert running.wait() == 0
    assert set(running.notes().values()) == {"up\ntold\ndone\n"}


def test_a_signal_that_comes_before_a_member_listens_is_heard_by_it(start: Starter) -> None:
    running = start(2, before='say("born"); time.sleep(0.5)')
    wait_until(lambda: list(running.notes().values()) == ["born\n"] * 2, 20)
    assert stop(running) == 0
    assert set(running.notes().values()) == {"born\ntold\n"}


def test_who_fails_says_why_and_counts_as_dead(start: Starter) -> None:
    running = start(1, then='raise RuntimeError("out of luck")')
    assert running.wait() == 1
    assert "RuntimeError: out of luck" in running.said()
    assert "ended with exit code 1, and those before it" in running.said()
    assert len(running.notes()) == supervisor.RESTARTS + 1


def test_who_does_not_end_in_time_is_killed_and_the_exit_code_says_so(start: Starter) -> None:
    running = start(2, when_told="return", changes="family.GRACE_S = family.LAST_WORDS_S = family._FAREWELL_S = 0.3")
    wait_until(lambda: len(running.up()) == 2, 20)
    assert stop(running) == 1
    assert running.said().count("did not end in time and is killed") == 2


def test_when_the_parent_is_killed_all_are_told_to_end(start: Starter) -> None:
    running = start(2)
    wait_until(lambda: len(running.up()) == 2, 20)
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not running.up(), 20)
    assert set(running.notes().values()) == {"up\ntold\n"}


def test_a_process_that_cannot_be_started_counts_as_one_that_died(start: Starter) -> None:
    running = start(1, changes="""
def no_memory(): raise OSError(12, "Cannot allocate memory")
os.fork = no_memory""")
    assert running.wait() == 1
    assert "a worker process cannot be started: Cannot allocate memory" in running.said()


def test_what_a_dead_one_had_in_work_is_gone_from_the_numbers(start: Starter, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    gauge = 'open(os.path.join(folder, "metrics", f"gauge_livesum_{os.getpid()}.db"), "w").close(); say("counted")'
    running = start(1, then=gauge, PROMETHEUS_MULTIPROC_DIR=str(metrics))
    wait_until(lambda: "counted" in "".join(running.notes().values()), 20)
    (first,) = running.up()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(running.notes()) == 2, 20)
    assert not (metrics / f"gauge_livesum_{first}.db").exists()
    assert stop(running) == 0
    assert not list(metrics.iterdir())
