"""A connection to a SQLite data source."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from millrace.sql import functions, parameters
from millrace.sql.catalog import Catalog, Table, lower
from millrace.sql.dialects import SQLITE
from millrace.sql.prover import Proved
from worker import dbvalues, sqlitefunctions
from worker.dblinks import SourceFailed

STATEMENT_S = 5.0
_STEPS = 50  # of SQLite's machine between two looks at the clock: a LIKE of a long text takes a tenth of a second
_LONGEST = 1024 * 1024
_MOST_BYTES = 1024 * 1024 * 1024  # of a file that scripts make larger
_LIMITS: Mapping[int, int] = {
    sqlite3.SQLITE_LIMIT_LENGTH: _LONGEST,  # of a value or a row
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 10,
}
_CHANGES = (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE)
_FUNCTIONS = functions.NAMES[SQLITE] | {"->", "->>", "like", "glob"}


class SqliteLink:
    """See `dblinks.Link`. One that reads cannot write, by the way in which the file is opened."""

    def __init__(self, file: Path, tenant_column: str, write: bool) -> None:
        self.broken = False
        self._tenant_column = tenant_column
        self._write = write
        self._deadline = 0.0
        self._aborted = False
        self._ours = True  # statements of this module, which the authorizer lets pass
        self._version = -1
        self._catalog = Catalog(SQLITE, "main", tenant_column)
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(str(file))}?mode={'rw' if write else 'ro'}", uri=True, isolation_level=None,
                check_same_thread=False, timeout=STATEMENT_S,
            )  # fmt: skip
        except sqlite3.Error:
            raise SourceFailed("The data source's file cannot be opened.") from None
        self._prepare()

    def _prepare(self) -> None:
        connection = self._connection
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        for limit, value in _LIMITS.items():
            connection.setlimit(limit, value)
        connection.set_progress_handler(self._is_over, _STEPS)
        connection.set_authorizer(self._authorize)
        sqlitefunctions.register(connection, _LONGEST)
        with self._speaking(ours=True):
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA foreign_keys = ON")
            (page,) = connection.execute("PRAGMA main.page_size").fetchone()
            connection.execute(f"PRAGMA main.max_page_count = {_MOST_BYTES // page}")
            connection.execute(f"PRAGMA query_only = {'OFF' if self._write else 'ON'}")

    def begin(self, tenant: str) -> None:
        """A transaction; one that writes waits here for its turn."""
        with self._speaking(ours=True):
            self._connection.execute("BEGIN IMMEDIATE" if self._write else "BEGIN")

    def catalog(self, fresh: bool = False) -> Catalog:
        """The file's tables, as the transaction has them."""
        with self._speaking(ours=True):
            (version,) = self._connection.execute("PRAGMA main.schema_version").fetchone()
            if version != self._version:
                tables = self._read_tables()
                self._catalog = Catalog(SQLITE, "main", self._tenant_column, tables)
                self._version = version
        return self._catalog

    def _read_tables(self) -> dict[str, Table]:
        query = "SELECT name, type, sql FROM main.sqlite_schema WHERE type IN ('table', 'view')"
        found = self._connection.execute(query).fetchall()
        return {lower(name): self._table(name, kind, sql or "") for name, kind, sql in found}

    def _table(self, name: str, kind: str, sql: str) -> Table:
        quoted = name.replace('"', '""')
        found = self._connection.execute(f'PRAGMA main.table_xinfo("{quoted}")')
        columns = {column: declared for _, column, declared, *_ in found}
        declared = {lower(column): kind_of for column, kind_of in columns.items()}.get(lower(self._tenant_column))
        unguarded = None
        if declared is None:
            unguarded = f"it has no column '{self._tenant_column}'"
        elif not _keeps_text(declared):
            unguarded = f"its column '{self._tenant_column}' has the type {declared}, which may change a text; use TEXT"
        return Table(name, frozenset(columns), unfit=_unfit(name, kind, sql), unguarded=unguarded)

    def rows(self, proved: Proved, most: int) -> list[dict[str, Any]]:
        """The rows, of which no more are fetched than may be answered."""
        with self._speaking():
            cursor = self._connection.execute(proved.sql, _named(proved))
            try:
                return dbvalues.collect([column[0] for column in cursor.description or ()], cursor, most)
            finally:
                cursor.close()

    def first(self, proved: Proved) -> dict[str, Any] | None:
        """The first row."""
        with self._speaking():
            cursor = self._connection.execute(proved.sql, _named(proved))
            try:
                row = cursor.fetchone()
                found = dbvalues.collect([column[0] for column in cursor.description or ()], [row] if row else [], 1)
            finally:
                cursor.close()
        return found[0] if found else None

    def change(self, proved: Proved) -> int:
        """How many rows it changed."""
        with self._speaking():
            return max(self._connection.execute(proved.sql, _named(proved)).rowcount, 0)

    def commit(self) -> None:
        """Keep it."""
        with self._speaking(ours=True):
            self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """Undo it."""
        try:
            with self._speaking(ours=True):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        except SourceFailed:
            self.broken = True

    def abort(self) -> None:
        """The statement that runs ends at its next step."""
        self.broken = True
        self._aborted = True

    def close(self) -> None:
        """Close the file."""
        self.broken = True
        self._connection.close()

    @contextlib.contextmanager
    def _speaking(self, ours: bool = False) -> Iterator[None]:
        self._deadline = time.monotonic() + STATEMENT_S
        self._ours = ours
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise SourceFailed(self._words(error)) from None
        finally:
            self._ours = False

    def _is_over(self) -> bool:
        # What is ours is short, and a rollback must not be cut.
        return not self._ours and (self._aborted or time.monotonic() > self._deadline)

    def _words(self, error: Exception) -> str:
        if self._aborted:
            return "The statement was cancelled."
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            return f"Query timeout: the statement took longer than {STATEMENT_S:g} s."
        name = getattr(error, "sqlite_errorname", None)
        return f"Database error: {str(error).partition(chr(10))[0]}" + (f" ({name})" if name else "")

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
    ) -> int:
        """A second wall: whatever a statement says, this is all that it can do."""
        allowed = self._ours
        by_trigger = trigger is not None and not lower(first or "").startswith("sqlite_")
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            allowed = True
        elif action == sqlite3.SQLITE_FUNCTION:
            allowed |= lower(second or "") in _FUNCTIONS
        elif action == sqlite3.SQLITE_READ or (action in _CHANGES and self._write):
            allowed |= by_trigger or self._is_open(first or "")
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    def _is_open(self, name: str) -> bool:
        table = self._catalog.find(name)
        return table is not None and table.unfit is None


def _named(proved: Proved) -> dict[str, Any]:
    return {parameters.name_of(number): value for number, value in enumerate(proved.params, start=1)}


def _keeps_text(declared: str) -> bool:
    """Whether a column of this type holds a text as it is given, by SQLite's rules of affinity."""
    upper = declared.upper()
    return "INT" not in upper and (any(part in upper for part in ("CHAR", "CLOB", "TEXT")) or upper in ("", "BLOB"))


def _unfit(name: str, kind: str, sql: str) -> str | None:
    words = lower(" ".join(sql.split()))
    if lower(name).startswith("sqlite_"):
        return "it is SQLite's own"
    if kind == "view":
        return "it is a view"
    if words.startswith("create virtual"):
        return "it is a virtual table"
    if "conflict replace" in words:
        return "its constraints replace rows, also those of others"
    return None
