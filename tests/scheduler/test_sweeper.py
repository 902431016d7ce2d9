"""Repairs, done by many at once and any number of times."""

from dataclasses import replace

import peewee
import pytest

from millrace import (
    audit,
    batches,
    events,
    invitations,
    limits,
    logs,
    metrics,
    removal,
    repair,
    runs,
    sessions,
    usage,
    users,
    workspaces,
)
from millrace.bus import MemoryBus
from millrace.dispatch import MemoryQueue
from millrace.models import Attempt, Audit, Event, IdempotencyKey, Invitation, Run, Session, UsageHour, Workspace
from millrace.services import Services
from millrace.triggers import EventTrigger, Triggers
from scheduler.sweeper import PATIENCE_S, Sweeper
from tests import world
from tests.world import ACME, Clock, at_once, reload, sent

LEASE_MS = 15_000


class Uptime:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def uptime() -> Uptime:
    return Uptime()


@pytest.fixture
def sweeper(memory: Services, uptime: Uptime) -> Sweeper:
    return Sweeper(memory, uptime)


def running(services: Services, **values: object) -> Run:
    run = world.start(services, world.script(services, f"s-{services.new_id()}", **values))
    assert runs.claim(services, run.id, 1, "worker-1", LEASE_MS)
    sent(services)
    return run


def pass_time(clock: Clock, uptime: Uptime, seconds: float) -> None:
    clock.forward(s=seconds)
    uptime.seconds += seconds


# Lost workers


def test_a_run_whose_worker_died_fails_and_is_not_run_again(
    memory: Services, sweeper: Sweeper, clock: Clock, uptime: Uptime
) -> None:
    run = running(memory)
    for _ in range(7):
        sweeper.end_lost()
        assert reload(run).status == "running"
        pass_time(clock, uptime, 2)
    pass_time(clock, uptime, 2)
    counted = metrics.runs_ended().labels("failed", "api")._value.get()
    sweeper.end_lost()
    assert metrics.runs_ended().labels("failed", "api")._value.get() == counted + 1
    run = reload(run)
    assert (run.status, run.error_code, run.lease_until) == ("failed", "WORKER_LOST", None)
    assert run.error == "The worker was lost while the script ran."
    assert run.duration_ms == 16_000
    assert sent(memory) == []
    assert not runs.finish(memory, run, 1, runs.Ending("succeeded", 1))


def test_its_place_goes_to_the_next_and_whoever_subscribed_hears_of_it(
    memory: Services, sweeper: Sweeper, clock: Clock, uptime: Uptime
) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    world.script(memory, "watcher", triggers=Triggers(events=[EventTrigger("run.failed")]))
    lost, following = world.start(memory, script), world.start(memory, script)
    runs.claim(memory, lost.id, 1, "worker-1", LEASE_MS)
    sent(memory)
    sweeper.end_lost()
    pass_time(clock, uptime, 16)
    sweeper.end_lost()
    assert sent(memory) == [(following.id, 1)]
    assert [(event.name, event.data["run_id"]) for event in Event.select()] == [("run.failed", lost.id)]


def test_a_run_that_was_to_be_cancelled_is_cancelled(
    memory: Services, sweeper: Sweeper, clock: Clock, uptime: Uptime
) -> None:
    run = running(memory)
    runs.cancel(memory, run)
    sweeper.end_lost()
    pass_time(clock, uptime, 16)
    sweeper.end_lost()
    assert reload(run).status == "cancelled"


def test_a_worker_that_renews_keeps_its_run(
    memory: Services, sweeper: Sweeper, clock: Clock, uptime: Uptime
) -> None:
    run = running(memory)
    for _ in range(20):
        pass_time(clock, uptime, 4)
        runs.renew(memory, [(run.id, 1)], LEASE_MS)
        sweeper.end_lost()
    assert reload(run).status == "running"


def test_a_clock_that_jumps_ahead_condemns_no_live_worker(
    memory: Services, sweeper: Sweeper, clock: Clock, uptime: Uptime
) -> None:
    run = running(memory)
    sweeper.end_lost()
    clock.forward(s=3600)
    sweeper.end_lost()
    pass_time(clock, uptime, 4)
    runs.renew(memory, [(run.id, 1)], LEASE_MS)
    sweeper.end_lost()
    pass_time(clock, uptime, PATIENCE_S)
    sweeper.end_lost()
    assert reload(run).status == "running"


def test_a_renewal_between_the_look_and_the_repair_wins(memory: Services, clock: Clock) -> None:
    run = running(memory)
    clock.forward(s=20)
    (lease,) = repair.leases()
    runs.renew(memory, [(run.id, 1)], LEASE_MS)
    assert not repair.fail_lost(memory, lease)
    assert reload(run).status == "running"


def test_many_sweepers_end_a_lost_run_once(memory: Services, clock: Clock) -> None:
    world.script(memory, "watcher", triggers=Triggers(events=[EventTrigger("run.failed")]))
    for _ in range(3):
        running(memory)
    clock.forward(s=20)
    found = repair.leases()
    answers = at_once(memory.database, *[lambda: [repair.fail_lost(memory, lease) for lease in found]] * 4)
    assert sum(map(sum, answers)) == 3
    assert Event.select().count() == 3


def test_a_lease_from_before_the_clock_was_set_back_does_not_last_for_ever(
    memory: Services, sweeper: Sweeper, clock: Clock, uptime: Uptime
) -> None:
    lost, alive = running(memory), running(memory)
    sweeper.end_lost()
    clock.forward(s=-3600)
    for _ in range(int(PATIENCE_S)):
        pass_time(clock, uptime, 1)
        runs.renew(memory, [(alive.id, 1)], LEASE_MS)
        sweeper.end_lost()
    assert (reload(lost).status, reload(lost).duration_ms) == ("failed", 0)
    assert reload(alive).status == "running"


def test_a_run_that_was_lost_long_ago_can_be_ended(memory: Services, clock: Clock) -> None:
    run = running(memory)
    clock.forward(s=40 * 24 * 3600)
    assert repair.fail_lost(memory, repair.leases()[0])
    assert (reload(run).status, reload(run).duration_ms) == ("failed", 2**31 - 1)


def test_a_damaged_lease_keeps_no_other_waiting(
    memory: Services, sweeper: Sweeper, clock: Clock, uptime: Uptime, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, *others = (running(memory) for _ in range(3))
    Run.update(started_at=None, lease_until=1).where(Run.id == damaged.id).execute()
    sweeper.end_lost()
    pass_time(clock, uptime, 20)
    sweeper.end_lost()
    assert [reload(run).status for run in others] == ["failed", "failed"]
    assert "a lease could not be repaired" in caplog.text


def test_a_database_that_is_away_is_no_damage(memory: Services) -> None:
    def away() -> bool:
        raise peewee.OperationalError("gone")

    with pytest.raises(peewee.OperationalError):
        repair.safely("a lease", "id", away)


def test_what_the_lost_worker_logged_is_kept_and_the_loss_is_marked(
    memory: Services, sweeper: Sweeper, clock: Clock, uptime: Uptime
) -> None:
    run = running(memory)
    for number, text in enumerate((b"one\n", b"two\n", b"four\n")):
        logs.put_chunk(memory, ACME, run.id, number if number < 2 else 3, text)
    sweeper.end_lost()
    pass_time(clock, uptime, 16)
    sweeper.end_lost()
    sweeper.join_logs()
    run = reload(run)
    assert run.log_key is not None
    text = (memory.objects.get(run.log_key) or b"").decode()
    assert text == (
        "one\ntwo\n(some lines are missing here: they were lost with the worker)\nfour\n"
        "(the worker was lost here: what the script wrote after this is missing)\n"
    )
    assert memory.objects.list(f"logs/{ACME}/{run.id}/") == []


# Lost messages


def test_a_run_whose_message_was_lost_is_sent_again_and_once(memory: Services, clock: Clock) -> None:
    run = world.start(memory, world.script(memory))
    sent(memory)  # and Redis loses it
    clock.forward(ms=repair.RESEND_AFTER_MS - 1)
    assert repair.resend_stuck(memory) == 0
    clock.forward(ms=1)
    assert sum(at_once(memory.database, *[lambda: repair.resend_stuck(memory)] * 4)) == 1
    assert sent(memory) == [(run.id, 1)]
    assert reload(run).sent_at == clock.now


def test_runs_that_wait_behind_busy_workers_get_no_copies(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=100)
    for _ in range(20):
        world.start(memory, script)
    for _ in range(10):
        clock.forward(ms=repair.RESEND_AFTER_MS)
        assert repair.resend_stuck(memory) == 0
    assert len(sent(memory)) == 20


def test_of_many_only_as_many_are_sent_again_as_were_lost(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=100)
    started = [world.start(memory, script) for _ in range(20)]
    assert isinstance(memory.queue, MemoryQueue)
    memory.queue.sent = memory.queue.sent[5:]
    clock.forward(ms=repair.RESEND_AFTER_MS)
    assert repair.resend_stuck(memory) == 5
    assert {run_id for run_id, _ in sent(memory)} == {run.id for run in started}


def test_a_message_that_was_lost_before_the_clock_was_set_back_is_sent_again(memory: Services, clock: Clock) -> None:
    run = world.start(memory, world.script(memory))
    sent(memory)
    clock.forward(ms=-repair.SKEW_MS)
    assert repair.resend_stuck(memory) == 0  # another host's clock may differ as much
    clock.forward(s=-3600)
    assert repair.resend_stuck(memory) == 1
    assert sent(memory) == [(run.id, 1)]
    assert reload(run).sent_at == clock.now


def test_a_queue_that_hangs_is_not_asked_for_each_run(memory: Services, clock: Clock) -> None:
    class Hanging(MemoryQueue):
        asked = 0

        def send(self, run_id: str, attempt: int, workspace: str = "") -> bool:
            self.asked += 1
            return False

    script, queue = world.script(memory), Hanging()
    for _ in range(5):
        world.start(memory, script)
    clock.forward(ms=repair.RESEND_AFTER_MS)
    assert repair.resend_stuck(replace(memory, queue=queue)) == 0
    assert queue.asked == 1


@pytest.mark.parametrize("ended", ["running", "succeeded", "cancelled", "waiting"])
def test_what_is_not_stuck_is_not_sent(memory: Services, clock: Clock, ended: str) -> None:
    script = world.script(memory)
    run = world.start(memory, script, available_at=clock.now + 10**9 if ended == "waiting" else None)
    if ended == "running":
        runs.claim(memory, run.id, 1, "worker-1", LEASE_MS)
    elif ended == "succeeded":
        world.finish(memory, run)
    elif ended == "cancelled":
        runs.cancel(memory, run)
    sent(memory)
    clock.forward(ms=repair.RESEND_AFTER_MS)
    assert repair.resend_stuck(memory) == 0


def test_a_run_that_was_given_back_is_sent_with_its_next_attempt(memory: Services, clock: Clock) -> None:
    run = running(memory)
    runs.release(memory, run.id, 1, "worker-1")
    sent(memory)
    clock.forward(ms=repair.RESEND_AFTER_MS)
    assert repair.resend_stuck(memory) == 1
    assert sent(memory) == [(run.id, 2)]


# Lost announcements


def test_an_event_that_was_never_announced_is_announced(memory: Services, clock: Clock) -> None:
    world.script(memory)
    event = events.publish(memory, ACME, "order.created", None)
    memory.bus.done(memory.bus.receive("lost", 0)[0])
    clock.forward(ms=repair.ANNOUNCE_AFTER_MS)
    assert repair.announce_unrouted(memory) == 0  # not older yet
    clock.forward(ms=1)
    assert repair.announce_unrouted(memory) == 1
    assert [each.event_id for each in memory.bus.receive("me", 0)] == [event.id]
    assert repair.announce_unrouted(memory) == 0  # it is on the bus now


def test_an_event_from_before_the_clock_was_set_back_is_announced(memory: Services, clock: Clock) -> None:
    world.script(memory)
    event = events.publish(memory, ACME, "order.created", None)
    memory.bus.done(memory.bus.receive("lost", 0)[0])
    clock.forward(ms=-repair.SKEW_MS)
    assert repair.announce_unrouted(memory) == 0
    clock.forward(s=-3600)
    assert repair.announce_unrouted(memory) == 1
    assert [each.event_id for each in memory.bus.receive("me", 0)] == [event.id]


def test_a_bus_that_hangs_is_not_asked_for_each_event(memory: Services, clock: Clock) -> None:
    class Hanging(MemoryBus):
        asked = 0

        def announce(self, event_id: str) -> bool:
            self.asked += 1
            return False

    world.script(memory)
    bus = Hanging()
    for number in range(5):
        events.publish(memory, ACME, "order.created", number)
    clock.forward(s=60)
    assert repair.announce_unrouted(replace(memory, bus=bus)) == 0
    assert bus.asked == 1


def test_events_behind_a_busy_router_are_not_announced_again(memory: Services, clock: Clock) -> None:
    world.script(memory)
    for number in range(10):
        events.publish(memory, ACME, "order.created", number)
    clock.forward(s=60)
    assert repair.announce_unrouted(memory) == 0
    assert memory.bus.backlog() == 10


# Logs and keys


def test_an_ended_run_whose_log_is_in_chunks_gets_it_joined_once(memory: Services) -> None:
    script = world.script(memory)
    ended = []
    for _ in range(25):
        run = world.start(memory, script)
        logs.put_chunk(memory, ACME, run.id, 0, b"line\n")
        assert world.finish(memory, run, log_chunks=1)
        ended.append(run)
    assert repair.join_logs(memory) == 20  # bounded
    assert repair.join_logs(memory) == 5
    assert repair.join_logs(memory) == 0
    assert all(memory.objects.get(reload(run).log_key or "x") == b"line\n" for run in ended)


def test_the_log_of_a_try_that_lost_its_worker_is_joined_while_the_next_goes_on(memory: Services) -> None:
    script = world.script(memory, retry={"count": 1, "delay_seconds": 0, "jitter": False, "on": ["worker_lost"]})
    run = world.start(memory, script)
    logs.put_chunk(memory, ACME, run.id, 0, b"line\n")
    world.finish(memory, run, "failed", error="x", error_code="WORKER_LOST", log_chunks=1)
    runs.release_due(memory)
    runs.claim(memory, run.id, 2, "worker-2", 15_000)
    logs.put_chunk(memory, ACME, run.id, logs.ATTEMPT_STRIDE, b"later\n")
    assert (repair.join_logs(memory), repair.join_logs(memory)) == (1, 0)
    whole = memory.objects.get(Attempt.get().log_key or "x")
    assert whole is not None and whole.startswith(b"line\n") and b"the worker was lost here" in whole
    assert memory.objects.get(logs.chunk_key(ACME, run.id, logs.ATTEMPT_STRIDE)) == b"later\n"


def test_damaged_logs_keep_no_other_waiting(
    memory: Services, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    script = world.script(memory)
    for _ in range(25):
        damaged = world.start(memory, script)
        memory.objects.put(f"logs/{ACME}/{damaged.id}/no-number.log", b"x")
        world.finish(memory, damaged, log_chunks=1)
    clock.forward(ms=1)
    run = world.start(memory, script)
    logs.put_chunk(memory, ACME, run.id, 0, b"line\n")
    world.finish(memory, run, log_chunks=1)
    assert repair.join_logs(memory) == 1
    assert reload(run).log_key is not None
    assert "a log could not be repaired" in caplog.text


def test_a_log_without_chunks_is_looked_for_once(memory: Services) -> None:
    run = world.start(memory, world.script(memory))
    world.finish(memory, run, log_chunks=1)
    assert repair.join_logs(memory) == 0
    assert (reload(run).log_chunks, reload(run).log_key) == (0, None)


def test_keys_are_forgotten_after_a_day(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    world.start(memory, script, idempotency_key="old")
    clock.forward(ms=runs.KEY_LIFE_MS - 1)
    world.start(memory, script, idempotency_key="young")
    assert repair.forget_keys(memory) == 0
    clock.forward(ms=1)
    assert repair.forget_keys(memory) == 1
    assert [row.key for row in IdempotencyKey.select()] == ["young"]


def test_a_sweep_of_a_healthy_house_changes_nothing(memory: Services, sweeper: Sweeper) -> None:
    run = running(memory)
    event = events.publish(memory, ACME, "order.created", None)
    before = [list(model.select().dicts()) for model in (Run, Event)]
    for job in (*sweeper.jobs(), *sweeper.chores()):
        job.do()
    assert before == [list(model.select().dicts()) for model in (Run, Event)]
    assert sent(memory) == [] and reload(run).status == "running"
    assert isinstance(memory.bus, MemoryBus) and memory.bus.backlog() == 1 and event.routed_at is None


# What it says of itself, and housekeeping


def test_a_lost_worker_is_told_of_in_metrics_and_in_its_workspaces_audit(
    memory: Services, sweeper: Sweeper, clock: Clock, uptime: Uptime
) -> None:
    run = running(memory)
    counted = metrics.repairs().labels("worker_lost")._value.get()
    for _ in range(3):
        sweeper.end_lost()
        pass_time(clock, uptime, 16)
    assert metrics.repairs().labels("worker_lost")._value.get() == counted + 1
    (row, _created), _ = audit.page(ACME, None, 10)
    assert (row.actor, row.action, row.subject) == ("sweeper", "run.worker_lost", run.id)
    assert row.details == {"attempt": 1}


def test_other_repairs_are_told_of_to_the_operator(memory: Services, sweeper: Sweeper, clock: Clock) -> None:
    for _ in range(2):
        world.start(memory, world.script(memory, f"s-{memory.new_id()}"))
    sent(memory)
    clock.forward(s=60)
    counted = metrics.repairs().labels("message_lost")._value.get()
    sweeper.resend()
    sweeper.resend()
    assert metrics.repairs().labels("message_lost")._value.get() == counted + 2
    (row,) = Audit.select().where(Audit.action.startswith("repair."))
    assert (row.workspace_id, row.actor, row.action) == (None, "sweeper", "repair.message_lost")
    assert row.details == {"count": 2}


def test_its_jobs_remove_what_is_old_measure_what_is_left_and_empty_deleted_workspaces(
    memory: Services, sweeper: Sweeper, clock: Clock
) -> None:
    script = world.script(memory)
    world.finish(memory, world.start(memory, script, "x" * runs.INLINE_LIMIT))
    workspaces.create(memory, "gone", "gone")
    removal.delete_workspace(memory, "gone")
    clock.forward(ms=91 * limits.DAY_MS)
    jobs = {job.name: job for job in sweeper.chores()}
    for name in ("old history", "stored bytes", "deleted workspaces"):
        while jobs[name].do() is not None:
            pass
    assert Run.select().count() == 0
    (left,) = Workspace.select()
    assert (left.id, left.stored_bytes) == (ACME, len(b"exports.handler = () => 1\n"))
    assert metrics.retention_removed().labels(kind="runs")._value.get() >= 1


def test_its_jobs_sum_up_hours_that_are_over(memory: Services, sweeper: Sweeper, clock: Clock) -> None:
    world.finish(memory, world.start(memory, world.script(memory)))
    clock.forward(ms=usage.HOUR_MS + usage.GRACE_MS)
    job = {job.name: job for job in sweeper.chores()}["usage by the hour"]
    while job.do() is not None:
        pass
    assert UsageHour.get().runs == 1


def test_its_jobs_go_on_with_a_batch_that_stands_still(memory: Services, sweeper: Sweeper, clock: Clock) -> None:
    script = world.script(memory)
    wish = batches.Wish(workspace=ACME, script=script.uuid, items=[{}, {}], concurrency=1)
    batch = batches.submit(memory, wish).batch
    Run.update(status="succeeded", completed_at=clock.now).where(Run.batch_index == 0).execute()
    {job.name: job for job in sweeper.jobs()}["starved batches"].do()
    runs.release_due(memory)
    world.finish(memory, Run.get(Run.batch_id == batch.id, Run.batch_index == 1))
    assert batches.progress(batch).counts == {"succeeded": 2}
    assert Audit.get(Audit.action == "repair.batch_starved").details == {"count": 1}


# People


def test_sessions_and_links_that_are_over_are_removed(memory: Services, sweeper: Sweeper, clock: Clock) -> None:
    user, _ = users.add(memory, "alice@example.com")
    sessions.begin(memory, user, None, "browser")
    invitations.issue(memory, user, invitations.INVITED_MS)
    sweeper.forget_sessions()
    assert Session.select().count() == Invitation.select().count() == 1
    clock.forward(s=7 * 24 * 3600)
    sweeper.forget_sessions()
    assert Session.select().count() == Invitation.select().count() == 0
    assert sweeper.forget_sessions in [job.do for job in sweeper.jobs()]
