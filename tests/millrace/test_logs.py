"""Logs of runs, from chunks to the whole."""

import itertools
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import logs, runs
from millrace.models import Run
from millrace.objects import MemoryObjects
from millrace.services import Services
from tests import world
from tests.world import ACME, Clock, reload

AT = 1_795_352_709_123  # 2026-11-22T13:05:09.123Z


# The text


def test_a_record_is_a_line_that_a_person_can_read() -> None:
    assert logs.format_record(AT, "INFO", "the message") == "2026-11-22T13:05:09.123Z INFO   the message\n"


def test_no_message_can_pass_for_another_record() -> None:
    forged = logs.format_record(AT, "ERROR", "all is lost").rstrip("\n")
    text = logs.format_record(AT, "INFO", f"one\n{forged}\r{forged}\x85{forged}\u2028{forged}")
    (record,) = logs.parse([text.encode()])
    assert record.level == "INFO" and record.text == "\n".join(["one", forged, forged, forged, forged])


@pytest.mark.parametrize("message", ["", "a", "a\nb", "a\n\nb", "    indented", "a\n    b", "日本", "\x00"])
def test_what_is_written_is_read_back(message: str) -> None:
    (record,) = logs.parse([logs.format_record(AT, "WARN", message).encode()])
    assert (record.seq, record.time, record.level) == (1, "2026-11-22T13:05:09.123Z", "WARN")
    assert record.text == message.replace("\x00", "\\0")


@given(
    messages=st.lists(st.tuples(st.sampled_from(["INFO", "ERROR", "DEBUG"]), st.text(max_size=30)), max_size=8),
    size=st.integers(1, 40),
)
def test_records_come_back_in_order_whatever_the_pieces(messages: list[tuple[str, str]], size: int) -> None:
    whole = "".join(logs.format_record(AT, level, text) for level, text in messages).encode("utf-8", "replace")
    pieces = [whole[start:start + size] for start in range(0, len(whole), size)]
    found = list(logs.parse(pieces))
    assert found == list(logs.parse([whole]))
    assert [record.seq for record in found] == list(range(1, len(messages) + 1))
    assert [record.level for record in found] == [level for level, _ in messages]


def test_bytes_that_are_no_text_break_nothing() -> None:
    (record,) = logs.parse([b"junk before\n", logs.format_record(AT, "INFO", "x").encode(), b"\xff\xfe\n"])
    assert record.text == "x\n\ufffd\ufffd"


# Chunks


def put(services: Services, run: Run, *numbers: int) -> None:
    for number in numbers:
        logs.put_chunk(services, ACME, run.id, number, f"{number}\n".encode())


@pytest.fixture
def run(memory: Services) -> Run:
    return world.start(memory, world.script(memory))


def whole(services: Services, run: Run) -> str | None:
    stored = services.objects.get(logs.key(ACME, run.id))
    return None if stored is None else stored.decode()


def test_chunks_are_joined_in_order_and_go(memory: Services, run: Run) -> None:
    put(memory, run, 2, 0, 1, 10)
    assert logs.join_chunks(memory.objects, ACME, run.id) == logs.key(ACME, run.id)
    gap = "(some lines are missing here: they were lost with the worker)\n"
    assert whole(memory, run) == f"0\n1\n2\n{gap}10\n"
    assert memory.objects.list(f"logs/{ACME}/{run.id}/") == []
    assert logs.join_chunks(memory.objects, ACME, run.id) is None


def test_another_attempt_is_no_gap(memory: Services, run: Run) -> None:
    put(memory, run, 0, 1, logs.ATTEMPT_STRIDE, logs.ATTEMPT_STRIDE + 1)
    logs.join_chunks(memory.objects, ACME, run.id)
    assert whole(memory, run) == f"0\n1\n{logs.ATTEMPT_STRIDE}\n{logs.ATTEMPT_STRIDE + 1}\n"


def test_an_interrupted_deletion_loses_no_line(memory: Services, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    put(memory, run, 0, 1, 2)

    def one(self: MemoryObjects, keys: Iterator[str]) -> None:
        self._stored.pop(next(iter(keys)))
        raise OSError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryObjects, "delete", one)
        with pytest.raises(OSError):
            logs.join_chunks(memory.objects, ACME, run.id)
    assert logs.join_chunks(memory.objects, ACME, run.id) == logs.key(ACME, run.id)
    assert whole(memory, run) == "0\n1\n2\n"


@pytest.mark.parametrize("after", ["list", "exists", "get"])
def test_two_that_join_at_once_lose_no_line(
    memory: Services, run: Run, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    put(memory, run, 0, 1, 2)
    step = getattr(memory.objects, after)

    def raced(*arguments: str) -> object:
        answer = step(*arguments)
        monkeypatch.undo()
        logs.join_chunks(memory.objects, ACME, run.id)  # the other one does it all in between
        return answer

    monkeypatch.setattr(memory.objects, after, raced)
    assert logs.join_chunks(memory.objects, ACME, run.id) == logs.key(ACME, run.id)
    assert whole(memory, run) == "0\n1\n2\n"


def test_many_that_join_at_once_agree(memory: Services, run: Run) -> None:
    for number in range(50):
        put(memory, run, number)
    world.at_once(memory.database, *[lambda: logs.join_chunks(memory.objects, ACME, run.id)] * 5)
    assert whole(memory, run) == "".join(f"{number}\n" for number in range(50))


# On demand


def test_a_log_of_a_run_that_goes_on_is_not_touched(memory: Services, run: Run) -> None:
    put(memory, run, 0)
    assert logs.locate(memory, run) is None
    assert len(memory.objects.list(f"logs/{ACME}/{run.id}/")) == 1


def test_what_a_crash_left_is_joined_when_it_is_asked_for(memory: Services, run: Run) -> None:
    put(memory, run, 0, 1)
    world.finish(memory, run, "timed_out", log_chunks=2)
    run = reload(run)
    assert logs.locate(memory, run) == logs.key(ACME, run.id) == reload(run).log_key
    assert logs.locate(memory, run) == logs.key(ACME, run.id)  # the row in hand is older
    assert whole(memory, run) == "0\n1\n"


def test_a_run_without_a_line_has_no_log(memory: Services, run: Run) -> None:
    world.finish(memory, run)
    assert logs.locate(memory, reload(run)) is None


# Live


def test_a_tail_shows_all_from_the_start_and_ends_with_the_run(memory: Services, run: Run) -> None:
    def line(text: str) -> bytes:
        return logs.format_record(AT, "INFO", text).encode()

    runs.claim(memory, run.id, 1, "worker-1", 15_000)
    logs.put_chunk(memory, ACME, run.id, 0, line("before"))
    seen: list[str] = []
    first = threading.Event()

    def follow() -> None:
        for record in logs.tail(memory, run.id, patience_s=0.2):
            if record is not None:
                seen.append(f"{record.seq} {record.text}")
                first.set()

    follower = threading.Thread(target=follow)
    follower.start()
    assert first.wait(5)
    logs.put_chunk(memory, ACME, run.id, 1, line("while") + line("it runs"))
    world.until(lambda: len(seen) == 3)
    logs.put_chunk(memory, ACME, run.id, 2, line("at the end"))
    key = logs.join_chunks(memory.objects, ACME, run.id)
    runs.finish(memory, run, 1, runs.Ending("succeeded", 5, log_key=key, log_chunks=3))
    follower.join(5)
    assert not follower.is_alive()
    assert seen == ["1 before", "2 while", "3 it runs", "4 at the end"]


def test_a_silent_tail_gives_a_sign_of_life(memory: Services, run: Run) -> None:
    assert list(itertools.islice(logs.tail(memory, run.id, patience_s=0.01), 3)) == [None, None, None]


def test_a_tail_of_an_ended_run_is_its_log(memory: Services, run: Run, clock: Clock) -> None:
    key = logs.put_whole(memory, ACME, run.id, logs.format_record(AT, "INFO", "x").encode())
    world.finish(memory, run, log_key=key)
    assert [record and record.text for record in logs.tail(memory, run.id, patience_s=1)] == ["x"]


def test_a_tail_of_chunks_that_go_while_it_reads_shows_each_line_once(
    memory: Services, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.claim(memory, run.id, 1, "worker-1", 15_000)
    for number in range(4):
        logs.put_chunk(memory, ACME, run.id, number, logs.format_record(AT, "INFO", str(number)).encode())
    get = MemoryObjects.get

    def joined_meanwhile(store: MemoryObjects, key: str) -> bytes | None:
        text = get(store, key)
        if key == logs.chunk_key(ACME, run.id, 0):
            with monkeypatch.context() as plain:
                plain.setattr(MemoryObjects, "get", get)
                whole = logs.join_chunks(store, ACME, run.id)
            last = logs.chunk_key(ACME, run.id, 3)  # the deletion has not come to the last one yet
            store.put(last, logs.format_record(AT, "INFO", "3").encode())
            runs.finish(memory, run, 1, runs.Ending("succeeded", 5, log_key=whole, log_chunks=4))
        return text

    monkeypatch.setattr(MemoryObjects, "get", joined_meanwhile)
    seen = [f"{record.seq} {record.text}" for record in logs.tail(memory, run.id, patience_s=0.1) if record]
    assert seen == ["1 0", "2 1", "3 2", "4 3"]
