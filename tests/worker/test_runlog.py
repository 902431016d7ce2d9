"""The way of a run's lines into the object store."""

import base64
import dataclasses
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import logs
from millrace.errors import Unavailable
from millrace.objects import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from millrace.redaction import Redactor
from millrace.services import Services
from sandbox import output, protocol
from sandbox.job import LogLine
from tests.worker.support import FlakyObjects, eventually
from worker import runlog
from worker.runlog import CHUNK_BYTES, WAITING_BYTES, RunLog, Shipper

CHUNKS = "logs/acme/run-1/"
WHOLE = "logs/acme/run-1.log"


@pytest.fixture
def database_kind() -> str:
    """No row is written here."""
    return "sqlite"


@pytest.fixture
def shipper() -> Iterator[Shipper]:
    shipper = Shipper()
    yield shipper
    shipper.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away is not waited for so long."""
    monkeypatch.setattr(runlog, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(runlog, "HOLD_UP_S", 0.2)


def new_log(services: Services, shipper: Shipper, *, attempt: int = 1, redactor: Redactor | None = None) -> RunLog:
    return RunLog(services, "acme", "run-1", attempt, redactor, shipper, threading.Event())


def line(text: str, at: int = 0) -> LogLine:
    return LogLine(1_700_000_000_000 + at, "INFO", text)


def whole(services: Services) -> str:
    return (services.objects.get(WHOLE) or b"").decode()


def texts(services: Services) -> list[str]:
    return [record.text for record in logs.parse([services.objects.get(WHOLE) or b""])]


def test_a_run_that_says_nothing_has_no_log(local: Services, shipper: Shipper) -> None:
    assert new_log(local, shipper).close() == runlog.Stored(None, 0, 0)
    assert local.objects.list("") == []


def test_a_short_run_stores_one_object(local: Services, objects_of: FlakyObjects, shipper: Shipper) -> None:
    run_log = new_log(local, shipper)
    run_log.add([line("one"), line("two\nlines", 5)])
    run_log.add([line("three")])
    assert run_log.close() == runlog.Stored(WHOLE, 0, 0)
    assert objects_of.writes == [WHOLE]
    assert whole(local) == (
        "2023-11-14T22:13:20.000Z INFO   one\n"
        "2023-11-14T22:13:20.005Z INFO   two\n"
        "    lines\n"
        "2023-11-14T22:13:20.000Z INFO   three\n"
    )


def test_a_line_is_in_the_store_within_a_second_while_the_run_goes_on(local: Services, shipper: Shipper) -> None:
    run_log = new_log(local, shipper)
    with local.bus.listen(logs.topic("run-1")) as hints:
        run_log.add([line("early")])
        assert hints.get(timeout=1) == "0"
    assert local.objects.list(CHUNKS) == [f"{CHUNKS}00000000.log"]
    run_log.add([line("late")])
    assert run_log.close() == runlog.Stored(WHOLE, 2, 0)
    assert texts(local) == ["early", "late"]
    assert local.objects.list(CHUNKS) == []


def test_a_mebibyte_does_not_wait_and_every_line_is_kept_in_order(local: Services, shipper: Shipper) -> None:
    run_log = new_log(local, shipper)
    lines = [line(f"{number} " + "x" * 1000) for number in range(20_000)]
    for start in range(0, len(lines), 100):
        run_log.add(lines[start : start + 100])
    stored = run_log.close()
    assert stored.lost_bytes == 0
    assert stored.chunks >= 15
    assert [int(text.split()[0]) for text in texts(local)] == list(range(20_000))


def test_chunks_are_about_a_mebibyte_and_end_with_a_line(
    local: Services, objects_of: FlakyObjects, shipper: Shipper
) -> None:
    run_log = new_log(local, shipper)
    for _ in range(400):
        run_log.add([line("x" * 10_000)])
    eventually(lambda: len(objects_of.list(CHUNKS)) >= 3)
    sizes = [len(objects_of.get(key) or b"") for key in objects_of.list(CHUNKS)]
    assert all(CHUNK_BYTES <= size < CHUNK_BYTES + 20_000 for size in sizes[:3])
    assert all((objects_of.get(key) or b"").endswith(b"\n") for key in objects_of.list(CHUNKS))
    run_log.close()


def test_a_second_attempt_keeps_the_first_ones_chunks(local: Services, shipper: Shipper) -> None:
    logs.put_chunk(local, "acme", "run-1", 0, logs.format_record(0, "INFO", "first attempt").encode())
    run_log = new_log(local, shipper, attempt=2)
    run_log.add([line("second attempt")])
    assert run_log.close().key == WHOLE
    assert texts(local) == ["first attempt", "second attempt"]


def test_a_store_that_is_away_for_a_while_costs_nothing(
    local: Services, objects_of: FlakyObjects, shipper: Shipper
) -> None:
    run_log = new_log(local, shipper)
    objects_of.away = True
    for number in range(2000):
        run_log.add([line(f"{number} " + "x" * 1000)])
    eventually(lambda: run_log._store_away)
    objects_of.away = False
    assert run_log.close().lost_bytes == 0
    assert [int(text.split()[0]) for text in texts(local)] == list(range(2000))


def test_memory_is_bounded_while_the_store_is_away_and_the_gap_is_said(
    local: Services, objects_of: FlakyObjects, shipper: Shipper
) -> None:
    run_log = new_log(local, shipper)
    objects_of.away = True
    tracemalloc.start()
    for number in range(300):
        run_log.add([line(f"{number} " + "x" * 100_000)])  # 30 MB in all
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * WAITING_BYTES
    objects_of.away = False
    eventually(lambda: len(objects_of.list(CHUNKS)) > 5)
    run_log.add([line("after the gap")])
    stored = run_log.close()
    found = texts(local)
    assert stored.key == WHOLE
    assert 15_000_000 < stored.lost_bytes < 30_000_000
    assert found[-2] == f"{stored.lost_bytes} bytes of log are missing here: the object store did not answer"
    assert found[-1] == "after the gap"


def test_a_store_that_stays_away_is_given_up_and_what_is_lost_is_counted(
    local: Services, objects_of: FlakyObjects, shipper: Shipper
) -> None:
    run_log = new_log(local, shipper)
    run_log.add([line("shipped")])
    eventually(lambda: len(objects_of.list(CHUNKS)) == 1)
    objects_of.away = True
    run_log.add([line("lost")])
    stored = run_log.close()
    assert (stored.key, stored.chunks) == (None, 1)
    assert stored.lost_bytes == len(logs.format_record(0, "INFO", "lost"))


def test_a_short_run_without_a_store_loses_its_lines_and_says_so(
    local: Services, objects_of: FlakyObjects, shipper: Shipper
) -> None:
    run_log = new_log(local, shipper)
    objects_of.away = True
    run_log.add([line("lost")])
    # One chunk: so the sweeper looks, and marks what is missing.
    assert run_log.close() == runlog.Stored(None, 1, len(logs.format_record(0, "INFO", "lost")))


def test_a_cancelled_run_does_not_wait_for_the_store(
    local: Services, objects_of: FlakyObjects, shipper: Shipper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog, "HOLD_UP_S", 3600)
    given_up = threading.Event()
    run_log = RunLog(local, "acme", "run-1", 1, None, shipper, given_up)
    monkeypatch.setattr(run_log, "ship", lambda: None)  # a store that takes for ever
    given_up.set()
    for _ in range(10):
        run_log.add([line("x" * CHUNK_BYTES)])
    run_log.discard()


SECRET = "pa$$/word with spaces"


@pytest.mark.parametrize(
    "shown",
    [SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode(),
     base64.b64encode(f"user:{SECRET}".encode()).decode()],
)  # fmt: skip
def test_secrets_are_masked_also_when_they_are_encoded(local: Services, shipper: Shipper, shown: str) -> None:
    run_log = new_log(local, shipper, redactor=Redactor([SECRET]))
    run_log.add([line("before"), line(f"<{shown}>"), line("after")])
    run_log.close()
    found = texts(local)
    assert (found[0], found[2]) == ("before", "after")
    assert found[1].endswith("***>")
    assert shown not in whole(local)


def test_a_secret_of_several_lines_is_masked(local: Services, shipper: Shipper) -> None:
    key = "-----BEGIN-----\nabcdefgh\nijklmnop\n-----END-----"
    run_log = new_log(local, shipper, redactor=Redactor([key]))
    run_log.add([line(f"key: {key}!")])
    run_log.close()
    assert texts(local) == ["key: ***!"]


def test_lines_that_hold_what_we_put_between_lines_stay_apart(local: Services, shipper: Shipper) -> None:
    run_log = new_log(local, shipper, redactor=Redactor([SECRET]))
    run_log.add([line(f"a\x1e\x00\x1e{SECRET}"), line(SECRET)])
    run_log.close()
    found = texts(local)
    assert len(found) == 2
    assert SECRET not in whole(local)
    assert found[1] == "***"


def test_a_secret_that_a_piece_of_a_line_begins_is_not_shown_though_the_log_ends_there(
    local: Services, shipper: Shipper
) -> None:
    run_log = new_log(local, shipper, redactor=Redactor([SECRET]))
    run_log.add([line("x" * (protocol.LOG_RECORD_BYTES - 10) + SECRET[:10])])
    run_log.close()
    first, second = texts(local)
    assert set(first) == {"x"}
    assert second == "***"


@given(st.text(st.sampled_from("\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x00\x1f aé€😀"), max_size=20))
def test_a_log_is_never_longer_when_stored_than_it_was_counted(text: str) -> None:
    stored = len(logs.format_record(1_700_000_000_000, "STDERR", text).encode())
    assert stored <= output.stored_bytes(text)
    assert output.stored_bytes(text + "x") == len(logs.format_record(0, "INFO", text + "x").encode())


def test_what_a_full_log_stores_is_within_its_limit(local: Services, shipper: Shipper) -> None:
    feed = output.LogFeed(1_000_000, started_ms=0)
    texts = ["\n" * 100_000, "\ufffd" * 100_000, "\0" * 40_000]
    feed.add_records(protocol.Records(["INFO"] * 3, [1] * 3, texts))
    feed.add_raw("STDOUT", [""] * 40_000)
    assert feed.is_full
    run_log = new_log(local, shipper)
    run_log.add(feed.take())
    run_log.close()
    assert 950_000 < feed.kept_bytes <= 1_000_000
    assert len(whole(local)) <= feed.kept_bytes


def test_nobody_can_write_a_line_that_passes_for_another_record(local: Services, shipper: Shipper) -> None:
    run_log = new_log(local, shipper)
    run_log.add([line("x\n2023-11-14T22:13:20.000Z ERROR  forged\r2023-11-14T22:13:20.000Z ERROR  too")])
    run_log.close()
    assert len(texts(local)) == 1


def test_the_shipper_sleeps_while_nobody_logs(local: Services, shipper: Shipper) -> None:
    run_log = new_log(local, shipper)
    run_log.add([line("x")])
    run_log.close()
    waits: list[float | None] = []
    wait = shipper._woken.wait

    def noted(timeout: float | None = None) -> bool:
        waits.append(timeout)
        return wait(timeout)

    shipper._woken.wait = noted  # type: ignore[method-assign]
    shipper.wake()
    eventually(lambda: waits[-1:] == [None])


# What a put leaves unsure


class ForgetfulObjects(FlakyObjects):
    """Stores the next objects and then fails, as when an answer is lost."""

    failures = 0

    def put(self, key: str, data: bytes | Iterable[bytes], *, content_type: str = "") -> None:
        super().put(key, data, content_type=content_type)
        if self.failures:
            self.failures -= 1
            raise Unavailable("the answer was lost")


def test_a_chunk_whose_answer_was_lost_is_stored_again_as_it_was(local: Services, shipper: Shipper) -> None:
    objects = ForgetfulObjects()
    local = dataclasses.replace(local, objects=objects)
    run_log = new_log(local, shipper)
    objects.failures = 1
    run_log.add([line("one")])
    eventually(lambda: objects.writes != [])
    first = objects.get(f"{CHUNKS}00000000.log")
    run_log.add([line("two")])
    eventually(lambda: len(objects.list(CHUNKS)) == 2)
    assert objects.get(f"{CHUNKS}00000000.log") == first
    assert run_log.close() == runlog.Stored(WHOLE, 2, 0)
    assert texts(local) == ["one", "two"]


def test_a_chunk_whose_answer_was_lost_at_the_end_leaves_no_object_behind(local: Services, shipper: Shipper) -> None:
    objects = ForgetfulObjects()
    local = dataclasses.replace(local, objects=objects)
    run_log = new_log(local, shipper)
    objects.failures = 1
    run_log.add([line("one")])
    eventually(lambda: objects.writes != [])
    assert run_log.close() == runlog.Stored(WHOLE, 1, 0)
    assert objects.list("") == [WHOLE]


class SlowObjects(FlakyObjects):
    """The first put waits until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def put(self, key: str, data: bytes | Iterable[bytes], *, content_type: str = "") -> None:
        if not self.begun.is_set():
            self.begun.set()
            assert self.go_on.wait(30)
        super().put(key, data, content_type=content_type)


def test_a_put_is_waited_for_as_long_as_a_try_of_the_client_may_take() -> None:
    assert runlog.PATIENCE_S > CONNECT_TIMEOUT_S + READ_TIMEOUT_S


def test_the_tail_waits_for_a_slow_put(local: Services, shipper: Shipper) -> None:
    objects = SlowObjects()
    local = dataclasses.replace(local, objects=objects)
    run_log = new_log(local, shipper)
    run_log.add([line("one")])
    assert objects.begun.wait(10)
    run_log.add([line("two")])
    threading.Timer(0.3, objects.go_on.set).start()
    assert run_log.close() == runlog.Stored(WHOLE, 2, 0)
    assert texts(local) == ["one", "two"]


def test_what_comes_after_a_put_that_never_ends_is_stored_and_only_that_put_is_lost(
    local: Services, shipper: Shipper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog, "PATIENCE_S", 0.1)
    objects = SlowObjects()
    local = dataclasses.replace(local, objects=objects)
    run_log = new_log(local, shipper)
    run_log.add([line("one")])
    assert objects.begun.wait(10)
    run_log.add([line("two")])
    stored = run_log.close()
    assert stored == runlog.Stored(None, 2, len(logs.format_record(0, "INFO", "one")))
    assert objects.list(CHUNKS) == [f"{CHUNKS}00000001.log"]
    objects.go_on.set()  # and if it arrives after all, it has its place
    eventually(lambda: len(objects.list(CHUNKS)) == 2)
    logs.join_chunks(objects, "acme", "run-1")
    assert texts(local) == ["one", "two"]


def test_an_error_of_our_own_costs_neither_the_lines_nor_the_shipper(
    local: Services, shipper: Shipper, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_chunk, failures = logs.put_chunk, [TypeError("a bug"), TypeError("a bug")]

    def flaky(*arguments: object) -> None:
        if failures:
            raise failures.pop()
        put_chunk(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(logs, "put_chunk", flaky)
    run_log = new_log(local, shipper)
    run_log.add([line("one")])
    eventually(lambda: len(local.objects.list(CHUNKS)) == 1)
    assert run_log.close() == runlog.Stored(WHOLE, 1, 0)
    assert texts(local) == ["one"]


def test_a_log_that_cannot_be_shipped_does_not_stop_the_others(
    local: Services, shipper: Shipper, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = new_log(local, shipper), new_log(local, shipper)
    failed = threading.Event()

    def ship() -> None:
        failed.set()
        raise TypeError("a bug")

    monkeypatch.setattr(broken, "ship", ship)
    broken.add([line("never")])
    assert failed.wait(10)
    sound.add([line("one")])
    eventually(lambda: len(local.objects.list(CHUNKS)) == 1)
    broken.discard()
    sound.close()


def test_lines_that_there_was_no_time_to_mask_are_counted_and_said(
    local: Services, shipper: Shipper, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_log = new_log(local, shipper, redactor=Redactor([SECRET]))
    run_log.begin(60)
    run_log.add([line("one"), line(SECRET)])
    monkeypatch.setattr(run_log._masking, "_overtime_s", 1.0)
    run_log.add([line(SECRET), line("x" * 100)])
    assert run_log.close().lost_bytes == len(SECRET) + 100
    missing = f"{len(SECRET) + 100} bytes of log are missing here: masking secrets took longer than the run had time"
    assert texts(local) == ["one", "***", missing]
