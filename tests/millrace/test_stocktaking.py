"""Measuring what a workspace stores, and finding what nobody names."""

from dataclasses import replace

import pytest

from millrace import artifacts, limits, logs, removal, runs, stocktaking
from millrace.errors import Unavailable
from millrace.models import Run, Script, Workspace
from millrace.objects import MemoryObjects
from millrace.services import Services
from millrace.stocktaking import LATE_MS, Stocktaking
from tests import world
from tests.world import ACME, OTHER, Clock

LARGE = "x" * runs.INLINE_LIMIT


@pytest.fixture
def clock() -> Clock:
    """Ids are made of the real time, so what is stored now must be long ago."""
    return Clock(4_000_000_000_000)


def take(services: Services, workspace_id: str = ACME) -> int:
    for _ in stocktaking.take(services, workspace_id):
        pass
    stored: int = Workspace.get_by_id(workspace_id).stored_bytes
    return stored


def everything(services: Services, script: Script) -> Run:
    """A run that is under way, and has of everything."""
    run = world.start(services, script, LARGE)
    assert runs.claim(services, run.id, 1, "w", 15_000)
    artifacts.store(services, run, 1, "a.txt", "text/plain", b"file")
    logs.put_chunk(services, script.workspace_id, run.id, 0, b"line\n")
    return run


def end(services: Services, run: Run) -> None:
    key = logs.join_chunks(services.objects, run.workspace_id, run.id)
    assert runs.finish(services, run, 1, runs.Ending("succeeded", 1, result=f'"{LARGE}"', log_key=key))


def test_all_that_is_stored_is_measured_and_nothing_of_others(memory: Services) -> None:
    script = world.script(memory, source=b"exports.handler = () => 1\n")
    run = everything(memory, script)
    other = everything(memory, world.script(memory, owner=f"{ACME}-2"))
    size = len(f'"{LARGE}"')
    assert take(memory) == 26 + size + 4 + 5
    end(memory, run)
    assert take(memory) == 26 + size + 4 + 5 + size
    assert Workspace.get_by_id(f"{ACME}-2").stored_bytes is None and other.id
    world.workspace(memory, OTHER)
    assert take(memory, OTHER) == 0


def test_what_a_row_names_is_never_collected(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    for ended in (True, False):
        run = everything(memory, script)
        if ended:
            end(memory, run)
    in_chunks = everything(memory, script)
    assert runs.finish(memory, in_chunks, 1, runs.Ending("timed_out", 1, log_chunks=1))
    retried = everything(memory, script)
    assert runs.finish(memory, retried, 1, runs.Ending("failed", 1))
    Run.update(tries=1).where(Run.id == retried.id).execute()
    debounced = [world.start(memory, script, LARGE, debounce_key="d", available_at=clock.now + 9000) for _ in "ab"]
    assert debounced[0].id == debounced[1].id and debounced[0].id not in str(debounced[1].payload_key)
    clock.forward(ms=2 * LATE_MS)
    before = memory.objects.list("")
    take(memory)
    assert memory.objects.list("") == before


def test_what_no_row_names_is_collected_once_it_is_old(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    run = everything(memory, script)
    end(memory, run)
    gone = memory.new_id()
    stray = [f"payloads/{ACME}/{gone}.json", f"logs/{ACME}/{gone}.log", f"logs/{ACME}/{gone}/00000000.log",
             f"results/{ACME}/{gone}/result.json", f"artifacts/{ACME}/{gone}/a.txt",
             # of an attempt that lost the run
             f"logs/{ACME}/{run.id}/00000007.log", f"results/{ACME}/{run.id}/result-7.json",
             f"artifacts/{ACME}/{run.id}/{gone}/a.txt"]  # fmt: skip
    before = memory.objects.list("")
    for key in stray:
        memory.objects.put(key, b"stray")
    foreign = f"logs/{ACME}/no-run.log"
    memory.objects.put(foreign, b"whose?")
    young = take(memory)
    assert f"results/{ACME}/{run.id}/result-7.json" in memory.objects.list("")
    clock.forward(ms=LATE_MS + 1)
    assert take(memory) == young - 3 * len(b"stray")
    assert memory.objects.list("") == sorted([*before, foreign])


def test_what_was_stored_just_now_may_still_get_its_row(memory: Services) -> None:
    world.workspace(memory)
    young = replace(memory, clock=lambda: int(memory.new_id().replace("-", "")[:12], 16))
    key = f"payloads/{ACME}/{memory.new_id()}.json"
    memory.objects.put(key, b"x")
    assert take(young) == 1 and memory.objects.exists(key)


def test_stock_is_taken_in_steps_of_one_workspace_at_a_time_and_not_too_often(
    memory: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stocktaking, "PART", 2)
    seconds = [0.0]
    stock = Stocktaking(memory, lambda: seconds[0])
    assert stock.step()  # nobody is there: only the sources are looked for
    assert not stock.step()
    for owner in (ACME, OTHER):
        everything(memory, world.script(memory, owner=owner))
    steps = 0
    while stock.step():
        steps += 1
    assert steps == 6  # of each: 2 objects, 1 object, and the sum
    measured = [each.stored_bytes for each in Workspace.select()]
    assert len(measured) == 2 and all(measured)
    seconds[0] = limits.MEASURE_EVERY_S - 1
    assert not stock.step()
    seconds[0] = limits.MEASURE_EVERY_S
    assert stock.step()


def test_a_store_that_is_away_spoils_one_turn(memory: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in (ACME, OTHER):
        everything(memory, world.script(memory, owner=owner))
    stock = Stocktaking(memory, lambda: 0.0)

    def away(*_: object) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryObjects, "sizes", away)
        with pytest.raises(Unavailable):
            stock.step()
    while stock.step():
        pass
    assert sorted(bool(each.stored_bytes) for each in Workspace.select()) == [False, True]


def test_the_source_of_a_script_that_never_came_to_be_is_collected(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    (kept,) = memory.objects.list("")
    unfinished = f"scripts/{script.uuid}/2-of-an-update.js"  # goes with its script
    for key in (unfinished, f"scripts/{memory.new_id()}/1-x.js", "scripts/no-id/1.js"):
        memory.objects.put(key, b"x")
    for _ in stocktaking.collect_sources(replace(memory, clock=lambda: 0)):
        pass
    assert len(memory.objects.list("")) == 4  # it may be coming to be
    for _ in stocktaking.collect_sources(memory):
        pass
    assert memory.objects.list("") == sorted([kept, unfinished, "scripts/no-id/1.js"])


def test_what_a_dying_worker_stored_for_a_deleted_script_is_collected(memory: Services) -> None:
    script = world.script(memory)
    run = everything(memory, script)
    removal.delete(memory, script)
    logs.put_chunk(memory, ACME, run.id, 1, b"too late\n")
    assert memory.objects.list("") == [logs.chunk_key(ACME, run.id, 1)]
    assert take(memory) == 0 and memory.objects.list("") == []
