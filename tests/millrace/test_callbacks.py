"""Who is told of the end of a run: when a callback is written, who takes it, and what comes of each try."""

import base64
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import peewee
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import assignments, callbacks, limits, removal, repair, replays, retention, runs, scripts, signatures
from millrace.callbacks import DELAYS_S, LEASE_MS, PER_WORKSPACE, Taken, Try
from millrace.errors import Conflict, Denied, Invalid, NotFound
from millrace.models import Callback, IdempotencyKey, Run, Script
from millrace.models.run import CANCELLED, FAILED, QUEUED, SUCCEEDED, TIMED_OUT
from millrace.services import Services
from sandbox.egress import policy
from tests import world
from tests.worker.test_budget import counted
from tests.world import ACME, OTHER, Clock, reload, start

URL = "https://example.com/told"
SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()
FINE = Try(at=1, status=200, error=None, duration_ms=3)
WRONG = Try(at=1, status=500, error="answered 500", duration_ms=3)


@pytest.fixture
def told(memory: Services) -> Script:
    """A script with an address."""
    return world.script(memory, callback_url=URL, callback_secret=SECRET)


def ended(services: Services, script: Script, status: str = SUCCEEDED, **values: Any) -> Run:
    run = start(services, script)
    assert world.finish(services, run, status, **values)
    return run


def take(services: Services, room: int = 64, under_way: dict[str, int] | None = None) -> list[Taken]:
    return callbacks.take(services, callbacks.choose(callbacks.due(services, random.random), room, under_way or {}))


def settle(services: Services, taken: Taken, tried: Try, draw: float = 0.0) -> None:
    callbacks.settle(services, [(taken, tried)], lambda: draw)


# Every end

End = Callable[[Services, Clock, Run], object]


def finished_as(status: str) -> End:
    return lambda services, clock, run: world.finish(services, run, status)


def cancelled_while_it_waited(services: Services, clock: Clock, run: Run) -> None:
    runs.cancel(services, run)


def cancelled_before_its_handler(services: Services, clock: Clock, run: Run) -> None:
    assert runs.claim(services, run.id, 1, "worker-1", 15_000)
    runs.cancel(services, reload(run))
    assert not runs.release(services, run.id, 1, "worker-1")


def expired(services: Services, clock: Clock, run: Run) -> None:
    clock.forward(s=2)
    assert runs.expire(services) == 1


def poisoned(services: Services, clock: Clock, run: Run) -> None:
    assert runs.poisoned(services, run.id, 1)


def lost(services: Services, clock: Clock, run: Run) -> None:
    assert runs.claim(services, run.id, 1, "worker-1", 15_000)
    clock.forward(s=60)
    (lease,) = repair.leases()
    assert repair.fail_lost(services, lease)


def carried(services: Services, clock: Clock, run: Run) -> None:
    """As a worker does, which knows of the run what it needs to carry it."""
    assert runs.claim(services, run.id, 1, "worker-1", 15_000)
    assignment = assignments.load(run.id)
    assert assignment is not None
    assert runs.finish(services, assignment.run, 1, runs.Ending(status=SUCCEEDED, duration_ms=1))


@pytest.mark.parametrize(
    ("end", "word"),
    [
        (finished_as(SUCCEEDED), "completed"), (finished_as(FAILED), "failed"), (finished_as(TIMED_OUT), "timed_out"),
        (finished_as(CANCELLED), "cancelled"), (cancelled_while_it_waited, "cancelled"), (carried, "completed"),
        (cancelled_before_its_handler, "cancelled"), (expired, "cancelled"), (poisoned, "failed"), (lost, "failed"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("of_the_run", [False, True])
def test_every_kind_of_end_is_told_once(
    memory: Services, clock: Clock, end: End, word: str, of_the_run: bool
) -> None:
    script = world.script(memory, callback_url=None if of_the_run else URL, callback_secret=SECRET)
    run = start(memory, script, callback_url=URL if of_the_run else None, expires_after_s=1)
    end(memory, clock, run)
    row = Callback.get()
    assert (row.run_id, row.workspace_id, row.script_id, row.url) == (run.id, ACME, script.uuid, URL)
    assert (row.status, row.deliveries, row.next_at, row.leased_until) == ("pending", [], clock.now, None)
    (taken,) = take(memory)
    told = json.loads(taken.body)
    assert (told["type"], told["data"]["status"], told["data"]["run_id"]) == (f"run.{word}", word, run.id)


def test_a_try_that_is_followed_by_another_is_not_told(memory: Services, clock: Clock) -> None:
    retry = {"count": 1, "delay_seconds": 0, "jitter": False}
    script = world.script(memory, retry=retry, callback_url=URL, callback_secret=SECRET)
    run = start(memory, script)
    world.finish(memory, run, FAILED, error="Error: first", error_code="SCRIPT_ERROR")
    assert (reload(run).status, Callback.select().count()) == (QUEUED, 0)
    runs.release_due(memory)
    world.finish(memory, run, FAILED, error="Error: second", error_code="SCRIPT_ERROR")
    (taken,) = take(memory)
    assert json.loads(taken.body)["data"]["error"] == "Error: second"


def test_an_end_that_is_not_recorded_is_not_told(memory: Services, told: Script) -> None:
    run = start(memory, told)
    assert runs.claim(memory, run.id, 1, "worker-1", 15_000)
    assert not runs.finish(memory, run, 2, runs.Ending(status=SUCCEEDED, duration_ms=1))
    assert Callback.select().count() == 0


def statements_of_ends(services: Services, script: Script) -> int:
    """How many it takes to record the end of one run and to cancel another."""
    run = start(services, script)
    assert runs.claim(services, run.id, 1, "worker-1", 15_000)
    waiting = start(services, script)
    with counted() as seen:
        assert runs.finish(services, run, 1, runs.Ending(status=SUCCEEDED, duration_ms=1))
        runs.cancel(services, waiting)
    return len(seen)


def test_a_run_of_which_nobody_is_told_costs_no_statement_more(
    memory: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = world.script(memory)
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "record", lambda run, script, now: None)
        without = statements_of_ends(memory, script)
    assert statements_of_ends(memory, script) == without
    Script.update(callback_url=URL).execute()
    assert statements_of_ends(memory, script) == without + 2


def test_the_address_of_a_run_takes_the_place_of_its_scripts(memory: Services, told: Script) -> None:
    run = start(memory, told, callback_url="https://example.org/mine")
    world.finish(memory, run)
    world.finish(memory, start(memory, told))
    assert {row.url for row in Callback.select()} == {"https://example.org/mine", URL}


def test_a_script_without_an_address_is_told_of_by_its_runs_alone(memory: Services) -> None:
    script = world.script(memory, callback_secret=SECRET)
    ended(memory, script)
    run = start(memory, script, callback_url=URL)
    world.finish(memory, run)
    assert [row.run_id for row in Callback.select()] == [run.id]


def test_the_script_that_a_run_ended_under_says_who_is_told(memory: Services, told: Script) -> None:
    first, second = start(memory, told), start(memory, told)
    scripts.update(memory, told, scripts.Change(columns={"callback_url": "https://example.org/moved"}))
    world.finish(memory, first)
    scripts.update(memory, told, scripts.Change(columns={"callback_url": None}))
    world.finish(memory, second)
    assert [(row.run_id, row.url) for row in Callback.select()] == [(first.id, "https://example.org/moved")]


def test_the_latest_of_a_burst_of_calls_says_who_is_told(memory: Services, clock: Clock, told: Script) -> None:
    delayed = {"debounce_key": "k", "available_at": clock.now + 60_000}
    before = start(memory, told, callback_url="https://example.org/1", **delayed)
    start(memory, told, callback_url="https://example.org/2", **delayed)
    runs.cancel(memory, before)  # as who read it in between
    assert [row.url for row in Callback.select()] == ["https://example.org/2"]


def test_a_replay_is_a_run_of_its_own(memory: Services, told: Script) -> None:
    run = ended(memory, told)
    again = replays.replay(memory, reload(run), same_version=True).run
    world.finish(memory, again)
    assert {row.run_id for row in Callback.select()} == {run.id, again.id}


def test_runs_that_end_together_are_told_each(memory: Services, clock: Clock) -> None:
    script = world.script(memory, callback_secret=SECRET)
    other = world.script(memory, "other", callback_url=URL)
    over = [start(memory, script, callback_url=URL if number % 2 else None) for number in range(7)]
    goes_on, strange = start(memory, script, callback_url=URL), start(memory, other)
    Run.update(status=CANCELLED, completed_at=clock.now).where(Run.id != goes_on.id).execute()
    ids = [run.id for run in (*over, goes_on, strange)]
    assert callbacks.record_many(Script.get_by_id(script.uuid), ids, clock.now) == 3
    assert {row.run_id for row in Callback.select()} == {run.id for run in over[1::2]}
    Script.update(callback_url="https://example.org/all").where(Script.uuid == script.uuid).execute()
    # Safe to repeat: whoever has one keeps it.
    assert callbacks.record_many(Script.get_by_id(script.uuid), ids, clock.now) == 4
    own = start(memory, script, callback_url="https://example.org/own")
    Run.update(status=CANCELLED, completed_at=clock.now).where(Run.id == own.id).execute()
    assert callbacks.record_many(Script.get_by_id(script.uuid), [own.id], clock.now) == 1
    assert Callback.get_by_id(own.id).url == "https://example.org/own"
    Callback.delete().where(Callback.id == own.id).execute()
    rows = {row.run_id: (row.url, row.status, row.deliveries, row.next_at) for row in Callback.select()}
    assert {run_id: url for run_id, (url, *_) in rows.items()} == {
        run.id: URL if number % 2 else "https://example.org/all" for number, run in enumerate(over)
    }
    assert all(rest == ["pending", [], clock.now] for _, *rest in rows.values())
    assert callbacks.record_many(Script.get_by_id(script.uuid), [], clock.now) == 0
    assert len(take(memory)) == 7


def test_thousands_that_end_together_take_a_statement_for_some_hundreds(
    memory: Services, clock: Clock, told: Script
) -> None:
    row = {**start(memory, told).__data__, "status": CANCELLED, "completed_at": clock.now}
    ids = [f"{number:036d}" for number in range(1200)]
    for begin in range(0, len(ids), 100):
        Run.insert_many([{**row, "id": each} for each in ids[begin : begin + 100]]).execute()
    with counted() as seen:
        assert callbacks.record_many(Script.get_by_id(told.uuid), ids, clock.now) == len(ids)
    assert sum("INSERT" in each for each in seen) == 3


# Who takes it


def test_each_is_taken_by_one_of_many_workers(
    memory: Services, database: peewee.Database, told: Script, clock: Clock
) -> None:
    others = [world.script(memory, owner=f"other-{n}", callback_url=URL, callback_secret=SECRET) for n in range(4)]
    for script in (told, *others):
        for _ in range(6):
            ended(memory, script)
    answers = world.at_once(database, *[lambda: take(memory, 20)] * 5)
    taken = [each.id for answer in answers for each in answer]
    assert len(taken) == len(set(taken))
    # Who came second to all that they looked at may have gone away with fewer than there were.
    taken += [each.id for each in take(memory)]
    assert len(taken) == len(set(taken)) == 30
    assert {each.id for each in Callback.select()} == set(taken)
    assert take(memory) == []


def test_a_lease_that_lapsed_gives_it_to_another_and_the_late_one_changes_nothing(
    memory: Services, clock: Clock, told: Script
) -> None:
    ended(memory, told)
    (late,) = take(memory)
    clock.forward(ms=LEASE_MS)
    assert take(memory) == []
    clock.forward(ms=1)
    (taken,) = take(memory)
    assert (taken.id, taken.body) == (late.id, late.body)
    assert taken.headers(clock.now)["webhook-id"] == late.headers(0)["webhook-id"] == f"msg_{late.id}"
    settle(memory, late, WRONG)
    row = Callback.get()
    assert (row.status, row.deliveries, row.leased_until) == ("pending", [], taken.leased_until)
    settle(memory, taken, FINE)
    settle(memory, late, WRONG)
    callbacks.release([late, taken])
    assert (Callback.get().status, len(Callback.get().deliveries), take(memory)) == ("delivered", 1, [])


def test_a_late_worker_whose_callback_nobody_took_meanwhile_still_settles_it(
    memory: Services, clock: Clock, told: Script
) -> None:
    ended(memory, told)
    (taken,) = take(memory)
    clock.forward(ms=2 * LEASE_MS)
    settle(memory, taken, FINE)
    assert Callback.get().status == "delivered"


def test_a_clock_that_was_set_back_does_not_hold_it_for_long(memory: Services, clock: Clock, told: Script) -> None:
    ended(memory, told)
    clock.forward(s=3600)
    assert len(take(memory)) == 1
    clock.forward(s=-3600)
    assert len(take(memory)) == 1


def test_what_is_given_back_is_taken_at_once(memory: Services, told: Script) -> None:
    ended(memory, told)
    (taken,) = take(memory)
    callbacks.release([taken])
    (again,) = take(memory)
    assert (again.id, again.deliveries) == (taken.id, [])


def test_a_workspace_with_many_leaves_room_for_the_others(memory: Services, clock: Clock, told: Script) -> None:
    for _ in range(3 * PER_WORKSPACE):
        ended(memory, told)
    clock.forward(s=1)
    quiet = [world.script(memory, owner=f"quiet-{n}", callback_url=URL, callback_secret=SECRET) for n in range(3)]
    for script in quiet:
        ended(memory, script)
    # With one place each comes before the second of anybody.
    first = take(memory, 4)
    assert sorted(each.workspace_id for each in first) == [ACME, "quiet-0", "quiet-1", "quiet-2"]
    assert len(take(memory, 64, {ACME: 1})) == PER_WORKSPACE - 1
    assert take(memory, 64, {ACME: PER_WORKSPACE}) == []
    assert take(memory, 0) == []


def test_very_many_of_one_workspace_hide_none_of_another(
    memory: Services, clock: Clock, told: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "_MOST", 10)
    monkeypatch.setattr(callbacks, "_PER_LOOK", 3)
    for _ in range(12):
        ended(memory, told)
    clock.forward(s=1)
    for owner in (OTHER, "third"):
        ended(memory, world.script(memory, owner=owner, callback_url=URL, callback_secret=SECRET))
    seen = Counter(each.workspace_id for each in callbacks.due(memory, random.random))
    assert seen == {ACME: 3, OTHER: 1, "third": 1}
    monkeypatch.setattr(callbacks, "_WORKSPACES", 1)
    draws = [frozenset(each.workspace_id for each in callbacks.due(memory, random.random)) for _ in range(60)]
    assert {name for drawn in draws for name in drawn} == {ACME, OTHER, "third"}
    assert all(len(drawn) == 1 for drawn in draws)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_no_look_reads_what_is_over_or_not_due(memory: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "_MOST", 0)
    execute = memory.database.execute_sql
    seen: list[str] = []

    def note(sql: str, parameters: Any = None, *more: Any) -> Any:
        seen.append(sql)
        return execute(sql, parameters, *more)

    with monkeypatch.context() as patch:
        patch.setattr(memory.database, "execute_sql", note)
        callbacks.due(memory, random.random)
    plans = [str(execute(f"EXPLAIN QUERY PLAN {each}", [1] * each.count("?")).fetchall()) for each in seen]
    assert len(plans) == 2
    assert "INDEX callback_due (next_at<?)" in plans[0], plans
    assert plans[1].count("callback_workspace_due") == 2 and "SCAN callback'" not in plans[1], plans


def test_whoever_has_the_fewest_under_way_goes_first(memory: Services, clock: Clock, told: Script) -> None:
    ended(memory, told)
    clock.forward(s=1)
    ended(memory, world.script(memory, owner=OTHER, callback_url=URL, callback_secret=SECRET))
    (taken,) = take(memory, 1, {ACME: 1})
    assert taken.workspace_id == OTHER


def test_nothing_is_told_of_a_script_that_was_deleted(memory: Services, told: Script) -> None:
    run = ended(memory, told)
    removal._retire(memory, told)
    assert take(memory) == []
    assert Callback.select().count() == 0  # it comes before nobody, until the rest is gone too
    removal.purge(memory, told.uuid)
    assert Callback.select().count() == Run.select().where(Run.id == run.id).count() == 0


def test_a_callback_goes_with_its_run(memory: Services, clock: Clock, told: Script) -> None:
    ended(memory, told)
    clock.forward(s=86_400 * 2)
    kept = ended(memory, told)
    limits.change(memory, ACME, {"retention_days.runs": 1})
    rounds = retention.Retention(memory)
    while rounds.step():
        pass
    assert [row.run_id for row in Callback.select()] == [kept.id]


# What is sent


def test_what_is_sent_says_how_the_run_ended(memory: Services, clock: Clock, told: Script) -> None:
    run = start(memory, told)
    clock.forward(ms=1500)
    world.finish(memory, run, FAILED, error="Error: é\x07", error_code="SCRIPT_ERROR", summary={"value": 1})
    (taken,) = take(memory)
    assert json.loads(taken.body) == {
        "type": "run.failed",
        "timestamp": "2027-01-15T08:00:01.500Z",
        "data": {
            "run_id": run.id, "script_id": "hello", "status": "failed", "error": "Error: é\x07",
            "error_code": "SCRIPT_ERROR", "duration_ms": 5, "result_summary": {"value": 1},
            "created_at": "2027-01-15T08:00:00.000Z", "completed_at": "2027-01-15T08:00:01.500Z",
        },
    }  # fmt: skip
    assert (taken.url, taken.secret) == (URL, SECRET)
    assert "whsec" not in repr(taken)


def test_it_is_signed_as_webhooks_are_checked(memory: Services, clock: Clock, told: Script) -> None:
    run = ended(memory, told)
    (taken,) = take(memory)
    headers = taken.headers(clock.now)
    assert signatures.verify("standard", SECRET, headers, taken.body, clock.now).delivery_id == f"msg_{run.id}"
    for secret, body in ((SECRET, taken.body + b" "), ("whsec_" + "a" * 32, taken.body)):
        with pytest.raises(Denied):
            signatures.verify("standard", secret, headers, body, clock.now)


def test_the_current_secret_signs_also_what_ended_before(memory: Services, clock: Clock, told: Script) -> None:
    ended(memory, told)
    other = "whsec_" + base64.b64encode(b"o" * 24).decode()
    scripts.update(memory, told, scripts.Change(callback_secret=other))
    (taken,) = take(memory)
    assert signatures.verify("standard", other, taken.headers(clock.now), taken.body, clock.now)


def test_a_secret_that_does_not_open_keeps_no_other_waiting(memory: Services, told: Script) -> None:
    other = world.script(memory, "other", callback_url=URL, callback_secret=SECRET)
    ended(memory, told)
    ended(memory, other)
    moved = Script.get_by_id(told.uuid).callback_secret
    Script.update(callback_secret=moved).where(Script.uuid == other.uuid).execute()
    taken = {json.loads(each.body)["data"]["script_id"]: each.secret for each in take(memory)}
    assert taken == {"hello": SECRET, "other": None}


# What comes of each try


def test_a_2xx_is_the_end_of_it(memory: Services, clock: Clock, told: Script) -> None:
    ended(memory, told)
    (taken,) = take(memory)
    settle(memory, taken, Try(at=clock.now, status=204, error=None, duration_ms=12))
    row = Callback.get()
    assert (row.status, row.next_at, row.leased_until) == ("delivered", None, None)
    assert row.deliveries == [{"at": clock.now, "status": 204, "error": None, "duration_ms": 12, "try": 1}]


def test_failures_are_tried_again_with_growing_pauses_and_then_given_up(
    memory: Services, clock: Clock, told: Script
) -> None:
    ended(memory, told)
    assert DELAYS_S == (5, 30, 120, 600, 3600, 21_600)
    for number, delay in enumerate(DELAYS_S, 1):
        (taken,) = take(memory)
        settle(memory, taken, WRONG)
        row = Callback.get()
        assert (row.status, row.next_at, len(row.deliveries)) == ("pending", clock.now + delay * 1000, number)
        clock.now = row.next_at - 1
        assert take(memory) == []
        clock.forward(ms=1)
    (taken,) = take(memory)
    settle(memory, taken, WRONG)
    row = Callback.get()
    assert (row.status, row.next_at, len(row.deliveries)) == ("failed", None, 7)
    clock.forward(s=10**7)
    assert take(memory) == []


@given(st.floats(0, 1), st.integers(1, 6))
def test_chance_adds_at_most_a_fifth_to_a_pause(draw: float, number: int) -> None:
    before = [{"at": 0, "status": 500, "error": "answered 500", "duration_ms": 1, "try": number - 1}] * (number > 1)
    taken = Taken("id", ACME, URL, b"", SECRET, 1, before)
    outcome, changes = callbacks._judge(taken, WRONG, 1_000, lambda: draw)
    least = DELAYS_S[number - 1] * 1000
    assert outcome == "retried" and least <= changes["next_at"] - 1_000 <= least * 1.2


def test_what_would_be_so_again_is_given_up_at_once(memory: Services, told: Script) -> None:
    ended(memory, told)
    (taken,) = take(memory)
    settle(memory, taken, Try(at=1, status=410, error="answered 410", duration_ms=1, for_good=True))
    row = Callback.get()
    assert (row.status, row.next_at, row.deliveries[0]["status"]) == ("failed", None, 410)


def test_one_that_is_over_is_sent_again_with_all_tries_anew(memory: Services, clock: Clock, told: Script) -> None:
    run = ended(memory, told)
    with pytest.raises(Conflict):
        callbacks.redeliver(memory, run)
    for outcome in (WRONG, FINE):
        (taken,) = take(memory)
        with pytest.raises(Conflict):
            callbacks.redeliver(memory, run)
        settle(memory, taken, outcome)
        clock.now = Callback.get().next_at or clock.now
    assert callbacks.redeliver(memory, run).status == "pending"
    tries = 0
    while Callback.get().status == "pending":
        (again,) = take(memory)
        assert again.headers(0)["webhook-id"] == taken.headers(0)["webhook-id"]
        settle(memory, again, WRONG)
        clock.now = Callback.get().next_at or clock.now
        tries += 1
    row = Callback.get()
    assert (tries, row.status) == (7, "failed")
    # Of these nine all are kept; of sixteen the last ten.
    assert [each.get("try") for each in row.deliveries] == [None, None, 1, 2, 3, 4, 5, 6, 7]
    callbacks.redeliver(memory, run)
    while Callback.get().status == "pending":
        settle(memory, take(memory)[0], WRONG)
        clock.now = Callback.get().next_at or clock.now
    assert [each.get("try") for each in Callback.get().deliveries] == [None, None, None, 1, 2, 3, 4, 5, 6, 7]


def test_two_who_ask_for_it_again_at_once_get_one(
    memory: Services, database: peewee.Database, told: Script
) -> None:
    run = ended(memory, told)
    settle(memory, take(memory)[0], FINE)
    answers = world.at_once(database, *[lambda: callbacks.redeliver(memory, run)] * 4)
    assert sum(isinstance(each, Callback) for each in answers) == 1
    assert sum(isinstance(each, Conflict) for each in answers) == 3


def test_a_run_without_one_has_none(memory: Services) -> None:
    run = ended(memory, world.script(memory))
    for ask in (callbacks.of, lambda run: callbacks.redeliver(memory, run)):
        with pytest.raises(NotFound):
            ask(run)


# Secrets


def test_a_secret_is_made_when_an_address_comes_without_one_and_stays(memory: Services) -> None:
    script = scripts.create(
        memory, world.workspace(memory).id,
        scripts.NewScript(slug="fresh", display_name="x", runtime="nodejs20", source=b"exports.handler = () => 1\n",
                          callback_url=URL), lambda size: b"r" * size,
    )  # fmt: skip
    fresh = script.fresh_callback_secret
    assert fresh == "whsec_" + base64.b64encode(b"r" * 24).decode()
    sealed = Script.get_by_id(script.uuid).callback_secret
    assert sealed and fresh not in sealed
    for url in ("https://example.org/other", None, URL):
        script = scripts.update(memory, script, scripts.Change(columns={"callback_url": url}))
        assert script.fresh_callback_secret is None
    ended(memory, script)
    assert take(memory)[0].secret == fresh


def test_an_update_makes_one_where_none_is(memory: Services) -> None:
    script = scripts.update(memory, world.script(memory), scripts.Change(columns={"callback_url": URL}))
    assert script.fresh_callback_secret is not None
    assert scripts.update(memory, script, scripts.Change(columns={"memory_mb": 512})).fresh_callback_secret is None


def test_a_secret_of_ones_own_is_taken_as_it_is(memory: Services, told: Script) -> None:
    assert told.fresh_callback_secret is None
    ended(memory, told)
    assert take(memory)[0].secret == SECRET


@pytest.mark.parametrize("secret", ["", "short", "whsec_", "whsec_not base64", "whsec_%%%%%%%%", "é" * 20, "a" * 501])
def test_a_secret_that_nobody_could_check_with_is_refused_and_not_repeated(memory: Services, secret: str) -> None:
    with pytest.raises(Invalid) as refusal:
        world.script(memory, callback_secret=secret)
    assert refusal.value.field == "callback_secret"
    assert len(secret) < 8 or secret not in str(refusal.value.details)
    script = world.script(memory, "other")
    with pytest.raises(Invalid):
        scripts.update(memory, script, scripts.Change(callback_secret=secret))
    assert [each.slug for each in Script.select()] == ["other"]


def test_a_run_is_not_told_of_unsigned(memory: Services) -> None:
    script = world.script(memory)
    large = {"text": "x" * runs.INLINE_LIMIT}
    with pytest.raises(Invalid, match="callback_secret") as refusal:
        start(memory, script, large, callback_url=URL, idempotency_key="k")
    assert refusal.value.field == "callback_url"
    assert Run.select().count() == IdempotencyKey.select().count() == 0
    assert memory.objects.list("payloads/") == []


# Addresses

GOOD = [
    "http://example.com", "https://example.com/", "HTTPS://EXAMPLE.com:8443/a/b?c=d&e=%20", "http://example.com?x",
    "http://192.0.2.1:80/", "http://[2001:db8::1]:8080/x", "https://xn--bcher-kva.example/", "http://localhost",
    "https://_x.example.com/", "https://example.com/" + "a" * 1980, "http://e.com/@x:y", "http://127.0.0.1/",
]  # fmt: skip
BAD = [
    "", " ", "example.com", "//example.com/", "ftp://example.com/", "javascript:alert(1)", "file:///etc/passwd",
    "http:/example.com", "http://", "http:///x", "http://?x", "http://:80/", "http://a:b@example.com/",
    "http://a@example.com", "http://@example.com/", "http://example.com@127.0.0.1/", "http://bücher.example/",
    "http://example.com/é", "http://example.com/ x", "http://example.com/\n", "http://example.com\r\nX: y/",
    "\thttp://example.com/", "http://example.com/\x00", "http://exa\tmple.com/", "http://example.com/#f",
    "http://example.com:0/", "http://example.com:65536/", "http://example.com:/", "http://example.com:x/",
    "http://example.com:8080:80/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/",
    "http://[::1/", "http://::1/", "http://[::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[v1.x]/",
    "http://[127.0.0.1]/", "http://exa_mple-.com/", "http://-a.com/", "http://example..com/", "http://example.com./",
    "http://a\\@b.com/", "http://example.com\\x", "http://" + "a" * 64 + ".com/", "http://" + "a." * 130 + "com/",
    "https://example.com/" + "a" * 1981, "https://" + "a" * 100_000, "http://ex\u2028ample.com/", "http://K.com\u212a/",
    "http://exam\udc00ple.com/", "http://example.com/\u202e", "http://[example.com]/", "http://*.example.com/",
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD)
def test_an_address_is_taken(url: str) -> None:
    callbacks.check_url(url)


@pytest.mark.parametrize("url", BAD)
def test_what_is_no_address_is_refused_and_makes_nothing(memory: Services, told: Script, url: str) -> None:
    with pytest.raises(Invalid) as refusal:
        callbacks.check_url(url)
    assert refusal.value.field == "callback_url"
    assert "a:b" not in str(refusal.value.details)
    for refused in (
        lambda: world.script(memory, "other", callback_url=url),
        lambda: scripts.update(memory, told, scripts.Change(columns={"callback_url": url, "memory_mb": 512})),
        lambda: start(memory, told, callback_url=url),
    ):
        with pytest.raises(Invalid):
            refused()
    assert Run.select().count() == 0
    row = Script.get()
    assert (Script.select().count(), row.callback_url, row.memory_mb) == (1, URL, 256)
    assert len(memory.objects.list("scripts/")) == 1


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://a:b@example.com/", "user and password"), ("http://example.com/#f", "fragment"),
        ("http://bücher.example/", "ASCII"), ("ftp://example.com/", "begin with http"), ("http://a..b/", "name a host"),
        ("http://example.com:0/", "port from 1"), ("http://example.com/" + "a" * 2000, "from 1 to 2000 characters"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_rule(url: str, rule: str) -> None:
    with pytest.raises(Invalid, match=f"^callback_url must .*{rule}"):
        callbacks.check_url(url)


_PIECES = st.sampled_from([
    "http://", "https://", "a", "B", "1", ".", "-", "_", ":", "/", "?", "@", "[", "]", "::1", "%41", "127.0.0.1", "\\",
    "example.com", "80", "65535", ";", "'", "&", "=", "é", "\n", " ", "#", "٣", "K",
])  # fmt: skip


@given(st.lists(_PIECES, max_size=8).map("".join) | st.lists(_PIECES, max_size=6).map(lambda x: "http://" + "".join(x)))
def test_what_is_taken_means_the_same_host_to_everybody_who_reads_it(url: str) -> None:
    try:
        address = callbacks.parse_url(url)
    except ValueError:
        return
    target = policy.parse_target(address.authority, 443 if address.tls else 80)
    split = urlsplit(url)
    assert (split.username, split.password, split.fragment) == (None, None, "")
    assert split.hostname is not None
    assert policy.parse_host(split.hostname)[0] == target.host
    assert (split.port or (443 if address.tls else 80)) == target.port
    assert address.target.startswith("/") and address.target.isascii() and address.target.isprintable()
