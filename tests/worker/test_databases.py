"""`sdk.db` from a call to its answer, on a real PostgreSQL of a customer's and on real SQLite files."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from millrace import datasources
from millrace.datasources import Change, NewSource
from millrace.services import Services
from sandbox.egress.policy import Policy
from sandbox.job import CallRefused
from tests import world
from tests.services import PostgresServer
from tests.world import until as eventually
from worker import dbvalues, postgres, sqlite
from worker.databases import Databases, DatabaseSession
from worker.posting import look_up

CUSTOMER = "customer"
ROLE = "shop"
PASSWORD = "s3cret-of-the-shop"
OPEN = Policy.from_json({"allow": ["127.0.0.1"]})
ENDLESS = "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) AS c FROM r WHERE n < 0"
_TABLES = """
    CREATE TABLE items (id INTEGER PRIMARY KEY, tenant_id TEXT NOT NULL, name TEXT UNIQUE, price NUMERIC(12, 2),
                        rank BIGINT);
    CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)
"""
_ROWS = """
    INSERT INTO items VALUES (1, 'acme', 'lamp', 12.50, 3), (2, 'acme', 'desk', 99.00, 9007199254740993),
                             (3, 'other', 'CANARY', 1, 1), (4, 'ACME', 'CANARY too', 1, 1)
"""
_POSTGRES_ONLY = f"""
    CREATE TABLE kinds (tenant_id TEXT, day DATE, at TIMESTAMPTZ, span INTERVAL, raw BYTEA, doc JSONB, tags TEXT[],
                        yes BOOLEAN, key UUID, ratio DOUBLE PRECISION, big NUMERIC);
    INSERT INTO kinds VALUES ('acme', '2026-01-02', '2026-01-02 03:04:05.5+02', '1 day 2 hours', '\\x00ff',
        '{{"a": [1, 1.5]}}', '{{x,y}}', true, '0190aa00-0000-7000-8000-000000000001', 'NaN', 1.10);
    CREATE TABLE walled (id INTEGER, owner TEXT, what TEXT);
    INSERT INTO walled VALUES (1, 'acme', 'mine'), (2, 'other', 'CANARY');
    ALTER TABLE walled ENABLE ROW LEVEL SECURITY;
    CREATE POLICY only_ones_own ON walled USING (owner = current_setting('app.tenant_id', true));
    CREATE TABLE leaky (id INTEGER, owner TEXT);
    INSERT INTO leaky VALUES (2, 'CANARY');
    ALTER TABLE leaky ENABLE ROW LEVEL SECURITY;
    CREATE POLICY everybody ON leaky USING (true);
    CREATE VIEW everything AS SELECT * FROM items;
    CREATE TABLE numbered (id INTEGER, tenant_id INTEGER);
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE};
"""


@pytest.fixture
def database_kind() -> str:
    """Our own database is not what is tested here."""
    return "sqlite"


@pytest.fixture
def services(local: Services, tmp_path: Path) -> Services:
    """With Alice's workspace, and a folder for its files."""
    with local.database.connection_context():
        world.workspace(local)
        world.workspace(local, world.OTHER)
    object.__setattr__(local.settings, "data_sources", tmp_path / "sources")
    (tmp_path / "sources" / "acme").mkdir(parents=True)
    return local


@pytest.fixture(scope="module")
def customer(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of a customer's, with a role that owns nothing in it."""
    url = postgres_server.create(CUSTOMER)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
        connection.execute(_TABLES + ";" + _ROWS + ";" + _POSTGRES_ONLY)
    yield url
    postgres_server.drop(CUSTOMER)
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"DROP ROLE {ROLE}")


@pytest.fixture
def place(postgres_server: PostgresServer) -> dict[str, Any]:
    """Where the customer's database is."""
    return {"host": "127.0.0.1", "port": postgres_server.port, "database": CUSTOMER, "user": ROLE}


@pytest.fixture
def shop(services: Services, customer: str, place: dict[str, Any]) -> str:
    """A PostgreSQL source, emptied of what other tests did."""
    with psycopg.connect(customer, autocommit=True) as connection:
        connection.execute("DELETE FROM items")
        connection.execute(_ROWS)
    return register(services, NewSource("default", "postgresql", place, PASSWORD))


@pytest.fixture
def lite(services: Services) -> str:
    """A SQLite source."""
    file = services.settings.data_sources / "acme" / "shop.db"
    with sqlite3.connect(file) as connection:
        connection.executescript(_TABLES)
        connection.execute(_ROWS)
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return register(services, NewSource("lite", "sqlite", {"file": "shop.db"}))


@pytest.fixture(params=["shop", "lite"])
def source(request: pytest.FixtureRequest) -> str:
    """Either of the two."""
    name: str = request.getfixturevalue(request.param)
    return name


@pytest.fixture
def databases(services: Services) -> Iterator[Databases]:
    """With a way to this machine."""
    databases = Databases(services, OPEN, threads=4)
    yield databases
    databases.close()


@pytest.fixture
def run(databases: Databases) -> Iterator[DatabaseSession]:
    """A run of Alice's."""
    session = databases.session("acme")
    yield session
    session.close()


def register(services: Services, new: NewSource, workspace: str = "acme") -> str:
    with services.database.connection_context():
        return str(datasources.register(services, workspace, new, "alice").name)


def asked(session: DatabaseSession, method: str, **params: Any) -> Callable[[], Any]:
    """Ask, and wait for the answer later."""
    pending = session.call(f"db.{method}", params)
    told = threading.Event()
    pending.notify(told.set)

    def answer() -> Any:
        assert told.wait(20), "no answer"
        return pending.answer()

    return answer


def ask(session: DatabaseSession, method: str, sql: str | None = None, *given: Any, **params: Any) -> Any:
    if sql is not None:
        params |= {"sql": sql, "params": list(given)}
    return asked(session, method, **params)()


def refused(session: DatabaseSession, method: str, sql: str | None = None, *given: Any, **params: Any) -> CallRefused:
    with pytest.raises(CallRefused) as caught:
        ask(session, method, sql, *given, **params)
    assert PASSWORD not in str(caught.value)
    return caught.value


def test_a_script_reads_and_changes_the_rows_of_its_workspace_alone(run: DatabaseSession, source: str) -> None:
    rows = ask(run, "query", "SELECT name FROM items ORDER BY id", source=source)
    assert rows == [{"name": "lamp"}, {"name": "desk"}]
    assert ask(run, "queryOne", "SELECT name FROM items WHERE id = $1", 2, source=source) == {"name": "desk"}
    assert ask(run, "queryOne", "SELECT name FROM items WHERE id = ?", 3, source=source) is None
    assert ask(run, "execute", "INSERT INTO items (id, name) VALUES (?, ?)", 10, "chair", source=source) == 1
    assert ask(run, "execute", "UPDATE items SET name = ? || name", "my ", source=source) == 3
    assert ask(run, "execute", "DELETE FROM items WHERE id < ?", 10, source=source) == 2
    assert ask(run, "query", "SELECT * FROM items", source=source) == [
        {"id": 10, "tenant_id": "acme", "name": "my chair", "price": None, "rank": None}
    ]


def test_the_rows_of_others_are_as_they_were(run: DatabaseSession, shop: str, customer: str) -> None:
    ask(run, "execute", "DELETE FROM items")
    with psycopg.connect(customer) as connection:
        left = connection.execute("SELECT id, name FROM items ORDER BY id").fetchall()
    assert left == [(3, "CANARY"), (4, "CANARY too")]


def test_errors_begin_with_the_words_of_the_documentation(run: DatabaseSession, source: str) -> None:
    assert str(refused(run, "query", "DROP TABLE items", source=source)).startswith("Unauthorized operation")
    assert str(refused(run, "query", "DELETE FROM items", source=source)).startswith("Unauthorized operation")
    assert str(refused(run, "execute", "SELECT * FROM items", source=source)).startswith("Unauthorized operation")
    assert str(refused(run, "query", "SELECT * FROM notes", source=source)).startswith("Unauthorized operation")
    text = "SELECT * FROM items WHERE name = 'lamp'"
    assert str(refused(run, "query", text, source=source)).startswith("SQL injection detected")
    failed = refused(run, "execute", "INSERT INTO items (id, name) VALUES (1, ?)", "x", source=source)
    assert str(failed).startswith("Database error: ") and failed.code == "DATABASE_ERROR"
    assert "Traceback" not in str(failed) and "\n" not in str(failed)


def test_more_rows_than_the_limit_are_an_error_and_not_cut(run: DatabaseSession, source: str) -> None:
    for start in (1000, 1500):
        rows = ", ".join(f"({number}, 'n{number}')" for number in range(start, start + 250))
        assert ask(run, "execute", f"INSERT INTO items (id, name) SELECT * FROM (VALUES {rows}) AS v WHERE 1 = ?", 1,
                   source=source) == 250
    most = "SELECT a.id FROM items a CROSS JOIN items b LIMIT ?"
    assert len(ask(run, "query", most, dbvalues.MAX_ROWS, source=source)) == dbvalues.MAX_ROWS
    assert str(refused(run, "query", most, dbvalues.MAX_ROWS + 1, source=source)).startswith("Row limit exceeded")
    assert ask(run, "queryOne", most, 5000, source=source) == {"id": 1}
    assert ask(run, "query", "SELECT id FROM items WHERE id = ?", 1, source=source) == [{"id": 1}]


def test_an_answer_has_a_size(run: DatabaseSession, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbvalues, "MAX_ANSWER", 1000)
    assert "bytes" in str(refused(run, "query", "SELECT name || ? AS wide FROM items", "x" * 600, source=source))


def test_a_statement_has_a_time_limit(run: DatabaseSession, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_S", 0.2)
    monkeypatch.setattr(sqlite, "STATEMENT_S", 0.2)
    assert str(refused(run, "query", ENDLESS, source=source)).startswith("Query timeout")
    assert len(ask(run, "query", "SELECT * FROM items", source=source)) == 2


def test_values_come_as_json(run: DatabaseSession, shop: str) -> None:
    assert ask(run, "query", "SELECT * FROM kinds") == [{
        "tenant_id": "acme", "day": "2026-01-02", "at": "2026-01-02T01:04:05.5Z", "span": "P1DT2H", "raw": "AP8=",
        "doc": {"a": [1, 1.5]}, "tags": ["x", "y"], "yes": True, "key": "0190aa00-0000-7000-8000-000000000001",
        "ratio": "nan", "big": "1.10",
    }]  # fmt: skip
    assert ask(run, "queryOne", "SELECT price, rank FROM items WHERE id = 2") == {
        "price": "99.00", "rank": "9007199254740993",
    }  # fmt: skip


def test_parameters_may_be_every_scalar_and_on_postgresql_arrays(run: DatabaseSession, source: str, shop: str) -> None:
    same = "SELECT CAST(? AS int) AS i, CAST(? AS text) AS t, CAST(? AS text) IS NULL AS n FROM items WHERE id = 1"
    found = ask(run, "queryOne", same, 7, "'; DROP TABLE items; --", None, source=source)
    assert (found["i"], found["t"], bool(found["n"])) == (7, "'; DROP TABLE items; --", True)
    assert len(ask(run, "query", "SELECT id FROM items WHERE id = ANY($1)", [1, 2, 3])) == 2
    assert "Invalid parameters" in str(refused(run, "query", "SELECT ? AS x", {"a": 1}, source=source))


def test_row_level_security_is_used_where_it_holds(run: DatabaseSession, shop: str) -> None:
    """The table has no column of the tenant: its policy alone tells rows apart."""
    assert ask(run, "query", "SELECT what FROM walled") == [{"what": "mine"}]
    joined = ask(run, "query", "SELECT w.what, i.name FROM walled w JOIN items i ON i.id = w.id")
    assert joined == [{"what": "mine", "name": "lamp"}]
    assert ask(run, "execute", "UPDATE walled SET what = ?", "mine") == 1
    assert "policy" in str(refused(run, "execute", "INSERT INTO walled (id, owner) VALUES (9, ?)", "other"))


def test_a_policy_that_does_not_compare_with_the_tenant_proves_nothing(run: DatabaseSession, shop: str) -> None:
    error = refused(run, "query", "SELECT * FROM leaky")
    assert str(error).startswith("Unauthorized operation: the table 'leaky' cannot be confined to this workspace")


def test_row_level_security_that_ends_is_noticed_at_once(run: DatabaseSession, shop: str, customer: str) -> None:
    assert len(ask(run, "query", "SELECT what FROM walled")) == 1
    with psycopg.connect(customer, autocommit=True) as connection:
        connection.execute("ALTER TABLE walled DISABLE ROW LEVEL SECURITY")
        try:
            assert "walled" in str(refused(run, "query", "SELECT what FROM walled"))
        finally:
            connection.execute("ALTER TABLE walled ENABLE ROW LEVEL SECURITY")


@pytest.mark.parametrize("table", ["everything", "numbered", "pg_authid", "pg_catalog.pg_class"])
def test_what_cannot_be_confined_is_refused(run: DatabaseSession, shop: str, table: str) -> None:
    error = refused(run, "query", f"SELECT * FROM {table}")
    assert str(error).startswith("Unauthorized operation") and error.code == "UNAUTHORIZED_OPERATION"


def test_a_superuser_is_confined_as_well(services: Services, databases: Databases, shop: str, customer: str,
                                         postgres_server: PostgresServer, place: dict[str, Any]) -> None:
    register(services, NewSource("super", "postgresql", {**place, "user": "postgres"}, postgres_server.secret))
    run = databases.session("acme")
    assert len(ask(run, "query", "SELECT * FROM items", source="super")) == 2
    assert "walled" in str(refused(run, "query", "SELECT * FROM walled", source="super"))


def test_a_transaction_is_kept_or_undone_as_a_whole(run: DatabaseSession, source: str) -> None:
    count = "SELECT count(*) AS n FROM items"
    tx = ask(run, "begin", source=source)["tx"]
    assert ask(run, "execute", "DELETE FROM items", tx=tx) == 2
    assert ask(run, "queryOne", count, tx=tx) == {"n": 0}
    assert ask(run, "queryOne", count, source=source) == {"n": 2}
    ask(run, "rollback", tx=tx)
    assert ask(run, "queryOne", count, source=source) == {"n": 2}
    tx = ask(run, "begin", source=source)["tx"]
    answers = [asked(run, "execute", sql="DELETE FROM items WHERE id = ?", params=[key], tx=tx) for key in (1, 2)]
    assert [answer() for answer in answers] == [1, 1]
    ask(run, "commit", tx=tx)
    assert ask(run, "queryOne", count, source=source) == {"n": 0}
    assert refused(run, "commit", tx=tx).code == "NO_TRANSACTION"


def test_a_run_has_one_transaction_at_a_source_and_others_have_theirs(
    databases: Databases, run: DatabaseSession, shop: str
) -> None:
    tx = ask(run, "begin")["tx"]
    assert refused(run, "begin").code == "IN_TRANSACTION"
    neighbour = databases.session("acme")
    assert refused(neighbour, "query", "SELECT * FROM items", tx=tx).code == "NO_TRANSACTION"
    ask(neighbour, "rollback", tx=ask(neighbour, "begin")["tx"])
    ask(run, "rollback", tx=tx)
    ask(run, "rollback", tx=ask(run, "begin")["tx"])


def test_transactions_of_a_run_are_few(run: DatabaseSession, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.databases.MAX_TRANSACTIONS", 0)
    assert refused(run, "begin", source=source).code == "IN_TRANSACTION"


def test_a_failed_transaction_is_not_committed(run: DatabaseSession, shop: str) -> None:
    tx = ask(run, "begin")["tx"]
    ask(run, "execute", "DELETE FROM items WHERE id = 1", tx=tx)
    refused(run, "execute", "INSERT INTO items (id) VALUES (2)", tx=tx)
    assert "cannot be committed" in str(refused(run, "commit", tx=tx))
    assert len(ask(run, "query", "SELECT * FROM items")) == 2


def test_the_end_of_a_run_undoes_what_is_open_and_ends_what_runs(
    databases: Databases, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_S", 60)  # longer than the answer is waited for
    monkeypatch.setattr(sqlite, "STATEMENT_S", 60)
    run = databases.session("acme")
    tx = ask(run, "begin", source=source)["tx"]
    ask(run, "execute", "DELETE FROM items", tx=tx)
    waiting = asked(run, "query", sql=ENDLESS, params=[], source=source)
    eventually(lambda: len(run._active) == 1)
    run.close()
    with pytest.raises(CallRefused, match="The run is over"):
        waiting()
    assert refused(run, "query", "SELECT 1 AS x", source=source).code == "RUN_OVER"
    after = databases.session("acme")
    eventually(lambda: ask(after, "execute", "UPDATE items SET name = name", source=source) == 2)


def test_reads_cannot_write_even_past_the_prover(
    databases: Databases, run: DatabaseSession, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from millrace.sql import prover
    from millrace.sql.prover import Proved

    sql = "DELETE FROM items" if source == "lite" else "SELECT lo_create(0)"
    monkeypatch.setattr(prover, "prove", lambda *_: Proved(sql, ()))
    error = refused(run, "query", "SELECT 1 AS x", source=source)
    assert "in a read-only transaction" in str(error) or "not authorized" in str(error)


@pytest.mark.parametrize("statement", [
    "SELECT * FROM sqlite_master", "PRAGMA table_info(items)", "ATTACH ':memory:' AS x", "SELECT load_extension('x')",
    "SELECT * FROM pragma_table_list", "DROP TABLE items", "CREATE TABLE x (a)", "VACUUM", "SELECT randomblob(10)",
    "SELECT * FROM everything", "INSERT INTO items (id) VALUES (7)",
])
def test_sqlites_second_wall_holds_without_the_prover(
    run: DatabaseSession, lite: str, services: Services, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    from millrace.sql import prover
    from millrace.sql.prover import Proved

    with sqlite3.connect(services.settings.data_sources / "acme" / "shop.db") as connection:
        connection.execute("CREATE VIEW everything AS SELECT * FROM items")
    connection.close()
    assert ask(run, "query", "SELECT id FROM items", source=lite)
    monkeypatch.setattr(prover, "prove", lambda *_: Proved(statement, ()))
    refused(run, "query", "SELECT 1 AS x", source=lite)


def test_private_addresses_are_refused_unless_the_operator_allows_them(services: Services, shop: str) -> None:
    closed = Databases(services, Policy(), threads=1)
    error = refused(closed.session("acme"), "query", "SELECT * FROM items")
    assert str(error).startswith("SSRF protection") and error.code == "SSRF_PROTECTION"
    closed.close()


def test_every_address_of_a_name_is_checked(services: Services, customer: str, place: dict[str, Any]) -> None:
    from ipaddress import ip_address

    register(services, NewSource("default", "postgresql", {**place, "host": "db.example.com"}, PASSWORD))
    answers = [ip_address("127.0.0.1")]
    databases = Databases(services, OPEN, threads=1, look=lambda _: answers)
    run = databases.session("acme")
    assert ask(run, "queryOne", "SELECT id FROM items LIMIT 1") == {"id": 1}
    databases.close()
    answers.append(ip_address("10.0.0.1"))
    rebound = Databases(services, OPEN, threads=1, look=lambda _: answers)
    assert str(refused(rebound.session("acme"), "query", "SELECT id FROM items")).startswith("SSRF protection")
    rebound.close()
    assert look_up("127.0.0.1") == [ip_address("127.0.0.1")]


def test_a_wrong_password_is_said_without_saying_where(services: Services, databases: Databases, shop: str) -> None:
    run = databases.session("acme")
    assert ask(run, "queryOne", "SELECT id FROM items LIMIT 1")
    with services.database.connection_context():
        datasources.update(services, "acme", "default", Change(password="wrong"), "alice")
    error = str(refused(run, "query", "SELECT * FROM items"))
    assert "password authentication failed" in error and "127.0.0.1" not in error and "wrong" not in error
    with services.database.connection_context():
        datasources.update(services, "acme", "default", Change(password=PASSWORD), "alice")
    assert ask(run, "queryOne", "SELECT id FROM items LIMIT 1")


def test_another_workspaces_source_is_as_one_that_does_not_exist(databases: Databases, lite: str) -> None:
    error = refused(databases.session(world.OTHER), "query", "SELECT * FROM items", source="lite")
    assert str(error) == "There is no data source 'lite'." and error.code == "NO_DATA_SOURCE"


def test_connections_are_kept_for_a_while(databases: Databases, run: DatabaseSession, shop: str, customer: str,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    def connected() -> int:
        with psycopg.connect(customer) as connection:
            return int(connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'millrace'").fetchone()[0])  # type: ignore[index]

    for _ in range(3):
        ask(run, "query", "SELECT * FROM items")
    assert connected() == 1
    databases.tidy()
    assert connected() == 1
    monkeypatch.setattr("worker.dblinks.IDLE_S", -1.0)
    databases.tidy()
    eventually(lambda: connected() == 0)
    assert not databases._pools  # nor is the password that opened them
    assert len(ask(run, "query", "SELECT * FROM items")) == 2


def test_a_server_that_says_too_much_is_cut_off(
    run: DatabaseSession, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of many bytes is in memory before it can be judged."""
    monkeypatch.setattr(postgres, "_MOST_BYTES", 1_000_000)
    error = refused(run, "query", "SELECT repeat($1, 200000000) AS wide", "x")
    assert "broke" in str(error)
    assert len(ask(run, "query", "SELECT * FROM items")) == 2


def test_calls_that_wait_are_counted(databases: Databases, run: DatabaseSession, lite: str,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.databases.MAX_WAITING", 0)
    assert refused(run, "query", "SELECT * FROM items", source=lite).code == "TOO_MANY"
