"""Data sources whose owner means harm: servers that are none, and statements that would hold a thread or the memory."""

import contextlib
import functools
import socket
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from millrace.sql import reading
from millrace.sql.prover import prove
from worker import dbvalues, pgdial
from worker.dblanes import Lanes
from worker.dblinks import SourceFailed
from worker.dbvalues import TooMuch
from worker.dbwatch import Watch
from worker.postgres import Place, PostgresLink
from worker.sqlite import SqliteLink

Talk = Callable[[socket.socket], None]
_SSL, _GSS = 80_877_103, 80_877_104


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


WELCOME = message(b"R", struct.pack("!I", 0)) + message(b"S", b"client_encoding\0UTF8\0") + message(b"Z", b"I")
NOTHING = message(b"1") + message(b"2") + message(b"n")
DONE = message(b"C", b"BEGIN\0") + message(b"Z", b"T")


class Server:
    """Speaks PostgreSQL as far as it likes."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        try:
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    while (first := self._first(connection)) in (_SSL, _GSS):
                        connection.sendall(b"N")
                    if first:
                        self._talk(connection)
        except OSError:
            pass  # the other side has gone, or the test is over

    @staticmethod
    def _first(connection: socket.socket) -> int:
        length = struct.unpack("!I", connection.recv(4, socket.MSG_WAITALL))[0]
        return int(struct.unpack("!I", connection.recv(length - 4, socket.MSG_WAITALL)[:4])[0])


def asked(connection: socket.socket) -> bytes:
    """The kind of the next message; empty when there is none."""
    kind = connection.recv(1)
    if kind:
        length = struct.unpack("!I", connection.recv(4, socket.MSG_WAITALL))[0]
        connection.recv(length - 4, socket.MSG_WAITALL)
    return kind


def answering(answer: Callable[[int], bytes]) -> Talk:
    """A server that lets everybody in, and says this to the statement of that number."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(WELCOME)
        number = 0
        while kind := asked(connection):
            if kind in (b"Q", b"S"):
                number += 1
                connection.sendall((NOTHING if kind == b"S" else b"") + answer(number))

    return talk


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    watch.close()


@pytest.fixture
def linked(watch: Watch) -> Iterator[Callable[[Talk], PostgresLink]]:
    """A connection to such a server."""
    made: list[Server | PostgresLink] = []

    def link(talk: Talk) -> PostgresLink:
        server = Server(talk)
        made.append(server)
        place = Place("127.0.0.1", server.port, "d", "u", "prefer", "public", "tenant_id", "app.tenant_id", "secret")
        made.append(PostgresLink(place, [ip_address("127.0.0.1")], False, watch))
        assert isinstance(made[-1], PostgresLink)
        return made[-1]

    yield link
    for each in reversed(made):
        each.close()


Linked = Callable[[Talk], PostgresLink]


def test_what_a_server_says_before_it_lets_us_in_is_bounded(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgdial, "CONNECT_S", 20.0)  # long enough to say much more
    words = message(b"S", b"a\0" + b"x" * 20_000 + b"\0")
    said = [0]

    def talk(connection: socket.socket) -> None:
        connection.sendall(message(b"R", struct.pack("!I", 0)))
        while said[0] < 100_000_000:
            connection.sendall(words)
            said[0] += len(words)

    with pytest.raises(SourceFailed, match="cannot be connected to: it does not answer"):
        linked(talk)
    assert said[0] < 100_000_000


def test_a_server_that_never_lets_us_in_is_left(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgdial, "CONNECT_S", 0.2)
    with pytest.raises(SourceFailed, match="it does not answer"):
        linked(lambda connection: connection.sendall(connection.recv(1)))


def test_a_ticket_of_the_operators_is_not_offered(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgdial, "_reason", bytes.decode)
    with pytest.raises(SourceFailed, match="server requested GSSAPI"):
        linked(lambda connection: connection.sendall(message(b"R", struct.pack("!I", 7))))


def test_notifications_are_not_kept(linked: Linked) -> None:
    told = message(b"A", struct.pack("!I", 1) + b"a\0\0") * 1000
    link = linked(answering(lambda _: told + DONE))
    link.begin("acme")
    assert not link._connection._notifies_backlog


@pytest.mark.parametrize("answer", [
    message(b"T", struct.pack("!H", 1) + b"a\0" + struct.pack("!IHIhIh", 0, 0, 23, 4, 0, 0))  # a whole number
    + message(b"D", struct.pack("!HI", 1, 3) + b"one") + DONE,
    message(b"T", struct.pack("!H", 1) + b"a\0" + struct.pack("!IHIhIh", 0, 0, 25, 4, 0, 0))  # one column of text
    + message(b"D", struct.pack("!HI", 1, 3) + b"one") + DONE,
    message(b"G", struct.pack("!bH", 0, 0)) + DONE,  # COPY
    message(b"T", struct.pack("!H", 60_000)),
])  # fmt: skip
def test_an_answer_that_is_none_is_the_sources_failure_and_not_ours(
    linked: Linked, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.postgres.STATEMENT_S", 0.2)  # of the last, the rest never comes
    monkeypatch.setattr("worker.postgres._PATIENCE_S", 0.0)
    link = linked(answering(lambda number: DONE if number <= 2 else answer))
    link.begin("acme")
    with pytest.raises(SourceFailed):
        link.catalog()


def test_a_catalog_has_a_size(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.postgres._MOST_CATALOG_BYTES", 100_000)
    head = message(b"T", struct.pack("!H", 1) + b"a\0" + struct.pack("!IHIhIh", 0, 0, 25, 4, 0, 0))
    rows = message(b"D", struct.pack("!HI", 1, 1000) + b"x" * 1000) * 1_000

    def talk(connection: socket.socket) -> None:
        connection.sendall(WELCOME)
        for answer in (DONE, NOTHING + DONE, NOTHING + head + rows):
            while asked(connection) not in (b"Q", b"S"):
                pass
            connection.sendall(answer)
        connection.settimeout(3)  # for whoever has heard enough to hang up
        with contextlib.suppress(TimeoutError):
            connection.recv(1)
        connection.sendall(DONE)

    link = linked(talk)
    link.begin("acme")
    with pytest.raises(SourceFailed, match="too much"):
        link.catalog()


def test_words_of_a_server_are_few(linked: Linked) -> None:
    long = b"x" * 20_000
    failed = message(b"E", b"SERROR\0C22012\0M" + long + b"\0\0") + message(b"Z", b"E")
    with pytest.raises(SourceFailed) as caught:
        linked(answering(lambda _: failed)).begin("acme")
    assert len(str(caught.value)) < 1_200
    shut = message(b"E", b"SFATAL\0C28000\0M" + long + b"\0\0")
    with pytest.raises(SourceFailed) as caught:
        linked(lambda connection: connection.sendall(shut))
    assert len(str(caught.value)) < 400


def test_json_and_arrays_that_would_fill_the_memory_are_refused() -> None:
    with pytest.raises(TooMuch, match="lists and objects"):
        dbvalues.of_json(b"[" + b"[]," * 200_000 + b"1]")
    with pytest.raises(TooMuch, match="values in lists"):
        dbvalues.check_lists([b"{" + b"1," * 100_001, None, b"{" + b"1," * 100_000])
    with pytest.raises(TooMuch, match="too deeply"):
        dbvalues.of_json(b"[" * 5_000 + b"]" * 5_000)
    deep: Any = None
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(TooMuch, match="too deeply"):
        dbvalues.collect(["a"], [[deep]], 1)


def test_json_that_python_would_not_read_is_answered() -> None:
    digits = b"9" * 5_000
    assert dbvalues.of_json(b'{"a": ' + digits + b', "b": 7}') == {"a": digits.decode(), "b": 7}
    assert dbvalues.collect(["a"], [[dbvalues.of_json(rb'"\ud800"')]], 1) == [{"a": "\ud800"}]


# SQLite


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[SqliteLink]:
    file = tmp_path / "a.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE notes (id INTEGER, tenant_id TEXT, text TEXT CHECK (trim(text) <> ''))")
    connection.close()
    link = SqliteLink(file, "tenant_id", True)
    link.begin("acme")
    yield link
    link.close()


def answered(link: SqliteLink, sql: str, *params: Any) -> Any:
    row = link.first(prove(sql, list(params), link.catalog(), "acme", reading.READ))
    return None if row is None else next(iter(row.values()))


@pytest.mark.parametrize("call", [
    "length(trim(printf(?, ?), printf(?, ?) || 'a'))", "instr(printf(?, ?), printf(?, ?) || 'a')",
    "length(replace(printf(?, ?), printf(?, ?) || 'a', ''))", "length(rtrim(printf(?, ?), printf(?, ?) || 'a'))",
])  # fmt: skip
def test_a_call_takes_no_longer_than_its_arguments(lite: SqliteLink, call: str) -> None:
    """SQLite's own would take hours in one step, between two looks at the clock."""
    assert answered(lite, f"SELECT {call} AS n", "%.900000c", "a", "%.900000c", "a") is not None


@pytest.mark.parametrize("call", [
    "trim('  a b ')", "ltrim('  a ')", "rtrim(' a  ')", "trim('xyaxy', 'yx')", "trim('a', '')", "trim(NULL)", "trim(7)",
    "ltrim('xxa', NULL)", "trim('\N{NO-BREAK SPACE}a')", "replace('banana', 'an', 'AN')", "replace('aaa', '', 'b')",
    "replace(NULL, 'a', 'b')", "replace(1212, 2, 'x')", "instr('hello', 'l')", "instr('hello', 'x')", "instr('a', '')",
    "instr('\N{EURO SIGN}uro', 'u')", "instr(NULL, 'a')", "instr(12.5, 2.5)", "instr(3.0, '.0')",
])  # fmt: skip
def test_they_answer_as_sqlites_own(lite: SqliteLink, call: str) -> None:
    own = sqlite3.connect(":memory:")
    assert answered(lite, f"SELECT {call} AS x, ? AS y", 1) == own.execute(f"SELECT {call}").fetchone()[0]
    own.close()


def test_replace_makes_no_text_that_is_too_long(lite: SqliteLink) -> None:
    with pytest.raises(SourceFailed):
        answered(lite, "SELECT length(replace(printf(?, ?), 'a', printf(?, ?))) AS n",
                 "%.900000c", "a", "%.900000c", "b")


def test_a_schema_calls_what_it_always_did(lite: SqliteLink) -> None:
    insert = "INSERT INTO notes (id, text) VALUES (1, ?)"
    assert lite.change(prove(insert, ["a"], lite.catalog(), "acme", reading.WRITE)) == 1
    with pytest.raises(SourceFailed, match="CHECK"):
        lite.change(prove(insert, [" "], lite.catalog(), "acme", reading.WRITE))


def test_a_file_does_not_grow_for_ever(lite: SqliteLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.sqlite._MOST_BYTES", 65_536)
    small = SqliteLink(tmp_path / "a.db", "tenant_id", True)
    lite.rollback()
    small.begin("acme")
    fill = ("INSERT INTO notes (id, text) WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r "
            "WHERE n < ?) SELECT n, printf('%.1000c', 'a') FROM r")
    with pytest.raises(SourceFailed, match="full"):
        small.change(prove(fill, [100], small.catalog(), "acme", reading.WRITE))
    small.close()


# Threads


class Held:
    """Work that waits until it is let go."""

    def __init__(self) -> None:
        self._gate = threading.Event()
        self.release = self._gate.set

    def __call__(self) -> None:
        assert self._gate.wait(20)


def fail() -> None:
    raise ZeroDivisionError


def test_a_workspace_whose_databases_are_slow_holds_up_nobody_else() -> None:
    lanes, held, done = Lanes(threads=4, each=2), Held(), threading.Event()
    for _ in range(50):
        lanes.submit("slow", held)
    lanes.submit("quick", done.set)
    assert done.wait(20)
    held.release()
    lanes.close()


def test_what_waits_is_done_when_threads_end_and_nothing_after() -> None:
    lanes, held, done = Lanes(threads=1, each=1), Held(), list[int]()
    lanes.submit("a", held)
    for number in range(20):
        lanes.submit("a", functools.partial(done.append, number))
    closing = threading.Thread(target=lanes.close)
    closing.start()
    held.release()
    closing.join(20)
    assert done == list(range(20))
    with pytest.raises(RuntimeError):
        lanes.submit("a", fail)


def test_work_that_fails_ends_no_lane() -> None:
    lanes, done = Lanes(threads=1, each=1), threading.Event()
    lanes.submit("a", fail)
    lanes.submit("a", done.set)
    assert done.wait(20)
    lanes.close()
