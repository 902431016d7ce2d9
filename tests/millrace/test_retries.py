"""What a retry policy makes of failures, and what ends in the dead letters."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import admission, deadletters, logs, repair, replays, runs, scripts
from millrace.errors import Conflict, Invalid
from millrace.history import Filter
from millrace.models import Attempt, DeadLetter, Run, Script
from millrace.models.run import FAILED, QUEUED, SUCCEEDED, TIMED_OUT, WORKER_LOST
from millrace.retries import LOST_IN_A_ROW, MOST, Policy
from millrace.services import Services
from tests import world
from tests.world import ACME, Clock, reload, sent, start

TWICE = {"count": 2, "delay_seconds": 4, "factor": 3, "max_delay_seconds": 600, "jitter": False}


def retrying(services: Services, slug: str = "hello", **policy: Any) -> Script:
    script = world.script(services, slug)
    Script.update(retry=Policy.of({**TWICE, **policy}).as_json()).where(Script.uuid == script.uuid).execute()  # type: ignore[union-attr]
    return Script.get_by_id(script.uuid)


def fail(
    services: Services, run: Run, status: str = FAILED, code: str = "SCRIPT_ERROR", error: str = "Error: no"
) -> None:
    assert world.finish(services, run, status, error=error, error_code=code)


def lose(services: Services, clock: Clock, run: Run) -> None:
    """Its worker claims it and is never heard of again."""
    assert runs.claim(services, run.id, reload(run).attempt + 1, "worker-1", 15_000)
    clock.forward(s=60)
    lease = next(each for each in repair.leases() if each.run_id == run.id)
    assert repair.fail_lost(services, lease)


def let_it_be_due(services: Services, clock: Clock, run: Run) -> None:
    clock.now = max(clock.now, reload(run).available_at)
    assert runs.release_due(services) == 1


@given(st.integers(0, MOST), st.floats(0, 3600), st.floats(1, 10), st.floats(0, 86_400), st.text())
def test_delays_grow_up_to_their_maximum_and_jitter_takes_at_most_half(
    tries: int, delay: float, factor: float, most: float, run_id: str
) -> None:
    plain = Policy(3, delay, factor, most, jitter=False)
    whole, less = plain.delay_ms(run_id, tries), Policy(3, delay, factor, most).delay_ms(run_id, tries)
    assert whole <= round(most * 1000)
    assert whole <= plain.delay_ms(run_id, tries + 1)
    assert whole / 2 - 1 <= less <= whole


def test_runs_that_fail_together_do_not_come_back_together() -> None:
    assert len({Policy(3).delay_ms(f"run-{number}", 1) for number in range(100)}) > 90


@pytest.mark.parametrize(
    ("on", "status", "code", "error", "covered"),
    [
        (("failed",), FAILED, "SCRIPT_ERROR", "Error: x", True),
        (("failed",), FAILED, "OUT_OF_MEMORY", None, True),
        (("failed",), TIMED_OUT, "TIMED_OUT", None, False),
        (("timed_out",), TIMED_OUT, "TIMED_OUT", None, True),
        (("failed",), FAILED, WORKER_LOST, None, False),
        (("worker_lost",), FAILED, WORKER_LOST, None, True),
        (("failed",), FAILED, "BAD_RESULT", None, False),
        (("failed",), FAILED, "NO_HANDLER", None, False),
        (("AxiosError",), FAILED, "SCRIPT_ERROR", "AxiosError: 503", True),
        (("AxiosError",), FAILED, "SCRIPT_ERROR", "TypeError: AxiosError", False),
        (("AxiosError",), FAILED, "KILLED", "AxiosError: 503", False),
        (("failed", "timed_out", "worker_lost"), SUCCEEDED, None, None, False),
        (("failed",), "cancelled", "CANCELLED", None, False),
    ],
)
def test_a_policy_covers_what_it_names(
    on: tuple[str, ...], status: str, code: str | None, error: str | None, covered: bool
) -> None:
    assert Policy(1, on=on).covers(status, code, error) is covered


@pytest.mark.parametrize("field", [{"count": 0}, {"count": 21}, {"factor": 0.5}, {"delay_seconds": -1}, {"on": []}])
def test_a_policy_that_breaks_a_rule_is_refused_by_name(field: dict[str, Any]) -> None:
    policy = Policy.of({"count": 1, **field})
    assert policy is not None
    with pytest.raises(Invalid, match=f"retry.{next(iter(field))}"):
        policy.check()


def test_a_run_that_fails_is_tried_again_later_and_each_attempt_is_kept(memory: Services, clock: Clock) -> None:
    run = start(memory, retrying(memory))
    fail(memory, run, error="Error: one")
    waiting = reload(run)
    assert (waiting.status, waiting.attempt, waiting.tries) == (QUEUED, 1, 1)
    assert waiting.available_at == clock.now + 4_000
    assert admission.held(run.script_id) == 0
    reason = admission.waiting_reason(waiting, waiting.script, clock.now)
    assert reason == "not before 4 s from now: it is tried again then"
    sent(memory)
    assert runs.release_due(memory) == 0
    let_it_be_due(memory, clock, run)
    assert sent(memory) == [(run.id, 2)]
    fail(memory, run, TIMED_OUT, "TIMED_OUT", "Timed out")
    assert reload(run).available_at == clock.now + 12_000
    let_it_be_due(memory, clock, run)
    world.finish(memory, run, result="1")
    assert (reload(run).status, reload(run).attempt) == (SUCCEEDED, 3)
    kept = [(each.number, each.status, each.error) for each in logs.attempts(reload(run))]
    assert kept == [(1, FAILED, "Error: one"), (2, TIMED_OUT, "Timed out")]
    assert DeadLetter.select().count() == 0


def test_a_run_that_has_used_up_its_tries_ends_in_the_dead_letters(memory: Services, clock: Clock) -> None:
    run = start(memory, retrying(memory))
    for _ in range(2):
        fail(memory, run)
        let_it_be_due(memory, clock, run)
    fail(memory, run, error="Error: last")
    assert (reload(run).status, reload(run).error) == (FAILED, "Error: last")
    (letter,) = deadletters.page(ACME, None, 10)[0]
    assert (letter.run_id, letter.reason) == (run.id, "It failed 3 times.")


@pytest.mark.parametrize("code", ["NO_HANDLER", "BAD_RESULT", "RESULT_TOO_LARGE"])
def test_what_no_try_would_mend_goes_to_the_dead_letters_at_once(memory: Services, code: str) -> None:
    run = start(memory, retrying(memory))
    fail(memory, run, code=code)
    assert reload(run).status == FAILED
    (letter,) = deadletters.page(ACME, None, 10)[0]
    assert (letter.run_id, letter.reason) == (run.id, "No further try would mend it.")


def test_a_failure_that_the_policy_does_not_name_ends_the_run(memory: Services) -> None:
    run = start(memory, retrying(memory, on=["timed_out"]))
    fail(memory, run)
    assert (reload(run).status, Attempt.select().count(), DeadLetter.select().count()) == (FAILED, 0, 0)


def test_without_a_policy_a_lost_worker_ends_the_run(memory: Services, clock: Clock) -> None:
    run = start(memory, world.script(memory))
    lose(memory, clock, run)
    assert (reload(run).status, reload(run).error_code, DeadLetter.select().count()) == (FAILED, WORKER_LOST, 0)


def test_a_run_that_loses_worker_after_worker_is_given_up(memory: Services, clock: Clock) -> None:
    run = start(memory, retrying(memory, count=20))
    for _ in range(LOST_IN_A_ROW - 1):
        lose(memory, clock, run)
        assert reload(run).status == QUEUED
        let_it_be_due(memory, clock, run)
    lose(memory, clock, run)
    assert reload(run).status == FAILED
    assert DeadLetter.get().reason == f"It lost {LOST_IN_A_ROW} workers in a row."


def test_a_failure_of_its_own_between_lost_workers_starts_the_count_anew(memory: Services, clock: Clock) -> None:
    run = start(memory, retrying(memory, count=20))
    for end in (lose, lose, fail, lose, lose):
        end(memory, run) if end is fail else lose(memory, clock, run)
        let_it_be_due(memory, clock, run)
    assert reload(run).status == QUEUED


def test_a_worker_that_comes_back_late_changes_nothing(memory: Services, clock: Clock) -> None:
    run = start(memory, retrying(memory))
    lose(memory, clock, run)
    late = runs.Ending(status=SUCCEEDED, duration_ms=1, result='"late"')
    assert not runs.finish(memory, run, 1, late)
    let_it_be_due(memory, clock, run)
    assert runs.claim(memory, run.id, 2, "worker-2", 15_000)
    assert not runs.finish(memory, run, 1, late)
    assert runs.finish(memory, run, 2, runs.Ending(status=SUCCEEDED, duration_ms=1, result='"right"'))
    assert (reload(run).result, reload(run).attempt) == ('"right"', 2)


def test_a_run_that_waits_for_its_next_try_can_be_cancelled(memory: Services, clock: Clock) -> None:
    run = start(memory, retrying(memory))
    fail(memory, run)
    runs.cancel(memory, reload(run))
    assert reload(run).status == "cancelled"
    clock.forward(s=60)
    assert runs.release_due(memory) == 0


def test_a_run_that_was_to_be_cancelled_is_not_tried_again(memory: Services) -> None:
    run = start(memory, retrying(memory))
    assert runs.claim(memory, run.id, 1, "worker-1", 15_000)
    runs.cancel(memory, run)
    assert runs.finish(memory, run, 1, runs.Ending(status=FAILED, duration_ms=1, error="Error: x", error_code="KILLED"))
    assert reload(run).status == FAILED


def test_a_failure_of_two_at_once_counts_as_one_try(memory: Services) -> None:
    run = start(memory, retrying(memory))
    assert runs.claim(memory, run.id, 1, "worker-1", 15_000)
    ending = runs.Ending(status=FAILED, duration_ms=1, error="Error: x", error_code="SCRIPT_ERROR")
    answers = world.at_once(memory.database, *[lambda: runs.finish(memory, run, 1, ending)] * 4)
    assert sorted(answers) == [False, False, False, True]
    assert (reload(run).tries, Attempt.select().count()) == (1, 1)


def test_a_place_that_a_failed_try_leaves_goes_to_the_next_in_line(memory: Services) -> None:
    script = retrying(memory)
    Script.update(max_concurrent_runs=1).execute()
    first, second = start(memory, script), start(memory, script)
    sent(memory)
    fail(memory, first)
    assert sent(memory) == [(second.id, 1)]


def test_a_message_that_kills_its_workers_ends_in_the_dead_letters(memory: Services) -> None:
    run, other = start(memory, world.script(memory)), start(memory, world.script(memory, "other"))
    memory.queue.poison += [(run.id, 1), ("01a21852-6c03-7ea3-bb39-000000000000", 1)]  # type: ignore[attr-defined]
    assert repair.bury_poisoned(memory) == 1
    assert repair.bury_poisoned(memory) == 0
    assert (reload(run).status, reload(run).error_code) == (FAILED, WORKER_LOST)
    assert [letter.run_id for letter in deadletters.page(ACME, None, 10)[0]] == [run.id]
    assert reload(other).status == QUEUED


def test_a_dead_letter_is_sent_again_once(memory: Services, clock: Clock) -> None:
    run = start(memory, retrying(memory, count=1), {"n": 1})
    fail(memory, run)
    let_it_be_due(memory, clock, run)
    fail(memory, run)
    letter = DeadLetter.get()
    answers = world.at_once(memory.database, *[lambda: replays.redrive(memory, letter)] * 4)
    started = [each for each in answers if isinstance(each, Run)]
    assert [type(each) for each in answers if not isinstance(each, Run)] == [Conflict] * 3
    assert len(started) == 1 and (started[0].payload, started[0].replay_of) == ('{"n":1}', run.id)
    assert DeadLetter.get().redriven_run_id == started[0].id
    assert Run.select().count() == 2


def test_a_replay_has_the_same_input_on_the_version_that_is_asked_for(memory: Services) -> None:
    script = world.script(memory)
    run = start(memory, script, {"a": ["é", None]})
    with pytest.raises(Conflict):
        replays.replay(memory, run, same_version=True)
    world.finish(memory, run)
    scripts.update(memory, script, scripts.Change(source=b"exports.handler = () => 2\n"))
    same, current = (replays.replay(memory, reload(run), same_version=same).run for same in (True, False))
    assert (same.version, current.version) == (1, 2)
    assert same.payload == current.payload == run.payload
    assert same.replay_of == run.id


def test_many_are_replayed_by_filter_oldest_first(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    ended = []
    for number in range(4):
        ended.append(start(memory, script, number))
        clock.forward(ms=10)
        world.finish(memory, ended[-1], "succeeded" if number == 1 else FAILED)
    start(memory, script, 9)
    started = replays.replay_many(memory, ACME, Filter(script=script.uuid, statuses=(FAILED,)), same_version=False)
    assert [Run.get_by_id(each).payload for each in started.started] == ["0", "2", "3"]
    assert len(replays.replay_many(memory, ACME, Filter(), same_version=False, limit=2).started) == 2
