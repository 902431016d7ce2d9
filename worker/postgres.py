"""A connection to a PostgreSQL data source."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import certifi
import psycopg
from psycopg.types.json import set_json_loads
from psycopg.types.string import TextLoader

from millrace.sql.catalog import Catalog, Table
from millrace.sql.dialects import POSTGRESQL
from millrace.sql.prover import Proved
from sandbox.egress.addresses import IPAddress
from worker import dbvalues, dbwatch, pgdial
from worker.dblinks import SourceFailed
from worker.dbwatch import Watch

STATEMENT_S = 5.0
_PATIENCE_S = 2.0  # beyond the server's own limit
_CANCEL_S = 2.0
_MOST_BYTES = 2 * dbvalues.MAX_ANSWER  # on the wire, where bytes are hex
_MOST_CATALOG_BYTES = 2 * 1024 * 1024  # some 8,000 tables; each connection keeps them
_LONGEST_WORDS = 1_000
_CATALOG_S = 10.0  # how long one may be used that no policy hangs on
_LONGEST_RUN_MS = 900_000
_TENANT_TYPES = {"text": "TEXT", "character varying": "TEXT", "uuid": "UUID"}

# Policies count if each that lets rows through, or one that restricts everybody, compares with the tenant's setting.
_CATALOG = """
SELECT c.relname, c.relkind, c.relhasrules,
       row_security_active(c.oid),
       coalesce((SELECT bool_or(p.for_all AND p.about) OR bool_and(p.about) FILTER (WHERE p.polpermissive)
                   FROM (SELECT polpermissive, NOT polpermissive AND polcmd = '*' AND polroles = '{0}'
                                           AND polqual IS NOT NULL AS for_all,
                                coalesce(position($3 in pg_get_expr(polqual, polrelid)) > 0, polqual IS NULL)
                            AND coalesce(position($3 in pg_get_expr(polwithcheck, polrelid)) > 0,
                                         polwithcheck IS NULL) AS about
                           FROM pg_policy WHERE polrelid = c.oid) AS p), true),
       (SELECT array_agg(a.attname::text) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
       (SELECT format_type(a.atttypid, NULL) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attname = $2 AND NOT a.attisdropped AND a.attnum > 0),
       coalesce((SELECT l.collisdeterministic FROM pg_attribute a JOIN pg_collation l ON l.oid = a.attcollation
         WHERE a.attrelid = c.oid AND a.attname = $2 AND NOT a.attisdropped AND a.attnum > 0), true)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
"""
_KINDS = {"v": "it is a view", "m": "it is a materialized view", "f": "it is a foreign table", "S": "it is a sequence"}


class _Iso(TextLoader):
    """`2026-01-02 03:04:05+00` as ISO 8601 has it."""

    def load(self, data: Any) -> str:
        text = str(super().load(data)).replace(" ", "T", 1)
        return text[:-3] + "Z" if text.endswith("+00") else text


@dataclass(frozen=True)
class Place:
    """Where a source is, and what opens it."""

    host: str
    port: int
    database: str
    user: str
    sslmode: str
    schema: str
    tenant_column: str
    tenant_setting: str
    password: str | None = field(repr=False)


class PostgresLink:
    """See `dblinks.Link`."""

    def __init__(self, place: Place, addresses: Sequence[IPAddress], write: bool, watch: Watch) -> None:
        self.broken = False
        self._place = place
        self._write = write
        self._watch = watch
        self._catalog: Catalog | None = None
        self._catalog_at = 0.0
        self._connection = _connect(place, addresses)
        self._socket = socket.socket(fileno=os.dup(self._connection.pgconn.socket))

    def begin(self, tenant: str) -> None:
        """A transaction with everything set that the meaning of a statement or of its answer hangs on."""
        settings = {
            "statement_timeout": str(round(STATEMENT_S * 1000)),
            "lock_timeout": str(round(STATEMENT_S * 1000)),
            "idle_in_transaction_session_timeout": str(_LONGEST_RUN_MS),
            "search_path": f'pg_catalog, "{self._place.schema}", pg_temp',
            "row_security": "on",
            "cursor_tuple_fraction": "1",
            "standard_conforming_strings": "on",
            "DateStyle": "ISO, YMD",
            "IntervalStyle": "iso_8601",
            "TimeZone": "UTC",
            self._place.tenant_setting: tenant,
        }
        calls = ", ".join(f"set_config(${2 * number + 1}, ${2 * number + 2}, true)" for number in range(len(settings)))
        with self._speaking():
            self._connection.execute("BEGIN" if self._write else "BEGIN READ ONLY")
            self._connection.execute(f"SELECT {calls}".encode(), [part for pair in settings.items() for part in pair])

    def catalog(self, fresh: bool = False) -> Catalog:
        """The allowed schema's tables; at most some seconds old unless it must be fresh."""
        now = time.monotonic()
        if self._catalog is None or fresh or now - self._catalog_at > _CATALOG_S:
            place = self._place
            compared = f"current_setting('{place.tenant_setting}'"
            with self._speaking(_MOST_CATALOG_BYTES):
                found = self._connection.execute(_CATALOG, [place.schema, place.tenant_column, compared]).fetchall()
                tables = {str(row[0]): _table(row, place) for row in found}
            if self._catalog is None or self._catalog.tables != tables:
                self._catalog = Catalog(POSTGRESQL, place.schema, place.tenant_column, tables)
            self._catalog_at = now
        return self._catalog

    def rows(self, proved: Proved, most: int) -> list[dict[str, Any]]:
        """The rows, of which no more are fetched than may be answered."""
        names, found = self._fetch(proved, most + 1)
        return dbvalues.collect(names, found, most)

    def first(self, proved: Proved) -> dict[str, Any] | None:
        """The first row."""
        names, found = self._fetch(proved, 1)
        rows = dbvalues.collect(names, found, 1)
        return rows[0] if rows else None

    def _fetch(self, proved: Proved, count: int) -> tuple[list[str], list[Any]]:
        with self._speaking(), self._connection.cursor() as cursor:
            cursor.execute(b"DECLARE millrace NO SCROLL CURSOR FOR " + proved.sql.encode(), proved.params)
            cursor.execute(f"FETCH {count} FROM millrace".encode())
            names, found = [column.name for column in cursor.description or ()], _loaded(cursor)
            cursor.execute(b"CLOSE millrace")
        return names, found

    def change(self, proved: Proved) -> int:
        """How many rows it changed."""
        with self._speaking():
            return max(self._connection.execute(proved.sql.encode(), proved.params).rowcount, 0)

    def commit(self) -> None:
        """Keep it."""
        with self._speaking():
            # In a failed transaction PostgreSQL answers COMMIT with a rollback, and no error.
            if self._connection.info.transaction_status is psycopg.pq.TransactionStatus.INERROR:
                raise SourceFailed("The transaction failed before, and cannot be committed.")
            self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """Undo it."""
        if self.broken:
            return
        try:
            with self._speaking():
                self._connection.execute("ROLLBACK")
        except SourceFailed:
            self.broken = True  # with the connection the server undoes it

    def abort(self) -> None:
        """Ask the server to end the statement, and then shut the socket whatever it says."""
        self.broken = True
        threading.Thread(target=self._cancel, name="database-cancel", daemon=True).start()

    def _cancel(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._connection.cancel_safe(timeout=_CANCEL_S)
        dbwatch.shut(self._socket)

    def close(self) -> None:
        """End the connection."""
        self.broken = True
        self._connection.close()
        self._socket.close()

    @contextlib.contextmanager
    def _speaking(self, most_bytes: int | None = None) -> Iterator[None]:
        try:
            with self._watch.over(self._socket, STATEMENT_S + _PATIENCE_S, most_bytes or _MOST_BYTES):
                yield
        except psycopg.Error as error:
            if self._connection.closed or self._connection.broken:
                self.broken = True
                raise SourceFailed("The connection to the data source broke: too slow or too much, perhaps.") from None
            raise SourceFailed(_words(error)) from None
        except (ValueError, TypeError, ArithmeticError, LookupError):
            # What PostgreSQL sends can be read: this is something else.
            self.broken = True
            raise SourceFailed("Database error: the answer cannot be read.") from None


def _loaded(cursor: "psycopg.Cursor[Any]") -> list[Any]:
    result = cursor.pgresult
    if result is not None:
        dbvalues.check_lists(
            result.get_value(row, column) for row in range(result.ntuples) for column in range(result.nfields)
        )
    return cursor.fetchall()


def _connect(place: Place, addresses: Sequence[IPAddress]) -> "psycopg.Connection[Any]":
    failed = SourceFailed("The data source has no address.")
    for address in addresses:
        try:
            return _prepared(pgdial.dialled(_params(place, address)))
        except SourceFailed as error:
            failed = error
        except psycopg.Error:
            failed = SourceFailed("The data source cannot be connected to.")
    raise failed


def _params(place: Place, address: IPAddress) -> dict[str, str | int]:
    return {
        # The host is for the certificate alone: what is dialled is the address that was checked.
        "host": place.host, "hostaddr": str(address), "port": place.port, "dbname": place.database,
        "user": place.user, "password": place.password or "", "sslmode": place.sslmode,
        "sslrootcert": os.environ.get("SSL_CERT_FILE") or certifi.where(),
        # Nothing of the operator's own is offered: neither a file of passwords, nor a certificate, nor a ticket.
        "passfile": "/nonexistent/pgpass", "sslcertmode": "disable", "gssencmode": "disable",
        "require_auth": "!gss,!sspi", "application_name": "millrace", "client_encoding": "utf8",
    }  # fmt: skip


def _prepared(connection: "psycopg.Connection[Any]") -> "psycopg.Connection[Any]":
    connection.autocommit = True
    connection.prepare_threshold = None
    connection.cursor_factory = psycopg.RawCursor
    connection.add_notify_handler(_forget)
    set_json_loads(dbvalues.of_json, connection)
    for name in ("date", "time", "timetz", "interval", "numeric"):
        connection.adapters.register_loader(name, TextLoader)
    for name in ("timestamp", "timestamptz"):
        connection.adapters.register_loader(name, _Iso)
    return connection


def _forget(notification: psycopg.Notify) -> None:
    """Nobody listens, but a server may tell: without a handler each would be kept."""


def _words(error: psycopg.Error) -> str:
    if error.sqlstate == "57014":
        return f"Query timeout: the statement took longer than {STATEMENT_S:g} s."
    primary = error.diag.message_primary or str(error)
    code = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
    # No detail: it may quote a row, and not always one of the script's own.
    return f"Database error: {primary.partition(chr(10))[0][:_LONGEST_WORDS]}{code}"


def _table(row: Sequence[Any], place: Place) -> Table:
    name, kind, has_rules, active, about, columns, tenant_type, deterministic = row
    unguarded = None
    if tenant_type is None:
        unguarded = f"it has no column '{place.tenant_column}', and no row-level security that compares with " \
                    f"'{place.tenant_setting}' for this role"
    elif tenant_type not in _TENANT_TYPES:
        unguarded = f"its column '{place.tenant_column}' has the type {tenant_type}, not text, varchar or uuid"
    elif not deterministic:
        unguarded = f"its column '{place.tenant_column}' has a collation that takes different texts for equal"
    return Table(
        name, frozenset(columns or ()), _TENANT_TYPES.get(tenant_type, "TEXT"),
        unfit=_KINDS.get(kind) or ("it has rules" if has_rules else None), unguarded=unguarded,
        protected=bool(active and about),
    )  # fmt: skip
