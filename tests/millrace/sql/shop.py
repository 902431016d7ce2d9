"""A shop of two tenants on both databases, and the same shop with the rows of one of them alone.

Alice's rows belong to `acme`. Charlie's belong to `other` and to ids that look like hers; each has a canary in it.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from millrace.sql.catalog import Catalog, Table
from millrace.sql.dialects import POSTGRESQL, SQLITE
from millrace.sql.prover import Proved

ACME = "acme"
OTHERS = ("other", "ACME", "acme ", "")
CANARY = "CANARY"
LEAST_FOREIGN = 1_000_000  # every number of Charlie's is larger

TABLES = {
    "customers": ("id", "tenant_id", "name", "score", "city"),
    "orders": ("id", "tenant_id", "customer_id", "status", "amount"),
}
_COLUMNS = {
    "customers": "id INTEGER NOT NULL, tenant_id {tenant}, name TEXT, score INTEGER, city TEXT",
    "orders": "id INTEGER NOT NULL, tenant_id {tenant}, customer_id INTEGER, status TEXT, amount INTEGER",
}


def statements(both: bool) -> Iterable[tuple[str, Sequence[Any]]]:
    """What makes the shop; without `both` it is Alice's alone, and every new row hers."""
    tenant = "TEXT" if both else f"TEXT DEFAULT '{ACME}'"
    for table, columns in _COLUMNS.items():
        yield f"CREATE TABLE {table} ({columns.format(tenant=tenant)}, UNIQUE (id))", ()
    for number in range(1, 7):
        city = ("Oslo", "Rome", None)[number % 3]
        yield _insert("customers"), (number, ACME, f"name {number % 4}", number % 3, city)
        yield _insert("orders"), (number, ACME, number % 4, ("open", "paid")[number % 2], number * 10)
    for place, other in enumerate(OTHERS if both else ()):
        for number in range(1, 4):
            big = LEAST_FOREIGN + 100 * place + number
            # As a pattern this city is wrong: an error would tell of it.
            yield _insert("customers"), (big, other, f"{CANARY} name", big, f"{CANARY}\\")
            # These refer to Alice's customers, so that a join which forgets the tenant would find them.
            yield _insert("orders"), (big, other, number, CANARY, big)


def _insert(table: str) -> str:
    return f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?)"


class Shop:
    """One database with the shop in it."""

    def __init__(self, dialect: str, connection: Any, both: bool) -> None:
        self.dialect = dialect
        self.connection = connection
        for sql, params in statements(both):
            self.run(sql, params)

    @property
    def catalog(self) -> Catalog:
        """The tables."""
        schema = "public" if self.dialect == POSTGRESQL else "main"
        return Catalog(self.dialect, schema, "tenant_id", {
            name: Table(name, frozenset(columns)) for name, columns in TABLES.items()
        })  # fmt: skip

    def run(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """Any statement, with `?` for its parameters."""
        if self.dialect == POSTGRESQL:
            parts = sql.split("?")
            numbered = "".join(f"{part}${place}" for place, part in enumerate(parts[:-1], start=1)) + parts[-1]
            return self.connection.execute(numbered.encode(), list(params))
        return self.connection.execute(sql, list(params))

    def send(self, proved: Proved) -> Any:
        """A statement that was proven."""
        if self.dialect == POSTGRESQL:
            return self.connection.execute(proved.sql.encode(), list(proved.params))
        named = {f"p{number}": value for number, value in enumerate(proved.params, start=1)}
        return self.connection.execute(proved.sql, named)

    def undo(self) -> None:
        """Back to how it was made."""
        self.connection.execute("ROLLBACK")

    def begin(self) -> None:
        """What follows can be undone."""
        self.connection.execute("BEGIN")

    def content(self, mine: bool) -> list[Any]:
        """Every row of Alice's, or every row that is not hers."""
        condition = f"tenant_id = '{ACME}'" if mine else f"tenant_id IS NULL OR tenant_id <> '{ACME}'"
        return [
            (table, sorted(self.run(f"SELECT * FROM {table} WHERE {condition}").fetchall(), key=repr))
            for table in TABLES
        ]  # fmt: skip


def in_sqlite(both: bool) -> Shop:
    """A shop in memory."""
    return Shop(SQLITE, sqlite3.connect(":memory:", isolation_level=None), both)


def in_postgres(url: str, both: bool) -> Shop:
    """A shop in an empty database."""
    connection = psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor, prepare_threshold=None)
    return Shop(POSTGRESQL, connection, both)
