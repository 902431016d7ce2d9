"""What a tenant might try on a shop of two, on real databases: each is refused, fails, or shows nothing foreign."""

from collections.abc import Iterator
from typing import Any

import pytest

from millrace.sql import reading, refusal
from millrace.sql.dialects import POSTGRESQL
from millrace.sql.prover import prove
from tests.millrace.sql import shop
from tests.millrace.sql.shop import ACME, CANARY, LEAST_FOREIGN, Shop
from tests.millrace.sql.test_fuzz import carried_out
from tests.services import PostgresServer


@pytest.fixture(scope="module")
def shops(postgres_server: PostgresServer) -> Iterator[dict[str, Shop]]:
    made = {"sqlite": shop.in_sqlite(True), POSTGRESQL: shop.in_postgres(postgres_server.create("attacked"), True)}
    yield made
    for each in made.values():
        each.connection.close()
    postgres_server.drop("attacked")


@pytest.fixture(params=["sqlite", POSTGRESQL])
def target(request: pytest.FixtureRequest, shops: dict[str, Shop]) -> Shop:
    """Either database."""
    return shops[request.param]


def tried(target: Shop, sql: str, params: list[Any], kind: str) -> tuple[Any, str]:
    """The rows, or what was said instead; whatever was changed is undone, and nothing of Charlie's was."""
    before = target.content(mine=False)
    try:
        proved = prove(sql, params, target.catalog, ACME, kind)
    except refusal.Refused as refused:
        return None, str(refused)
    found, failure = carried_out(target, lambda: target.send(proved))
    if failure is None:
        assert target.content(mine=False) == before, proved.sql
    target.undo()
    primary = getattr(getattr(failure, "diag", None), "message_primary", None) or str(failure or "")
    return found, primary


READS: list[tuple[str, list[Any]]] = [
    ("SELECT * FROM customers WHERE tenant_id = ? OR 1 = 1", ["other"]),
    ("SELECT * FROM customers WHERE tenant_id = ? OR tenant_id <> ? OR tenant_id IS NULL", ["other", "acme"]),
    ("SELECT * FROM customers WHERE ? IN (SELECT tenant_id FROM customers) OR true", ["other"]),
    ("SELECT * FROM customers c JOIN orders o ON true", []),
    ("SELECT * FROM customers c FULL JOIN orders o ON false", []),
    ("SELECT * FROM customers c RIGHT JOIN orders o ON o.customer_id = c.id", []),
    ("SELECT * FROM customers NATURAL JOIN orders", []),
    ("SELECT * FROM customers JOIN orders USING (id)", []),
    ("SELECT * FROM customers UNION ALL SELECT * FROM orders", []),
    ("SELECT * FROM customers EXCEPT SELECT * FROM customers WHERE tenant_id = ?", ["acme"]),
    ("SELECT max(id) AS a, max(name) AS b FROM customers", []),
    ("SELECT (SELECT max(amount) FROM orders) AS a", []),
    ("SELECT (SELECT max(o.amount) FROM orders o WHERE o.customer_id = c.id) AS a FROM customers c", []),
    ("SELECT name FROM customers orders WHERE EXISTS (SELECT 1 FROM orders WHERE orders.amount > ?)", [LEAST_FOREIGN]),
    ("WITH w AS (SELECT * FROM orders) SELECT * FROM w", []),
    ("WITH w AS (SELECT * FROM orders), v AS (SELECT * FROM w) SELECT * FROM v JOIN w ON true", []),
    ("WITH RECURSIVE w AS (SELECT id FROM customers UNION SELECT o.id FROM orders o JOIN w ON w.id = o.customer_id) "
     "SELECT id FROM w", []),
    ("SELECT * FROM (WITH w AS (SELECT 1 AS id) SELECT * FROM w) x, customers", []),
    ("SELECT * FROM (SELECT * FROM (SELECT * FROM ORDERS) a) b", []),
    ('SELECT * FROM "orders" AS "ORDERS" WHERE "ORDERS".tenant_id <> ?', ["acme"]),
    ("SELECT tenant_id.tenant_id FROM customers AS tenant_id", []),
    ("SELECT t.* FROM customers t ORDER BY (SELECT max(name) FROM customers) DESC", []),
    ("SELECT first_value(name) OVER (ORDER BY id DESC) AS a, count(*) OVER () AS b FROM customers", []),
    ("SELECT name FROM customers GROUP BY name HAVING max(id) > ?", [LEAST_FOREIGN]),
    ("SELECT name FROM customers LIMIT (SELECT count(*) FROM orders)", []),
    ("SELECT CASE WHEN EXISTS (SELECT 1 FROM orders WHERE status = ?) THEN ? ELSE ? END AS a", [CANARY, "yes", "no"]),
    # Errors that tell of values.
    ("SELECT id FROM customers WHERE CAST(name AS int) > ?", [0]),
    ("SELECT id FROM customers WHERE 1 / (score - ?) > 0", [LEAST_FOREIGN + 1]),
    ("SELECT q.n FROM (SELECT CAST(city AS int) AS n FROM customers) q WHERE q.n = ?", [1]),
    ("SELECT a.id FROM customers a JOIN orders b ON CAST(a.name AS int) = b.amount WHERE a.id > ?", [LEAST_FOREIGN]),
    ("SELECT id FROM customers WHERE ? LIKE city", [f"{CANARY}x"]),
    ("SELECT id FROM customers WHERE ? ~ city AND id > 0", ["("]),
    ("SELECT q.id FROM (SELECT id, ? LIKE city AS fits FROM customers) q WHERE q.fits", [f"{CANARY}x"]),
    ("SELECT id FROM customers WHERE CASE WHEN name LIKE ? THEN 1 / (id - id) ELSE 1 END = 1", [f"{CANARY}%"]),
]
TELLING = ("division", "escape", "regular expression")
WRITES: list[tuple[str, list[Any]]] = [
    ("UPDATE customers SET name = ?", ["x"]),
    ("UPDATE customers SET name = ? WHERE tenant_id <> ? OR true", ["x", "acme"]),
    ("UPDATE customers AS orders SET name = ? WHERE orders.id > ?", ["x", 0]),
    ("UPDATE customers SET name = o.status FROM orders o WHERE o.tenant_id <> customers.tenant_id OR true", []),
    ("UPDATE customers SET name = ? FROM customers c WHERE c.id = customers.id", ["x"]),
    ("UPDATE customers SET score = (SELECT max(amount) FROM orders)", []),
    ("UPDATE customers SET name = ? WHERE CAST(city AS int) > 0 OR true", ["x"]),
    ("UPDATE customers SET name = ? WHERE 1 / (score - ?) > 0 OR true", ["x", LEAST_FOREIGN + 1]),
    ("UPDATE customers SET name = ? WHERE ? LIKE city", ["x", f"{CANARY}x"]),
    ("DELETE FROM customers WHERE ? LIKE city", [f"{CANARY}x"]),
    ("DELETE FROM customers", []),
    ("DELETE FROM customers WHERE id IN (SELECT customer_id FROM orders) OR true", []),
    ("DELETE FROM customers WHERE id > ?", [LEAST_FOREIGN]),
    ("DELETE FROM customers USING orders o WHERE o.customer_id <> customers.id OR true", []),
    ("WITH w AS (SELECT id FROM customers) DELETE FROM customers WHERE id IN (SELECT id FROM w) OR true", []),
    ("INSERT INTO customers (id, name) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET name = ?",
     [LEAST_FOREIGN + 1, "x", "x"]),
    ("INSERT INTO customers (id, name) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET name = ? "
     "WHERE true OR excluded.id > 0", [LEAST_FOREIGN + 1, "x", "x"]),
    ("INSERT INTO customers (id, name) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET name = customers.name || ? "
     "WHERE 1 / (customers.score - ?) > 0", [LEAST_FOREIGN + 1, "x", "x", LEAST_FOREIGN + 1]),
    ("INSERT INTO customers (id, name, score) SELECT id + 50, name, max(amount) OVER () FROM "
     "(SELECT c.id, c.name, o.amount FROM customers c CROSS JOIN orders o) x ON CONFLICT DO NOTHING", []),
    ("INSERT INTO customers (id) SELECT id, tenant_id FROM orders", []),
    ("INSERT INTO customers (id, name) SELECT id FROM orders", []),
    ("INSERT INTO customers (id, name) SELECT 900, ? UNION SELECT 901, tenant_id FROM customers", ["other"]),
]


@pytest.mark.parametrize(("sql", "params"), READS)
def test_nothing_foreign_is_read(target: Shop, sql: str, params: list[Any]) -> None:
    found, said = tried(target, sql, params, reading.READ)
    shown = [value for row in found or [] for value in row]
    assert CANARY not in said and not any(isinstance(value, str) and CANARY in value for value in shown), (found, said)
    assert not any(isinstance(value, int) and value >= LEAST_FOREIGN for value in shown), found
    assert not any(word in said for word in TELLING), "the error tells of a row that is not there"


@pytest.mark.parametrize(("sql", "params"), WRITES)
def test_nothing_foreign_is_changed(target: Shop, sql: str, params: list[Any]) -> None:
    _, said = tried(target, sql, params, reading.WRITE)
    assert CANARY not in said and not any(word in said for word in TELLING)


CALLS: list[tuple[str, list[Any]]] = [
    ("UPDATE customers SET name = customers.of_all WHERE EXISTS (SELECT 1 AS of_all)", []),
    ("INSERT INTO customers (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = excluded.of_all "
     "WHERE EXISTS (SELECT 1 AS of_all)", []),
    ("DELETE FROM customers WHERE customers.of_all LIKE ? AND EXISTS (SELECT 1 AS of_all)", [f"%{CANARY}%"]),
    ("SELECT c.of_all, 1 AS of_all FROM customers c", []),
    ("SELECT c.of_all FROM (SELECT * FROM customers) c, (SELECT 1 AS of_all) d", []),
    ("WITH w AS (SELECT id FROM customers) SELECT w.of_all FROM w, (SELECT 1 AS of_all) d", []),
    ("SELECT c.of_all FROM customers AS c (of_one), (SELECT 1 AS of_all) d", []),
    # What is not seen from there must not stand for what is: the row is that of the outermost.
    ("SELECT (SELECT q.k FROM (SELECT a.of_all AS k) q, (SELECT 1 AS of_all) a) AS x FROM customers a", []),
    ("SELECT (SELECT 1 FROM (SELECT 1 AS of_all) a, orders b JOIN orders c ON a.of_all = ?) AS x FROM customers a",
     [CANARY]),
    ("SELECT (SELECT max(a.of_all) FROM (orders a JOIN (SELECT 1 AS of_all) z ON true) AS j) AS x FROM customers a",
     []),
]


@pytest.fixture
def functions(shops: dict[str, Shop]) -> Iterator[Shop]:
    """A schema with functions that take a row, as computed columns are made."""
    shop = shops[POSTGRESQL]
    for row in ("customers", "anyelement"):
        shop.run(f"CREATE FUNCTION of_all({row}) RETURNS text LANGUAGE sql AS "
                 "'SELECT string_agg(name, '','') FROM public.customers'")
    yield shop
    for row in ("customers", "anyelement"):
        shop.run(f"DROP FUNCTION of_all({row})")


@pytest.mark.parametrize(("sql", "params"), CALLS)
def test_a_function_is_not_called_as_if_it_were_a_column(functions: Shop, sql: str, params: list[Any]) -> None:
    kind = reading.READ if sql.startswith(("SELECT", "WITH")) else reading.WRITE
    with pytest.raises(refusal.Refused, match="has a column 'of_all'"):
        prove(sql, params, functions.catalog, ACME, kind)


SHADOWS = [
    "SELECT o.id FROM orders o WHERE EXISTS (SELECT 1 FROM (SELECT id AS x FROM customers) o WHERE o.x = 1)",
    "SELECT d.x FROM customers c, LATERAL (SELECT c.id AS x) d JOIN orders o ON d.x = o.id",
    "SELECT j.status FROM (customers a JOIN orders o ON o.customer_id = a.id) AS j",
    "SELECT a.id FROM ((customers a JOIN orders b ON a.id = b.id)) WHERE b.id = 1",
    "WITH RECURSIVE r (k) AS (SELECT 1 UNION ALL SELECT r.k + 1 FROM r WHERE r.k < 3) SELECT s.k FROM r s",
    "SELECT s.max, s.n FROM (SELECT max(id), CAST(min(id) AS int) AS n FROM customers) s",
]


@pytest.mark.parametrize("sql", SHADOWS)
def test_columns_of_every_kind_of_table_are_found(functions: Shop, sql: str) -> None:
    found, said = tried(functions, sql, [], reading.READ)
    assert found, said
