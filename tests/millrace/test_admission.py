"""Who may run now, and who waits."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import admission, runs, scripts
from millrace.errors import Conflict
from millrace.models import Run, Script, Workspace
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
    assert admission.waiting_reason(first, script, clock.now) == "waits for a free worker"
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


def keyed(services: Services, limit: int = 1, **values: object) -> Script:
    """A script whose runs share places by the customer in their payload."""
    script = world.script(services, **values)  # type: ignore[arg-type]
    Script.update(concurrency={"key": "customer.id", "limit": limit}).where(Script.uuid == script.uuid).execute()
    return Script.get_by_id(script.uuid)


def of(customer: object) -> dict[str, object]:
    return {"customer": {"id": customer}}


def test_runs_of_one_key_go_one_by_one_and_keep_nobody_else_waiting(memory: Services) -> None:
    script = keyed(memory)
    first, second, other = (start(memory, script, of(customer)) for customer in ("a", "a", "b"))
    without = start(memory, script, {"customer": "none"})
    assert [run_id for run_id, _ in sent(memory)] == [first.id, other.id, without.id]
    bounds = runs.bounds_of(script)
    assert admission.waiting_reason(reload(second), script, 0, bounds) is not None
    assert "1 of 1 running for its key" in str(admission.waiting_reason(reload(second), script, 10**15, bounds))
    world.finish(memory, other)
    assert sent(memory) == []
    world.finish(memory, first)
    assert sent(memory) == [(second.id, 1)]


def test_values_that_are_equal_in_json_are_one_key(memory: Services) -> None:
    script = keyed(memory)
    start(memory, script, of({"x": 1, "y": [2]}))
    start(memory, script, of({"y": [2], "x": 1}))
    start(memory, script, of("1"))
    start(memory, script, of(1))
    assert len(sent(memory)) == 3


def test_serial_runs_wait_for_each_other_and_for_no_other(memory: Services) -> None:
    script = world.script(memory)
    first, second = (start(memory, script, serial=True) for _ in range(2))
    plain = start(memory, script)
    assert [run_id for run_id, _ in sent(memory)] == [first.id, plain.id]
    world.finish(memory, first)
    assert sent(memory) == [(second.id, 1)]


def test_a_run_of_higher_priority_goes_ahead_by_so_many_seconds(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    running = start(memory, script)
    old = start(memory, script)
    clock.forward(s=10)
    urgent, less, plain = (start(memory, script, priority=priority) for priority in (20, 5, 0))
    order = []
    sent(memory)
    for run in (running, urgent, old, less):
        world.finish(memory, run)
        order += [run_id for run_id, _ in sent(memory)]
    assert order == [urgent.id, old.id, less.id, plain.id]
    assert [admission.waiting_place(reload(run), clock.now) for run in (plain, urgent)] == [None, None]


def test_a_waiting_run_knows_its_place(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    start(memory, script)
    second, third = start(memory, script), start(memory, script)
    assert [admission.waiting_place(run, clock.now) for run in (second, third)] == [1, 2]
    first_now = start(memory, script, priority=1)
    assert [admission.waiting_place(run, clock.now) for run in (first_now, second, third)] == [1, 2, 3]


def test_a_workspace_has_its_own_limit_over_all_scripts(memory: Services) -> None:
    scripts_of_it = [world.script(memory, f"script-{number}") for number in range(3)]
    limited(memory, 2)
    waiting = [start(memory, script) for script in scripts_of_it]
    elsewhere = start(memory, world.script(memory, owner="other"))
    assert [run_id for run_id, _ in sent(memory)] == [waiting[0].id, waiting[1].id, elsewhere.id]
    bounds = runs.bounds_of(scripts_of_it[2])
    reason = admission.waiting_reason(reload(waiting[2]), scripts_of_it[2], 10**15, bounds)
    assert reason == "2 of 2 running for this workspace"
    world.finish(memory, waiting[0])
    assert sent(memory) == [(waiting[2].id, 1)]


def limited(services: Services, most: int) -> None:
    Workspace.update(limits={"max_concurrent_runs": most}).where(Workspace.id == world.ACME).execute()


def test_two_scripts_at_once_do_not_both_take_a_workspaces_last_place(memory: Services) -> None:
    scripts_of_it = [world.script(memory, f"script-{number}") for number in range(6)]
    limited(memory, 2)
    calls = [lambda script=script: start(memory, script) for script in scripts_of_it]
    started = world.at_once(memory.database, *calls)
    assert all(isinstance(run, Run) for run in started), started
    assert len(sent(memory)) == 2
    for _ in range(6):
        holding = Run.select().where(Run.sent_at.is_null(False), Run.status == "queued")
        assert holding.count() <= 2
        world.finish(memory, holding.get())
    assert Run.select().where(Run.completed_at.is_null()).count() == 0


def test_a_run_that_did_not_start_in_time_is_given_up(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    running = start(memory, script, expires_after_s=60)
    assert runs.claim(memory, running.id, 1, "worker-1", 15_000)
    late, patient = start(memory, script, expires_after_s=60), start(memory, script)
    clock.forward(s=60)
    assert not runs.claim(memory, late.id, 1, "worker-1", 15_000)
    assert runs.expire(memory) == 1
    assert (reload(late).status, reload(late).error_code) == ("cancelled", "EXPIRED")
    assert reload(late).error == "Expired: it had not started 60 s after it was due."
    assert [reload(run).status for run in (running, patient)] == ["running", "queued"]
    assert runs.expire(memory) == 0


def test_a_delayed_run_expires_so_long_after_it_was_due(memory: Services, clock: Clock) -> None:
    run = start(memory, world.script(memory), available_at=clock.now + 60_000, expires_after_s=10)
    clock.forward(s=69)
    assert runs.expire(memory) == 0
    clock.forward(s=1)
    assert runs.expire(memory) == 1
    assert reload(run).status == "cancelled"


def test_a_debounced_run_takes_the_place_of_one_that_still_waits(memory: Services, clock: Clock) -> None:
    script = world.script(memory)

    def again(payload: object) -> runs.Submitted:
        order = world.order(script, payload, debounce_key="k", available_at=clock.now + 5_000)
        return runs.submit(memory, order)

    first = again(1)
    clock.forward(s=4)
    second = again("x" * 100_000)
    assert (second.run.id, second.merged, Run.select().count()) == (first.run.id, True, 1)
    clock.forward(s=4)
    third = again(3)
    assert memory.objects.list("payloads/") == []
    assert (third.run.id, reload(third.run).payload) == (first.run.id, "3")
    assert runs.release_due(memory) == 0
    clock.forward(s=5)
    assert runs.release_due(memory) == 1
    assert again(4).run.id != first.run.id


def test_debounced_at_once_is_one_run(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    order = world.order(script, 1, debounce_key="k", available_at=clock.now + 5_000)
    answers = world.at_once(memory.database, *[lambda: runs.submit(memory, order)] * 6)
    assert len({each.run.id for each in answers}) == 1 == Run.select().count()


def test_a_place_of_a_workspace_goes_to_whoever_has_waited_longest(memory: Services, clock: Clock) -> None:
    busy, other = world.script(memory, "busy"), world.script(memory, "other")
    limited(memory, 1)
    line = []
    for script in (busy, busy, other, busy, busy):
        line.append(start(memory, script))
        clock.forward(ms=1)
    order = [run_id for run_id, _ in sent(memory)]
    for number in range(4):
        world.finish(memory, line[number])
        order += [run_id for run_id, _ in sent(memory)]
    assert order == [run.id for run in line]


def test_many_of_one_key_in_front_do_not_hide_the_others(memory: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "LOOKED_AT", 2)
    script = keyed(memory)
    for _ in range(6):
        start(memory, script, of("busy"))
    sent(memory)
    other = start(memory, script, of("quiet"))
    assert sent(memory) == [(other.id, 1)]


def test_scripts_that_wait_for_something_else_do_not_hide_those_that_may_run(memory: Services, clock: Clock) -> None:
    for number in range(3):
        blocked = world.script(memory, f"blocked-{number}")
        start(memory, blocked, serial=True)
        start(memory, blocked, serial=True)
    due = start(memory, world.script(memory, "free"), available_at=clock.now + 5)
    sent(memory)
    clock.forward(ms=5)
    world.until(lambda: runs.release_due(memory, limit=1))
    assert sent(memory) == [(due.id, 1)]


def test_a_debounced_call_with_an_idempotency_key_can_be_repeated(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    start(memory, script, 0, debounce_key="k", available_at=clock.now + 5_000)
    given = {"debounce_key": "k", "available_at": clock.now + 5_000, "idempotency_key": "i", "request_digest": "d"}
    merged = runs.submit(memory, world.order(script, 1, **given))
    clock.forward(s=6)
    runs.release_due(memory)
    again = runs.submit(memory, world.order(script, 1, **given))
    assert (again.run.id, again.created, Run.select().count()) == (merged.run.id, False, 1)
    with pytest.raises(Conflict):
        runs.submit(memory, world.order(script, 2, **{**given, "request_digest": "other"}))


def test_a_run_whose_time_was_renewed_meanwhile_does_not_expire(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    given = {"debounce_key": "k", "expires_after_s": 10}
    late = start(memory, script, available_at=clock.now + 1_000, **given)
    clock.forward(s=11)
    seen = reload(late)
    start(memory, script, available_at=clock.now + 1_000, **given)
    assert not runs.ending._give_up(memory, seen, runs.ending._expired(seen, clock.now))
    assert reload(late).status == "queued"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["start", "finish", "due"]), st.integers(0, 2), st.integers(0, 30)),
                min_size=5, max_size=40), st.integers(1, 3), st.integers(1, 2), st.integers(1, 4))  # fmt: skip
def test_no_limit_is_passed_and_nobody_waits_for_a_free_place(
    memory: Services, clock: Clock, steps: list[tuple[str, int, int]], per_script: int, per_key: int, most: int
) -> None:
    Run.delete().execute()
    Script.delete().execute()
    script = keyed(memory, per_key, max_concurrent_runs=per_script)
    limited(memory, most)
    for step, customer, number in steps:
        clock.forward(ms=1)
        holding = list(Run.select().where(Run.sent_at.is_null(False), Run.completed_at.is_null()).order_by(Run.id))
        if step == "start":
            start(memory, script, of(customer), priority=number)
        elif step == "finish" and holding:
            world.finish(memory, holding[number % len(holding)])
        holding = list(Run.select().where(Run.sent_at.is_null(False), Run.completed_at.is_null()))
        waiting = list(Run.select().where(Run.sent_at.is_null(), Run.completed_at.is_null()))
        keys = [run.concurrency_key for run in holding]
        assert len(holding) <= min(per_script, most)
        assert all(keys.count(key) <= per_key for key in keys)
        if len(holding) < min(per_script, most):
            assert all(keys.count(run.concurrency_key) >= per_key for run in waiting)
