"""A run that is tried again: each try with its own log, and what did not begin counted apart."""

import threading

from millrace import logs, runs
from millrace.models import Attempt, Run
from millrace.services import Services
from sandbox.job import Job, Kind, LogLine, Outcome, SandboxUnavailable, Sink
from tests.worker.support import FakeJails, FlakyObjects, new_script, outcome, reload, submit, worker_on
from worker.executor import MAX_ATTEMPTS
from worker.runlog import CHUNK_BYTES

AT_ONCE = {"count": 5, "delay_seconds": 0, "jitter": False}


def flaky(failures: int, size: int = 1) -> FakeJails:
    """Says a line, fails so many times, and then succeeds."""
    jails = FakeJails()

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        number = len(jails.jobs)
        sink.on_log([LogLine(1_700_000_000_000, "INFO", f"{number}" * size)])
        return outcome(Kind.EXCEPTION) if number <= failures else outcome()

    jails.behaviour = behave
    return jails


def carry(services: Services, jails: FakeJails, run: Run) -> None:
    """Every attempt that is sent, until there is none."""
    with worker_on(services, jails) as executor:
        while pending := services.queue.take():  # type: ignore[attr-defined]
            for run_id, attempt in pending:
                executor.execute(run_id, attempt)
            runs.release_due(services)


def texts(services: Services, run: Run) -> list[str]:
    return [record.text for record in logs.tail(services, run.id, 1) if record is not None]


def test_each_try_has_its_own_log_and_all_are_one_for_who_follows(local: Services) -> None:
    run = submit(local, new_script(local, retry=AT_ONCE))
    jails = flaky(failures=2)
    carry(local, jails, run)
    assert reload(run).status == "succeeded"
    assert [job.context["attempt"] for job in jails.jobs] == [1, 2, 3]
    keys = [each.log_key for each in Attempt.select().order_by(Attempt.number)]
    assert keys == [f"logs/acme/{run.id}.log", f"logs/acme/{run.id}/try-2.log"]
    assert reload(run).log_key == f"logs/acme/{run.id}/try-3.log"
    assert texts(local, run) == ["1", "2", "3"]


def test_long_logs_of_several_tries_are_not_mixed(local: Services) -> None:
    run = submit(local, new_script(local, retry=AT_ONCE))
    carry(local, flaky(failures=1, size=CHUNK_BYTES + 10), run)
    assert [set(text) for text in texts(local, run)] == [{"1"}, {"2"}]
    assert local.objects.list(f"logs/acme/{run.id}/") == [f"logs/acme/{run.id}/try-2.log"]


def test_what_a_lost_try_left_in_chunks_is_its_own(local: Services) -> None:
    run = submit(local, new_script(local, retry=AT_ONCE))
    assert runs.claim(local, run.id, 1, "lost-worker", 15_000)
    logs.put_chunk(local, "acme", run.id, 0, logs.format_record(0, "INFO", "of the lost one").encode())
    lost = runs.Ending(status="failed", duration_ms=1, error="lost", error_code="WORKER_LOST", log_chunks=1)
    assert runs.finish(local, run, 1, lost)
    assert local.queue.take() == [(run.id, 1), (run.id, 2)]  # type: ignore[attr-defined]
    local.queue.send(run.id, 2)
    carry(local, flaky(failures=0), run)
    assert [each is not None for each in logs.locate_earlier(local, reload(run))] == [True]
    mark = "(the worker was lost here: what the script wrote after this is missing)"
    assert texts(local, run) == [f"of the lost one\n{mark}", "1"]


def test_an_outage_of_the_store_uses_up_nothing_however_long_it_is(
    local: Services, objects_of: FlakyObjects
) -> None:
    run = submit(local, new_script(local, retry=AT_ONCE))
    objects_of.away = True
    with worker_on(local, flaky(failures=0)) as executor:
        for _ in range(MAX_ATTEMPTS + 2):  # as often as the sweeper sends it
            executor.execute(run.id, 1)
            assert (reload(run).status, reload(run).attempt) == ("queued", 0)
        objects_of.away = False
        executor.execute(run.id, 1)
    assert reload(run).status == "succeeded"


def test_tries_do_not_use_up_the_attempts_that_the_platform_has(local: Services) -> None:
    run = submit(local, new_script(local, retry=AT_ONCE))
    jails = flaky(failures=MAX_ATTEMPTS + 1)
    failed: list[int] = []

    def before(cancel: threading.Event) -> Outcome | None:
        if len(jails.jobs) == MAX_ATTEMPTS and not failed:
            failed.append(1)
            raise SandboxUnavailable("no jail")
        return None

    jails.before = before
    carry(local, jails, run)
    assert (reload(run).status, len(failed), reload(run).tries) == ("succeeded", 1, MAX_ATTEMPTS + 1)


def test_a_payload_that_the_store_has_lost_ends_the_run(local: Services) -> None:
    """It would hold its place for ever, since the store that answers is not away."""
    run = submit(local, new_script(local), "x" * 100_000)
    local.objects.delete([str(run.payload_key)])
    carry(local, flaky(failures=0), run)
    assert (reload(run).status, reload(run).error_code) == ("failed", "PLATFORM_ERROR")


def test_who_comes_to_follow_a_later_try_reads_the_earlier_ones_first(local: Services) -> None:
    run = submit(local, new_script(local, retry=AT_ONCE))
    seen: list[str] = []
    jails = FakeJails()

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        number = len(jails.jobs)
        sink.on_log([LogLine(1_700_000_000_000, "INFO", f"{number} {part}" + "x" * CHUNK_BYTES) for part in "ab"])
        if number == 2:
            follow = logs.tail(local, run.id, 5)
            seen.extend(record.text[:3] for record, _ in zip(filter(None, follow), range(3), strict=False))
            follow.close()  # type: ignore[attr-defined]
        return outcome(Kind.EXCEPTION) if number == 1 else outcome()

    jails.behaviour = behave
    carry(local, jails, run)
    assert seen == ["1 a", "1 b", "2 a"]
    assert [text[:3] for text in texts(local, run)] == ["1 a", "1 b", "2 a", "2 b"]
