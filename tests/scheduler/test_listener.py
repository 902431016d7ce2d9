"""Events on their way to scripts."""

import threading

import peewee
import psycopg
import pytest

from millrace import events, triggers
from millrace.bus import Delivery, MemoryBus
from millrace.errors import Unavailable
from millrace.models import Event, Run
from millrace.services import Services
from millrace.triggers import EventTrigger, Triggers
from scheduler import listener
from scheduler.listener import Listener
from tests import world
from tests.world import ACME, Clock, at_once


def make(services: Services) -> Listener:
    return Listener(services, threading.Event())


def subscriber(services: Services, slug: str = "watcher", pattern: str = "order.*") -> str:
    script = world.script(services, slug, triggers=Triggers(events=[EventTrigger(pattern)]))
    return script.uuid


def test_an_announced_event_starts_whoever_subscribed(memory: Services) -> None:
    one = subscriber(memory)
    subscriber(memory, "stranger", "invoice.*")
    two = subscriber(memory, "other", "**")
    Event.delete().execute()  # "**" hears that a script was made, too
    event = events.publish(memory, ACME, "order.created", {"total": 7})
    make(memory).step(0)
    assert {(run.script_id, run.event_id, run.trigger) for run in Run.select()} == {
        (one, event.id, "event"), (two, event.id, "event"),
    }
    assert Event.get().outcome == "routed"
    assert memory.bus.backlog() == 0


def test_many_listeners_start_one_run_per_script(memory: Services) -> None:
    subscriber(memory)
    for number in range(10):
        event = events.publish(memory, ACME, "order.created", number)
        for _ in range(3):
            memory.bus.announce(event.id)
    while memory.bus.backlog():
        at_once(memory.database, *[lambda: make(memory).step(0)] * 4)
    assert Run.select().count() == 10


def test_a_lost_listener_is_relieved(memory: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    subscriber(memory)
    events.publish(memory, ACME, "order.created", None)
    assert len(memory.bus.receive("lost", 0)) == 1
    make(memory).step(0)
    assert Run.select().count() == 0  # it may still be at work
    monkeypatch.setattr(listener, "HELD_TOO_LONG_MS", 0)
    make(memory).step(0)
    assert Run.select().count() == 1 and memory.bus.backlog() == 0


@pytest.mark.parametrize("event_id", ["", "01a20000-0000-7000-8000-000000000000", "no event", "é"])
def test_what_is_no_event_is_dropped(memory: Services, event_id: str) -> None:
    memory.bus.announce(event_id)
    make(memory).step(0)
    assert memory.bus.backlog() == 0


def test_one_event_that_we_fail_at_keeps_no_other_waiting(
    memory: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber(memory)
    bad = events.publish(memory, ACME, "order.bad", None)
    events.publish(memory, ACME, "order.good", None)
    route = triggers.route

    def fail(services: Services, event_id: str) -> int:
        if event_id == bad.id:
            raise ZeroDivisionError
        return route(services, event_id)

    monkeypatch.setattr(triggers, "route", fail)
    make(memory).step(0)
    assert Run.select().count() == 1
    assert memory.bus.backlog() == 1 and "ZeroDivisionError" in caplog.text
    clock.forward(ms=events.GIVE_UP_MS)
    monkeypatch.setattr(listener, "HELD_TOO_LONG_MS", 0)
    make(memory).step(0)
    assert memory.bus.backlog() == 0
    bad = Event.get_by_id(bad.id)
    assert (bad.outcome, bad.reason) == ("failed", "ZeroDivisionError in the router")


@pytest.mark.parametrize("error", [peewee.OperationalError("gone"), Unavailable("away")])
def test_what_was_received_is_kept_while_a_store_is_away(
    memory: Services, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    subscriber(memory)
    for number in range(3):
        events.publish(memory, ACME, "order.created", number)
    own = make(memory)

    def away(*_: object) -> int:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(triggers, "route", away)
        with pytest.raises(type(error)):
            own.step(0)
    own.step(0)
    assert Run.select().count() == 3 and memory.bus.backlog() == 0


def test_an_event_that_could_not_be_ticked_off_is_not_routed_twice(
    memory: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscriber(memory)
    events.publish(memory, ACME, "order.created", None)
    own = make(memory)

    def away(_self: MemoryBus, _delivery: Delivery) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryBus, "done", away)
        with pytest.raises(Unavailable):
            own.step(0)
    own.step(0)
    assert Run.select().count() == 1 and memory.bus.backlog() == 0


def test_a_script_whose_row_is_locked_keeps_no_other_event_waiting(
    memory: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscriber(memory)
    first, second = (events.publish(memory, ACME, "order.created", number) for number in range(2))
    route = triggers.route

    def contended(services: Services, event_id: str) -> int:
        if event_id == first.id:
            raise peewee.OperationalError(psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"))
        return route(services, event_id)

    with monkeypatch.context() as patched:
        patched.setattr(triggers, "route", contended)
        make(memory).step(0)
    assert [run.event_id for run in Run.select()] == [second.id]
    monkeypatch.setattr(listener, "HELD_TOO_LONG_MS", 0)
    make(memory).step(0)  # the locked one stayed on the bus
    assert Run.select().count() == 2 and memory.bus.backlog() == 0
