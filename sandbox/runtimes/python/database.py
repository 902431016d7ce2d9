"""sdk.db: statements go to the platform, which holds the connections and says what a statement may do."""

from __future__ import annotations

from contextlib import suppress

from . import arguments
from .context import CallRefused
from .underway import ReadOnly, ask, running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal


class _Statements(ReadOnly):
    """Query, execute and query_one on one data source, within a transaction or without."""

    __slots__ = ("_label", "_source")

    _label: str
    _source: str | None

    def __init__(self, source: str | None, label: str) -> None:
        object.__setattr__(self, "_source", source)
        object.__setattr__(self, "_label", label)

    def __repr__(self) -> str:
        return self._label

    def query(self, sql: str, params: Sequence[Any] | None = ()) -> Any:
        return self._send("query", "db.query", sql, params)

    def query_one(self, sql: str, params: Sequence[Any] | None = ()) -> Any:
        return self._send("query_one", "db.queryOne", sql, params)

    def execute(self, sql: str, params: Sequence[Any] | None = ()) -> Any:
        return self._send("execute", "db.execute", sql, params)

    def _send(self, name: str, method: str, sql: str, params: Sequence[Any] | None) -> Any:
        label = f"{self._label}.{name}"
        arguments.text(label, "sql", sql)
        values = arguments.params(label, () if params is None else params)
        return ask(method, {"sql": sql, "params": values, "source": self._source, "tx": self._tx()}, label)

    def _tx(self) -> Any:
        return None


class _Open(_Statements):
    """What is to be done in a transaction."""

    __slots__ = ("_transaction",)

    _transaction: Transaction

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction.source, "tx")
        object.__setattr__(self, "_transaction", transaction)

    def _tx(self) -> Any:
        if self._transaction.number is None:
            raise RuntimeError("This transaction has ended; its statements belong into its `with` block")
        return self._transaction.number


class Transaction:
    """Commits when its block ends, rolls back when the block raises."""

    def __init__(self, source: str | None) -> None:
        self.source = source
        self.number: Any = None
        """What the platform calls it; None while it is not open."""

    def __enter__(self) -> _Open:
        if running().is_async:
            raise TypeError("sdk.db.transaction: a coroutine needs `async with`")
        self._open(self._ask("db.begin", {"source": self.source}))
        return _Open(self)

    def __exit__(self, kind: object, error: BaseException | None, _traceback: object) -> Literal[False]:
        ending = self._end()
        if error is None:
            self._ask("db.commit", ending)
            return False
        # The script's own error is what its author wants to see; a transaction that can't be undone now is undone when
        # the run ends.
        with suppress(CallRefused):
            self._ask("db.rollback", ending)
        return False

    async def __aenter__(self) -> _Open:
        if not running().is_async:
            raise TypeError("sdk.db.transaction: a handler that is no coroutine needs `with`")
        self._open(await self._ask("db.begin", {"source": self.source}))
        return _Open(self)

    async def __aexit__(self, kind: object, error: BaseException | None, _traceback: object) -> Literal[False]:
        ending = self._end()
        if error is None:
            await self._ask("db.commit", ending)
            return False
        with suppress(CallRefused):  # as above
            await self._ask("db.rollback", ending)
        return False

    def _ask(self, method: str, params: dict[str, Any]) -> Any:
        return ask(method, params, "sdk.db.transaction")

    def _open(self, answer: dict[str, Any]) -> None:
        if self.number is not None:
            raise RuntimeError("sdk.db.transaction: it is open already; make another one")
        self.number = answer["tx"]

    def _end(self) -> dict[str, Any]:
        number, self.number = self.number, None
        return {"tx": number}


class Source(_Statements):
    """One data source of the workspace."""

    __slots__ = ()

    def __init__(self, source: str | None) -> None:
        super().__init__(source, "sdk.db")

    def transaction(self) -> Transaction:
        return Transaction(self._source)

    def source(self, name: str) -> Source:
        """Another one, by name."""
        return Source(arguments.text("sdk.db.source", "name", name))


DEFAULT = Source(None)
