"""The queue in Redis: fair between workspaces, safe to send again, and what becomes of a dead worker's messages."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import fairqueue
from millrace.dispatch import QUEUE, RedisQueue, WakingBroker
from tests.polling import wait_until

DEAD_MS = 300


class Peer:
    """One process at the queue: what it sends and what it takes, without threads of its own."""

    def __init__(self, url: str, *, dead_ms: int = 15_000) -> None:
        self.broker = WakingBroker(url)
        self.broker.heartbeat_timeout = dead_ms
        self.queue = RedisQueue(self.broker)

    def send(self, workspace: str, *runs: str) -> None:
        for run in runs:
            assert self.queue.send(run, 1, workspace)

    def take(self, count: int = 1) -> list[str]:
        """Ids of runs, in the order in which they came."""
        return [self._run(message) for message in self.broker.do_fetch(QUEUE, count)]

    def ack(self, workspace: str, run: str, attempt: int = 1) -> None:
        self.broker.do_ack(QUEUE, f"{workspace}/{run}/{attempt}")

    def give_back(self, workspace: str, *runs: str) -> None:
        self.broker.do_requeue(QUEUE, *(f"{workspace}/{run}/1" for run in runs))

    @staticmethod
    def _run(data: bytes) -> str:
        return str(dramatiq.Message.decode(data).args[0])

    def close(self) -> None:
        self.broker.close()


@pytest.fixture
def peer(redis_url: str) -> Iterator[Callable[..., Peer]]:
    made: list[Peer] = []

    def make(**options: Any) -> Peer:
        made.append(Peer(redis_url, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_runs_of_a_workspace_come_in_the_order_in_which_they_were_sent(peer: Callable[..., Peer]) -> None:
    one = peer()
    one.send("a", *"12345")
    assert one.take(2) + one.take(9) == list("12345")
    assert one.take() == []


def test_a_single_run_goes_before_the_next_of_ten_thousand(peer: Callable[..., Peer]) -> None:
    one = peer()
    one.send("busy", *map(str, range(10_000)))
    assert one.take(4) == list("0123")  # all workers there are
    one.send("quiet", "single")
    one.ack("busy", "0")
    assert one.take() == ["single"]


def test_workers_are_shared_by_time_and_not_by_count(peer: Callable[..., Peer]) -> None:
    one = peer()
    one.send("long", *"123456")
    one.send("short", *"abcdef")
    assert set(one.take(2)) == {"1", "a"}
    one.ack("short", "a")
    time.sleep(0.05)
    one.ack("long", "1")
    shared = []
    for _ in range(5):
        shared += one.take()
        one.ack("short", shared[-1])
    assert shared == list("bcdef")


def test_what_is_running_counts_as_used(peer: Callable[..., Peer]) -> None:
    one = peer()
    one.send("long", *"12")
    assert one.take() == ["1"]
    time.sleep(0.01)
    one.send("short", "a")
    assert one.take() == ["a"]


def test_what_is_fetched_at_once_is_shared_too(peer: Callable[..., Peer]) -> None:
    one = peer()
    for workspace in "abcd":
        one.send(workspace, *(f"{workspace}{number}" for number in range(5)))
    assert sorted(run[0] for run in one.take(8)) == list("aabbccdd")


def test_what_is_on_its_way_is_not_sent_twice(peer: Callable[..., Peer]) -> None:
    one = peer()
    one.send("a", "1", "1")
    assert one.take(5) == ["1"]
    one.send("a", "1")  # a worker has it
    assert one.take() == []
    one.ack("a", "1")
    one.send("a", "1")  # it is over: whoever sends it now means it
    assert one.take() == ["1"]


def test_a_fetch_whose_answer_was_lost_keeps_nothing_for_ever(peer: Callable[..., Peer], redis_url: str) -> None:
    """The worker is alive, and does not know that it has the message; the sweeper sends it again."""
    deaf, other = peer(), peer()
    deaf.send("a", "1")
    deaf.take()
    other.send("a", "1")
    assert other.take() == []  # it may be on its way
    with redis.Redis.from_url(redis_url) as client:
        began = float(client.hget("millrace:runs:began", "a/1/1") or 0)
        client.hset("millrace:runs:began", "a/1/1", str(int(began) - fairqueue.RETAKE_MS - 1))
    other.send("a", "1")
    assert other.take() == ["1"]
    deaf.ack("a", "1")  # it had it all the same
    assert other.queue.depth() == 0
    other.ack("a", "1")
    assert (other.take(), other.queue.poisoned(10)) == ([], [])


def test_what_a_dead_worker_had_returns_to_the_front(peer: Callable[..., Peer]) -> None:
    dead, alive = peer(), peer(dead_ms=DEAD_MS)
    dead.send("a", *"123")
    assert dead.take(2) == ["1", "2"]
    found: list[str] = []

    def all_taken() -> bool:
        found.extend(alive.take(9))
        return len(found) == 3

    wait_until(all_taken)
    assert sorted(found) == ["1", "2", "3"]


def test_a_worker_that_was_thought_dead_takes_nothing_from_the_one_that_has_it_now(peer: Callable[..., Peer]) -> None:
    frozen, alive = peer(), peer(dead_ms=DEAD_MS)
    frozen.send("a", "1")
    frozen.take()
    wait_until(lambda: alive.take() == ["1"])
    frozen.ack("a", "1")
    frozen.give_back("a", "1")
    alive.send("a", "1")
    assert alive.take() == []  # it still is with `alive`
    alive.ack("a", "1")
    assert alive.queue.depth() == 0


def test_a_message_that_kills_every_worker_is_set_aside(peer: Callable[..., Peer]) -> None:
    alive = peer(dead_ms=DEAD_MS)
    alive.send("a", "poison", "other")
    for _ in range(fairqueue.MAX_DELIVERIES):
        victim = peer()
        wait_until(lambda victim=victim: (alive.take(0), victim.take(1))[1] == ["poison"])  # type: ignore[misc]
    wait_until(lambda: (alive.take(0), alive.queue.poisoned(10))[1] == [("poison", 1)])
    assert alive.take(5) == ["other"]
    alive.queue.bury("poison", 1)
    assert alive.queue.poisoned(10) == []


def test_what_is_given_back_killed_nobody(peer: Callable[..., Peer]) -> None:
    one = peer()
    one.send("a", *"123")
    for _ in range(5):
        assert one.take(2) == ["1", "2"]
        one.give_back("a", "1", "2")
    assert one.take(3) == ["1", "2", "3"]
    assert one.queue.poisoned(10) == []


def test_an_emptied_server_is_simply_empty(peer: Callable[..., Peer], redis_url: str) -> None:
    one = peer()
    one.send("a", *"12")
    one.take()
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    one.ack("a", "1")
    assert (one.take(), one.queue.depth()) == ([], 0)
    one.send("a", "2")
    assert one.take() == ["2"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["send", "take", "ack", "give back"]), st.integers(0, 2), st.integers(0, 5)),
                max_size=40))  # fmt: skip
def test_nothing_is_lost_and_nothing_is_there_twice(
    peer: Callable[..., Peer], redis_url: str, steps: list[tuple[str, int, int]]
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    one = peer()
    waiting: set[tuple[str, str]] = set()
    taken: dict[str, str] = {}
    for step, which, number in steps:
        workspace, run = f"w{which}", f"{which}-{number}"
        if step == "send":
            one.send(workspace, run)
            if run not in taken:
                waiting.add((workspace, run))
        elif step == "take":
            for got in one.take(number):
                assert (f"w{got[0]}", got) in waiting
                waiting.remove((f"w{got[0]}", got))
                taken[got] = f"w{got[0]}"
        elif run in taken:
            if step == "give back":
                one.give_back(workspace, run)
                waiting.add((workspace, run))
            else:
                one.ack(workspace, run)
            del taken[run]
        assert one.queue.depth() == len(waiting)
    assert sorted(one.take(100)) == sorted(run for _, run in waiting)
