"""The egress proxy as a process, over its real sockets."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox.egress import connection
from sandbox.egress.addresses import IPAddress
from tests.sandbox import egress_support as support
from tests.sandbox.egress_support import Door, EgressProcess, Names, read_all, read_head

LOOPBACK = ["127.0.0.0/8"]


@pytest.fixture(scope="module")
def process() -> Iterator[EgressProcess]:
    with support.egress() as running:
        yield running


@pytest.fixture
def door(process: EgressProcess, tmp_path: Path) -> Iterator[Door]:
    with support.door(process, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def http_port() -> Iterator[int]:
    with support.http_server() as port:
        yield port


def connect_head(host: str, port: int) -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode()


def get(port: int, path: str = "/") -> bytes:
    return f"GET http://127.0.0.1:{port}{path} HTTP/1.1\r\nHost: ignored\r\n\r\n".encode()


def tunnel(door: Door, port: int) -> socket.socket:
    client = door.connect()
    client.sendall(connect_head("127.0.0.1", port))
    assert read_head(client).startswith(b"HTTP/1.1 200 OK\r\nX-Egress-Address: 127.0.0.1\r\n")
    return client


def wait_until_closed(client: socket.socket) -> None:
    """Returns once the other side has closed; fails at the socket's timeout otherwise."""
    with contextlib.suppress(ConnectionResetError):
        read_all(client)


# What gets through


def test_a_tunnel_carries_bytes_both_ways_and_counts_them(door: Door) -> None:
    def echo(client: socket.socket) -> None:
        with client:
            while data := client.recv(65536):
                client.sendall(data * 2)

    with support.tcp_server(echo) as port:
        door.assign(allow=LOOPBACK)
        with tunnel(door, port) as client:
            client.sendall(b"a" * 1000)
            client.shutdown(socket.SHUT_WR)
            assert len(read_all(client)) == 2000
    assert door.release() == {"slot": "s1", **support.NOTHING, "bytes_in": 2000, "bytes_out": 1000}


def test_a_plain_request_arrives_with_the_host_that_was_checked(door: Door, http_port: int) -> None:
    door.assign(allow=LOOPBACK)
    answer = door.ask(get(http_port, "/a?b"))
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert seen["path"] == "/a?b"
    assert seen["headers"] == {"host": f"127.0.0.1:{http_port}", "connection": "close"}


def test_a_large_body_comes_through_whole_and_counted(door: Door, http_port: int) -> None:
    door.assign(allow=LOOPBACK)
    size = 20_000_000
    answer = door.ask(get(http_port, f"/bytes/{size}"))
    assert answer.endswith(b"x" * size)
    assert door.release()["bytes_in"] == len(answer)


def test_a_jail_that_does_not_read_holds_up_the_server_and_not_the_proxys_memory(
    process: EgressProcess, door: Door, http_port: int
) -> None:
    door.assign(allow=LOOPBACK)
    before = resident(process.process.pid)
    with door.connect() as client:
        client.sendall(get(http_port, "/bytes/200000000"))
        assert client.recv(1) == b"H"
        previous = -1
        while (received := door_bytes(door, client)) != previous:
            previous = received
        assert resident(process.process.pid) - before < 30 << 20


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def door_bytes(door: Door, client: socket.socket) -> int:
    """How many bytes wait in the jail's socket, once they have stopped to grow for a moment."""
    time.sleep(0.2)
    return len(client.recv(1 << 20, socket.MSG_PEEK))


def test_bytes_sent_in_the_same_breath_as_connect_are_not_lost(door: Door) -> None:
    def echo_once(client: socket.socket) -> None:
        with client:
            client.sendall(client.recv(100))

    with support.tcp_server(echo_once) as port:
        door.assign(allow=LOOPBACK)
        with door.connect() as client:
            client.sendall(connect_head("127.0.0.1", port) + b"early")
            assert read_all(client).endswith(b"\r\n\r\nearly")


def test_a_head_may_arrive_byte_by_byte(door: Door, http_port: int) -> None:
    door.assign(allow=LOOPBACK)
    with door.connect() as client:
        for byte in get(http_port):
            client.sendall(bytes([byte]))
        assert read_all(client).startswith(b"HTTP/1.1 200 OK")


def test_a_name_is_resolved_outside_and_the_checked_address_is_dialled(tmp_path: Path, http_port: int) -> None:
    names = Names(api__test=["127.0.0.1"])
    with support.local_door(tmp_path, names.resolve) as door:
        door.assign(allow=["api.test"])
        assert door.ask(f"GET http://API.test:{http_port}/ HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 200")
        assert names.asked == ["api.test"]


def test_no_other_address_of_the_same_host_is_dialled(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.5", 0)) as server,
        support.local_door(tmp_path, Names(api__test=["127.0.0.5"]).resolve) as door,
    ):
        door.assign(allow=["127.0.0.5"])
        client = door.connect()
        client.sendall(connect_head("api.test", server.getsockname()[1]))
        with client:
            assert read_head(client).startswith(b"HTTP/1.1 200 OK\r\nX-Egress-Address: 127.0.0.5\r\n")


@pytest.mark.parametrize("addresses", [["127.1.1.1", "127.0.0.1"], ["127.0.0.1", "127.1.1.1"]])
def test_addresses_are_tried_until_one_answers(tmp_path: Path, http_port: int, addresses: list[str]) -> None:
    names = Names(api__test=addresses)
    with support.local_door(tmp_path, names.resolve) as door:
        door.assign(allow=LOOPBACK)
        assert door.ask(f"GET http://api.test:{http_port}/ HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 200")


# What does not


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "loopback address"),
        ("localhost", "loopback address"),
        ("169.254.169.254", "link-local address"),
        ("168.63.129.16", "cloud metadata address"),
        ("10.0.0.1", "private address"),
        ("192.168.1.1", "private address"),
        ("100.64.0.1", "carrier-grade NAT address"),
        ("224.0.0.1", "multicast address"),
        ("0.0.0.0", "unspecified address"),
        ("[::1]", "loopback address"),
        ("[::ffff:127.0.0.1]", "IPv4-mapped address"),
        ("[::ffff:7f00:1]", "IPv4-mapped address"),
        ("[::127.0.0.1]", "IPv4-compatible address"),
        ("[64:ff9b::a9fe:a9fe]", "NAT64 address"),
        ("[2002:7f00:1::]", "6to4 address"),
        ("[2001::1]", "Teredo address"),
        ("[fd00:ec2::254]", "private address"),
        ("[fe80::1%25lo]", "scoped address"),
        ("[fe80::1%lo]", "scoped address"),
        ("2130706433", "not a valid host name: its last label must start with a letter"),
        ("0x7f.1", "not a valid host name: its last label must start with a letter"),
        ("0177.0.0.1", "not a valid host name: its last label must start with a letter"),
        ("127.1", "not a valid host name: its last label must start with a letter"),
        ("localhost.", "not a valid host name"),
        ("user@example.com", "user information is not allowed in an authority"),
        ("%31%32%37.0.0.1", "not a valid host name"),
        ("127。0。0。1", "not a valid host name"),
    ],
)
def test_a_private_target_is_refused_in_any_spelling_and_put_on_record(door: Door, host: str, reason: str) -> None:
    door.assign()
    answer = door.ask(f"CONNECT {host}:80 HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403 EGRESS_REFUSED\r\n")
    assert f"\r\nX-Egress-Code: EGRESS_REFUSED\r\nX-Egress-Reason: {reason}\r\n".encode() in answer
    assert answer.endswith(f"\r\n\r\nEGRESS_REFUSED: {reason}\n".encode())
    (refused,) = door.release()["refused"]
    assert refused["port"] == 80
    assert refused["reason"] == reason
    assert refused["host"].isprintable()


def test_a_plain_request_is_refused_as_a_tunnel_is(door: Door) -> None:
    door.assign()
    answer = door.ask(b"GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\n\r\n")
    assert b"\r\nX-Egress-Reason: link-local address\r\n" in answer
    refused = {"host": "169.254.169.254", "port": 80, "reason": "link-local address", "kind": "address"}
    assert door.release()["refused"] == [refused]


def test_a_name_with_one_private_address_among_public_ones_is_refused(tmp_path: Path) -> None:
    names = Names(evil__test=["93.184.216.34", "10.0.0.1"])
    with support.local_door(tmp_path, names.resolve) as door:
        door.assign()
        assert b"X-Egress-Reason: private address\r\n" in door.ask(connect_head("evil.test", 80))


def test_a_name_that_turns_private_between_two_connections_is_refused(tmp_path: Path) -> None:
    names = Names(rebind__test=["127.0.0.1"])
    with support.http_server() as port, support.local_door(tmp_path, names.resolve) as door:
        door.assign(allow=["127.0.0.1"])
        head = f"GET http://rebind.test:{port}/ HTTP/1.1\r\n\r\n".encode()
        assert door.ask(head).startswith(b"HTTP/1.1 200")
        names.answers["rebind.test"] = ["169.254.169.254"]
        assert b"X-Egress-Reason: link-local address\r\n" in door.ask(head)
        assert names.asked == ["rebind.test", "rebind.test"]


def test_what_was_checked_is_what_is_dialled_even_if_the_name_changes_at_once(tmp_path: Path) -> None:
    """Each connection asks once: a second answer, given only to whoever asks again, is never seen."""
    with support.http_server() as port:
        names = Names(rebind__test=["127.0.0.1"])

        async def once(name: str) -> list[IPAddress]:
            found = await names.resolve(name)
            names.answers["rebind.test"] = ["127.0.0.2"]
            return found

        with support.local_door(tmp_path, once) as door:
            door.assign(allow=["127.0.0.1"])
            assert door.ask(f"GET http://rebind.test:{port}/ HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (socket.gaierror(socket.EAI_NONAME, ""), b"ENOTFOUND"),
        (socket.gaierror(socket.EAI_AGAIN, ""), b"EAI_AGAIN"),
        ([], b"ENOTFOUND"),
    ],
)
def test_a_name_without_an_address_is_said_so_and_is_no_refusal(
    tmp_path: Path, answer: list[str] | socket.gaierror, code: bytes
) -> None:
    with support.local_door(tmp_path, Names(gone__test=answer).resolve) as door:
        door.assign()
        assert b"\r\nX-Egress-Code: " + code + b"\r\n" in door.ask(connect_head("gone.test", 80))
        assert door.release()["refused"] == []


def test_a_port_that_nobody_listens_on_is_said_so_with_the_address(door: Door) -> None:
    door.assign(allow=LOOPBACK)
    answer = door.ask(connect_head("127.0.0.1", support.free_port()))
    assert answer.startswith(b"HTTP/1.1 502 ECONNREFUSED\r\nX-Egress-Code: ECONNREFUSED\r\n")
    assert b"\r\nX-Egress-Address: 127.0.0.1\r\n" in answer


def test_a_server_that_does_not_answer_in_time_is_said_so(door: Door) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        door.assign(allow=LOOPBACK, connect_timeout=0.3)
        assert b"\r\nX-Egress-Code: ETIMEDOUT\r\n" in door.ask(connect_head("127.0.0.1", full.getsockname()[1]))
        for filler in fillers:
            filler.close()


def test_only_the_scripts_hosts_may_be_reached(tmp_path: Path, http_port: int) -> None:
    names = Names(api__test=["127.0.0.1"], a__foo__test=["127.0.0.1"], other__test=["127.0.0.1"])
    with support.local_door(tmp_path, names.resolve) as door:
        door.assign(allow=LOOPBACK, hosts=["api.test", "*.foo.test"])
        answers = {
            host: door.ask(f"GET http://{host}:{http_port}/ HTTP/1.1\r\n\r\n".encode())
            for host in ("api.test", "a.foo.test", "other.test", "foo.test", "127.0.0.1")
        }
        passed = [host for host, answer in answers.items() if answer.startswith(b"HTTP/1.1 200")]
        assert passed == ["api.test", "a.foo.test"]
        assert names.asked == passed  # what is not allowed is not even looked up
        assert b"X-Egress-Reason: host is not on the script's allow-list\r\n" in answers["other.test"]
        assert door.release()["refused_counts"] == {"host_list": 3}


def test_an_exemption_for_one_port_leaves_the_others_closed(door: Door, http_port: int) -> None:
    door.assign(allow=[f"127.0.0.1:{http_port}"])
    assert door.ask(get(http_port)).startswith(b"HTTP/1.1 200")
    assert b"X-Egress-Reason: loopback address\r\n" in door.ask(connect_head("127.0.0.1", support.free_port()))


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        (b"CONNECT a:1 HTTP/1.1\r\n" + b"A: " + b"x" * 66_000, b"431"),
        (b"CONNECT a:1 HTTP/1.1\r\n" + b"A: " + b"x" * 66_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_a_head_that_is_no_request_is_answered_with_what_is_wrong(door: Door, head: bytes, status: bytes) -> None:
    door.assign()
    answer = door.ask(head)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nX-Egress-Code: EGRESS_BAD_REQUEST\r\n" in answer


@pytest.mark.parametrize("port", [22, 25, 587, 6000])
def test_a_port_of_another_protocol_is_refused_and_open_to_an_exemption(tmp_path: Path, port: int) -> None:
    with support.local_door(tmp_path, Names(mail__test=["93.184.216.34"], inside__test=["127.9.9.9"]).resolve) as door:
        door.assign(allow=["127.9.9.9"])
        reason = f"X-Egress-Reason: port {port} belongs to another protocol than HTTP\r\n".encode()
        assert reason in door.ask(connect_head("mail.test", port))
        assert b" 502 ECONNREFUSED" in door.ask(connect_head("inside.test", port))
        assert door.release()["refused_counts"] == {"port": 1}


# Caps


def test_one_connection_more_than_the_cap_is_refused_until_one_ends(door: Door, http_port: int) -> None:
    door.assign(allow=LOOPBACK, max_connections=2)
    first, second = tunnel(door, http_port), tunnel(door, http_port)
    assert b"X-Egress-Reason: more than 2 connections at once\r\n" in door.ask(get(http_port))
    first.close()
    deadline = time.monotonic() + support.DEADLINE
    while not door.ask(get(http_port)).startswith(b"HTTP/1.1 200"):
        assert time.monotonic() < deadline
    second.close()
    assert list(door.release()["refused_counts"]) == ["connections"]


def test_a_run_that_has_moved_its_bytes_is_cut_off_and_told(door: Door, http_port: int) -> None:
    door.assign(allow=LOOPBACK, max_bytes=1_000_000)
    assert len(door.ask(get(http_port, "/bytes/100000000"))) < 2_000_000
    assert b"X-Egress-Reason: byte limit of 1000000 reached\r\n" in door.ask(get(http_port))
    report = door.release()
    assert 1_000_000 <= report["bytes_in"] < 2_000_000
    assert report["refused"][0]["reason"] == "byte limit of 1000000 reached"
    assert report["refused_counts"] == {"bytes": 2}
    door.assign(allow=LOOPBACK, max_bytes=1_000_000)
    assert door.ask(get(http_port)).startswith(b"HTTP/1.1 200")


def test_an_idle_connection_is_closed(door: Door, http_port: int) -> None:
    door.assign(allow=LOOPBACK, idle_timeout=0.2)
    with tunnel(door, http_port) as client:
        wait_until_closed(client)


def test_a_jail_that_never_says_where_to_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT", 0.2)
    with support.local_door(tmp_path, Names().resolve) as door, door.connect() as client:
        client.sendall(b"CONNECT ")
        wait_until_closed(client)


def test_a_jail_that_says_where_to_too_slowly_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT", 1.0)
    with support.local_door(tmp_path, Names().resolve) as door, door.connect() as client:
        client.settimeout(0.1)
        deadline = time.monotonic() + support.DEADLINE
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < deadline:
                client.sendall(b"C")
                with contextlib.suppress(TimeoutError):
                    assert client.recv(1) == b""
                    return
            pytest.fail("the proxy goes on listening")


def test_a_connection_that_moves_bytes_is_not_idle(door: Door) -> None:
    def trickle(client: socket.socket) -> None:
        with client:
            for _ in range(25):
                time.sleep(0.1)
                client.sendall(b"x")

    with support.tcp_server(trickle) as port:
        door.assign(allow=LOOPBACK, idle_timeout=2)
        with tunnel(door, port) as client:
            assert read_all(client) == b"x" * 25


def test_more_sockets_than_any_jail_can_have_are_hung_up_on(door: Door) -> None:
    door.assign()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(door.connect()) for _ in range(connection.MAX_SOCKETS + 1)]
        wait_until_closed(clients[-1])


def test_ended_connections_leave_nothing_behind(process: EgressProcess, door: Door, http_port: int) -> None:
    descriptors = Path(f"/proc/{process.process.pid}/fd")
    door.assign(allow=LOOPBACK)
    door.ask(get(http_port))
    door.release()
    before = len(list(descriptors.iterdir()))
    door.assign(allow=LOOPBACK)
    with ThreadPoolExecutor(8) as pool:
        heads = [get(http_port), connect_head("10.0.0.1", 80), b"GET / HTTP/1.1\r\n\r\n"]
        list(pool.map(door.ask, heads * 40))
    tunnel(door, http_port)  # and one that is left open
    door.release()
    deadline = time.monotonic() + support.DEADLINE
    while len(list(descriptors.iterdir())) > before:
        assert time.monotonic() < deadline


def test_refusals_on_record_are_bounded_and_printable_and_all_are_counted_by_kind(door: Door) -> None:
    door.assign()
    door.ask(connect_head("10.0.0.1", 80))
    head = b"CONNECT \xff\x1b[31m" + b"x" * 300 + b":80 HTTP/1.1\r\n\r\n"
    for _ in range(99):
        door.ask(head)
    with ThreadPoolExecutor(21) as threads:  # from here on each takes a second
        list(threads.map(door.ask, [head] * 21))
    report = door.release()
    refused = report["refused"]
    assert len(refused) == 100
    assert report["refused_counts"] == {"address": 1, "bad_host": 120}
    assert all(len(entry["host"]) <= 255 and entry["host"].isprintable() for entry in refused)


def test_a_run_that_was_refused_a_hundred_times_waits_for_each_further_refusal(door: Door) -> None:
    door.assign()
    for _ in range(100):
        door.ask(connect_head("10.0.0.1", 80))
    begun = time.monotonic()
    answer = door.ask(connect_head("10.0.0.1", 80))
    assert time.monotonic() - begun >= 0.99 * connection.REFUSAL_DELAY_S  # the loop counts in whole milliseconds
    assert b"X-Egress-Reason: private address" in answer
    door.assign()
    assert b"X-Egress-Reason: private address" in door.ask(connect_head("10.0.0.1", 80))


def test_slow_names_of_one_run_leave_the_resolver_to_the_others(tmp_path: Path) -> None:
    names = Names()
    under_way, most = 0, 0

    async def slow(name: str) -> list[IPAddress]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.05)
        under_way -= 1
        return await names.resolve(name)

    with support.local_door(tmp_path, slow) as door:
        door.assign()
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(lambda i: door.ask(connect_head(f"n{i}.test", 80)), range(20)))
        assert len(names.asked) == 20
        assert most == 4


# One side ends


def test_a_server_that_has_said_its_last_word_goes_on_listening(door: Door) -> None:
    heard: list[bytes] = []
    done = threading.Event()

    def speak_then_listen(client: socket.socket) -> None:
        with client:
            client.sendall(b"bye")
            client.shutdown(socket.SHUT_WR)
            heard.append(read_all(client))
        done.set()

    with support.tcp_server(speak_then_listen) as port:
        door.assign(allow=LOOPBACK)
        with tunnel(door, port) as client:
            assert read_all(client) == b"bye"
            client.sendall(b"one")
            client.sendall(b"two")
            client.shutdown(socket.SHUT_WR)
            assert done.wait(support.DEADLINE)
    assert heard == [b"onetwo"]


def assigned(door: Door) -> socket.socket:
    """A connection of a run: one that was there before its run begins is ended by that."""
    door.assign(allow=LOOPBACK)
    return door.connect()


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_jail_that_ends_its_sending_while_it_is_connected_is_still_answered(tmp_path: Path, size: int) -> None:
    """Also when more is waiting than the proxy holds for a server that is not there yet."""
    asked, go_on = threading.Event(), threading.Event()

    async def slow(name: str) -> list[IPAddress]:
        asked.set()
        await asyncio.to_thread(go_on.wait, support.DEADLINE)
        return await Names(api__test=["127.0.0.1"]).resolve(name)

    def count(client: socket.socket) -> None:
        with client:
            client.sendall(str(len(read_all(client))).encode())

    with support.tcp_server(count) as port, support.local_door(tmp_path, slow) as door, assigned(door) as client:
        client.sendall(connect_head("api.test", port))
        assert asked.wait(support.DEADLINE)
        sending = threading.Thread(target=lambda: (client.sendall(b"x" * size), client.shutdown(socket.SHUT_WR)))
        sending.start()
        if size < 1000:
            sending.join()
        go_on.set()
        assert read_all(client).endswith(b"\r\n\r\n" + str(size).encode())
        sending.join()


def test_what_a_jail_sends_before_it_is_connected_waits_in_the_jail(tmp_path: Path) -> None:
    async def never(name: str) -> list[IPAddress]:
        await asyncio.sleep(support.DEADLINE * 2)
        return []

    with support.local_door(tmp_path, never) as door, assigned(door) as client:
        client.sendall(connect_head("slow.test", 80))
        client.settimeout(1)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 4_000_000:
                sent += client.send(b"x" * 65536)
        assert sent < 2_000_000


def test_a_jail_that_hangs_up_gives_its_place_back_whatever_the_server_does(door: Door) -> None:
    """The server neither speaks nor hangs up, so that nothing but the jail's own end can end the connection."""
    heard: list[bytes] = []
    said, over = threading.Semaphore(0), threading.Event()

    def listen(client: socket.socket) -> None:
        with client:
            heard.append(read_all(client))
            said.release()
            over.wait()

    with support.tcp_server(listen) as port:
        door.assign(allow=LOOPBACK, max_connections=1)
        for _ in range(3):
            client = connect_in_the_end(door, port)
            client.sendall(b"last words")
            client.close()
            assert said.acquire(timeout=support.DEADLINE)
        over.set()
    assert heard == [b"last words"] * 3


def connect_in_the_end(door: Door, port: int) -> socket.socket:
    """A tunnel, once there is a place for one."""
    deadline = time.monotonic() + support.DEADLINE
    while time.monotonic() < deadline:
        client = door.connect()
        client.sendall(connect_head("127.0.0.1", port))
        if read_head(client).startswith(b"HTTP/1.1 200"):
            return client
        client.close()
    raise TimeoutError("no place in time")


def test_a_jail_that_hangs_up_before_it_is_connected_gives_its_place_back(tmp_path: Path, http_port: int) -> None:
    asked = threading.Event()

    async def never(name: str) -> list[IPAddress]:
        asked.set()
        await asyncio.sleep(support.DEADLINE * 2)
        return []

    with support.local_door(tmp_path, never) as door:
        door.assign(allow=LOOPBACK, max_connections=1, connect_timeout=support.DEADLINE * 2)
        with door.connect() as client:
            client.sendall(connect_head("slow.test", 80))
            assert asked.wait(support.DEADLINE)
        deadline = time.monotonic() + support.DEADLINE
        while not door.ask(get(http_port)).startswith(b"HTTP/1.1 200"):
            assert time.monotonic() < deadline


# Runs come and go


def test_a_slot_without_a_run_refuses_everything(door: Door) -> None:
    assert b"X-Egress-Reason: no run is assigned to this jail\r\n" in door.ask(connect_head("1.1.1.1", 443))
    assert door.release()["refused_counts"] == {"no_run": 1}
    door.assign()
    door.release()
    assert b"X-Egress-Reason: no run is assigned to this jail\r\n" in door.ask(connect_head("1.1.1.1", 443))


def test_the_first_connection_of_a_run_finds_its_policy_without_an_answer_to_assign(
    process: EgressProcess, door: Door, http_port: int
) -> None:
    """The launcher writes `assign` and starts the run at once; the proxy may find both waiting when it wakes."""
    for _ in range(20):
        process.process.send_signal(signal.SIGSTOP)
        door.assign(allow=LOOPBACK)
        with door.connect() as client:
            client.sendall(get(http_port))
            process.process.send_signal(signal.SIGCONT)
            assert client.recv(12) == b"HTTP/1.1 200"
        door.release()


def test_release_closes_every_connection_at_once(door: Door) -> None:
    gone = threading.Event()

    def wait_for_end(client: socket.socket) -> None:
        with client, contextlib.suppress(ConnectionResetError):
            while data := client.recv(100):
                client.sendall(data)
        gone.set()

    with support.tcp_server(wait_for_end) as port:
        door.assign(allow=LOOPBACK)
        with tunnel(door, port) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            assert door.release()["bytes_out"] == 1
            assert gone.wait(support.DEADLINE)
            wait_until_closed(client)


def test_release_closes_a_download_that_is_under_way(door: Door, http_port: int) -> None:
    door.assign(allow=LOOPBACK)
    with door.connect() as client:
        client.sendall(get(http_port, "/bytes/500000000"))
        assert client.recv(4) == b"HTTP"
        report = door.release()
        assert report["bytes_in"] > 0
        assert len(read_all(client)) < 20_000_000
    assert door.release()["bytes_in"] == 0


def test_release_ends_a_dial_that_is_under_way(tmp_path: Path) -> None:
    started = threading.Event()

    async def never(name: str) -> list[IPAddress]:
        started.set()
        await asyncio.sleep(support.DEADLINE * 2)
        return []

    with support.local_door(tmp_path, never) as door:
        door.assign()
        with door.connect() as client:
            client.sendall(connect_head("slow.test", 80))
            assert started.wait(support.DEADLINE)
            door.release()
            wait_until_closed(client)


def test_counts_and_refusals_belong_to_one_run(door: Door, http_port: int) -> None:
    door.assign(allow=LOOPBACK)
    door.ask(get(http_port))
    door.ask(connect_head("10.0.0.1", 80))
    first = door.release()
    assert first["bytes_in"] > 0
    assert len(first["refused"]) == 1
    door.assign(allow=LOOPBACK)
    assert door.release() == {"slot": "s1", **support.NOTHING}


def test_one_slots_policy_does_not_reach_another(
    process: EgressProcess, door: Door, tmp_path: Path, http_port: int
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with support.door(process, other, "s2") as second:
        door.assign(allow=LOOPBACK)
        second.assign()
        assert door.ask(get(http_port)).startswith(b"HTTP/1.1 200")
        assert b"X-Egress-Reason: loopback address\r\n" in second.ask(get(http_port))
        assert door.release()["refused"] == []
        assert len(second.release()["refused"]) == 1


# The launcher's side


def test_a_socket_file_is_open_to_nobody_and_may_lie_at_the_end_of_a_long_path(
    process: EgressProcess, tmp_path: Path
) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    with support.door(process, folder) as door:
        assert stat.S_IMODE(door.path.stat().st_mode) == 0o666
        assert b"no run is assigned" in door.ask(connect_head("1.1.1.1", 443))


def test_an_old_socket_file_is_replaced_and_a_closed_one_removed(process: EgressProcess, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "egress.sock"))
    with support.door(process, tmp_path) as door:
        assert b"no run is assigned" in door.ask(connect_head("1.1.1.1", 443))
    process.send(op="nonsense", slot="s1")
    assert process.reply()["error"] == "KeyError: 'nonsense'"
    assert not door.path.exists()


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"op": "assign", "slot": "nowhere", "policy": {}}, "'nowhere'"),
        ({"op": "release", "slot": "nowhere"}, "'nowhere'"),
        ({"op": "close", "slot": "nowhere"}, "'nowhere'"),
        ({"op": "open", "slot": "s1", "path": "/x"}, "open already"),
        ({"op": "open", "slot": "s9", "path": "/no/such/folder/x"}, "No such file"),
        ({"op": "assign", "slot": "s1", "policy": None}, "policy must be an object"),
        ({"op": "assign", "slot": "s1", "policy": {"hosts": ["*"]}}, "'*'"),
        ({"op": "assign", "slot": "s1"}, "policy"),
        ({"op": ["open"], "slot": "s1"}, "TypeError"),
        ({"slot": "s1"}, "op"),
        ([], "TypeError"),
    ],
)
def test_a_line_that_cannot_be_carried_out_is_answered_and_changes_nothing(
    door: Door, message: object, complaint: str
) -> None:
    door.egress._socket.sendall(json.dumps(message).encode() + b"\n")
    assert complaint in door.egress.reply()["error"]
    assert door.release() == {"slot": "s1", **support.NOTHING}


def test_a_run_whose_policy_is_wrong_reaches_nothing_of_the_run_before(door: Door, http_port: int) -> None:
    door.assign(allow=LOOPBACK)
    door.assign(allow=["10.0.0.1/8"])
    assert "10.0.0.1/8" in door.egress.reply()["error"]
    assert b"X-Egress-Reason: no run is assigned to this jail\r\n" in door.ask(get(http_port))


def test_the_process_ends_when_its_launcher_does_and_takes_its_socket_files_with_it(tmp_path: Path) -> None:
    running = EgressProcess()
    running.send(op="open", slot="s1", path=str(tmp_path / "egress.sock"))
    running.release("s1")
    assert running.stop() == b""
    assert running.process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_process_ends_on_sigterm(tmp_path: Path) -> None:
    running = EgressProcess()
    running.send(op="open", slot="s1", path=str(tmp_path / "egress.sock"))
    running.release("s1")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(support.DEADLINE) == 0
    assert running.stop() == b""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x", '{"connections": 0, "rate": 0, "mb_per_hour": 0}'],
        ["3"],
        ["3", "4"],
        ["3", '{"connections": 0, "rate": 0, "mb_per_hour": 0}', "5"],
        ["3", '{"connections": 0, "rate": 0}'],
        ["3", '{"connections": 0, "rate": 0, "mb_per_hour": 0, "more": 0}'],
        ["3", '{"connections": 0, "rate": -1, "mb_per_hour": 0}'],
        ["3", '{"connections": 0, "rate": true, "mb_per_hour": 0}'],
    ],
)
def test_a_wrong_command_line_is_answered_with_the_right_one(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox.egress", *arguments],
        cwd=support.ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == b"usage: python -m sandbox.egress FD LIMITS\n"
