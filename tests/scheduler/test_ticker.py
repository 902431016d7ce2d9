"""Due times and delays."""

import pytest

from millrace import batches, schedules
from millrace.models import Run
from millrace.services import Services
from scheduler.ticker import SHORTEST_S, Ticker
from tests import world
from tests.world import ACME, Clock, at_once, sent

MINUTE = 60_000


class Uptime:
    """Seconds that no one can set; they follow the clock until that one jumps."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.jumped = clock, 0

    def __call__(self) -> float:
        return (self.clock.now - self.jumped) / 1000

    def jump(self, ms: int) -> None:
        self.clock.forward(ms=ms)
        self.jumped += ms


def test_a_tick_fires_and_says_when_the_next_is_due(memory: Services, clock: Clock) -> None:
    ticker = Ticker(memory)
    assert ticker.tick() is None
    world.script(memory, schedule="rate(1 minute)")
    assert ticker.tick() == 60.0
    clock.forward(ms=59_500)
    assert ticker.tick() == 0.5
    assert Run.select().count() == 0
    clock.forward(ms=500)
    assert ticker.tick() == 60.0
    assert Run.select().count() == 1


def test_a_tick_that_is_a_little_early_does_not_spin(memory: Services, clock: Clock) -> None:
    world.script(memory, schedule="rate(1 minute)")
    clock.forward(ms=MINUTE - 1)
    assert Ticker(memory).tick() == SHORTEST_S


def test_it_asks_to_be_called_when_the_next_delayed_run_is_due(memory: Services, clock: Clock) -> None:
    script = world.script(memory, max_concurrent_runs=1)
    ticker = Ticker(memory)
    assert ticker.release() is None
    world.start(memory, script)
    world.start(memory, script)  # waits for a place, and a tick would not help
    batches.submit(memory, batches.Wish(workspace=ACME, script=script.uuid, items=[{}, {}], concurrency=1))
    assert ticker.release() is None
    world.start(memory, script, available_at=clock.now + 9_000)
    world.start(memory, script, available_at=clock.now + 4_250)
    assert ticker.release() == 4.25
    clock.forward(s=4.25)
    assert ticker.release() == 4.75


def test_delayed_runs_are_released_by_one_of_many(memory: Services, clock: Clock) -> None:
    script = world.script(memory)
    run = world.start(memory, script, available_at=clock.now + 1_000)
    Ticker(memory).release()
    assert sent(memory) == []
    clock.forward(s=1)
    at_once(memory.database, *[Ticker(memory).release] * 4)
    assert sent(memory) == [(run.id, 1)]


def test_after_the_clock_was_set_back_schedules_go_on(memory: Services, clock: Clock) -> None:
    uptime = Uptime(clock)
    ticker = Ticker(memory, uptime)
    world.script(memory, schedule="rate(1 minute)")
    clock.forward(ms=MINUTE)
    ticker.tick()
    uptime.jump(60 * MINUTE)
    ticker.tick()
    uptime.jump(-60 * MINUTE)
    wait = ticker.tick()
    assert wait is not None and wait <= 60
    for _ in range(3):
        clock.forward(ms=MINUTE)
        ticker.tick()
    assert Run.select().count() == 5


def test_a_clock_that_is_slewed_is_no_jump(memory: Services, clock: Clock) -> None:
    uptime = Uptime(clock)
    ticker = Ticker(memory, uptime)
    assert ticker._was_set_back()
    for drift in (0, 100, -100, -1_900, 5_000):
        uptime.jump(drift)
        assert not ticker._was_set_back()
    uptime.jump(-3_000)
    assert ticker._was_set_back()
    assert not ticker._was_set_back()


def test_a_scheduler_that_starts_after_the_clock_was_set_back_sees_to_it(memory: Services, clock: Clock) -> None:
    world.script(memory, schedule="rate(1 minute)")
    clock.forward(ms=-365 * 24 * 60 * MINUTE)
    wait = Ticker(memory).tick()
    assert wait is not None and wait <= 60


def test_a_tick_that_has_more_to_make_up_for_comes_again_at_once(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "PART", 2)
    ticker = Ticker(memory, Uptime(clock))
    world.script(memory, schedule="rate(1 minute)", schedule_policy={"catch_up": "all"})
    clock.forward(ms=5 * MINUTE)
    assert [ticker.tick() for _ in range(3)] == [SHORTEST_S, SHORTEST_S, 60.0]
    assert Run.select().count() == 5


def test_a_paused_schedule_does_not_call_the_ticker(memory: Services, clock: Clock) -> None:
    ticker = Ticker(memory, Uptime(clock))
    schedules.pause(memory, world.script(memory, schedule="rate(1 minute)"))
    clock.forward(ms=5 * MINUTE)
    assert ticker.tick() is None
    assert Run.select().count() == 0
