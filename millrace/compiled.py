"""Queries of the way that every run takes, with SQL that is made once.

Making SQL costs peewee several times what the database needs to answer such a query, and it is the same text
each time: only for the few queries of that way is it kept.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import peewee

from millrace import models

M = TypeVar("M", bound=models.Model)


class _Place:
    """Where a value goes."""

    def __init__(self, name: str) -> None:
        self.name = name


def place(name: str) -> peewee.Value:
    """Stands for a value that comes with each execution; it goes to the database as it is given then."""
    return peewee.Value(_Place(name), converter=False)


class Compiled:
    """A query with places. Safe to share among threads; works for whichever database is bound."""

    def __init__(self, build: Callable[[], Any]) -> None:
        """`build` makes the query when it is first needed, once for each kind of database."""
        self._build = build
        self._made: dict[type, tuple[str, list[Any]]] = {}

    def execute(self, **values: Any) -> Any:
        """The cursor: `fetchone` and `fetchall` give tuples, `rowcount` says how many rows were changed."""
        database = models.proxy.obj
        made = self._made.get(type(database))
        if made is None:
            made = self._made[type(database)] = self._build().sql()
        sql, parameters = made
        given = [values[each.name] if isinstance(each, _Place) else each for each in parameters]
        return database.execute_sql(sql, given)


class Row(Generic[M]):
    """A compiled query for one whole row of a model, as an instance."""

    def __init__(self, model: type[M], where: Callable[[], Any], *, lock: bool = False) -> None:
        """`where` makes the condition, with places; `lock` holds the row until the transaction ends."""
        self._fields = model._meta.sorted_fields
        self._model = model

        def query() -> Any:
            rows = model.select(*self._fields).where(where())
            # SQLite's transaction holds the only write lock already, and has no word for this.
            return rows.for_update() if lock and not isinstance(models.proxy.obj, peewee.SqliteDatabase) else rows

        self._query = Compiled(query)

    def get(self, **values: Any) -> M | None:
        """The first row that matches, or None."""
        row = self._query.execute(**values).fetchone()
        if row is None:
            return None
        return self._model(**{
            each.name: each.python_value(value) for each, value in zip(self._fields, row, strict=True)
        })
