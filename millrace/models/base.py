"""The fields and the base that every table shares."""

import json
from typing import Any

import peewee

# Bound to a real database by `millrace.database.connect`; models are declared once, databases come later.
proxy = peewee.DatabaseProxy()


class Json(peewee.TextField):
    """JSON as ASCII text: the same on both databases, keeps key order, and holds what jsonb refuses (NUL)."""

    def db_value(self, value: Any) -> str | None:
        # Where a column may be null, None is that; where it may not, None is JSON's own null.
        return None if value is None and self.null else json.dumps(value, separators=(",", ":"))

    def python_value(self, value: str | None) -> Any:
        return None if value is None else json.loads(value)


class Millis(peewee.BigIntegerField):
    """A moment as milliseconds since 1970, UTC."""


class Model(peewee.Model):
    """A row of the one database."""

    class Meta:
        database = proxy
        legacy_table_names = False
