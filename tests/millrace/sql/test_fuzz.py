"""Generated statements against a shop of two tenants: no foreign row is ever read or changed, and the answer is the one
that a shop with this tenant's rows alone would give."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace.sql import reading, refusal
from millrace.sql.dialects import POSTGRESQL, SQLITE
from millrace.sql.prover import prove
from tests.millrace.sql import shop, statements
from tests.millrace.sql.shop import ACME, CANARY, LEAST_FOREIGN, Shop
from tests.services import PostgresServer

Shops = tuple[Shop, Shop]
FAILURES = (sqlite3.Error, psycopg.Error)
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture(scope="module")
def lite() -> Iterator[Shops]:
    both, alone = shop.in_sqlite(True), shop.in_sqlite(False)
    yield both, alone
    both.connection.close()
    alone.connection.close()


@pytest.fixture(scope="module")
def postgres(postgres_server: PostgresServer) -> Iterator[Shops]:
    names = ("shop_of_two", "shop_of_one")
    both, alone = (shop.in_postgres(postgres_server.create(name), name == names[0]) for name in names)
    yield both, alone
    for each, name in ((both, names[0]), (alone, names[1])):
        each.connection.close()
        postgres_server.drop(name)


def carried_out(shop: Shop, run: Any) -> tuple[Any, Exception | None]:
    """Rows, or the error; whatever was changed is still open."""
    shop.begin()
    try:
        cursor = run()
        return (cursor.fetchall() if cursor.description else cursor.rowcount), None
    except FAILURES as error:
        return None, error


def check_read(shops: Shops, sql: str, params: list[Any]) -> None:
    both, alone = shops
    try:
        proved = prove(sql, params, both.catalog, ACME, reading.READ)
    except refusal.Refused as refused:
        check_refusal(alone, refused, sql, params)
        return
    found, failure = carried_out(both, lambda: both.send(proved))
    both.undo()
    expected, expected_failure = carried_out(alone, lambda: alone.run(sql, params))
    alone.undo()
    assert (failure is None) == (expected_failure is None), f"{failure} / {expected_failure}: {sql}\n{proved.sql}"
    if failure is None:
        check_no_canary(found, sql, params)
        assert Counter(map(repr, found)) == Counter(map(repr, expected)), f"{sql} {params}\n{proved.sql}"


def check_refusal(alone: Shop, refused: refusal.Refused, sql: str, params: list[Any]) -> None:
    """What is refused has a quoted value, or a column that its innermost table does not have."""
    if refused.reason != refusal.INJECTION:
        _, failure = carried_out(alone, lambda: alone.run(sql, params))
        alone.undo()
        assert "does not exist" in str(failure), f"{refused}: {sql}"


def check_no_canary(found: list[Any], sql: str, params: list[Any]) -> None:
    """What a statement has in it, it may show."""
    shown = [value for row in found for value in row]
    if CANARY not in sql.upper() and CANARY not in json.dumps(params).upper():
        assert not any(isinstance(value, str) and CANARY in value for value in shown), sql
    if str(LEAST_FOREIGN)[:4] not in sql and str(LEAST_FOREIGN)[:4] not in json.dumps(params):
        assert not any(isinstance(value, int) and value >= LEAST_FOREIGN for value in shown), sql


def check_write(shops: Shops, sql: str, params: list[Any]) -> None:
    both, alone = shops
    try:
        proved = prove(sql, params, both.catalog, ACME, reading.WRITE)
    except refusal.Refused as refused:
        check_refusal(alone, refused, sql, params)
        return
    foreign = both.content(mine=False)
    _, failure = carried_out(both, lambda: both.send(proved))
    if failure is None:
        assert both.content(mine=False) == foreign, f"{sql} {params}\n{proved.sql}"
    mine = both.content(mine=True) if failure is None else None
    both.undo()
    _, expected_failure = carried_out(alone, lambda: alone.run(sql, params))
    expected = alone.content(mine=True) if expected_failure is None else None
    alone.undo()
    # A key that another tenant has is taken for this one as well, and a shop without that tenant has it free.
    if str(LEAST_FOREIGN)[:4] not in sql and str(LEAST_FOREIGN)[:4] not in json.dumps(params):
        assert mine == expected, f"{failure} / {expected_failure}: {sql} {params}\n{proved.sql}"


@quick
@given(data=st.data())
def test_sqlite_reads_what_is_ones_own(lite: Shops, data: st.DataObject) -> None:
    check_read(lite, *data.draw(statements.reads(SQLITE)))


@quick
@given(data=st.data())
def test_sqlite_changes_what_is_ones_own(lite: Shops, data: st.DataObject) -> None:
    check_write(lite, *data.draw(statements.writes(SQLITE)))


@quick
@given(data=st.data())
def test_postgresql_reads_what_is_ones_own(postgres: Shops, data: st.DataObject) -> None:
    check_read(postgres, *data.draw(statements.reads(POSTGRESQL)))


@quick
@given(data=st.data())
def test_postgresql_changes_what_is_ones_own(postgres: Shops, data: st.DataObject) -> None:
    check_write(postgres, *data.draw(statements.writes(POSTGRESQL)))
