"""A bucket gives what it holds at once, and then no more than comes back."""

from hypothesis import given
from hypothesis import strategies as st

from tests.world import Clock
from worker.buckets import TokenBucket


def test_a_full_bucket_gives_all_at_once_and_says_when_there_is_more() -> None:
    clock = Clock(0)
    bucket = TokenBucket(60, clock)
    assert [bucket.take() for _ in range(60)] == [0] * 60
    assert bucket.take() == 1000
    clock.forward(ms=400)
    assert bucket.take() == 600
    clock.forward(ms=600)
    assert bucket.take() == 0
    assert bucket.take() == 1000


def test_it_never_holds_more_than_a_minute_gives() -> None:
    clock = Clock(0)
    bucket = TokenBucket(3, clock)
    clock.forward(s=3600)
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 20_000]


def test_a_clock_that_is_set_back_gives_nothing_and_takes_nothing() -> None:
    clock = Clock(10_000)
    bucket = TokenBucket(1, clock)
    assert bucket.take() == 0
    clock.forward(s=-3600)
    assert bucket.take() == 60_000
    clock.forward(s=60)
    assert bucket.take() == 0


STEPS = st.lists(st.one_of(st.integers(0, 5_000), st.integers(0, 100_000)), max_size=200)


@given(st.integers(1, 10_000), STEPS)
def test_in_any_time_it_gives_at_most_what_it_held_and_what_came_back(per_minute: int, steps: list[int]) -> None:
    clock = Clock(0)
    bucket = TokenBucket(per_minute, clock)
    given_at: list[int] = []
    for step in steps:
        clock.forward(ms=step)
        while len(given_at) < 2_000 and bucket.take() == 0:
            given_at.append(clock.now)
    for first, since in enumerate(given_at):
        for last in range(first, len(given_at), max(len(given_at) // 20, 1)):
            passed = given_at[last] - since
            assert last - first + 1 <= per_minute + per_minute * passed / 60_000


@given(st.integers(1, 10_000), STEPS)
def test_whoever_waits_as_long_as_told_gets_one_and_not_a_moment_earlier(per_minute: int, steps: list[int]) -> None:
    clock = Clock(0)
    bucket = TokenBucket(per_minute, clock)
    for step in steps:
        clock.forward(ms=step)
        wait = bucket.take()
        if wait:
            clock.forward(ms=wait - 1)
            assert bucket.take() == 1
            clock.forward(ms=1)
            assert bucket.take() == 0
