"""MemoryBus and RedisBus keep the same promises."""

import threading
import time
from collections.abc import Iterator

import pytest
import redis

from millrace.bus import Bus, Delivery, MemoryBus, RedisBus
from millrace.embedded import ValkeyServer
from millrace.errors import Unavailable
from tests.world import until


@pytest.fixture(params=["memory", "redis"])
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    made = MemoryBus() if request.param == "memory" else RedisBus(request.getfixturevalue("redis_url"))
    yield made
    made.close()


def ids(deliveries: list[Delivery]) -> list[str]:
    return [each.event_id for each in deliveries]


def test_what_is_announced_is_received_in_order(bus: Bus) -> None:
    for number in range(5):
        assert bus.announce(f"event-{number}")
    assert ids(bus.receive("a", 0)) == [f"event-{number}" for number in range(5)]
    assert bus.receive("a", 0) == []


def test_a_delivery_goes_to_one_consumer(bus: Bus) -> None:
    bus.announce("event")
    assert len(bus.receive("a", 0)) + len(bus.receive("b", 0)) == 1


def test_many_consumers_share_without_overlap(bus: Bus) -> None:
    for number in range(200):
        bus.announce(str(number))
    got: list[str] = []

    def take(name: str) -> None:
        while found := bus.receive(name, 50):
            got.extend(ids(found))

    threads = [threading.Thread(target=take, args=(name,)) for name in "abcd"]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    assert sorted(got, key=int) == [str(number) for number in range(200)]


def test_at_most_64_come_at_once(bus: Bus) -> None:
    for number in range(100):
        bus.announce(str(number))
    assert [len(bus.receive("a", 0)), len(bus.receive("a", 0))] == [64, 36]


def test_receiving_waits_for_the_first_and_not_longer(bus: Bus) -> None:
    timer = threading.Timer(0.2, bus.announce, args=("event",))
    timer.start()
    begun = time.monotonic()
    assert ids(bus.receive("a", 5_000)) == ["event"]
    assert time.monotonic() - begun < 4
    begun = time.monotonic()
    assert bus.receive("a", 100) == []
    assert 0.05 < time.monotonic() - begun < 4


def test_what_is_held_too_long_can_be_taken_over_by_one(bus: Bus) -> None:
    bus.announce("event")
    held = bus.receive("lost", 0)
    assert bus.reclaim("a", 60_000) == []
    taken = bus.reclaim("a", 0)
    assert taken == held
    until(lambda: bus.reclaim("b", 30) == held)
    assert bus.reclaim("c", 60_000) == []  # b holds it since just now


def test_what_is_done_is_gone(bus: Bus) -> None:
    bus.announce("one")
    bus.announce("two")
    assert bus.backlog() == 2
    one, _two = bus.receive("a", 0)
    assert bus.backlog() == 2
    bus.done(one)
    bus.done(one)
    assert bus.backlog() == 1
    assert ids(bus.reclaim("b", 0)) == ["two"]


def test_a_hint_reaches_every_listener_of_its_topic_in_order(bus: Bus) -> None:
    with bus.listen("a") as one, bus.listen("a") as two, bus.listen("b") as other:
        for number in range(3):
            bus.hint("a", str(number))
        bus.hint("b", "x\ny")
        for listener in (one, two):
            assert [_text(listener) for _ in range(3)] == ["0", "1", "2"]
        assert _text(other) == "x\ny"
        assert one.get(timeout=0.05) is None


def test_a_hint_without_listeners_is_gone(bus: Bus) -> None:
    with bus.listen("warm") as warm:
        bus.hint("a", "lost")
        bus.hint("warm", "after")  # hints keep their order: once this one is here, the first has passed
        assert _text(warm) == "after"
    with bus.listen("a") as listener:
        bus.hint("a", "heard")
        assert _text(listener) == "heard"


def _text(listener: object) -> str | None:
    """The next hint, but for the "" that says some may have been lost."""
    while (hint := listener.get(timeout=5)) == "":  # type: ignore[attr-defined]
        pass
    return hint  # type: ignore[no-any-return]


def test_a_listener_that_does_not_read_costs_a_bounded_memory(bus: Bus) -> None:
    with bus.listen("a") as slow, bus.listen("a") as quick:
        heard = 0
        for number in range(1_500):
            bus.hint("a", str(number))
            heard += _text(quick) is not None
        assert heard == 1_500
        assert sum(slow.get(timeout=0) is not None for _ in range(1_500)) <= 1_001


# What only Redis can do wrong


def test_a_redis_that_was_emptied_goes_on(redis_url: str) -> None:
    bus = RedisBus(redis_url)
    bus.announce("lost")
    held = bus.receive("a", 0)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    assert bus.receive("a", 0) == [] and bus.reclaim("a", 0) == [] and bus.backlog() == 0
    bus.done(held[0])
    bus.announce("found")
    assert ids(bus.receive("a", 0)) == ["found"]
    bus.close()


def test_without_redis_announcing_never_fails_and_reading_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"), durable=False)
    server.start()
    bus = RedisBus(server.url)
    with bus.listen("a") as listener:
        bus.hint("a", "before")
        assert _text(listener) == "before"
        server.stop()
        assert bus.announce("event") is False
        bus.hint("a", "lost")
        for read in (lambda: bus.receive("a", 10), lambda: bus.reclaim("a", 0), bus.backlog,
                     lambda: bus.done(Delivery("1-1", "event"))):
            with pytest.raises(Unavailable):
                read()
        server.start()
        assert bus.announce("event")
        assert ids(bus.receive("a", 1_000)) == ["event"]

        def heard() -> bool:
            bus.hint("a", "after")
            return listener.get(timeout=0.05) == "after"

        until(heard)
    bus.close()
    server.stop()
