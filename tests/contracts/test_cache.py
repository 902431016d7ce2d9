"""MemoryCache and RedisCache keep the same promises."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from millrace.cache import MAX_TTL_S, MAX_VALUE_BYTES, Cache, Full, MemoryCache, Namespace, Quota, RedisCache
from millrace.embedded import ValkeyServer
from millrace.errors import DomainError, Invalid, TooLarge, Unavailable
from tests.world import Clock, until

ONE = Namespace("acme", "11111111-1111-7111-8111-111111111111")
TWO = Namespace("acme", "22222222-2222-7222-8222-222222222222")
FOREIGN = Namespace("other", "33333333-3333-7333-8333-333333333333")


class InMemory:
    """A cache in memory, and its time."""

    def __init__(self, quota: Quota | None = None) -> None:
        self.clock = Clock()
        self.cache: Cache = MemoryCache(self.clock, quota)

    def forward(self, seconds: int) -> None:
        self.clock.forward(s=seconds)


class InRedis:
    """A cache in Redis, whose time is let pass by bringing every end nearer."""

    def __init__(self, url: str, quota: Quota | None = None) -> None:
        self.cache: Cache = RedisCache(url, quota)
        self.client = redis.Redis.from_url(url)

    def forward(self, seconds: int) -> None:
        for name in self.client.scan_iter("millrace:cache:*:due"):
            for member, _ in self.client.zrangebyscore(name, 0, 1e15, withscores=True):
                self.client.zincrby(name, -seconds * 1000, member)
        for name in [*self.client.scan_iter("tenant:*"), *self.client.scan_iter("millrace:cache:*")]:
            if (left := self.client.pttl(name)) > 0:
                self.client.pexpire(name, max(left - seconds * 1000, 0))


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def small(kind: str, request: pytest.FixtureRequest) -> Iterator[InMemory | InRedis]:
    """A cache with little room: 100 bytes and 5 keys."""
    made = _make(kind, request, Quota(max_bytes=100, max_keys=5))
    yield made
    made.cache.close()


@pytest.fixture
def world(kind: str, request: pytest.FixtureRequest) -> Iterator[InMemory | InRedis]:
    """A cache and its time."""
    made = _make(kind, request, None)
    yield made
    made.cache.close()


def _make(kind: str, request: pytest.FixtureRequest, quota: Quota | None) -> InMemory | InRedis:
    return InMemory(quota) if kind == "memory" else InRedis(request.getfixturevalue("redis_url"), quota)


@pytest.fixture
def cache(world: InMemory | InRedis) -> Cache:
    """A cache."""
    return world.cache


VALUES: list[Any] = [
    None, True, 0, -1, 2**60, 1.5, "", "text", "é\x00\ud800", [], {}, {"a": [1, {"b": None}]}, "0", "null", [[[[1]]]],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_any_json_comes_back_as_it_was(cache: Cache, value: Any) -> None:
    cache.set(ONE, "key", value)
    assert cache.get(ONE, "key") == value
    assert type(cache.get(ONE, "key")) is type(value)
    assert cache.exists(ONE, "key")


def test_what_is_not_there_is_none_and_does_not_exist(cache: Cache) -> None:
    assert cache.get(ONE, "key") is None
    assert cache.exists(ONE, "key") is False
    assert cache.delete(ONE, "key") is False
    assert cache.expire(ONE, "key", 5) is False


def test_a_script_sees_neither_another_scripts_keys_nor_another_workspaces(cache: Cache) -> None:
    for number, whose in enumerate((ONE, TWO, FOREIGN, Namespace("other", ONE.script))):
        assert cache.get(whose, "key") is None
        cache.set(whose, "key", number)
    assert [cache.get(each, "key") for each in (ONE, TWO, FOREIGN)] == [0, 1, 2]
    cache.delete(ONE, "key")
    assert [cache.get(each, "key") for each in (ONE, TWO, FOREIGN)] == [None, 1, 2]


GOOD_KEYS = ["a", "x" * 256, "с днём", "a:b:c", "*", "tenant:other", " ", "%00", "\U0001f600" * 256]
BAD_KEYS: list[Any] = ["", "x" * 257, "a\nb", "\x00", "\x7f", "\x85", "\ud800", None, 1, ["a"], "x" * 300_000]


@pytest.mark.parametrize("key", GOOD_KEYS, ids=range(len(GOOD_KEYS)))
def test_keys_are_texts_of_any_kind(cache: Cache, key: str) -> None:
    cache.set(ONE, key, 1)
    assert cache.increment(ONE, key) == 2
    assert cache.get(ONE, key) == 2
    assert cache.delete(ONE, key)
    assert not cache.exists(ONE, key)


@pytest.mark.parametrize("key", BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_whoever_names_a_wrong_key_is_told_so(cache: Cache, key: Any) -> None:
    calls = [
        lambda: cache.get(ONE, key), lambda: cache.exists(ONE, key), lambda: cache.set(ONE, key, 1),
        lambda: cache.increment(ONE, key), lambda: cache.expire(ONE, key, 1), lambda: cache.delete(ONE, key),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Invalid, match="cache key") as caught:
            call()
        assert len(caught.value.message) < 200


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**5000, {"a": {1}}, b"raw"], ids=range(5))
def test_what_is_not_json_is_refused(cache: Cache, value: Any) -> None:
    with pytest.raises(Invalid, match="must be JSON"):
        cache.set(ONE, "key", value)
    assert not cache.exists(ONE, "key")


def test_a_value_nested_too_deeply_is_refused(cache: Cache) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    cache.set(ONE, "key", deep)
    assert cache.get(ONE, "key") == deep
    for _ in range(50_000):
        deep = [deep]
    with pytest.raises(Invalid, match="100 deep"):
        cache.set(ONE, "key", deep)
    while isinstance(deep, list):
        deep = deep.pop()  # to take apart so many at once is too much for the interpreter


def test_a_value_has_64_kib_and_not_a_byte_more(cache: Cache) -> None:
    cache.set(ONE, "key", "x" * (MAX_VALUE_BYTES - 2))
    cache.set(ONE, "key", "é" * (MAX_VALUE_BYTES // 2 - 1))
    with pytest.raises(TooLarge, match="65536 bytes of JSON; this one is 65537"):
        cache.set(ONE, "key", "x" * (MAX_VALUE_BYTES - 1))
    assert cache.get(ONE, "key") == "é" * (MAX_VALUE_BYTES // 2 - 1)


@pytest.mark.parametrize("ttl", [0, -1, MAX_TTL_S + 1, 1.5, "5", True, [], 2**70, float("nan")])
def test_a_time_to_live_is_whole_seconds_up_to_a_year(cache: Cache, ttl: Any) -> None:
    cache.set(ONE, "key", 1, MAX_TTL_S)
    for call in (lambda: cache.set(ONE, "key", 2, ttl), lambda: cache.expire(ONE, "key", ttl)):
        with pytest.raises(Invalid, match="whole seconds from 1 to 31536000"):
            call()
    assert cache.get(ONE, "key") == 1


def test_expire_needs_a_time(cache: Cache) -> None:
    with pytest.raises(Invalid, match="whole seconds"):
        cache.expire(ONE, "key", None)  # type: ignore[arg-type]


def test_a_value_ends_when_its_time_is_over(world: InMemory | InRedis) -> None:
    cache = world.cache
    cache.set(ONE, "short", 1, 100)
    cache.set(ONE, "long", 2, 1000)
    cache.set(ONE, "ever", 3)
    world.forward(500)
    assert [cache.get(ONE, key) for key in ("short", "long", "ever")] == [None, 2, 3]
    assert not cache.exists(ONE, "short")
    world.forward(500)
    assert [cache.get(ONE, key) for key in ("short", "long", "ever")] == [None, None, 3]


def test_to_set_anew_ends_the_earlier_time_and_to_add_keeps_it(world: InMemory | InRedis) -> None:
    cache = world.cache
    for key in ("set", "added", "longer"):
        cache.set(ONE, key, 1, 100)
    cache.set(ONE, "set", 2)
    cache.increment(ONE, "added", 5)
    assert cache.expire(ONE, "longer", 300)
    world.forward(200)
    assert [cache.get(ONE, key) for key in ("set", "added", "longer")] == [2, None, 1]
    assert cache.increment(ONE, "added", 5) == 5
    world.forward(200)
    assert [cache.get(ONE, key) for key in ("set", "added", "longer")] == [2, 5, None]


def test_redis_itself_ends_a_value(redis_url: str) -> None:
    cache = RedisCache(redis_url)
    cache.set(ONE, "key", 1, 1)
    until(lambda: not cache.exists(ONE, "key"))
    cache.set(ONE, "key", 1)
    cache.expire(ONE, "key", 1)
    until(lambda: not cache.exists(ONE, "key"))
    cache.close()


def test_adding_begins_at_zero_and_takes_any_whole_number(cache: Cache) -> None:
    assert cache.increment(ONE, "n") == 1
    assert cache.increment(ONE, "n", 41) == 42
    assert cache.increment(ONE, "n", -50) == -8
    assert cache.increment(ONE, "n", 0) == -8
    assert cache.increment(ONE, "n", 2**62) == 2**62 - 8
    assert cache.get(ONE, "n") == 2**62 - 8


@pytest.mark.parametrize("value", ["5", "text", 1.5, None, True, [], {}, 2**63, -(2**63) - 1, 10**30, 1e21])
def test_adding_to_what_is_no_whole_number_is_refused(cache: Cache, value: Any) -> None:
    cache.set(ONE, "key", value)
    with pytest.raises(Invalid, match="'key' is not a whole number"):
        cache.increment(ONE, "key")
    assert cache.get(ONE, "key") == value


@pytest.mark.parametrize(("start", "delta"), [(2**63 - 1, 1), (-(2**63), -1), (1, 2**63 - 1), (-2, -(2**63))])
def test_no_sum_leaves_64_bits(cache: Cache, start: int, delta: int) -> None:
    cache.set(ONE, "key", start)
    with pytest.raises(Invalid, match="would not fit into 64 bits"):
        cache.increment(ONE, "key", delta)
    assert cache.get(ONE, "key") == start


@pytest.mark.parametrize("delta", [1.0, "1", None, True, 2**63, -(2**63) - 1, 10**400, [], float("inf")])
def test_what_is_added_is_a_whole_number(cache: Cache, delta: Any) -> None:
    with pytest.raises(Invalid, match="whole number of 64 bits"):
        cache.increment(ONE, "key", delta)
    assert not cache.exists(ONE, "key")


def test_no_addition_of_many_threads_is_lost(cache: Cache) -> None:
    def add() -> None:
        for _ in range(100):
            cache.increment(ONE, "n")

    threads = [threading.Thread(target=add) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert cache.get(ONE, "n") == 800


def test_many_threads_that_fill_the_last_place_get_it_once(small: InMemory | InRedis) -> None:
    for number in range(4):
        small.cache.set(ONE, str(number), 0)
    refused: list[str] = []

    def fill(key: str) -> None:
        try:
            small.cache.set(ONE, key, 0)
        except Full:
            refused.append(key)

    threads = [threading.Thread(target=fill, args=(f"last-{number}",)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert len(refused) == 7


# The quota


def test_a_workspaces_scripts_have_one_quota_of_keys(small: InMemory | InRedis) -> None:
    cache = small.cache
    for number in range(5):
        cache.set((ONE, TWO)[number % 2], str(number), 0)
    for call in (lambda: cache.set(ONE, "more", 0), lambda: cache.increment(TWO, "more")):
        with pytest.raises(Full, match="5 keys"):
            call()
    cache.set(ONE, "0", 1)
    assert cache.increment(TWO, "1") == 1
    cache.set(FOREIGN, "more", 0)
    cache.delete(ONE, "0")
    cache.set(TWO, "more", 0)


def test_a_workspace_has_a_quota_of_bytes_of_keys_and_values(small: InMemory | InRedis) -> None:
    cache = small.cache
    cache.set(ONE, "key", "x" * 95)
    with pytest.raises(Full, match="holds at most"):
        cache.set(ONE, "key", "x" * 96)
    with pytest.raises(Full):
        cache.set(TWO, "k", 1)
    assert cache.get(ONE, "key") == "x" * 95
    cache.set(ONE, "key", "x" * 91)
    cache.set(TWO, "k", 99)
    with pytest.raises(Full):
        cache.increment(TWO, "k", 999)
    assert cache.get(TWO, "k") == 99
    with pytest.raises(Full):
        cache.increment(TWO, "new")
    assert not cache.exists(TWO, "new")


def test_a_refused_addition_leaves_number_and_time_as_they_were(small: InMemory | InRedis) -> None:
    small.cache.set(ONE, "n", 9, 100)
    small.cache.set(ONE, "key", "x" * 93)
    with pytest.raises(Full):
        small.cache.increment(ONE, "n")
    assert small.cache.get(ONE, "n") == 9
    small.forward(100)
    assert small.cache.get(ONE, "n") is None


def test_what_has_ended_takes_no_room(small: InMemory | InRedis) -> None:
    for _ in range(3):
        for number in range(5):
            small.cache.set(ONE, str(number), "x" * 10, 100)
        with pytest.raises(Full):
            small.cache.set(ONE, "more", 0)
        small.forward(100)
    small.cache.set(ONE, "more", "x" * 90)


def test_to_forget_a_script_leaves_the_others(cache: Cache) -> None:
    for number in range(1_200):
        cache.set(ONE, f"key {number}", number)
    cache.set(TWO, "key", 2)
    cache.set(FOREIGN, "key", 3)
    cache.forget("acme", ONE.script)
    assert not any(cache.exists(ONE, f"key {number}") for number in range(1_200))
    assert (cache.get(TWO, "key"), cache.get(FOREIGN, "key")) == (2, 3)
    cache.forget("acme")
    assert (cache.get(TWO, "key"), cache.get(FOREIGN, "key")) == (None, 3)
    cache.forget("nobody")


# Both agree


class BothAgree(RuleBasedStateMachine):
    """Whatever is done to both, they answer the same, and what Redis holds is what its index says."""

    url: str
    room: Quota

    @initialize()
    def begin(self) -> None:
        self.memory, self.redis = InMemory(self.room), InRedis(self.url, self.room)
        self.redis.client.flushall()

    def teardown(self) -> None:
        if hasattr(self, "redis"):
            self.check_books()
            self.redis.cache.close()
            self.redis.client.close()

    def both(self, call: Any) -> None:
        answers = []
        for cache in (self.memory.cache, self.redis.cache):
            try:
                answers.append(call(cache))
            except DomainError as error:
                answers.append((type(error), error.message))
        assert answers[0] == answers[1]

    whose = st.sampled_from([ONE, TWO, FOREIGN])
    keys = st.sampled_from(["a", "b", "ccc", "ключ", "a:b"])
    ttls = st.sampled_from([None, 100, 200, 300])
    values = st.one_of(
        st.integers(-5, 5), st.sampled_from([2**63 - 1, -(2**63), 2**63, "7", 1.5, None]), st.text(max_size=40)
    )

    @rule(whose=whose, key=keys, value=values, ttl=ttls)
    def set(self, whose: Namespace, key: str, value: Any, ttl: int | None) -> None:
        self.both(lambda cache: cache.set(whose, key, value, ttl))

    @rule(whose=whose, key=keys, delta=st.one_of(st.integers(-200, 200), st.sampled_from([2**63 - 1, -(2**63)])))
    def increment(self, whose: Namespace, key: str, delta: int) -> None:
        self.both(lambda cache: cache.increment(whose, key, delta))

    @rule(whose=whose, key=keys, ttl=st.sampled_from([100, 200, 300]))
    def expire(self, whose: Namespace, key: str, ttl: int) -> None:
        self.both(lambda cache: cache.expire(whose, key, ttl))

    @rule(whose=whose, key=keys)
    def delete(self, whose: Namespace, key: str) -> None:
        self.both(lambda cache: cache.delete(whose, key))

    @rule(whose=whose, key=keys)
    def read(self, whose: Namespace, key: str) -> None:
        self.both(lambda cache: (cache.get(whose, key), cache.exists(whose, key)))

    @rule(whose=whose)
    def forget(self, whose: Namespace) -> None:
        self.both(lambda cache: cache.forget(whose.workspace, whose.script))

    @rule()
    def let_time_pass(self) -> None:
        self.memory.forward(100)
        self.redis.forward(100)

    def check_books(self) -> None:
        client = self.redis.client
        for workspace in ("acme", "other"):
            due, sizes = f"millrace:cache:{workspace}:due", f"millrace:cache:{workspace}:sizes"
            told = {member.decode(): int(size) for member, size in client.hgetall(sizes).items()}
            assert told.pop("", 0) == sum(told.values()) <= self.room.max_bytes
            assert set(told) == {member.decode() for member in client.zrange(due, 0, -1)}
            assert len(told) <= self.room.max_keys
            kept = {}
            for name in client.scan_iter(f"tenant:{workspace}:script:*"):
                member = name.decode().removeprefix(f"tenant:{workspace}:script:")
                kept[member] = len(member.partition(":")[2].encode()) + client.strlen(name)
            assert kept.items() <= told.items()  # what has ended may not be forgotten yet


def test_both_answer_the_same_whatever_is_done(redis_url: str) -> None:
    BothAgree.url, BothAgree.room = redis_url, Quota(max_bytes=120, max_keys=6)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        BothAgree,
        settings=settings(
            max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# What only Redis can do wrong


@pytest.fixture
def filled(redis_url: str) -> Iterator[InRedis]:
    """A cache that is full."""
    made = InRedis(redis_url, Quota(max_bytes=1000, max_keys=5))
    for number in range(5):
        made.cache.set(ONE, str(number), number)
    with pytest.raises(Full):
        made.cache.set(ONE, "more", 1)
    yield made
    made.cache.close()
    made.client.close()


def test_a_redis_that_was_emptied_is_an_empty_cache(filled: InRedis) -> None:
    filled.client.flushall()
    filled.client.script_flush()
    assert filled.cache.get(ONE, "0") is None
    for number in range(5):
        assert filled.cache.increment(ONE, str(number)) == 1
    with pytest.raises(Full):
        filled.cache.set(ONE, "more", 1)


def test_values_that_are_gone_take_no_room_though_the_index_tells_of_them(filled: InRedis) -> None:
    filled.client.delete(*filled.client.keys("tenant:*"))
    for number in range(5):
        filled.cache.set(ONE, f"new {number}", 1)
    with pytest.raises(Full):
        filled.cache.set(ONE, "more", 1)


def test_one_value_that_is_gone_makes_room_for_one(filled: InRedis) -> None:
    filled.client.delete(f"tenant:acme:script:{ONE.script}:3")
    assert filled.cache.delete(ONE, "3") is False
    filled.cache.set(ONE, "new", 1)
    with pytest.raises(Full):
        filled.cache.set(ONE, "more", 1)


def test_sizes_without_an_index_take_no_room(filled: InRedis) -> None:
    for number in range(5):
        filled.cache.set(ONE, str(number), "x" * 190)
    filled.client.delete("millrace:cache:acme:due")
    for number in range(5):
        filled.cache.set(ONE, f"new {number}", "x" * 190)
    with pytest.raises(Full):
        filled.cache.set(ONE, "more", 1)


def test_an_index_without_sizes_refuses_nobody_for_ever(filled: InRedis) -> None:
    filled.client.delete("millrace:cache:acme:sizes")
    for number in range(5):
        filled.cache.set(ONE, str(number), "new")
        assert filled.cache.get(ONE, str(number)) == "new"
    with pytest.raises(Full):
        filled.cache.set(ONE, "more", 1)
    for number in range(5):
        filled.cache.delete(ONE, str(number))
    filled.cache.set(ONE, "more", "x" * 900)


def test_what_has_ended_makes_room_however_little_of_all_it_is(redis_url: str) -> None:
    world = InRedis(redis_url, Quota(max_bytes=24_000))
    for number in range(1_000):
        world.cache.set(ONE, f"live {number}", "")
    for number in range(40):
        world.cache.set(ONE, f"small {number}", "", 100)
    world.cache.set(ONE, "large", "x" * 9_000, 200)
    world.forward(200)
    world.cache.set(ONE, "more", "x" * 10_000)
    world.cache.close()
    world.client.close()


def test_of_what_has_ended_or_was_deleted_no_key_stays_in_redis(redis_url: str) -> None:
    world = InRedis(redis_url)
    world.cache.set(ONE, "key", 1)
    world.cache.delete(ONE, "key")
    assert world.client.keys("*") == []
    world.cache.set(ONE, "key", 1, 100)
    world.cache.set(ONE, "ever", 1)
    world.cache.set(ONE, "ever", 1, 200)
    world.cache.increment(TWO, "n")
    world.cache.forget("acme", TWO.script)
    world.forward(202)
    assert world.client.keys("*") == []
    world.cache.close()
    world.client.close()


def test_a_full_cache_of_large_numbers_of_keys_is_refused_and_emptied_in_little_time(redis_url: str) -> None:
    """One command must not hold up everybody's queue, however much a tenant has put there."""
    world = InRedis(redis_url)
    for number in range(10_000):
        world.cache.set(ONE, f"key {number}", number, 100)
    with pytest.raises(Full, match="16 MiB and 10,000 keys"):
        world.cache.set(ONE, "more", 1)
    world.forward(100)
    world.client.config_resetstat()
    world.cache.set(ONE, "more", 1)
    stats = world.client.info("commandstats")["cmdstat_evalsha"]
    assert stats["usec"] < 500_000
    assert world.client.zcard("millrace:cache:acme:due") < 10_000
    world.cache.close()
    world.client.close()


def test_a_redis_that_is_away_is_waited_for_once_and_found_when_it_is_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"), durable=False)
    server.start()
    cache = RedisCache(server.url)
    cache.set(ONE, "key", 1)
    server.stop()
    begun = time.monotonic()
    for call in (lambda: cache.get(ONE, "key"), lambda: cache.set(ONE, "key", 1), lambda: cache.increment(ONE, "key"),
                 lambda: cache.delete(ONE, "key"), lambda: cache.exists(ONE, "key"), lambda: cache.forget("acme")):
        for _ in range(20):
            with pytest.raises(Unavailable):
                call()
    assert time.monotonic() - begun < 20
    server.start()

    def back() -> bool:
        try:
            return cache.increment(ONE, "key") == 1
        except Unavailable:
            return False

    until(back)
    cache.close()
    server.stop()


def test_a_redis_that_says_nothing_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.cache._ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cache = RedisCache(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        begun = time.monotonic()
        for _ in range(20):
            with pytest.raises(Unavailable):
                cache.get(ONE, "key")
        assert time.monotonic() - begun < 2
        cache.close()


@pytest.fixture
def cutting_port(valkey_server: ValkeyServer) -> Iterator[int]:
    """Where Redis answers, but for what a script says: then the line is cut."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=_keep_answers_back, args=(door, valkey_server.port))
        thread.start()
        yield door.getsockname()[1]
        door.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_an_addition_whose_answer_is_lost_is_not_made_again(redis_url: str, cutting_port: int) -> None:
    cache, straight = RedisCache(redis_url), RedisCache(redis_url)
    straight.increment(ONE, "n")
    cache._client.connection_pool.connection_kwargs["port"] = cutting_port
    with pytest.raises(Unavailable):
        cache.increment(ONE, "n")
    assert straight.get(ONE, "n") == 2
    cache.close()
    straight.close()


def _keep_answers_back(door: socket.socket, port: int) -> None:
    while True:
        try:
            client, _ = door.accept()
        except OSError:
            return
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            while asked := client.recv(65536):
                server.sendall(asked)
                answer = server.recv(65536)
                if b"EVALSHA" in asked:
                    break
                client.sendall(answer)


def test_what_somebody_else_wrote_there_is_not_the_caches(redis_url: str) -> None:
    world = InRedis(redis_url)
    world.client.set(f"tenant:acme:script:{ONE.script}:key", b"\xff not json")
    with pytest.raises(Unavailable):
        world.cache.get(ONE, "key")
    world.cache.set(ONE, "key", 1)
    assert world.cache.get(ONE, "key") == 1
    world.cache.close()
    world.client.close()
