"""Many runs at once: all or none, few at a time, and none that is forgotten."""

import itertools
from collections import Counter
from typing import Any

import peewee
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import admission, batches, limits, runs, scripts
from millrace.errors import Conflict, Invalid, NotFound, TooMany, Unprocessable
from millrace.models import Attempt, Batch, Callback, IdempotencyKey, Run, Script
from millrace.models.run import CANCELLED, NOT_YET, QUEUED, RUNNING, SUCCEEDED
from millrace.services import Services
from tests import world
from tests.world import Clock, at_once, reload, sent, start


def accept(services: Services, script: Script, count: int = 5, **values: Any) -> Batch:
    """A batch of {"n": 0}, {"n": 1} and so on."""
    items = values.pop("items", [{"n": number} for number in range(count)])
    wish = batches.Wish(workspace=script.workspace_id, script=script.uuid, items=items, **values)
    return batches.submit(services, wish).batch


def items_of(batch: Batch) -> list[Run]:
    return list(Run.select().where(Run.batch_id == batch.id).order_by(Run.batch_index))


def under_way(batch: Batch) -> int:
    """Sent or running."""
    return Run.select().where(Run.batch_id == batch.id, admission.HOLDING).count()


def drain(services: Services) -> list[str]:
    """Finish what was sent, and what that sends, until nothing more comes. Returns the ids in the order sent."""
    order: list[str] = []
    while messages := sent(services):
        for run_id, _ in messages:
            order.append(run_id)
            world.finish(services, Run.get_by_id(run_id))
    return order


def test_each_item_is_a_run_and_they_go_in_order(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=2)
    batch = accept(memory, script, 5)
    made = items_of(batch)
    assert [(run.payload, run.trigger, run.mode, run.batch_index) for run in made] == [
        (f'{{"n":{number}}}', "batch", "async", number) for number in range(5)
    ]
    assert drain(memory) == [run.id for run in made]
    assert batches.progress(batch) == batches.Progress({SUCCEEDED: 5}, reload(made[-1]).completed_at)


def test_no_more_are_under_way_than_the_batch_may_have(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=10)
    batch = accept(memory, script, 7, concurrency=2)
    made = items_of(batch)
    assert sent(memory) == [(made[0].id, 1), (made[1].id, 1)]
    for number in range(5):
        world.finish(memory, made[number])
        assert sent(memory) == [(made[number + 2].id, 1)]
    assert under_way(batch) == 2


def test_a_batch_that_is_full_keeps_nobody_else_waiting(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=3)
    batch = accept(memory, script, 100, concurrency=2)
    sent(memory)
    clock.forward(s=1)
    other = start(memory, script)
    assert sent(memory) == [(other.id, 1)]
    # One that comes in when another ends has the place in the line that it had from the start.
    blocked = start(memory, script)
    world.finish(memory, items_of(batch)[0])
    assert sent(memory) == [(items_of(batch)[2].id, 1)]
    world.finish(memory, other)
    assert sent(memory) == [(blocked.id, 1)]


def test_two_batches_share_a_script(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=4)
    one = accept(memory, script, 10, concurrency=3)
    two = accept(memory, script, 10, concurrency=3)
    assert (under_way(one), under_way(two)) == (3, 1)
    drain(memory)
    assert batches.progress(one).counts == batches.progress(two).counts == {SUCCEEDED: 10}


def test_an_item_that_waits_for_its_next_try_keeps_its_place(memory: Services, clock: Clock) -> None:
    retry = {"count": 1, "delay_seconds": 60, "factor": 1, "max_delay_seconds": 60, "jitter": False, "on": ["failed"]}
    script = world.script(memory, retry=retry)
    batch = accept(memory, script, 3, concurrency=1)
    first, second, _ = items_of(batch)
    world.finish(memory, first, "failed", error="x", error_code="SCRIPT_ERROR")
    sent(memory)
    assert reload(second).available_at == NOT_YET
    clock.forward(s=61)
    runs.release_due(memory)
    assert sent(memory) == [(first.id, 2)]
    world.finish(memory, first, "failed", error="x", error_code="SCRIPT_ERROR")
    assert sent(memory) == [(second.id, 1)]


def test_an_item_that_came_into_the_line_does_not_wait_for_a_clock_that_is_set_back(
    memory: Services, clock: Clock
) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    batch = accept(memory, script, 3, concurrency=1)
    other = start(memory, script)
    first, second, _ = items_of(batch)
    clock.forward(s=60)
    world.finish(memory, first)  # the second comes into the line, and the other run has the place
    Run.update(sent_at=clock.now).where(Run.id == other.id).execute()
    Run.update(sent_at=None).where(Run.id == second.id).execute()
    sent(memory)
    clock.forward(s=-3600)
    world.finish(memory, other)
    runs.release_due(memory)
    assert sent(memory) == [(second.id, 1)]


def test_an_item_that_expires_says_after_how_long(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    batch = accept(memory, script, 3, concurrency=2, expires_after_s=60)
    clock.forward(s=30)
    world.finish(memory, items_of(batch)[0])  # the third comes into the line now
    clock.forward(s=31)
    runs.expire(memory)
    assert {run.error for run in items_of(batch)[1:]} == {"Expired: it had not started 60 s after it was due."}


def test_whatever_ends_an_item_lets_the_next_one_in(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    batch = accept(memory, script, 6, concurrency=1, expires_after_s=60)
    made = items_of(batch)
    sent(memory)
    runs.cancel(memory, reload(made[0]))  # before it began
    assert sent(memory) == [(made[1].id, 1)]
    runs.claim(memory, made[1].id, 1, "worker-1", 15_000)
    Run.update(cancel_requested_at=clock.now).where(Run.id == made[1].id).execute()
    assert not runs.release(memory, made[1].id, 1, "worker-1")  # given back, and it was to be cancelled
    assert sent(memory) == [(made[2].id, 1)]
    assert runs.poisoned(memory, made[2].id, 1)
    assert sent(memory) == [(made[3].id, 1)]
    clock.forward(s=61)
    assert runs.expire(memory) == 3
    assert batches.progress(batch).counts == {CANCELLED: 5, "failed": 1}
    assert {reload(run).error for run in made[3:]} == {"Expired: it had not started 60 s after it was due."}


def test_cancelling_one_that_is_not_in_the_line_lets_nobody_in(memory: Services) -> None:
    script = world.script(memory)
    batch = accept(memory, script, 3, concurrency=1)
    made = items_of(batch)
    sent(memory)
    runs.cancel(memory, made[1])
    assert sent(memory) == []
    world.finish(memory, made[0])
    assert sent(memory) == [(made[2].id, 1)]


def test_a_cancelled_batch_ends_what_waits_and_asks_for_what_runs(
    memory: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_AT_ONCE", 4)
    script = world.script(memory)
    batch = accept(memory, script, 11, concurrency=3)
    made = items_of(batch)
    sent(memory)
    runs.claim(memory, made[0].id, 1, "worker-1", 15_000)
    batches.cancel(memory, batch)
    assert batches.progress(batch).counts == {RUNNING: 1, CANCELLED: 10}
    assert reload(made[0]).cancel_requested_at is not None
    assert sent(memory) == []
    runs.finish(memory, made[0], 1, runs.Ending(CANCELLED, 5))
    assert sent(memory) == []
    assert batches.progress(batch).counts == {CANCELLED: 11}
    with pytest.raises(Conflict):
        batches.cancel(memory, batch)


def test_the_place_that_a_cancelled_batch_leaves_goes_to_the_next(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    batch = accept(memory, script, 3)
    other = start(memory, script)
    sent(memory)
    batches.cancel(memory, batch)
    assert sent(memory) == [(other.id, 1)]


def test_the_sweeper_goes_on_where_a_cancelling_process_died(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    batch = accept(memory, script, 5, concurrency=2)
    running = items_of(batch)[0]
    runs.claim(memory, running.id, 1, "worker-1", 15_000)
    Batch.update(cancelled_at=clock.now).where(Batch.id == batch.id).execute()
    assert batches.mend(memory) == 4
    assert batches.progress(batch).counts == {RUNNING: 1, CANCELLED: 4}
    assert reload(running).cancel_requested_at == clock.now
    assert batches.mend(memory) == 0


def test_the_sweeper_asks_the_workers_whom_a_cancelling_process_did_not_come_to(
    memory: Services, clock: Clock
) -> None:
    script = world.script(memory)
    batch = accept(memory, script, 2)
    for run in items_of(batch):
        runs.claim(memory, run.id, 1, "worker-1", 15_000)
    Batch.update(cancelled_at=clock.now).where(Batch.id == batch.id).execute()
    batches.mend(memory)
    assert {run.cancel_requested_at for run in items_of(batch)} == {clock.now}


def test_a_deleted_script_keeps_no_batch_of_another_standing_still(memory: Services, clock: Clock) -> None:
    deleted, alive = world.script(memory, "deleted"), world.script(memory, "alive")
    stuck = [accept(memory, each, 2, concurrency=1) for each in (deleted, deleted, alive)]
    Run.update(status=SUCCEEDED, completed_at=clock.now).where(Run.batch_index == 0).execute()
    Script.update(status="deleted").where(Script.uuid == deleted.uuid).execute()
    assert batches.mend(memory, limit=1) == 1
    assert items_of(stuck[2])[1].available_at == clock.now


def test_cancelling_does_not_wait_for_redis_for_each_run(memory: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_answer(topic: str, _: str) -> bool:
        asked.append(topic)
        return False

    batch = accept(memory, world.script(memory), 20)
    monkeypatch.setattr(memory.bus, "hint", no_answer)
    batches.cancel(memory, batch)
    assert len(asked) == 1 and batches.progress(batch).counts == {CANCELLED: 20}


def test_a_cancelled_batch_is_told_of_to_who_asked(memory: Services) -> None:
    script = world.script(memory)
    Script.update(callback_url="https://example.com/told").where(Script.uuid == script.uuid).execute()
    batch = accept(memory, script, 3)
    batches.cancel(memory, batch)
    assert {row.run_id for row in Callback.select()} == {run.id for run in items_of(batch)}


def test_the_sweeper_lets_items_in_that_a_process_without_batches_forgot(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    batch = accept(memory, script, 4, concurrency=2)
    made = items_of(batch)
    sent(memory)
    assert batches.mend(memory) == 0
    for run in made[:2]:
        Run.update(status=SUCCEEDED, completed_at=clock.now).where(Run.id == run.id).execute()
    assert batches.mend(memory) == 2
    runs.release_due(memory)
    assert sorted(sent(memory)) == sorted([(made[2].id, 1), (made[3].id, 1)])


def test_all_are_accepted_or_none(memory: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    script = world.script(memory)
    large = {"text": "x" * runs.INLINE_LIMIT}

    def refuse(*_: Any) -> None:
        raise Unprocessable("no")

    monkeypatch.setattr("millrace.batches._admit", refuse)
    with pytest.raises(Unprocessable):
        accept(memory, script, items=[{}, large, {}])
    assert (Run.select().count(), Batch.select().count()) == (0, 0)
    assert list(memory.objects.list("payloads/")) == []


def test_a_large_item_is_kept_in_the_store(memory: Services) -> None:
    script = world.script(memory)
    large = {"text": "x" * runs.INLINE_LIMIT}
    batch = accept(memory, script, items=[large])
    (run,) = items_of(batch)
    assert run.payload is None and "xxx" in runs.payload_text(memory, run)


@pytest.mark.parametrize("count", [0, batches.MAX_ITEMS + 1])
def test_the_number_of_items_is_bounded(memory: Services, count: int) -> None:
    with pytest.raises(Invalid, match="1 to 10000"):
        accept(memory, world.script(memory), count)


def test_ten_thousand_items_are_accepted_and_start_in_order(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=3)
    batch = accept(memory, script, batches.MAX_ITEMS, concurrency=2)
    assert batches.progress(batch).counts == {QUEUED: batches.MAX_ITEMS}
    made = Run.select(Run.id).where(Run.batch_id == batch.id).order_by(Run.batch_index).limit(3)
    first, second, third = (run.id for run in made)
    assert sent(memory) == [(first, 1), (second, 1)]
    world.finish(memory, Run.get_by_id(first))
    assert sent(memory) == [(third, 1)]


def test_a_quota_refuses_the_whole_batch(memory: Services) -> None:
    script = world.script(memory)
    limits.change(memory, script.workspace_id, {"runs_per_day": 5})
    start(memory, script)
    with pytest.raises(TooMany, match=r"has started 1 runs today, and may start 5 .* not 5 more"):
        accept(memory, script, 5)
    with pytest.raises(Unprocessable, match=r"may start 5 runs a day .* not 6 at once"):  # nor tomorrow
        accept(memory, script, 6)
    assert accept(memory, script, 4).total == 4


def test_an_inactive_script_starts_no_batch(memory: Services) -> None:
    script = world.script(memory)
    scripts.update(memory, script, scripts.Change(columns={"status": "paused"}))
    with pytest.raises(Unprocessable):
        accept(memory, script)


def test_the_workspace_limit_holds_for_batches(memory: Services) -> None:
    script = world.script(memory)
    limits.change(memory, script.workspace_id, {"max_concurrent_runs": 2})
    batch = accept(memory, script, 6, concurrency=5)
    while messages := sent(memory):
        assert len(messages) <= 2 and under_way(batch) <= 2
        world.finish(memory, Run.get_by_id(messages[0][0]))
        for run_id, _ in messages[1:]:
            world.finish(memory, Run.get_by_id(run_id))
    assert batches.progress(batch).counts == {SUCCEEDED: 6}


def test_keys_of_the_payload_hold_for_batches(memory: Services) -> None:
    script = world.script(memory, concurrency={"key": "customer", "limit": 1})
    batch = accept(memory, script, items=[{"customer": "a"}, {"customer": "a"}, {"customer": "b"}])
    made = items_of(batch)
    assert sorted(sent(memory)) == sorted([(made[0].id, 1), (made[2].id, 1)])


def test_priority_goes_ahead_in_the_line(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    start(memory, script)
    waiting = start(memory, script)
    batch = accept(memory, script, 2, concurrency=1, priority=60)
    sent(memory)
    world.finish(memory, Run.select().where(Run.sent_at.is_null(False)).get())
    made = items_of(batch)
    assert sent(memory) == [(made[0].id, 1)]
    world.finish(memory, made[0])
    assert sent(memory) == [(made[1].id, 1)]
    world.finish(memory, made[1])
    assert sent(memory) == [(waiting.id, 1)]


def test_a_waiting_item_says_why_and_where(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    batch = accept(memory, script, 5, concurrency=2)
    last = items_of(batch)[-1]
    assert admission.waiting_reason(last, script, clock.now) == "2 of 2 under way for its batch"
    assert admission.waiting_place(last, clock.now) == 3
    world.finish(memory, items_of(batch)[0])
    assert admission.waiting_place(reload(last), clock.now) == 2


def test_the_same_key_starts_one_batch(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    wish = batches.Wish(
        workspace=script.workspace_id, script=script.uuid, items=[{}, {"text": "x" * runs.INLINE_LIMIT}],
        idempotency_key="k", request_digest="d",
    )  # fmt: skip
    first, second = batches.submit(memory, wish), batches.submit(memory, wish)
    assert (first.created, second.created, second.batch.id) == (True, False, first.batch.id)
    assert Run.select().count() == 2 and IdempotencyKey.select().count() == 1
    assert len(list(memory.objects.list("payloads/"))) == 1
    with pytest.raises(Conflict):
        start(memory, script, idempotency_key="k", request_digest="another")


def test_two_at_once_with_one_key_start_one_batch(memory: Services, database: peewee.Database) -> None:
    script = world.script(memory)
    wish = batches.Wish(
        workspace=script.workspace_id, script=script.uuid, items=[{}] * 3, idempotency_key="k", request_digest="d"
    )
    answers = at_once(database, *[lambda: batches.submit(memory, wish)] * 4)
    assert sorted(each.created for each in answers) == [False, False, False, True]
    assert len({each.batch.id for each in answers}) == 1 and Run.select().count() == 3


def test_a_batch_is_found_by_its_owner_alone(memory: Services) -> None:
    ours, theirs = world.script(memory), world.script(memory, owner=world.OTHER)
    batch = accept(memory, theirs)
    for workspace, script_uuid, batch_id in (
        (ours.workspace_id, ours.uuid, batch.id), (ours.workspace_id, theirs.uuid, batch.id),
        (theirs.workspace_id, theirs.uuid, "\0"), (theirs.workspace_id, theirs.uuid, ""),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            batches.find(workspace, script_uuid, batch_id)
    assert batches.find(theirs.workspace_id, theirs.uuid, batch.id) == batch


def test_pages_of_batches_and_of_items(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    made = []
    for _ in range(3):
        made.append(accept(memory, script, 5))
        clock.forward(s=1)
    page, following = batches.page(script, None, 2)
    assert page == [made[2], made[1]]
    assert batches.page(script, following, 2) == ([made[0]], None)
    rows, following = batches.items(made[0], (), None, 3)
    assert [run.batch_index for run in rows] == [0, 1, 2]
    rows, following = batches.items(made[0], (), following, 3)
    assert ([run.batch_index for run in rows], following) == ([3, 4], None)
    assert batches.items(made[0], [SUCCEEDED], None, 3) == ([], None)


def test_many_workers_at_once_never_exceed_the_limit_and_finish_all(
    memory: Services, database: peewee.Database
) -> None:
    script = world.script(memory, max_concurrent_runs=10)
    batch = accept(memory, script, 24, concurrency=4)
    while messages := sent(memory):
        assert len(messages) <= 4 and under_way(batch) <= 4
        taken = [Run.get_by_id(run_id) for run_id, _ in messages]
        at_once(database, *[lambda run=run: world.finish(memory, run) for run in taken])
    assert batches.progress(batch).counts == {SUCCEEDED: 24}


STEPS = st.lists(
    st.sampled_from(["claim", "finish", "fail", "cancel one", "cancel all", "other", "release", "tick"]), max_size=40
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, concurrency=st.integers(1, 3), count=st.integers(1, 6), places=st.integers(1, 3))
def test_whatever_happens_to_its_runs_every_item_ends_once_and_the_limit_holds(
    memory: Services, clock: Clock, steps: list[str], concurrency: int, count: int, places: int
) -> None:
    retry = {"count": 1, "delay_seconds": 1, "factor": 1, "max_delay_seconds": 1, "jitter": False, "on": ["failed"]}
    script = world.script(memory, f"s-{next(_NUMBERS)}", max_concurrent_runs=places, retry=retry)
    batch = accept(memory, script, count, concurrency=concurrency)
    claims: Counter[str] = Counter()
    for step in steps:
        _do(memory, clock, script, batch, step, claims)
        assert under_way(batch) <= min(concurrency, places)
    _carry_out(memory, clock, script, claims)
    begun = Counter(row.run_id for row in Attempt.select().where(Attempt.run.in_(items_of(batch))))
    begun.update(run.id for run in items_of(batch) if run.started_at is not None)
    assert {run.id: claims[run.id] for run in items_of(batch)} == {run.id: begun[run.id] for run in items_of(batch)}
    assert sum(batches.progress(batch).counts.values()) == count


_NUMBERS = itertools.count()


def _carry_out(services: Services, clock: Clock, script: Script, claims: Counter[str]) -> None:
    """What is left. Each end must have sent the next: only retries are waited for."""
    waiting = Run.select().where(Run.script == script.uuid, Run.completed_at.is_null())
    while waiting.exists():
        while under_way := list(waiting.where(admission.HOLDING)):
            for run in under_way:
                _end(services, run, SUCCEEDED, claims)
        left = list(waiting)
        assert not left or any(run.tries for run in left)
        clock.forward(s=2)
        runs.release_due(services)


def _do(services: Services, clock: Clock, script: Script, batch: Batch, step: str, claims: Counter[str]) -> None:
    on_its_way = Run.select().where(Run.script == script.uuid, admission.HOLDING).order_by(Run.id)
    queued, running = on_its_way.where(Run.status == QUEUED).first(), on_its_way.where(Run.status == RUNNING).first()
    if step == "claim" and queued is not None:
        _claim(services, queued, claims)
    elif step in ("finish", "fail") and running is not None:
        _end(services, running, SUCCEEDED if step == "finish" else "failed", claims)
    elif step == "release" and running is not None:
        claims[running.id] -= 1  # its handler was not entered
        runs.release(services, running.id, running.attempt, "worker-1")
    elif step == "cancel one":
        open_ones = [run for run in items_of(batch) if run.completed_at is None]
        if open_ones:
            runs.cancel(services, open_ones[-1])
    elif step == "cancel all" and any(run.completed_at is None for run in items_of(batch)):
        batches.cancel(services, batch)
    elif step == "other":
        start(services, script)
    elif step == "tick":
        clock.forward(s=1)
        runs.release_due(services)


def _claim(services: Services, run: Run, claims: Counter[str]) -> bool:
    taken = runs.claim(services, run.id, run.attempt + 1, "worker-1", 15_000)
    claims[run.id] += taken
    return taken


def _end(services: Services, run: Run, status: str, claims: Counter[str]) -> None:
    run = reload(run)
    if run.status == QUEUED and not _claim(services, run, claims):
        return
    run = reload(run)
    ending = CANCELLED if run.cancel_requested_at is not None else status
    runs.finish(services, run, run.attempt, runs.Ending(ending, 1, error="x", error_code="SCRIPT_ERROR"))


def test_one_that_begins_while_its_batch_is_cancelled_is_left_to_its_worker(
    memory: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = world.script(memory)
    batch = accept(memory, script, 2)
    made = items_of(batch)
    find, looks = batches._undecided, itertools.count()

    def found_too_early(batch_id: str) -> list[str]:
        found = find(batch_id)
        if next(looks) == 0:
            runs.claim(memory, made[0].id, 1, "worker-1", 15_000)
        return found

    monkeypatch.setattr(batches, "_undecided", found_too_early)
    batches.cancel(memory, batch)
    assert [(run.status, run.cancel_requested_at is not None) for run in items_of(batch)] == [
        (RUNNING, True), (CANCELLED, True)
    ]  # fmt: skip


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_no_look_at_the_line_reads_what_is_outside_it_or_over(memory: Services) -> None:
    def plan(sql: str, parameters: list[Any]) -> str:
        return str(memory.database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall())

    line = plan(*admission._in_line("s", 1).sql())
    assert "run_waiting_order (script_id=? AND order_at<?)" in line and "TEMP B-TREE" not in line, line
    noted: list[tuple[str, list[Any]]] = []
    execute = memory.database.execute_sql

    def note(sql: str, parameters: Any = None, *more: Any) -> Any:
        noted.append((sql, list(parameters or [])))
        return execute(sql, parameters, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory.database, "execute_sql", note)
        batches.mend(memory)
    plans = [plan(*each) for each in noted if each[0].startswith("SELECT")]
    assert len(plans) == 2
    assert not any("run_batch_status" in each or "SCAN t1'" in each for each in plans), plans
