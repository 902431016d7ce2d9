"""What is removed because of its age, and what never is."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from millrace import audit, batches, events, limits, logs, removal, repair, retention, runs, stocktaking
from millrace.errors import Unavailable
from millrace.limits import DAY_MS
from millrace.models import (
    Artifact,
    Attempt,
    Audit,
    Batch,
    DeadLetter,
    Event,
    Firing,
    IdempotencyKey,
    Run,
    Script,
    Workspace,
)
from millrace.objects import MemoryObjects
from millrace.retention import Retention
from millrace.services import Services
from tests import world
from tests.world import ACME, OTHER, Clock, at_once, reload

LARGE = "x" * runs.INLINE_LIMIT


class Uptime:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1e9  # every round is due
        return self.seconds


def remove_old(services: Services, old: Retention | None = None) -> Retention:
    """One whole round."""
    old = old or Retention(services, Uptime())
    while old.step():
        pass
    return old


def full_run(services: Services, script: Script, **values: Any) -> Run:
    """A run that left one of everything in the object store."""
    run = world.start(services, script, LARGE, **values)
    where = f"artifacts/{ACME}/{run.id}/a.txt"
    services.objects.put(where, b"file")
    Artifact.create(run=run.id, name="a.txt", size=4, content_type="text/plain", object_key=where, created_at=0)
    key = logs.put_whole(services, script.workspace_id, run.id, b"line\n")
    world.finish(services, run, result=f'"{LARGE}"', log_key=key)
    return reload(run)


def retried_run(services: Services, script: Script) -> Run:
    """A run whose first try has a log of its own, and whose second left chunks."""
    run = world.start(services, script)
    world.finish(services, run, log_key=logs.put_whole(services, ACME, run.id, b"one\n"))
    Attempt.create(run=run.id, number=1, status="failed", completed_at=0, log_key=reload(run).log_key)
    logs.put_chunk(services, ACME, run.id, logs.ATTEMPT_STRIDE, b"two\n")
    Run.update(tries=1, log_key=None, log_chunks=1).where(Run.id == run.id).execute()
    return reload(run)


def kinds(services: Services) -> list[str]:
    return sorted({key.split("/")[0] for key in services.objects.list("")} - {"scripts"})


def missing(services: Services) -> list[str]:
    """Keys that a row names and the store does not have."""
    named = [key for run in Run.select() for key in (run.payload_key, run.result_key, run.log_key)]
    named += [row.log_key for row in Attempt.select()] + [row.object_key for row in Artifact.select()]
    return [key for key in named if key and not services.objects.exists(key)]


def test_logs_go_first_and_then_the_run_with_the_rest(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    run = full_run(memory, script)
    limits.change(memory, ACME, {"retention_days.logs": 1, "retention_days.artifacts": 2, "retention_days.runs": 3})
    old = remove_old(memory)
    clock.forward(ms=DAY_MS)  # to the millisecond it is not older than a day
    remove_old(memory, old)
    assert kinds(memory) == ["artifacts", "logs", "payloads", "results"]
    clock.forward(ms=1)
    remove_old(memory, old)
    assert kinds(memory) == ["artifacts", "payloads", "results"]
    assert logs.locate(memory, reload(run)) is None and reload(run).log_key == logs.REMOVED
    clock.forward(ms=DAY_MS)
    remove_old(memory, old)
    assert kinds(memory) == ["payloads", "results"] and Artifact.select().count() == 0
    assert runs.result_text(memory, reload(run)) == f'"{LARGE}"'
    clock.forward(ms=DAY_MS)
    remove_old(memory, old)
    assert kinds(memory) == [] and Run.select().count() == 0
    assert Script.select().count() == 1


def test_logs_of_every_try_and_chunks_go(memory: Services, clock: Clock) -> None:
    run = retried_run(memory, world.script(memory))
    limits.change(memory, ACME, {"retention_days.logs": 1})
    clock.forward(ms=DAY_MS + 1)
    remove_old(memory)
    assert kinds(memory) == []
    assert (reload(run).log_key, reload(run).log_chunks, Attempt.get().log_key) == (logs.REMOVED, 0, logs.REMOVED)


def test_a_log_that_is_asked_for_while_it_is_removed_is_not_shown_afterwards(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = full_run(memory, world.script(memory))
    clock.forward(ms=31 * DAY_MS)
    delete = MemoryObjects.delete

    def asked(store: MemoryObjects, keys: Any) -> None:
        assert logs.locate(memory, reload(run)) is None
        delete(store, keys)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryObjects, "delete", asked)
        remove_old(memory)
    assert missing(memory) == [] and reload(run).log_key == logs.REMOVED


def test_a_log_that_was_removed_is_not_made_anew_by_who_looks_for_it(memory: Services, clock: Clock) -> None:
    script = world.script(memory, retry={"count": 1, "delay_seconds": 0, "jitter": False, "on": ["worker_lost"]})
    run = world.start(memory, script)
    for _ in range(2):
        world.finish(memory, run, "failed", error="x", error_code="WORKER_LOST", log_chunks=1)
        runs.release_due(memory)
    assert repair.join_logs(memory) == 1 and kinds(memory) == ["logs"]
    clock.forward(ms=31 * DAY_MS)
    remove_old(memory)
    assert repair.join_logs(memory) == 0
    assert logs.locate(memory, reload(run)) is None and logs.locate_earlier(memory, reload(run)) == [None]
    assert list(logs.tail(memory, run.id, 0.1)) == []
    assert kinds(memory) == []


@pytest.mark.parametrize("state", ["queued", "waiting", "running"])
def test_a_run_that_is_not_over_stays_however_old_it_is(memory: Services, clock: Clock, state: str) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    first = world.start(memory, script, LARGE)
    run = world.start(memory, script, LARGE) if state == "waiting" else first
    if state == "running":
        assert runs.claim(memory, run.id, 1, "w", 15_000)
        logs.put_chunk(memory, ACME, run.id, 0, b"line\n")
    before = memory.objects.list("")
    limits.change(memory, ACME, {f"retention_days.{kind}": 1 for kind in ("runs", "logs", "artifacts")})
    clock.forward(ms=1000 * DAY_MS)
    remove_old(memory)
    assert reload(run).status == ("queued" if state == "waiting" else state)
    assert memory.objects.list("") == before


def test_what_is_kept_for_ever_is_kept(memory: Services, clock: Clock) -> None:
    run = full_run(memory, world.script(memory))
    Event.create(id="e", workspace=ACME, name="a.b", data=1, created_at=clock.now, routed_at=clock.now)
    kept = ("runs", "logs", "artifacts", "events", "dead_letters")
    limits.change(memory, ACME, {f"retention_days.{kind}": None for kind in kept})
    before = memory.objects.list("")
    clock.forward(ms=10_000 * DAY_MS)
    remove_old(memory)
    assert reload(run).log_key is not None and Event.select().count() == 1
    assert memory.objects.list("") == before


def test_events_letters_and_firings_go_by_their_age(memory: Services, clock: Clock) -> None:
    script = world.script(memory, schedule="daily")
    run = world.start(memory, script)
    world.finish(memory, run, "failed")
    DeadLetter.create(id="d", workspace=ACME, script=script.uuid, run=run.id, reason="x", created_at=clock.now)
    Event.create(id="old", workspace=ACME, name="a.b", data=1, created_at=clock.now, routed_at=clock.now)
    unrouted = events.publish(memory, ACME, "a.b", 1)
    Firing.create(script=script.uuid, due_at=clock.now, fired_at=clock.now, outcome="ran")
    clock.forward(ms=30 * DAY_MS + 1)
    Firing.create(script=script.uuid, due_at=1, fired_at=clock.now, outcome="ran")  # made up for just now
    old = remove_old(memory)
    assert [event.id for event in Event.select()] == [unrouted.id]
    assert DeadLetter.select().count() == 0 and reload(run).status == "failed"
    assert Firing.select().count() == 2
    clock.forward(ms=60 * DAY_MS)
    remove_old(memory, old)
    assert [firing.due_at for firing in Firing.select()] == [1]
    assert Run.select().count() == 0


def test_one_workspaces_limits_are_not_anothers(memory: Services, clock: Clock) -> None:
    for owner in (ACME, OTHER):
        world.finish(memory, world.start(memory, world.script(memory, owner=owner)))
    limits.change(memory, ACME, {"retention_days.runs": 1})
    clock.forward(ms=2 * DAY_MS)
    remove_old(memory)
    assert [run.workspace_id for run in Run.select()] == [OTHER]


def test_a_long_history_goes_in_parts_with_one_record_a_day(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PART", 2)
    script = world.script(memory)
    for _ in range(7):
        full_run(memory, script)  # all ended in the same millisecond
    clock.forward(ms=91 * DAY_MS)
    old, left = Retention(memory, Uptime()), [7]
    while old.step():
        left.append(Run.select().count())
    assert all(before - after <= 2 for before, after in itertools.pairwise(left))
    assert Run.select().count() == 0 and kinds(memory) == []
    records = Audit.select().where(Audit.action == retention.ACTION)
    assert [(row.workspace_id, row.actor) for row in records] == [(ACME, "sweeper")]
    assert records[0].details["runs"] == 7


def test_a_log_in_a_history_of_many_without_is_found_and_the_others_are_read_once(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PART", 2)
    script = world.script(memory)
    for _ in range(5):
        world.finish(memory, world.start(memory, script))
        clock.forward(ms=1)
    full_run(memory, script)
    clock.forward(ms=31 * DAY_MS)
    old = remove_old(memory)
    assert kinds(memory) == ["artifacts", "payloads", "results"]
    looked: list[int] = []
    monkeypatch.setattr(old, "_remove_logs", lambda past: looked.append(len(past)) or 0)
    remove_old(memory, old)
    assert looked == []


def test_a_workspace_that_fails_keeps_no_other_waiting(memory: Services, clock: Clock) -> None:
    for owner in (ACME, OTHER):
        world.finish(memory, world.start(memory, world.script(memory, owner=owner)))
    Workspace.update(limits={"broken": 1}).where(Workspace.id == ACME).execute()
    clock.forward(ms=91 * DAY_MS)
    old = Retention(memory, Uptime())
    with pytest.raises(limits.Invalid):
        old.step()
    remove_old(memory, old)
    assert [run.workspace_id for run in Run.select()] == [ACME]


def test_a_round_is_not_begun_before_its_time(memory: Services) -> None:
    world.workspace(memory)
    seconds = [0.0]
    old = Retention(memory, lambda: seconds[0])
    old.step()
    begun = old._begun
    seconds[0] = retention.EVERY_S - 1
    assert not old.step() and old._begun == begun
    seconds[0] = retention.EVERY_S
    old.step()
    assert old._begun == retention.EVERY_S


def test_the_audit_trail_is_kept_for_a_year(memory: Services, clock: Clock) -> None:
    world.workspace(memory)
    for workspace in (ACME, None):
        audit.record(memory, workspace, "a", "test", "x")
    clock.forward(ms=retention.AUDIT_DAYS * DAY_MS)
    old = remove_old(memory)
    assert Audit.select().count() == 2
    clock.forward(ms=1)
    remove_old(memory, old)
    assert Audit.select().where(Audit.action == "test").count() == 0


def test_an_idempotency_key_that_still_counts_names_no_run_that_is_gone(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    world.finish(memory, world.start(memory, script, idempotency_key="k"))
    limits.change(memory, ACME, {"retention_days.runs": 1})
    clock.forward(ms=DAY_MS + 1)
    remove_old(memory)
    assert Run.select().count() == 0 and IdempotencyKey.select().count() == 1
    assert runs.submit(memory, world.order(script, idempotency_key="k")).created


def test_many_may_remove_at_once(memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PART", 2)
    script = world.script(memory)
    for _ in range(6):
        full_run(memory, script)
        retried_run(memory, script)
    clock.forward(ms=91 * DAY_MS)
    answers = at_once(memory.database, *[lambda: remove_old(memory)] * 3)
    assert not [each for each in answers if isinstance(each, BaseException)]
    assert Run.select().count() == 0 and kinds(memory) == []


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_the_search_for_what_ended_reads_an_index(memory: Services) -> None:
    after = (Run.completed_at > 5) | ((Run.completed_at == 5) & (Run.id > "x"))
    query = retention._ended(ACME, 9).where(Run.completed_at >= 5, after).order_by(Run.completed_at, Run.id).limit(7)
    sql, parameters = query.sql()
    plan = str(memory.database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall())
    assert "INDEX run_completed_at (workspace_id=? AND completed_at>? AND completed_at<?)" in plan, plan


# Cut in the middle


class _Cut(BaseException):
    """The process dies here."""


class Knife:
    """Ends the process at its step number `at`: before or after a transaction, or at a call of the store."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            raise _Cut

    def set(self, patch: pytest.MonkeyPatch) -> None:
        transaction, delete, look = retention.transaction, MemoryObjects.delete, MemoryObjects.list

        @contextmanager
        def cut_transaction() -> Iterator[None]:
            self.step()
            with transaction():
                yield
                self.step()  # it is rolled back
            self.step()

        def cut_delete(store: MemoryObjects, keys: Any) -> None:
            for key in [*keys]:
                self.step()
                delete(store, [key])
            self.step()

        def cut_list(store: MemoryObjects, prefix: str) -> list[str]:
            self.step()
            return look(store, prefix)

        patch.setattr(retention, "transaction", cut_transaction)
        patch.setattr(MemoryObjects, "delete", cut_delete)
        patch.setattr(MemoryObjects, "list", cut_list)


@pytest.mark.parametrize("days", [31, 91], ids=["logs alone", "all"])
def test_a_crash_at_any_step_leaves_nothing_that_is_shown_but_missing_and_no_object_for_ever(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    script = world.script(memory)
    if days == 31:
        limits.change(memory, ACME, {"retention_days.artifacts": 30})
    for at in range(1, 200):
        full_run(memory, script)
        retried_run(memory, script)
        clock.forward(ms=days * DAY_MS)
        knife = Knife(at)
        with monkeypatch.context() as patch:
            knife.set(patch)
            with suppress(_Cut):
                remove_old(memory)
        assert missing(memory) == [], f"step {at}"
        remove_old(memory)  # another process, that knows of nothing
        for _ in stocktaking.take(memory, ACME):
            pass
        assert missing(memory) == []
        assert kinds(memory) == ([] if days == 91 else ["payloads", "results"]), f"step {at}"
        Run.delete().execute()
        memory.objects.delete_prefix("payloads/")
        memory.objects.delete_prefix("results/")
        if knife.steps < at:
            break  # all steps were cut
    assert 10 < at < 199


def test_a_store_that_is_away_delays_and_forgets_nothing(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_run(memory, world.script(memory))
    clock.forward(ms=91 * DAY_MS)

    def away(*_: object) -> None:
        raise Unavailable("The object store did not delete objects.")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryObjects, "delete", away)
        with pytest.raises(Unavailable):
            remove_old(memory)
    assert missing(memory) == []
    remove_old(memory)
    for _ in stocktaking.take(memory, ACME):
        pass
    assert kinds(memory) == []
    assert removal.next_deleted() is None


def test_a_batch_is_kept_as_long_as_one_of_its_runs(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    wish = batches.Wish(workspace=ACME, script=script.uuid, items=[{}, {}], concurrency=1)
    batch = batches.submit(memory, wish).batch
    first, second = Run.select().where(Run.batch_id == batch.id).order_by(Run.batch_index)
    world.finish(memory, first)
    clock.forward(ms=91 * DAY_MS)
    remove_old(memory)
    assert [run.id for run in Run.select()] == [second.id]
    assert Batch.get_by_id(batch.id) == batch
    world.finish(memory, second)
    clock.forward(ms=91 * DAY_MS)
    remove_old(memory)
    assert (Run.select().count(), Batch.select().count()) == (0, 0)


def test_a_deleted_script_leaves_no_batch(memory: Services) -> None:
    script = world.script(memory)
    batches.submit(memory, batches.Wish(workspace=ACME, script=script.uuid, items=[{}, {}]))
    removal.delete(memory, script)
    assert (Run.select().count(), Batch.select().count()) == (0, 0)
