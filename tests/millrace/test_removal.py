"""Deleted scripts, and what they leave behind."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from millrace import assignments, history, removal, repair, runs, scripts
from millrace.errors import NotFound, Unavailable
from millrace.models import Artifact, Hook, Run, Schedule, Script, Secret, Version
from millrace.objects import MemoryObjects
from millrace.services import Services
from millrace.triggers import EventTrigger, HttpTrigger, Triggers
from tests import world
from tests.world import ACME, Clock, at_once, sent


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows at a time."""
    monkeypatch.setattr(removal, "BATCH", 2)


def test_a_run_that_comes_while_its_script_is_deleted_leaves_nothing(
    memory: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, transaction = world.script(memory), removal.transaction

    @contextmanager
    def late() -> Iterator[None]:
        if script.status == "active":
            script.status = "about to be deleted"
            world.start(memory, script, "x" * runs.INLINE_LIMIT)
        with transaction():
            yield

    with monkeypatch.context() as patched:
        patched.setattr(removal, "transaction", late)
        removal.delete(memory, script)
    assert Run.select().count() == 0
    assert memory.objects.list("") == []


def test_a_deleted_script_leaves_nothing(memory: Services) -> None:
    script = world.script(memory, secrets={"a": "x"}, schedule="daily",
                          triggers=Triggers([EventTrigger("a.b")], HttpTrigger("/x", auth="none")))
    run = world.start(memory, script, "x" * runs.INLINE_LIMIT, idempotency_key="k")
    log_key, artifact_key = f"logs/{ACME}/{run.id}.log", f"artifacts/{ACME}/{run.id}/a.txt"
    for key in (log_key, artifact_key):
        memory.objects.put(key, b"x")
    Artifact.create(run=run.id, name="a.txt", size=1, content_type="text/plain", object_key=artifact_key, created_at=0)
    world.finish(memory, run, result='"' + "x" * runs.INLINE_LIMIT + '"', log_key=log_key)
    running = world.start(memory, script)
    assert runs.claim(memory, running.id, 1, "worker-1", 15_000)
    memory.objects.put(f"logs/{ACME}/{running.id}/00000001.log", b"x")
    removal.delete(memory, script)
    assert memory.objects.list("") == []
    assert Run.select().count() == Version.select().count() == Hook.select().count() == 0
    with pytest.raises(NotFound):
        removal.delete(memory, script)
    world.script(memory)  # the id is free again


@pytest.mark.usefixtures("small_parts")
def test_a_long_history_goes_in_parts_and_is_seen_by_nobody_meanwhile(memory: Services, clock: Clock) -> None:
    script = world.script(memory, secrets={"a": "x"}, schedule="daily", triggers=Triggers([EventTrigger("a.b")]),
                          max_concurrent_runs=1)
    past = [world.start(memory, script, idempotency_key=str(number), event_id="e-1" if number == 4 else None)
            for number in range(5)]
    runs.claim(memory, past[0].id, 1, "worker-1", 15_000)
    sent(memory)
    removal.delete(memory, script)
    assert Run.select().count() == 3
    assert Secret.select().count() == Schedule.select().count() == 0
    clock.forward(s=60)

    for look in (lambda: scripts.find(ACME, "hello"), lambda: scripts.update(memory, script, scripts.Change()),
                 lambda: removal.delete(memory, script), lambda: world.start(memory, script)):
        with pytest.raises(NotFound):
            look()
    assert scripts.page(ACME, None, 10) == ([], None)
    assert history.page(ACME, history.Filter(), None, 10) == ([], None)
    assert history.started_by("e-1") == []
    assert runs.release_due(memory) == 0 and sent(memory) == []
    assert [assignments.load(run.id) for run in past] == [None] * 5

    other = world.script(memory)  # the id is free
    parts = 0
    while repair.purge_deleted(memory):
        parts += 1
    assert parts > 2
    assert [each.uuid for each in Script.select()] == [other.uuid]
    assert Run.select().count() == 0
    assert len(memory.objects.list("")) == 1


@pytest.mark.usefixtures("small_parts")
def test_a_handler_that_runs_is_ended_and_leaves_no_result(memory: Services) -> None:
    script = world.script(memory)
    for _ in range(3):
        world.finish(memory, world.start(memory, script))
    run = world.start(memory, script)
    runs.claim(memory, run.id, 1, "worker-1", 15_000)
    removal.delete(memory, script)
    _, cancelled = runs.lost_or_cancelled([(run.id, 1)])
    assert cancelled == {run.id}
    assert not runs.finish(memory, run, 1, runs.Ending("succeeded", 5, result="1"))


def test_a_store_that_is_away_forgets_no_object(memory: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    script = world.script(memory)
    run = world.start(memory, script, "x" * runs.INLINE_LIMIT)
    world.finish(memory, run)

    def away(*_: object) -> None:
        raise Unavailable("The object store did not delete objects.")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryObjects, "delete", away)
        removal.delete(memory, script)  # it is gone for its owner all the same
        with pytest.raises(Unavailable):
            repair.purge_deleted(memory)
    assert len(memory.objects.list("")) == 2
    assert not repair.purge_deleted(memory)
    assert memory.objects.list("") == []
    assert Script.select().count() == 0


@pytest.mark.usefixtures("small_parts")
def test_many_may_remove_at_once(memory: Services) -> None:
    script = world.script(memory)
    for number in range(9):
        world.finish(memory, world.start(memory, script, idempotency_key=str(number)))
    removal.delete(memory, script)
    while Script.select().count():
        answers = at_once(memory.database, *[lambda: repair.purge_deleted(memory)] * 3)
        assert not [each for each in answers if isinstance(each, BaseException)]
    assert Run.select().count() == 0 and memory.objects.list("") == []


def test_runs_that_never_began_cost_no_look_at_the_store(memory: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    script = world.script(memory)
    for number in range(5):
        world.start(memory, script, "x" * (runs.INLINE_LIMIT if number else 1))
    looked: list[str] = []
    look = MemoryObjects.list

    def counted(store: MemoryObjects, prefix: str) -> list[str]:
        looked.append(prefix)
        return look(store, prefix)

    with monkeypatch.context() as patched:
        patched.setattr(MemoryObjects, "list", counted)
        removal.delete(memory, script)
    assert looked == [f"scripts/{script.uuid}/"]
    assert memory.objects.list("") == []


@pytest.mark.usefixtures("small_parts")
def test_one_part_of_one_script_is_removed_at_a_time(memory: Services) -> None:
    for slug in ("one", "two"):
        script = world.script(memory, slug)
        for _ in range(5):
            world.start(memory, script)
        removal.delete(memory, script)
    left = [Run.select().count()]
    while repair.purge_deleted(memory):
        left.append(Run.select().count())
    assert all(before - after <= 2 for before, after in itertools.pairwise(left))
    assert Run.select().count() == Script.select().count() == 0
