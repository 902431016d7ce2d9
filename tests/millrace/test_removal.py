"""Deleted scripts and workspaces, and what they leave behind."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from millrace import assignments, audit, events, history, removal, repair, runs, scripts, triggers, workspaces
from millrace.errors import Conflict, Denied, NotFound, NotReady, Unavailable
from millrace.models import (
    ApiKey,
    Artifact,
    Audit,
    Event,
    Hook,
    Member,
    Model,
    Run,
    Runtime,
    Schedule,
    Script,
    Secret,
    Version,
    Workspace,
)
from millrace.objects import MemoryObjects
from millrace.services import Services
from millrace.triggers import EventTrigger, HttpTrigger, Triggers
from tests import world
from tests.world import ACME, OTHER, Clock, at_once, sent


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows at a time."""
    monkeypatch.setattr(removal, "PART", 2)


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


# Workspaces


def furnish(services: Services, owner: str = ACME) -> list[Run]:
    """A workspace with some of everything; its first run is under way."""
    if not Workspace.get_or_none(Workspace.id == owner):
        workspaces.bootstrap(services, owner, "a@example.com")
    past = []
    for slug in ("one", "two"):
        script = world.script(services, slug, owner=owner, secrets={"a": "x"}, schedule="daily",
                              triggers=Triggers([EventTrigger("a.b")], HttpTrigger(f"/{slug}", auth="none")))
        past += [world.start(services, script, "x" * runs.INLINE_LIMIT) for _ in range(3)]
    event = events.publish(services, owner, "a.b", 1)
    triggers.route(services, event.id)
    events.publish(services, owner, "a.b", 2)
    audit.record(services, owner, "alice", "test", "x")
    assert runs.claim(services, past[0].id, 1, "worker-1", 15_000)
    services.objects.put(f"logs/{owner}/{past[0].id}/00000000.log", b"x")
    return past


def purge_workspaces(services: Services) -> int:
    parts = 1
    while removal.purge_workspaces(services):
        parts += 1
    return parts


@pytest.mark.usefixtures("small_parts")
def test_a_deleted_workspace_leaves_no_row_and_no_object_and_others_alone(memory: Services, clock: Clock) -> None:
    furnish(memory, OTHER)
    before = {model: model.select().count() for model in Model.__subclasses__()}
    objects = memory.objects.list("")
    furnish(memory)
    removal.delete_workspace(memory, ACME)
    assert purge_workspaces(memory) > 4
    assert Script.select().where(Script.workspace == ACME).count() == 0
    assert memory.objects.list("") == objects
    clock.forward(ms=removal.LATE_MS)
    assert purge_workspaces(memory) == 1
    told = Audit.get(Audit.workspace.is_null())
    assert (told.actor, told.action, told.subject) == ("sweeper", "workspace.removed", ACME)
    told.delete_instance()
    assert {model: model.select().count() for model in Model.__subclasses__()} == before
    assert Runtime in before and Audit in before
    workspaces.bootstrap(memory, ACME, "alice@example.com")  # its name is free


def test_a_deleted_workspace_can_be_used_by_nobody_from_the_first_moment(memory: Services) -> None:
    world.workspace(memory)
    key = workspaces.new_api_key(memory, ACME, "ci")
    past = furnish(memory)
    script = scripts.find(ACME, "one")
    removal.delete_workspace(memory, ACME)
    with pytest.raises(Denied):
        workspaces.authenticate(key)
    assert ApiKey.select().count() == Member.select().count() == Hook.select().count() == Schedule.select().count() == 0
    for use in (lambda: world.start(memory, script), lambda: workspaces.new_api_key(memory, ACME, "ci"),
                lambda: removal.delete_workspace(memory, ACME), lambda: scripts.find(ACME, "one")):
        with pytest.raises(NotFound):
            use()
    with pytest.raises(Conflict, match="still being deleted"):
        workspaces.create(memory, ACME, ACME)
    _, cancelled = runs.lost_or_cancelled([(past[0].id, 1)])
    assert cancelled == {past[0].id}
    triggers.route(memory, Event.select().where(Event.routed_at.is_null()).get().id)
    assert Run.select().count() == len(past) + 2


def test_what_a_command_that_died_did_not_come_to_is_deleted_all_the_same(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(memory)
    script = scripts.find(ACME, "two")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(removal, "_retire_all", die)
        with pytest.raises(KeyboardInterrupt):
            removal.delete_workspace(memory, ACME)
    with pytest.raises(NotReady):
        world.start(memory, script)
    clock.forward(ms=removal.LATE_MS)
    purge_workspaces(memory)
    assert Workspace.select().count() == Script.select().count() == 0 and memory.objects.list("") == []


def test_what_a_worker_stores_after_the_runs_are_gone_goes_too(memory: Services, clock: Clock) -> None:
    past = furnish(memory)
    removal.delete_workspace(memory, ACME)
    purge_workspaces(memory)
    assert Run.select().count() == 0
    for key in (f"logs/{ACME}/{past[0].id}/00000001.log", f"artifacts/{ACME}/{past[0].id}/a.txt",
                f"results/{ACME}/{past[0].id}/result.json", f"payloads/{ACME}/{past[0].id}.json"):
        memory.objects.put(key, b"late")
    memory.objects.put(f"logs/{ACME}-2/x.log", b"another's")
    clock.forward(ms=removal.LATE_MS - 1)
    purge_workspaces(memory)
    assert Workspace.select().count() == 1
    clock.forward(ms=1)
    purge_workspaces(memory)
    assert Workspace.select().count() == 0 and memory.objects.list("") == [f"logs/{ACME}-2/x.log"]


def test_many_may_remove_a_workspace_at_once(memory: Services, clock: Clock) -> None:
    furnish(memory)
    removal.delete_workspace(memory, ACME)
    clock.forward(ms=removal.LATE_MS)
    while Workspace.select().count():
        answers = at_once(memory.database, *[lambda: removal.purge_workspaces(memory)] * 3)
        assert not [each for each in answers if isinstance(each, BaseException)]
    assert memory.objects.list("") == []
