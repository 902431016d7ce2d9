"""Who may run now, and who waits."""

import threading

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import admission, runs, scripts
from millrace.models import Run, Script
from millrace.services import Services
from tests import world
from tests.world import Clock, at_once, reload, sent, start


def test_runs_over_the_limit_wait_and_follow_in_order(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=2)
    started = [start(memory, script) for _ in range(5)]
    assert sent(memory) == [(started[0].id, 1), (started[1].id, 1)]
    for number in range(3):
        world.finish(memory, started[number])
        assert sent(memory) == [(started[number + 2].id, 1)]
    assert admission.held(script.uuid) == 2


def test_a_place_is_held_from_the_sending_to_the_end(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    run = start(memory, script)
    assert admission.held(script.uuid) == 1
    runs.claim(memory, run.id, 1, "worker-1", 15_000)
    assert admission.held(script.uuid) == 1
    runs.release(memory, run.id, 1, "worker-1")
    assert admission.held(script.uuid) == 1
    runs.cancel(memory, run)
    assert admission.held(script.uuid) == 0


def test_one_script_does_not_take_the_places_of_another(memory: Services) -> None:
    one = world.script(memory, "one-script", max_concurrent_runs=1)
    two = world.script(memory, "two-scripts", max_concurrent_runs=1)
    first, second = start(memory, one), start(memory, two)
    assert sent(memory) == [(first.id, 1), (second.id, 1)]


def test_nobody_jumps_the_queue(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    start(memory, script)
    waiting = start(memory, script)
    sent(memory)
    scripts.update(memory, script, scripts.Change(columns={"max_concurrent_runs": 2}))
    late = start(memory, script)  # a place is free, but somebody waits for it
    assert sent(memory) == []
    assert runs.release_due(memory) == 1
    assert sent(memory) == [(waiting.id, 1)]
    assert reload(late).sent_at is None


def test_a_delayed_run_takes_its_turn_when_it_is_due(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    delayed = start(memory, script, available_at=clock.now + 1_000)
    first = start(memory, script)
    clock.forward(ms=2_000)
    later = start(memory, script)
    assert sent(memory) == [(first.id, 1)]
    world.finish(memory, first)
    assert sent(memory) == [(delayed.id, 1)]
    assert reload(later).sent_at is None


def test_releasing_looks_only_at_scripts_with_a_place(memory: Services, clock: Clock) -> None:
    full = world.script(memory, "full-one", max_concurrent_runs=1)
    free = world.script(memory, "free-one", max_concurrent_runs=1)
    start(memory, full)
    start(memory, full)
    due = start(memory, free, available_at=clock.now + 5)
    start(memory, free, available_at=clock.now + 10_000)
    sent(memory)
    assert admission.scripts_with_place(clock.now, 10) == []
    clock.forward(ms=5)
    assert admission.scripts_with_place(clock.now, 10) == [free.uuid]
    assert runs.release_due(memory) == 1
    assert sent(memory) == [(due.id, 1)]


def test_a_clock_set_back_lets_nobody_wait_for_it_and_nobody_jump_the_queue(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    before = [start(memory, script) for _ in range(3)]
    delayed = start(memory, script, available_at=clock.now + 60_000)
    sent(memory)
    clock.forward(s=-3600)
    assert admission.waiting_reason(before[1], script, clock.now) == "1 of 1 running for this script"
    assert runs.release_due(memory) == 0  # the place is taken
    clock.forward(ms=1)
    after = start(memory, script)
    order = []
    for _ in range(4):
        world.finish(memory, Run.get(Run.sent_at.is_null(False), Run.status == "queued"))
        order += [run_id for run_id, _ in sent(memory)]
    assert order == [before[1].id, before[2].id, after.id]
    assert reload(delayed).available_at == clock.now - 1 + 3_660_000  # a moment that somebody named stays


def test_a_free_place_is_used_after_the_clock_was_set_back(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    _, waiting = start(memory, script), start(memory, script)
    scripts.update(memory, script, scripts.Change(columns={"max_concurrent_runs": 2}))
    sent(memory)
    clock.forward(s=-3600)
    assert runs.release_due(memory) == 1
    assert sent(memory) == [(waiting.id, 1)]


def test_waiting_has_a_reason_that_a_person_can_read(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    first, second = start(memory, script), start(memory, script)
    delayed = start(memory, script, available_at=clock.now + 2_500)
    assert admission.waiting_reason(first, script, clock.now) is None
    assert admission.waiting_reason(second, script, clock.now) == "1 of 1 running for this script"
    assert admission.waiting_reason(delayed, script, clock.now) == "not before 3 s from now"


def test_a_raised_limit_is_used_and_a_lowered_one_is_kept(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=4)
    started = [start(memory, script) for _ in range(6)]
    script = scripts.update(memory, script, scripts.Change(columns={"max_concurrent_runs": 1}))
    for run in started[:3]:
        world.finish(memory, run)
    assert admission.held(script.uuid) == 1
    scripts.update(memory, script, scripts.Change(columns={"max_concurrent_runs": 3}))
    runs.release_due(memory)
    assert admission.held(script.uuid) == 3


def test_whoever_comes_and_goes_at_once_the_limit_holds(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=3)
    over: list[int] = []
    busy = threading.Event()

    def come() -> None:
        for _ in range(6):
            start(memory, script)

    def go() -> None:
        for _ in range(6):
            # All at once: a query that is still being read cannot become a write on SQLite.
            for run in list(Run.select().where(Run.sent_at.is_null(False), Run.status == "queued").limit(2)):
                if runs.claim(memory, run.id, 1, "worker-1", 15_000):
                    runs.finish(memory, run, 1, runs.Ending("succeeded", 1))

    def watch() -> None:
        while not busy.is_set():
            over.append(admission.held(script.uuid))

    def work() -> None:
        answers = at_once(memory.database, come, come, go, go, lambda: runs.release_due(memory))
        busy.set()
        assert [each for each in answers if isinstance(each, Exception)] == []

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    watcher.join(10)
    assert max(over) <= 3
    while Run.select().where(Run.status == "queued").exists():
        go()
        assert admission.held(script.uuid) <= 3
    assert Run.select().count() == 12
    assert len(sent(memory)) == len(set(run.id for run in Run.select())) == 12


_STEPS = st.lists(st.sampled_from(["come", "finish", "cancel waiting", "delay", "raise", "lower", "time"]), max_size=30)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_whatever_happens_the_limit_holds_and_the_order_is_kept(
    memory: Services, clock: Clock, steps: list[str]
) -> None:
    script = world.script(memory, f"s-{memory.new_id()}", max_concurrent_runs=2)
    sent(memory)
    limit, allowed, order = 2, 2, []
    for step in steps:
        clock.forward(ms=10)
        sending = list(
            Run.select().where(Run.script == script.uuid, Run.status == "queued", Run.sent_at.is_null(False))
        )
        waiting = list(Run.select().where(Run.script == script.uuid, Run.status == "queued", Run.sent_at.is_null()))
        if step == "come":
            start(memory, script)
        elif step == "delay":
            start(memory, script, available_at=clock.now + 35)
        elif step == "finish" and sending:
            world.finish(memory, sending[0])
        elif step == "cancel waiting" and waiting:
            runs.cancel(memory, waiting[0])
        elif step in ("raise", "lower"):
            limit = 3 if step == "raise" else 1
            Script.update(max_concurrent_runs=limit).where(Script.uuid == script.uuid).execute()
        elif step == "time":
            clock.forward(ms=30)
        runs.release_due(memory)
        held = admission.held(script.uuid)
        allowed = max(limit, min(allowed, held))  # what was sent before a limit was lowered is not taken back
        assert held <= allowed
        due = Run.select().where(
            Run.script == script.uuid, Run.status == "queued", Run.sent_at.is_null(), Run.available_at <= clock.now
        )
        assert held >= limit or not due.exists()  # no place stays empty while somebody waits
        order += [run_id for run_id, _ in sent(memory) if Run.get_by_id(run_id).script_id == script.uuid]
    by_turn = {run.id: (run.available_at, run.id) for run in Run.select().where(Run.script == script.uuid)}
    assert [by_turn[run_id] for run_id in order] == sorted(by_turn[run_id] for run_id in order)
    assert len(order) == len(set(order))
