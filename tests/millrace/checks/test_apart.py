"""Large sources are checked in child processes: the same findings, within bounds, and nothing stays behind."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from millrace import errors, processes
from millrace.checks import Finding, check_source
from millrace.checks.apart import Checker, Limits
from tests.millrace.checks.javascript import corpus
from tests.millrace.checks.javascript.support import MODULES

DENSE = b"a;" * 2_000_000  # seconds and hundreds of MiB
DEADLINE_S = 60


def apart(**changes: float) -> Checker:
    """A checker that checks everything in a child."""
    return Checker(Limits(**{"in_process_bytes": -1, **changes}))  # type: ignore[arg-type]


def check(checker: Checker, source: bytes, entry_point: str = "exports.handler") -> list[Finding]:
    return checker.check(source, runtime="nodejs20", entry_point=entry_point, modules=MODULES)


def refused(checker: Checker, source: bytes = DENSE) -> errors.Invalid:
    with pytest.raises(errors.Invalid) as caught:
        check(checker, source)
    assert caught.value.field == "script_content"
    assert "too large or too complex to be checked" in caught.value.message
    return caught.value


def children() -> list[int]:
    """The checks that this process has running."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
            found += [int(pid) for pid in pids if b"millrace.checks" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        except (FileNotFoundError, ProcessLookupError):  # a thread or a child that ended meanwhile
            continue
    return found


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"exports.handler = async () => 'gr\xc3\xbc\xc3\x9fe \xf0\x9f\x98\x80';\n",
        "\n".join(f"{{ {program} }}" for program in corpus.VALID).encode("utf-8", "surrogatepass"),
        b"eval(1);\n" * 100,
        b"const a = '\xf0\x9f\x98\x80'; require('lodahs'); x.__proto__; require('f\xc3\xa9')\rlet b; let b",
        b"\xef\xbb\xbfexports.handler = (",
        b"a\xff",
        b"a\0b",
    ],
    ids=["empty", "sound", "corpus", "fifty", "unicode", "syntax", "no text", "NUL"],
)
def test_the_findings_are_those_of_a_check_in_process(source: bytes) -> None:
    expected = check_source(source, runtime="nodejs20", entry_point="exports.handler", modules=MODULES)
    assert check(apart(), source) == expected


def test_only_what_is_larger_than_the_threshold_gets_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []

    def stand_in(*arguments: str) -> list[str]:
        started.append(arguments)
        return ["/bin/echo", "[]"]

    monkeypatch.setattr(processes, "python", stand_in)
    limit = Limits().in_process_bytes
    for size, count in ((limit, 0), (limit + 1, 1)):
        assert check(Checker(), b"exports.handler = f;".ljust(size)) == []
        assert len(started) == count


def test_an_entry_point_that_names_nothing_is_refused_by_its_field() -> None:
    with pytest.raises(errors.Invalid) as caught:
        check(apart(), b"exports.handler = f", entry_point="a b\ud800")
    assert caught.value.field == "entry_point"


def test_a_check_that_takes_too_much_processor_time_is_refused() -> None:
    error = refused(apart(cpu_s=1, wall_s=DEADLINE_S))
    assert "1 s of CPU time" in error.message
    assert f"{len(DENSE)} bytes of source" in error.message


def test_a_check_that_takes_too_long_is_refused() -> None:
    assert "1 s in all" in refused(apart(wall_s=1)).message
    assert children() == []


@pytest.mark.parametrize("mebibytes", [48, 120])
def test_a_check_that_takes_too_much_memory_is_refused(mebibytes: int) -> None:
    assert f"{mebibytes} MiB of memory" in refused(apart(memory_bytes=mebibytes * 1024 * 1024)).message


def test_a_child_that_writes_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "python", lambda *_: ["/bin/sh", "-c", "while :; do echo endless; done"])
    refused(apart(wall_s=DEADLINE_S))


def test_a_child_that_is_silent_for_ever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "python", lambda *_: ["/bin/sleep", "1000"])
    refused(apart(wall_s=1))


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_is_killed_is_a_refusal(ending: signal.Signals) -> None:
    with ThreadPoolExecutor(1) as pool:
        check_of_it = pool.submit(refused, apart())
        until(children)
        os.kill(children()[0], ending)
        check_of_it.result(DEADLINE_S)
    assert children() == []


def test_a_child_that_is_asked_to_end_leaves_the_question_open() -> None:
    with ThreadPoolExecutor(1) as pool:
        check_of_it = pool.submit(check, apart(), DENSE)
        until(children)
        os.kill(children()[0], signal.SIGTERM)
        with pytest.raises(errors.Unavailable, match="SIGTERM"):
            check_of_it.result(DEADLINE_S)


def test_a_child_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "python", lambda *_: ["/bin/sh", "-c", "echo the reason >&2; exit 1"])
    with pytest.raises(errors.PlatformError, match="exit code 1: the reason"):
        check(apart(), b"")


def test_a_child_that_cannot_start_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "python", lambda *_: ["/nowhere/python"])
    with pytest.raises(errors.Unavailable):
        check(apart(), b"")


def test_a_child_does_not_get_the_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_MASTER_KEYS", "treasure")
    monkeypatch.setattr(processes, "python", lambda *_: ["/bin/sh", "-c", "env; exit 1"])
    with pytest.raises(errors.PlatformError) as caught:
        check(apart(), b"")
    assert "PATH=" in str(caught.value)
    assert "treasure" not in str(caught.value)


def test_two_are_checked_at_once_and_the_others_wait_their_turn() -> None:
    checker, seen = apart(wait_s=DEADLINE_S), []
    with ThreadPoolExecutor(5) as pool:
        checks = [pool.submit(check, checker, b"exports.handler = f;" + b"a;" * 10_000) for _ in range(5)]
        until(lambda: seen.append(len(children())) or all(each.done() for each in checks))
    assert [each.result() for each in checks] == [[]] * 5
    assert max(seen) == 2


def test_who_waits_too_long_is_told_when_to_come_back() -> None:
    checker = apart(at_once=1, wait_s=0.1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(refused, checker)
        until(children)
        with pytest.raises(errors.TooMany) as caught:
            check(checker, b"")
        assert caught.value.retry_after >= 1
        os.kill(children()[0], signal.SIGKILL)
        first.result(DEADLINE_S)
    assert check(checker, b"exports.handler = f") == []  # the place is free again


def test_only_so_many_may_wait() -> None:
    checker = apart(at_once=1, waiting=1, wait_s=DEADLINE_S)
    turned_away = threading.Event()

    def second() -> list[Finding]:
        try:
            return check(checker, b"exports.handler = f")
        except errors.TooMany:
            turned_away.set()
            return []

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(refused, checker)
        until(children)
        others = [pool.submit(second) for _ in range(2)]
        assert turned_away.wait(DEADLINE_S)
        assert sum(each.done() for each in others) <= 1  # the other one waits
        os.kill(children()[0], signal.SIGKILL)
        first.result(DEADLINE_S)
        assert [each.result(DEADLINE_S) for each in others] == [[], []]


def test_a_child_whose_parent_is_gone_ends_by_itself() -> None:
    limits = {"memory_bytes": 2**30, "cpu_s": DEADLINE_S, "wall_s": 1}
    asked = {"runtime": "nodejs20", "language": "javascript", "entry_point": "handler", "modules": []}
    header = asked | {"limits": limits}
    source = json.dumps(header).encode() + b"\n" + DENSE
    done = subprocess.run(processes.python("-m", "millrace.checks"), input=source, capture_output=True)
    assert done.returncode == -signal.SIGALRM
