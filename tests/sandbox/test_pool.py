"""The pool where the host is short of slots or a control group fails; its jails are pipes instead of processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import cgroups, jail, pool, protocol, slots
from sandbox.demand import Demand, Shape
from sandbox.lease import Account, Jail, Request
from sandbox.loop import Loop
from sandbox.memory import SCARCE, Memory
from sandbox.pool import Pool
from sandbox.roots import Roots
from sandbox.runtimes import Runtime, named
from sandbox.slots import Slots

STUCK = cgroups.CgroupsUnavailable("processes in it do not end")


class Group:
    """A control group that fails as often as its lists say."""

    join_files: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.remove_fails: list[Exception] = []
        self.read_fails: list[Exception] = []

    def limit(self, memory_bytes: int, pids: int, cpus: float) -> None:
        """Nothing limits."""

    def weigh(self, weight: float) -> None:
        """All weigh the same."""

    def reset_peak(self) -> None:
        """There is none."""

    def read(self) -> cgroups.Reading:
        if self.read_fails:
            raise self.read_fails.pop()
        return cgroups.Reading(5.0, 1)

    def oom_kills(self) -> int:
        return 0

    def reset(self) -> bool:
        return False

    def remove(self) -> None:
        if self.remove_fails:
            raise self.remove_fails.pop()


class Tree(cgroups.NoTree):
    def create(self, name: str) -> Group:
        return Group()


class Process:
    """A jail that is ready at once and dies when it is told to."""

    pid = 1

    def __init__(self) -> None:
        self.pidfd, self._death = os.pipe()
        control, ready = os.pipe()
        os.write(ready, protocol.BOOTED_FRAME)
        self._ready = ready
        self.pipes = jail.Pipes(-1, control, -1, -1, -1)

    def find_runtime(self) -> None:
        """There is none."""

    def pause(self) -> bool:
        return True

    resume = pause

    def kill(self) -> None:
        os.write(self._death, b"x")

    kill_hard = kill

    def reap(self) -> int:
        return 137

    def close(self) -> None:
        for fd in (self.pidfd, self._death, self._ready, self.pipes.control):
            os.close(fd)


class Built(Roots):
    """All is built already."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ready(self, name: str) -> tuple[Runtime, Path]:
        return named(name), self._folder


class Budget(Memory):
    """Memory as the test says."""

    def __init__(self, for_idle_jails: int) -> None:
        self._for_idle_jails = for_idle_jails
        self.scarce = False

    @property
    def for_idle_jails(self) -> int:
        return self._for_idle_jails

    def is_scarce(self, share: float = SCARCE) -> bool:
        return self.scarce


class Bench:
    """A pool, its loop, and what it answered."""

    def __init__(self, folder: Path, wanted: Demand | None = None, memory_budget: int = 1 << 30) -> None:
        self.loop = Loop()
        self.memory = Budget(memory_budget)
        place = Slots(folder / "slots", folder / "slots", Tree(), None)
        self.roots = Built(folder)
        self.pool = Pool(self.loop, place, self.roots, wanted or Demand({}, 0), None, self.memory)
        self.failures: list[str] = []
        self.accounts: list[Account] = []

    def ask(self, key: str) -> list[tuple[Jail, str]]:
        got: list[tuple[Jail, str]] = []
        request = Request("nodejs20", 256, 64, 1.0, 60_000, key, None)
        self.pool.acquire(request, lambda one, origin: got.append((one, origin)), self.failures.append)
        return got

    def get(self, key: str) -> Jail:
        got = self.ask(key)
        self.until(lambda: bool(got))
        return got[0][0]

    def park(self, key: str) -> Jail:
        used = self.get(key)
        self.finish(used)
        return used

    def finish(self, used: Jail, *, keep: bool = True) -> None:
        self.pool.finish(used, state="clean" if keep else "failed", ended=False, done=self.accounts.append)

    def warm_sizes(self) -> list[int]:
        return sorted(one.shape.memory_mb for one in self.pool._jails if one.state == "warm")

    def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        """Run the loop until `condition` holds."""

        def look() -> None:
            if condition():
                self.loop.stop()
            else:
                self.loop.later(0.001, look)

        late: list[bool] = []
        deadline = self.loop.later(seconds, lambda: (late.append(True), self.loop.stop())[0])
        look()
        if not condition():
            self.loop.run()
        deadline.cancel()
        assert not late, f"it did not happen in time: {self.pool.counts()}, {self.failures}"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(slots, "MAX_SLOTS", 2)
    monkeypatch.setattr(pool.jail, "start", lambda command, group: Process())
    monkeypatch.setattr(pool, "GIVE_BACK_AGAIN_S", (0.01, 0.01), raising=False)
    return Bench(tmp_path)


def test_for_want_of_slots_the_jail_that_was_parked_first_makes_room(bench: Bench) -> None:
    first = bench.get("first")
    second = bench.get("second")
    bench.finish(first)
    bench.finish(second)
    bench.get("third")
    assert bench.failures == []
    assert first.state == "dying"
    assert second.state == "parked"


def test_each_waiter_gets_the_room_of_one_parked_jail(bench: Bench) -> None:
    one, other = bench.get("one"), bench.get("other")
    bench.finish(one)
    bench.finish(other)
    waiting = [bench.ask("third"), bench.ask("fourth")]
    bench.until(lambda: all(waiting))
    assert [got[0][1] for got in waiting] == ["cold", "cold"]
    assert bench.pool.counts() == {"busy": 2}


def test_with_every_slot_busy_the_reason_is_told_at_once(bench: Bench) -> None:
    bench.get("first")
    bench.get("second")
    bench.ask("third")
    assert bench.failures == ["2 jails are in use"]


def test_a_waiter_that_gave_up_gets_no_jail_booted(bench: Bench) -> None:
    bench.get("busy")
    bench.park("parked")
    got: list[Jail] = []
    request = Request("nodejs20", 256, 64, 1.0, 60_000, None, None)
    waiter = bench.pool.acquire(request, lambda one, origin: got.append(one), bench.failures.append)
    waiter.abandoned = True
    bench.until(lambda: bench.pool.counts() == {"busy": 1})
    assert got == []


def test_a_slot_whose_group_is_not_empty_is_tried_again_and_then_serves(bench: Bench) -> None:
    used, other = bench.get("used"), bench.get("other")
    group = used.slot.group
    assert isinstance(group, Group)
    group.remove_fails = [STUCK, OSError("busy")]
    bench.finish(used, keep=False)
    bench.until(lambda: not group.remove_fails)
    bench.until(lambda: used.slot.group is not group)
    assert bench.get("next").slot is used.slot
    assert other.state == "busy"


def test_a_slot_whose_group_stays_full_is_left_out_after_the_last_attempt(bench: Bench) -> None:
    used, other = bench.get("used"), bench.get("other")
    group = used.slot.group
    assert isinstance(group, Group)
    group.remove_fails = [STUCK] * 10
    bench.finish(used, keep=False)
    bench.until(lambda: len(group.remove_fails) == 7)
    ticks: list[None] = []
    bench.loop.later(0.1, lambda: ticks.append(None))
    bench.until(lambda: bool(ticks))
    assert len(group.remove_fails) == 7
    assert other.state == "busy"
    bench.ask("next")
    assert bench.failures == ["2 jails are in use"]


def test_a_group_that_cannot_be_read_counts_as_nothing_and_ends_its_jail_alone(bench: Bench) -> None:
    used, other = bench.get("used"), bench.get("other")
    group = used.slot.group
    assert isinstance(group, Group)
    group.read_fails = [OSError("no such device")]
    bench.finish(used)
    assert [(one.cpu_ms, one.peak_memory_bytes) for one in bench.accounts] == [(0.0, 0)]
    bench.until(lambda: bench.pool.counts() == {"busy": 1})
    assert other.state == "busy"


def test_a_slot_that_cannot_be_made_fails_its_waiters_and_is_made_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tree: Tree, name: str) -> Group:
        raise cgroups.CgroupsUnavailable("no room")

    with monkeypatch.context() as broken:
        broken.setattr(Tree, "create", fail)
        bench.ask("first")
    assert bench.failures == ["a slot could not be made: no room"]
    assert bench.get("first").slot.name == "s0"


SHAPE = Shape("nodejs20", 256)


@pytest.fixture
def make_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    """A pool that follows demand, with slots to spare and memory as the test says."""
    monkeypatch.setattr(pool.jail, "start", lambda command, group: Process())
    monkeypatch.setattr(pool, "TRIM_S", 0.02)

    def make(wanted: Demand, **options: int) -> Bench:
        return Bench(tmp_path, wanted, **options)

    return make


def test_jails_of_a_shape_that_is_asked_for_are_booted_ahead(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(Demand({}, 3))
    for key in ("a", "b", "c", "d"):
        bench.get(key)
    bench.until(lambda: bench.pool.counts() == {"busy": 4, "warm": 3})
    got = bench.ask("e")
    assert got[0][1] == "warm"


def test_jails_that_nobody_asks_for_any_more_end(make_bench: Callable[..., Bench]) -> None:
    wanted = Demand({SHAPE: 3}, 3)
    bench = make_bench(wanted)
    bench.pool.refill()
    bench.until(lambda: bench.pool.counts() == {"warm": 3})
    wanted.least.clear()
    bench.until(lambda: bench.pool.counts() == {})
    assert [(each["reason"], each["count"]) for each in bench.pool.figures()["ends"]] == [("surplus", 3)]


def test_a_host_short_of_memory_ends_what_is_idle_and_boots_nothing_ahead(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(Demand({SHAPE: 2}, 2))
    parked, busy = bench.get("parked"), bench.get("busy")
    bench.finish(parked)
    bench.until(lambda: bench.pool.counts() == {"busy": 1, "parked": 1, "warm": 2})
    bench.memory.scarce = True
    bench.until(lambda: bench.pool.counts() == {"busy": 1})
    assert busy.state == "busy"
    # Who asks gets one all the same.
    assert bench.get("next").state == "busy"


def test_warm_jails_stay_within_the_memory_that_idle_ones_may_hold(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(Demand({SHAPE: 5}, 5), memory_budget=2)
    bench.pool.refill()
    bench.until(lambda: bench.pool.counts() == {"warm": 2})
    ticks: list[None] = []
    bench.loop.later(0.1, lambda: ticks.append(None))
    bench.until(lambda: bool(ticks))
    assert bench.pool.counts() == {"warm": 2}


def test_figures_are_handed_out_once(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(Demand({}, 0))
    used = bench.get("a")
    bench.finish(used, keep=False)
    first, second = bench.pool.figures(), bench.pool.figures()
    assert [(each["runtime"], each["count"]) for each in first["boots"]] == [("nodejs20", 1)]
    assert [each["reason"] for each in first["ends"]] == ["failed"]
    assert (second["boots"], second["ends"]) == ([], [])


def test_a_runtime_whose_root_cannot_be_built_fails_its_waiters_with_the_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Built, "ready", lambda roots, name: None)
    monkeypatch.setattr(Built, "build", lambda roots, name: None)
    bench.ask("first")
    bench.roots.on_built("nodejs20", "ldd says no")
    assert bench.failures == ["the root of nodejs20 cannot be built: ldd says no"]


def test_warm_jails_of_another_size_make_room_when_none_is_parked(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "MAX_SLOTS", 2)
    bench = make_bench(Demand({SHAPE: 2}, 2))
    bench.pool.refill()
    bench.until(lambda: bench.pool.counts() == {"warm": 2})
    got: list[tuple[Jail, str]] = []
    request = Request("nodejs20", 512, 64, 1.0, 60_000, None, None)
    bench.pool.acquire(request, lambda one, origin: got.append((one, origin)), bench.failures.append)
    bench.until(lambda: bool(got))
    assert bench.failures == []


def test_for_want_of_memory_a_size_that_is_asked_for_less_gives_way(make_bench: Callable[..., Bench]) -> None:
    wanted = Demand({}, 4)
    bench = make_bench(wanted, memory_budget=2)
    now = time.monotonic()
    for size in (300, 301):
        wanted.add(Shape("nodejs20", size), now)
    bench.pool.refill()
    bench.until(lambda: bench.pool.counts() == {"warm": 2})
    for _ in range(4):
        wanted.add(SHAPE, now)
    bench.pool.refill()
    bench.until(lambda: bench.warm_sizes() == [256, 256])
    assert bench.pool.counts() == {"warm": 2}


def test_a_runtime_that_cannot_be_booted_does_not_keep_the_others_from_being_ready(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Demand({SHAPE: 1}, 4)
    bench = make_bench(wanted)
    real = Built.ready

    def lacking(roots: Built, name: str) -> tuple[Runtime, Path] | None:
        return None if name != "nodejs20" else real(roots, name)

    monkeypatch.setattr(Built, "ready", lacking)
    for _ in range(5):
        wanted.add(Shape("python3.11", 256), time.monotonic())
    bench.pool.refill()
    bench.until(lambda: bench.pool.counts() == {"warm": 1})
