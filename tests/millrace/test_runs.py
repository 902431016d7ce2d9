"""The life of a run."""

import json
import threading
from dataclasses import replace

import peewee
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import admission, events, removal, runs, scripts
from millrace.dispatch import MemoryQueue
from millrace.errors import Conflict, Invalid, NotFound, NotReady, Unprocessable
from millrace.models import Event, IdempotencyKey, Run, Script, Subscription, Workspace
from millrace.services import Services
from tests import world
from tests.world import ACME, Clock, at_once, order, reload, sent, start


def test_an_accepted_run_is_stored_and_then_sent(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    answer = runs.submit(memory, order(script, {"a": 1}, mode="sync", caller_ip="10.1.2.3"))
    run = reload(answer.run)
    assert answer.created
    assert (run.status, run.version, run.mode, run.caller_ip, run.attempt) == ("queued", 1, "sync", "10.1.2.3", 0)
    assert (run.created_at, run.available_at, run.sent_at) == (clock.now, clock.now, clock.now)
    assert json.loads(runs.payload_text(memory, run)) == {"a": 1}
    assert sent(memory) == [(run.id, 1)]


def test_a_run_keeps_the_version_it_was_accepted_with(memory: Services) -> None:
    script = world.script(memory)
    run = start(memory, script)
    scripts.update(memory, script, scripts.Change(source=b"exports.handler = () => 2\n"))
    assert reload(run).version == 1
    assert start(memory, script).version == 2


def test_a_large_payload_lives_in_the_object_store(memory: Services) -> None:
    script = world.script(memory)
    payload = {"text": "x" * runs.INLINE_LIMIT}
    run = reload(start(memory, script, payload))
    assert run.payload is None
    assert run.payload_key is not None and memory.objects.exists(run.payload_key)
    assert json.loads(runs.payload_text(memory, run)) == payload


@pytest.mark.parametrize("payload", [
    None, 0, "", [], {}, "NUL \x00", "half \ud800 pair", {"\x00": "\udfff"}, 10**400, -0.0, {"é": "日本"},
])
def test_any_json_goes_through_as_it_is(memory: Services, payload: object) -> None:
    run = start(memory, world.script(memory), payload)
    assert json.loads(runs.payload_text(memory, reload(run))) == payload


def _nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("payload", [float("nan"), float("inf"), {"a": {1, 2}}, _nested(100_000)])
def test_what_is_no_json_is_refused_and_leaves_nothing(memory: Services, payload: object) -> None:
    script = world.script(memory)
    with pytest.raises(Invalid) as refused:
        start(memory, script, payload)
    assert refused.value.field == "payload"
    assert Run.select().count() == 0


def test_an_inactive_script_is_not_run(memory: Services) -> None:
    script = world.script(memory, status="draft")
    with pytest.raises(Unprocessable, match="'hello' is draft"):
        start(memory, script)
    assert Run.select().count() == 0 and sent(memory) == []


def test_a_suspended_workspace_runs_nothing(memory: Services) -> None:
    script = world.script(memory)
    Workspace.update(status="suspended").execute()
    with pytest.raises(NotReady, match="'acme' is suspended"):
        start(memory, script)


def test_a_script_that_is_gone_is_not_found(memory: Services) -> None:
    script = world.script(memory)
    removal.delete(memory, script)
    with pytest.raises(NotFound):
        start(memory, script)


def test_a_run_can_wait_for_its_time_but_not_for_ever(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    run = start(memory, script, available_at=clock.now + 5_000)
    assert run.sent_at is None and sent(memory) == []
    assert runs.release_due(memory) == 0
    clock.forward(ms=5_000)
    assert runs.release_due(memory) == 1
    assert sent(memory) == [(run.id, 1)]
    assert runs.release_due(memory) == 0
    with pytest.raises(Invalid, match="366 days"):
        start(memory, script, available_at=clock.now + runs.MAX_DELAY_MS + 1)


def test_a_time_in_the_past_means_now(memory: Services, clock: Clock) -> None:
    run = start(memory, world.script(memory), available_at=1)
    assert run.available_at == clock.now and sent(memory) == [(run.id, 1)]


class DeadQueue(MemoryQueue):
    """Notes what it was given, and takes none of it."""

    def send(self, run_id: str, attempt: int, workspace: str = "") -> bool:
        super().send(run_id, attempt, workspace)
        return False


def test_a_queue_that_does_not_answer_is_not_asked_for_each_run(memory: Services) -> None:
    for number in range(3):
        script = world.script(memory, f"script-{number}", max_concurrent_runs=1)
        for _ in range(4):
            start(memory, script)
    Script.update(max_concurrent_runs=10).execute()
    dead = replace(memory, queue=DeadQueue())
    assert runs.release_due(dead) == 0
    assert len(sent(dead)) == 1
    sent(memory)
    assert runs.release_due(memory) == len(sent(memory)) == 6  # those that were not marked as sent


def test_an_end_does_not_wait_long_for_a_queue_that_does_not_answer(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    run, *_ = [start(memory, script) for _ in range(5)]
    Script.update(max_concurrent_runs=10).execute()
    dead = replace(memory, queue=DeadQueue())
    assert world.finish(dead, run)
    assert len(sent(dead)) == 1


LARGE = "x" * runs.INLINE_LIMIT


def test_a_refused_run_leaves_no_payload(memory: Services) -> None:
    script = world.script(memory)
    runs.submit(memory, order(script, idempotency_key="k", request_digest="d"))
    with pytest.raises(Conflict):
        runs.submit(memory, order(script, LARGE, idempotency_key="k", request_digest="e"))
    Script.update(status="paused").execute()
    with pytest.raises(Unprocessable):
        start(memory, script, LARGE)
    Workspace.update(status="suspended").execute()
    with pytest.raises(NotReady):
        start(memory, script, LARGE)
    removal.delete(memory, script)
    with pytest.raises(NotFound):
        start(memory, script, LARGE)
    assert memory.objects.list("payloads/") == []


def test_a_payload_stays_when_the_commit_may_have_been_done(
    memory: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, accept = world.script(memory), runs.submitting._accept

    def lose_the_answer(*given: object) -> None:
        accept(*given)  # type: ignore[arg-type]
        raise peewee.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(runs.submitting, "_accept", lose_the_answer)
    with pytest.raises(peewee.OperationalError):
        start(memory, script, LARGE)
    assert json.loads(runs.payload_text(memory, Run.get())) == LARGE


# One run per cause


def test_the_same_key_and_request_answer_with_the_same_run(memory: Services) -> None:
    script = world.script(memory)
    first = runs.submit(memory, order(script, 1, idempotency_key="k", request_digest="d"))
    again = runs.submit(memory, order(script, 1, idempotency_key="k", request_digest="d"))
    assert (first.created, again.created) == (True, False)
    assert again.run.id == first.run.id
    assert sent(memory) == [(first.run.id, 1)]


def test_a_key_is_refused_for_another_request(memory: Services) -> None:
    script = world.script(memory)
    runs.submit(memory, order(script, 1, idempotency_key="k", request_digest="d"))
    with pytest.raises(Conflict, match="'k' was used before"):
        runs.submit(memory, order(script, 2, idempotency_key="k", request_digest="e"))
    assert Run.select().count() == 1


def test_a_key_belongs_to_one_script(memory: Services) -> None:
    one, two = world.script(memory, "one-script"), world.script(memory, "two-scripts")
    first = runs.submit(memory, order(one, idempotency_key="k"))
    second = runs.submit(memory, order(two, idempotency_key="k"))
    assert second.created and second.run.id != first.run.id


def test_a_key_is_forgotten_after_a_day(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    first = runs.submit(memory, order(script, 1, idempotency_key="k", request_digest="d"))
    clock.forward(ms=runs.KEY_LIFE_MS - 1)
    assert not runs.submit(memory, order(script, 1, idempotency_key="k", request_digest="d")).created
    clock.forward(ms=1)
    second = runs.submit(memory, order(script, 2, idempotency_key="k", request_digest="e"))
    assert second.created and second.run.id != first.run.id
    assert IdempotencyKey.get().run_id == second.run.id


def test_a_payload_that_turned_out_a_repetition_is_not_left_behind(memory: Services) -> None:
    script = world.script(memory)
    payload = "x" * runs.INLINE_LIMIT
    for _ in range(2):
        runs.submit(memory, order(script, payload, idempotency_key="k"))
    assert len(memory.objects.list("payloads/")) == 1


@pytest.mark.parametrize("cause", [
    {"idempotency_key": "k", "request_digest": "d"},
    {"event_id": "01a20000-0000-7000-8000-000000000000"},
    {"due_at": 1_800_000_000_000},
    {"delivery_id": "delivery-1"},
])
def test_two_at_once_with_the_same_cause_are_one_run(memory: Services, cause: dict[str, object]) -> None:
    script = world.script(memory)
    answers = at_once(memory.database, *[lambda: runs.submit(memory, order(script, **cause))] * 4)
    assert sorted(answer.created for answer in answers) == [False, False, False, True]
    assert len({answer.run.id for answer in answers}) == 1
    assert Run.select().count() == 1
    assert len(sent(memory)) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=12))
def test_however_requests_repeat_each_key_has_one_run(
    memory: Services, clock: Clock, requests: list[tuple[str, int]]
) -> None:
    slug = f"s-{memory.new_id()}"
    script = world.script(memory, slug)
    model: dict[str, tuple[int, str]] = {}
    for key, body in requests:
        clock.forward(ms=1)
        wish = order(script, body, idempotency_key=key, request_digest=runs.digest(body))
        if key not in model:
            answer = runs.submit(memory, wish)
            assert answer.created
            model[key] = body, answer.run.id
        elif model[key][0] == body:
            answer = runs.submit(memory, wish)
            assert not answer.created and answer.run.id == model[key][1]
        else:
            with pytest.raises(Conflict):
                runs.submit(memory, wish)
    assert Run.select().where(Run.script == script.uuid).count() == len(model)


def test_equal_bodies_have_equal_digests(memory: Services) -> None:
    assert runs.digest({"a": 1, "b": [1, 2]}) == runs.digest({"b": [1, 2], "a": 1})
    assert runs.digest({"a": 1}) != runs.digest({"a": "1"})
    assert runs.digest([1, 2]) != runs.digest([2, 1])


def test_what_caused_a_run_is_written_with_it_or_not_at_all(memory: Services) -> None:
    script = world.script(memory)

    def fail(run: Run) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        runs.submit(memory, order(script), because=fail)
    assert Run.select().count() == 0 and sent(memory) == []


# Claims, leases, endings


def test_one_of_many_workers_gets_the_run(memory: Services) -> None:
    run = start(memory, world.script(memory))
    claims = at_once(memory.database, *[
        lambda name=name: runs.claim(memory, run.id, 1, name, 15_000) for name in ("a", "b", "c", "d")
    ])
    assert sorted(claims) == [False, False, False, True]


def test_a_claim_holds_a_lease(memory: Services, clock: Clock) -> None:
    run = start(memory, world.script(memory))
    clock.forward(ms=30)
    assert runs.claim(memory, run.id, 1, "worker-1", 15_000)
    run = reload(run)
    assert (run.status, run.attempt, run.worker, run.started_at) == ("running", 1, "worker-1", clock.now)
    assert run.lease_until == clock.now + 15_000
    clock.forward(ms=4_000)
    runs.renew(memory, [(run.id, 1)], 15_000)
    assert reload(run).lease_until == clock.now + 15_000


@pytest.mark.parametrize("attempt", [0, 2, 3])
def test_another_attempt_than_the_next_claims_nothing(memory: Services, attempt: int) -> None:
    run = start(memory, world.script(memory))
    assert not runs.claim(memory, run.id, attempt, "worker-1", 15_000)


def test_a_stranger_renews_nothing(memory: Services, clock: Clock) -> None:
    run = start(memory, world.script(memory))
    runs.claim(memory, run.id, 1, "worker-1", 15_000)
    clock.forward(ms=1)
    runs.renew(memory, [(run.id, 2), ("none", 1)], 15_000)
    runs.renew(memory, [], 15_000)
    assert reload(run).lease_until == clock.now - 1 + 15_000


def test_an_outcome_is_recorded_once(memory: Services, clock: Clock) -> None:
    run = start(memory, world.script(memory))
    runs.claim(memory, run.id, 1, "worker-1", 15_000)
    clock.forward(ms=7)
    good = runs.Ending("succeeded", 7, result="1", summary={"a": 1}, log_key="logs/x.log", usage={"cpu_ms": 3})
    answers = at_once(memory.database, *[lambda: runs.finish(memory, run, 1, good)] * 3)
    assert sorted(answers) == [False, False, True]
    run = reload(run)
    assert (run.status, run.duration_ms, run.completed_at, run.lease_until) == ("succeeded", 7, clock.now, None)
    assert (run.result, run.summary, run.log_key, run.usage) == ("1", {"a": 1}, "logs/x.log", {"cpu_ms": 3})


def test_a_worker_that_lost_the_run_changes_nothing(memory: Services) -> None:
    run = start(memory, world.script(memory))
    runs.claim(memory, run.id, 1, "worker-1", 15_000)
    assert runs.release(memory, run.id, 1, "worker-1")
    assert runs.claim(memory, run.id, 2, "worker-2", 15_000)
    assert not runs.finish(memory, run, 1, runs.Ending("succeeded", 5, result="1"))
    assert reload(run).status == "running"
    assert runs.finish(memory, run, 2, runs.Ending("failed", 5, error="oh"))


def test_a_large_result_of_a_late_worker_does_not_replace_the_recorded_one(memory: Services) -> None:
    run = start(memory, world.script(memory))
    late, good = (json.dumps(letter * runs.INLINE_LIMIT) for letter in "lg")
    runs.claim(memory, run.id, 1, "worker-1", 15_000)
    runs.release(memory, run.id, 1, "worker-1")
    runs.claim(memory, run.id, 2, "worker-2", 15_000)
    assert runs.finish(memory, run, 2, runs.Ending("succeeded", 5, result=good))
    assert not runs.finish(memory, run, 1, runs.Ending("succeeded", 5, result=late))
    assert runs.result_text(memory, reload(run)) == good


@pytest.mark.parametrize("text", ["NUL \x00 inside", "half \ud800 pair", "\udfff", "plain", ""])
def test_whatever_a_script_throws_can_be_recorded(memory: Services, text: str) -> None:
    run = start(memory, world.script(memory))
    assert world.finish(memory, run, "failed", error=text, error_stack=text, error_code="SCRIPT_ERROR")
    run = reload(run)
    assert run.status == "failed"
    assert run.error is not None and ("plain" not in text or run.error == text)


def test_a_run_of_a_deleted_script_ends_in_nothing(memory: Services) -> None:
    script = world.script(memory)
    run = start(memory, script)
    runs.claim(memory, run.id, 1, "worker-1", 15_000)
    removal.delete(memory, script)
    assert not runs.finish(memory, run, 1, runs.Ending("succeeded", 5))


@pytest.mark.parametrize(("status", "name"), [
    ("succeeded", "run.completed"), ("failed", "run.failed"), ("timed_out", "run.timed_out"),
])
def test_an_end_is_a_fact_for_who_subscribed(memory: Services, status: str, name: str) -> None:
    script = world.script(memory)
    watcher = world.script(memory, "watcher")
    Subscription.create(script=watcher.uuid, workspace=ACME, pattern="run.*")
    run = start(memory, script)
    world.finish(memory, run, status, error=None if status == "succeeded" else "bad")
    fact = Event.get()
    assert (fact.name, fact.subject, fact.source, fact.depth) == (name, "hello", "millrace", 1)
    assert fact.data["run_id"] == run.id
    assert [each.event_id for each in memory.bus.receive("me", 0)] == [fact.id]


def test_an_end_that_nobody_subscribed_to_leaves_no_row(memory: Services) -> None:
    world.finish(memory, start(memory, world.script(memory)))
    assert Event.select().count() == 0


def test_whoever_waits_is_told_at_once(memory: Services) -> None:
    run = start(memory, world.script(memory))
    ended: list[Run] = []
    waiter = threading.Thread(target=lambda: ended.append(runs.await_end(memory, run.id, 10)))
    waiter.start()
    world.finish(memory, run, result="42")
    waiter.join(5)
    assert [each.result for each in ended] == ["42"]


def test_waiting_ends_with_its_time(memory: Services) -> None:
    run = start(memory, world.script(memory))
    assert runs.await_end(memory, run.id, 0.05).status == "queued"


def test_waiting_holds_no_connection(memory: Services) -> None:
    run = start(memory, world.script(memory))
    waiters = [threading.Thread(target=runs.await_end, args=(memory, run.id, 5)) for _ in range(60)]
    for each in waiters:
        each.start()
    world.finish(memory, run)  # 60 waiters, and the pool has 40 connections
    for each in waiters:
        each.join(5)
        assert not each.is_alive()


# Cancelling


def test_a_queued_run_is_cancelled_at_once_and_its_place_is_free(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    first, second = start(memory, script), start(memory, script)
    sent(memory)
    runs.cancel(memory, first)
    assert (reload(first).status, reload(first).completed_at) == ("cancelled", clock.now)
    assert sent(memory) == [(second.id, 1)]
    assert not runs.claim(memory, first.id, 1, "worker-1", 15_000)


def test_a_running_run_is_asked_to_end(memory: Services, clock: Clock) -> None:
    run = start(memory, world.script(memory))
    runs.claim(memory, run.id, 1, "worker-1", 15_000)
    assert runs.lost_or_cancelled([(run.id, 1)]) == (set(), set())
    runs.cancel(memory, run)
    assert reload(run).status == "running"
    assert runs.lost_or_cancelled([(run.id, 1)]) == (set(), {run.id})


def test_a_run_that_was_to_be_cancelled_ends_when_it_is_given_back(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    run, following = start(memory, script), start(memory, script)
    runs.claim(memory, run.id, 1, "worker-1", 15_000)
    runs.cancel(memory, run)
    sent(memory)
    clock.forward(ms=10)
    with memory.bus.listen(f"run:{run.id}") as listener:
        assert not runs.release(memory, run.id, 1, "worker-1")
        assert listener.get(timeout=1) is not None
    run = reload(run)
    assert (run.status, run.error_code, run.completed_at) == ("cancelled", "CANCELLED", clock.now)
    assert (run.cancel_requested_at, run.lease_until, run.duration_ms) == (clock.now - 10, None, 0)
    assert sent(memory) == [(following.id, 1)]
    assert not runs.claim(memory, run.id, 2, "worker-1", 15_000)
    assert not runs.release(memory, run.id, 1, "worker-1")


def test_a_run_that_is_to_be_cancelled_is_not_claimed(memory: Services, clock: Clock) -> None:
    run = start(memory, world.script(memory))
    Run.update(cancel_requested_at=clock.now).execute()
    assert not runs.claim(memory, run.id, 1, "worker-1", 15_000)


def test_a_run_is_cancelled_whoever_gives_it_back_meanwhile(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=100)
    for _ in range(10):
        run = start(memory, script)
        runs.claim(memory, run.id, 1, "worker-1", 15_000)
        answers = at_once(memory.database, lambda run=run: runs.cancel(memory, run),
                          lambda run=run: runs.release(memory, run.id, 1, "worker-1"))
        assert answers[0] is None
        assert reload(run).status == "cancelled"


def test_what_has_ended_cannot_be_cancelled(memory: Services) -> None:
    run = start(memory, world.script(memory))
    world.finish(memory, run)
    with pytest.raises(Conflict, match="has ended already: succeeded"):
        runs.cancel(memory, run)


def test_cancel_and_finish_at_once_leave_one_outcome(memory: Services) -> None:
    for _ in range(5):
        run = start(memory, world.script(memory, f"s-{memory.new_id()}"))
        at_once(memory.database, lambda run=run: runs.cancel(memory, run),
                lambda run=run: runs.claim(memory, run.id, 1, "worker-1", 15_000))
        run = reload(run)
        cancelled = run.status == "cancelled" and run.attempt == 0
        asked = run.status == "running" and run.cancel_requested_at is not None
        assert cancelled or asked


def test_a_lost_run_is_told_from_a_held_one(memory: Services) -> None:
    script = world.script(memory)
    mine, ended = start(memory, script), start(memory, script)
    runs.claim(memory, mine.id, 1, "worker-1", 15_000)
    world.finish(memory, ended)
    lost, _ = runs.lost_or_cancelled([(mine.id, 1), (ended.id, 1), ("gone", 1)])
    assert lost == {ended.id, "gone"}


# Finding


def test_only_the_owner_finds_a_run(memory: Services) -> None:
    alices, charlies = world.script(memory), world.script(memory, owner=world.OTHER)
    run = start(memory, alices)
    assert runs.find(ACME, alices.uuid, run.id).id == run.id
    for workspace, script, run_id in (
        (world.OTHER, alices.uuid, run.id), (world.OTHER, charlies.uuid, run.id),
        (ACME, charlies.uuid, run.id), (ACME, alices.uuid, memory.new_id()),
        (ACME, alices.uuid, "\x00"), (ACME, alices.uuid, "x" * 10_000), (ACME, alices.uuid, "é' OR 1=1 --"),
    ):
        with pytest.raises(NotFound):
            runs.find(workspace, script, run_id)


def test_events_that_follow_each_other_are_counted(memory: Services) -> None:
    script = world.script(memory)
    event = events.publish(memory, ACME, "a.b", None, depth=3)
    assert start(memory, script, event_id=event.id, depth=event.depth).depth == 3


def test_a_script_row_is_locked_by_one_at_a_time(memory: Services) -> None:
    script = world.script(memory, max_concurrent_runs=3)
    at_once(memory.database, *[lambda: start(memory, script)] * 12)
    assert admission.held(script.uuid) == 3
    assert Script.select().count() == 1
