"""What the runs of one group may use together."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.egress.group import MB, Group, Groups, LastHour, Limits
from sandbox.egress.policy import Policy, RefusalKind, Refused
from sandbox.egress.slot import Slot
from sandbox.loop import Loop
from sandbox.proxylink import ProxyLink, Traffic
from tests.sandbox import egress_support as support
from tests.sandbox.egress_support import LocalDoor, Names

HOUR_S = 3_600.0
LOOPBACK = ["127.0.0.0/8"]


class Watch:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


def refusal(attempt: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        attempt()
    return str(caught.value), caught.value.kind


# The account of one group


def test_a_quiet_group_may_open_a_minutes_worth_at_once_and_then_as_many_as_come_back(watch: Watch) -> None:
    group = Group(Limits(rate=30), watch)
    for _ in range(30):
        group.open()
    for _ in range(5):
        assert refusal(group.open) == (
            "group limit of 30 new connections a minute reached; try again in 2 s",
            RefusalKind.GROUP_RATE,
        )
        watch.now += 2
        group.open()
    watch.now += HOUR_S
    for _ in range(30):
        group.open()
    assert refusal(group.open)[1] == "group_rate"


def test_who_comes_back_when_told_to_is_let_in_whatever_the_rate(watch: Watch) -> None:
    for rate in (1, 7, 59, 6_000, 999_983):
        group = Group(Limits(rate=rate), watch)
        for _ in range(rate):
            group.open()
        watch.now += int(refusal(group.open)[0].split()[-2])
        group.open()


def test_an_attempt_that_is_refused_costs_nothing_of_the_rate(watch: Watch) -> None:
    group = Group(Limits(connections=1, rate=2), watch)
    group.open()
    for _ in range(10):
        assert refusal(group.open) == ("group limit of 1 connections at once reached", "group_connections")
    group.close()
    group.open()


def test_bytes_are_refused_until_an_hour_has_passed_and_at_most_five_minutes_more(watch: Watch) -> None:
    group = Group(Limits(mb_per_hour=1), watch)
    group.move(MB - 1)
    group.check_bytes()
    group.move(1)
    full = ("group limit of 1 MB an hour reached", "group_bytes")
    assert refusal(group.check_bytes) == full
    watch.now += HOUR_S
    assert refusal(group.check_bytes) == full
    watch.now += 301
    group.check_bytes()


@given(st.lists(st.tuples(st.floats(0, 5_000), st.integers(1, 1_000)), max_size=60))
def test_no_byte_of_the_last_hour_is_forgotten_and_none_of_an_earlier_one_kept(
    moves: list[tuple[float, int]],
) -> None:
    now, seen, kept = 0.0, [], LastHour()
    for later, size in moves:
        now += later
        seen.append((now, size))
        kept.add(size, now)
        assert sum(s for at, s in seen if at > now - HOUR_S) <= kept.total(now)
        assert sum(s for at, s in seen if at >= now - HOUR_S - 300) >= kept.total(now)


def test_without_limits_a_group_may_use_anything(watch: Watch) -> None:
    group = Group(Limits(), watch)
    for _ in range(10_000):
        group.open()
        group.move(1 << 40)
    group.check_bytes()


# All groups


def test_groups_that_have_nothing_left_to_remember_are_forgotten(watch: Watch) -> None:
    groups = Groups(Limits(connections=5, rate=60, mb_per_hour=1), watch)
    for number in range(5_000):
        group = groups.join(f"g{number}")
        group.open()
        group.close()
        group.members -= 1
    watch.now += 61
    groups.join("another")
    assert len(groups) == 1


@pytest.mark.parametrize(
    ("use", "remembered_s"),
    [
        (lambda group: [group.open() or group.close() for _ in range(60)], 59),
        (lambda group: group.move(MB), HOUR_S),
        (lambda group: group.open(), 100 * HOUR_S),
    ],
)
def test_a_group_is_remembered_as_long_as_its_account_says_anything(
    watch: Watch, use: Callable[[Group], object], remembered_s: float
) -> None:
    groups = Groups(Limits(connections=1, rate=60, mb_per_hour=1), watch)
    group = groups.join("g")
    use(group)
    group.members -= 1
    watch.now += remembered_s
    assert groups.join("g") is group


def test_a_group_is_remembered_while_a_slot_is_in_it(watch: Watch) -> None:
    groups = Groups(Limits(rate=60), watch)
    group = groups.join("g")
    watch.now += 100 * HOUR_S
    assert groups.join("g") is group


def test_a_slot_leaves_its_group_when_its_run_ends_or_another_begins(watch: Watch) -> None:
    groups = Groups(Limits(rate=60), watch)
    slot = Slot(Names().resolve, groups)
    for _ in range(3):
        slot.assign(Policy(), "g")
    slot.assign(Policy(), "h")
    slot.release()
    watch.now += 61
    groups.join("another")
    assert len(groups) == 1


# Slots of one group


class Slots:
    """Slots of one proxy whose group may use `limits` and whose clock is `watch`."""

    def __init__(self, folder: Path, watch: Watch) -> None:
        self._folder = folder
        self._watch = watch

    def __call__(self, **limits: int) -> Any:
        return support.local_doors(self._folder, Names().resolve, Limits(**limits), self._watch)


@pytest.fixture
def slots(tmp_path: Path, watch: Watch) -> Slots:
    return Slots(tmp_path, watch)


@pytest.fixture(scope="module")
def http_port() -> Iterator[int]:
    with support.http_server() as port:
        yield port


def get(port: int, path: str = "/") -> bytes:
    return f"GET http://127.0.0.1:{port}{path} HTTP/1.1\r\n\r\n".encode()


def passes(door: LocalDoor, port: int) -> bool:
    return door.ask(get(port)).startswith(b"HTTP/1.1 200")


def tunnel(door: LocalDoor, port: int) -> socket.socket:
    client = door.connect()
    client.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
    assert support.read_head(client).startswith(b"HTTP/1.1 200 OK\r\n")
    return client


def test_connections_are_counted_over_the_slots_of_a_group_and_over_no_other(slots: Slots, http_port: int) -> None:
    with slots(connections=2) as open_door:
        first, second, stranger, loner = (open_door(name) for name in ("s1", "s2", "s3", "s4"))
        first.assign("g", allow=LOOPBACK)
        second.assign("g", allow=LOOPBACK)
        stranger.assign("other", allow=LOOPBACK)
        loner.assign(allow=LOOPBACK)
        with tunnel(first, http_port), tunnel(second, http_port):
            answer = second.ask(get(http_port))
            assert answer.startswith(b"HTTP/1.1 403 EGRESS_REFUSED\r\n")
            assert b"\r\nX-Egress-Reason: group limit of 2 connections at once reached\r\n" in answer
            assert not passes(first, http_port)
            assert passes(stranger, http_port)
            with contextlib.ExitStack() as stack:
                for _ in range(3):
                    stack.enter_context(tunnel(loner, http_port))
            first.release()
            assert passes(second, http_port)
        report = second.release()
        assert report["refused"] == [
            {
                "host": "127.0.0.1",
                "port": http_port,
                "reason": "group limit of 2 connections at once reached",
                "kind": "group_connections",
            }
        ]
        assert report["refused_counts"] == {"group_connections": 1}


def test_a_connection_that_comes_to_nothing_is_given_back(slots: Slots, http_port: int) -> None:
    with slots(connections=1) as open_door:
        door = open_door("s1")
        door.assign("g", allow=LOOPBACK)
        for _ in range(3):
            answer = door.ask(f"CONNECT 127.0.0.1:{support.free_port()} HTTP/1.1\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 502 ECONNREFUSED")
            assert door.ask(b"CONNECT gone.test:80 HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 502 ENOTFOUND")
            assert b"link-local address" in door.ask(b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n")
        assert passes(door, http_port)


def test_the_rate_goes_on_over_runs_and_slots_and_says_when_to_try_again(
    slots: Slots, watch: Watch, http_port: int
) -> None:
    with slots(rate=3) as open_door:
        first, second = open_door("s1"), open_door("s2")
        for door in (first, second, first):
            door.assign("g", allow=LOOPBACK)
            assert passes(door, http_port)
            door.release()
        second.assign("g", allow=LOOPBACK)
        reason = b"\r\nX-Egress-Reason: group limit of 3 new connections a minute reached; try again in 20 s\r\n"
        assert reason in second.ask(get(http_port))
        watch.now += 20
        assert passes(second, http_port)
        assert not passes(second, http_port)
        assert second.release()["refused_counts"] == {"group_rate": 2}


def test_what_the_host_list_refuses_costs_nothing_of_the_rate(slots: Slots, http_port: int) -> None:
    with slots(rate=1) as open_door:
        door = open_door("s1")
        door.assign("g", allow=LOOPBACK, hosts=["127.0.0.1"])
        for _ in range(5):
            assert b"not on the script's allow-list" in door.ask(b"CONNECT other.test:80 HTTP/1.1\r\n\r\n")
        assert passes(door, http_port)


def test_bytes_end_the_transfers_of_all_slots_of_the_group_and_the_next_ones_are_refused(
    slots: Slots, watch: Watch, http_port: int
) -> None:
    def echo(client: socket.socket) -> None:
        with client, contextlib.suppress(ConnectionResetError):
            while data := client.recv(100):
                client.sendall(data)

    with slots(mb_per_hour=1) as open_door, support.tcp_server(echo) as echo_port:
        first, second = open_door("s1"), open_door("s2")
        first.assign("g", allow=LOOPBACK)
        second.assign("g", allow=LOOPBACK)
        with tunnel(second, echo_port) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            assert len(first.ask(get(http_port, "/bytes/100000000"))) < 2 * MB
            client.sendall(b"x")
            assert read_until_closed(client) == b""
        for door in (first, second):
            assert b"X-Egress-Reason: group limit of 1 MB an hour reached\r\n" in door.ask(get(http_port))
            report = door.release()
            assert report["refused_counts"] == {"group_bytes": 2}
            assert report["bytes_in"] < 2 * MB
            door.assign("g", allow=LOOPBACK)
            assert not passes(door, http_port)
        watch.now += HOUR_S + 300
        assert passes(first, http_port)


def read_until_closed(client: socket.socket) -> bytes:
    """What comes until the other side closes, in order or not."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            received += chunk
    return received


@pytest.mark.parametrize("group", [1, ["g"], {}])
def test_a_group_is_a_string_or_null(tmp_path: Path, group: object) -> None:
    with support.egress() as process, support.door(process, tmp_path) as door:
        process.send(op="assign", slot="s1", policy={}, group=group)
        assert "group must be a string or null" in process.reply()["error"]
        assert b"no run is assigned" in door.ask(b"CONNECT 1.1.1.1:443 HTTP/1.1\r\n\r\n")


# The launcher's line


def test_the_launcher_sets_limits_assigns_a_group_and_gets_the_account(tmp_path: Path, http_port: int) -> None:
    loop = Loop()
    ended: list[None] = []
    link = ProxyLink(loop, LOOPBACK, lambda: ended.append(None), Limits(mb_per_hour=1))
    doors = {name: tmp_path / f"{name}.sock" for name in ("s1", "s2")}
    for name, path in doors.items():
        link.open(name, path)
        link.assign(name, None, "g")
    accounts: list[Traffic] = []

    def keep(traffic: Traffic) -> None:
        accounts.append(traffic)
        loop.stop()

    for name, path in doors.items():
        answer = ask_when_open(path, get(http_port, "/bytes/10000000"))
        assert answer.startswith(b"HTTP/1.1 200" if name == "s1" else b"HTTP/1.1 403")
        link.release(name, keep)
        loop.run()
    link.close()
    reason = "group limit of 1 MB an hour reached"
    refused = {"host": "127.0.0.1", "port": http_port, "reason": reason, "kind": "group_bytes"}
    first, second = accounts
    assert MB <= first.bytes_in + first.bytes_out < 2 * MB
    assert first.refused == [refused]
    assert second == Traffic(0, 0, [refused], {"group_bytes": 1})
    assert ended == []


def ask_when_open(path: Path, head: bytes) -> bytes:
    """What the proxy answers; it may not have opened its socket yet."""
    while True:
        try:
            client = support.connect_to(path)
        except (FileNotFoundError, ConnectionRefusedError):
            continue
        with client:
            client.sendall(head)
            return read_until_closed(client)
