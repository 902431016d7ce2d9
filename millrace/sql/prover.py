"""From a script's text to what is sent."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlglot import ErrorLevel
from sqlglot.errors import SqlglotError

from millrace.sql import grammar, names, parameters, reading, refusal, review, tenancy
from millrace.sql.catalog import Catalog
from millrace.sql.dialects import DIALECTS

_KEPT = 64  # statements of one catalog


@dataclass(frozen=True)
class Proved:
    """A statement that touches one tenant's rows alone, if the policies of the `protected` tables hold.

    The last parameter is the tenant. Placeholders are `$1` on PostgreSQL and `:p1` on SQLite.
    """

    sql: str
    params: Sequence[Any] = field(repr=False)
    protected: frozenset[str] = frozenset()


def prove(sql: object, params: object, catalog: Catalog, tenant: str, kind: str) -> Proved:
    """What to send for a script's statement. `kind` is `query` for one that reads, `execute` for one that changes.

    Raises Refused with words for the script's author for whatever is not proven.
    """
    given = params if isinstance(params, list | tuple) else []
    proven = _proven(sql, len(given), catalog, kind) if isinstance(sql, str) else None
    if proven is None:
        raise refusal.unauthorized("a query must be text.")
    values = parameters.check(params, proven.count, catalog.dialect)
    if proven.by_uuid and not _is_plain_uuid(tenant):
        raise refusal.unauthorized("this workspace's id is no UUID in its usual form, and the tenant's column is one.")
    return Proved(proven.sql, (*values, tenant) if proven.bound else values, proven.protected)


@dataclass(frozen=True)
class _Proven:
    sql: str
    count: int
    bound: bool  # whether the tenant's placeholder is in it
    by_uuid: bool
    protected: frozenset[str]


def _proven(sql: str, given: int, catalog: Catalog, kind: str) -> _Proven:
    """The text alone decides: neither the tenant nor a parameter is in it."""
    known: _Proven | None = catalog.proven.get((sql, given, kind))
    if known is None:
        try:
            known = _prove(sql, given, catalog, kind)
        except RecursionError:
            raise refusal.unauthorized("the query is nested too deeply.") from None
        if len(catalog.proven) >= _KEPT:
            catalog.proven.clear()
        catalog.proven[sql, given, kind] = known
    return known


def _prove(sql: str, given: int, catalog: Catalog, kind: str) -> _Proven:
    tree, count = reading.read(sql, given, catalog.dialect, kind)
    grammar.check(tree, catalog.dialect)
    names.normalise(tree, catalog)
    names.check_columns(tree, catalog)
    number = count + 1
    rewritten = tenancy.rewrite(tree, catalog, number)
    try:
        text = rewritten.tree.sql(
            dialect=DIALECTS[catalog.dialect], identify=True, comments=False, unsupported_level=ErrorLevel.RAISE
        )
    except SqlglotError:
        raise refusal.unauthorized("the query has a part that this database does not have.") from None
    review.check(text, catalog, number, rewritten.protected)
    mark = review.generate(tenancy.tenant_parameter(catalog.dialect, number), catalog.dialect)
    return _Proven(text, count, mark in text, f"CAST({mark} AS UUID)" in text, rewritten.protected)


def _is_plain_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
