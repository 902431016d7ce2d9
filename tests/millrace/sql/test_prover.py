"""What is proven and what is refused, statement by statement."""

import gc
import weakref
from typing import Any

import pytest

from millrace.sql import functions, refusal, review
from millrace.sql.catalog import Catalog, Table
from millrace.sql.dialects import POSTGRESQL, SQLITE
from millrace.sql.prover import Proved, prove

_COLUMNS = frozenset(("id", "tenant_id", "a", "b", "doc"))
TABLES = {
    "t": Table("t", _COLUMNS),
    "u": Table("u", _COLUMNS),
    "keyed": Table("keyed", _COLUMNS, tenant_type="UUID"),
    "walled": Table("walled", frozenset(("id", "what")), unguarded="it has no column", protected=True),
    "plain": Table("plain", frozenset(("id",)), unguarded="it has no column 'tenant_id'"),
    "seen": Table("seen", _COLUMNS, unfit="it is a view"),
    "excluded": Table("excluded", _COLUMNS),
}
CATALOGS = {
    POSTGRESQL: Catalog(POSTGRESQL, "public", "tenant_id", TABLES),
    SQLITE: Catalog(SQLITE, "main", "tenant_id", TABLES),
}


def proved(sql: str, *params: Any, dialect: str = POSTGRESQL, kind: str = "query", tenant: str = "acme") -> Proved:
    return prove(sql, list(params), CATALOGS[dialect], tenant, kind)


def refused(sql: str, *params: Any, dialect: str = POSTGRESQL, kind: str = "query") -> str:
    with pytest.raises(refusal.Refused) as caught:
        proved(sql, *params, dialect=dialect, kind=kind)
    return str(caught.value)


@pytest.fixture(params=[POSTGRESQL, SQLITE])
def dialect(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_a_table_is_read_through_its_tenants_rows() -> None:
    statement = proved("SELECT O.a FROM T AS O WHERE O.b = ?", 7)
    assert statement.sql == (
        'SELECT "o"."a" FROM (SELECT * FROM "public"."t" WHERE "t"."tenant_id" = CAST($2 AS TEXT)) AS "o" '
        'WHERE "o"."b" = $1'
    )
    assert list(statement.params) == [7, "acme"]


def test_what_might_fail_on_a_row_waits_until_the_rows_are_chosen() -> None:
    """Else an error of the database would tell of rows that a script does not see."""
    harmless = ("SELECT a / b AS c FROM t WHERE a = $1", "SELECT lower(a) FROM t WHERE lower(b) = $1")
    telling = ("SELECT a FROM t WHERE 1 / b = $1", "SELECT a FROM t WHERE CAST(a AS int) > $1",
               "SELECT a FROM (SELECT CAST(a AS int) AS a FROM t) q WHERE a = $1")
    for sql in harmless:
        assert "OFFSET 0" not in proved(sql, 1).sql, sql
    for sql in telling:
        assert "OFFSET 0) AS" in proved(sql, 1).sql, sql
        assert "LIMIT -1 OFFSET 0) AS" in proved(sql, 1, dialect=SQLITE).sql, sql
    change = proved("DELETE FROM t WHERE 1 / b = $1", 1, kind="execute").sql
    assert 'AND CASE WHEN "t"."tenant_id" = CAST($2 AS TEXT) THEN (1 / "b" = $1) ELSE FALSE END' in change


def test_a_table_with_a_wall_is_left_to_it() -> None:
    statement = proved("SELECT what FROM walled")
    assert (statement.sql, statement.protected) == (
        'SELECT "what" FROM "public"."walled" AS "walled"', frozenset(("walled",))
    )  # fmt: skip
    assert list(statement.params) == []
    mixed = proved("SELECT w.what FROM walled w JOIN t ON t.id = w.id")
    assert '"t"."tenant_id" = ' in mixed.sql and mixed.protected


def test_a_tenant_of_a_uuid_column_is_written_as_uuids_are() -> None:
    key = "0190aa00-0000-7000-8000-00000000000a"
    assert "CAST($1 AS UUID)" in proved("SELECT a FROM keyed", tenant=key).sql
    for other in (key.upper(), key.replace("-", ""), "acme"):
        with pytest.raises(refusal.Refused):
            proved("SELECT a FROM keyed", tenant=other)


def test_an_insert_gets_the_tenant_first_whatever_it_selects(dialect: str) -> None:
    sql = proved("INSERT INTO t (a, b) VALUES (?, ?), (?, ?)", 1, 2, 3, 4, kind="execute", dialect=dialect).sql
    assert sql.count("$5" if dialect == POSTGRESQL else ":p5") == 2
    assert sql.replace("`", '"').partition(" VALUES")[0].endswith('"t" ("tenant_id", "a", "b")')


def test_both_kinds_of_placeholder_work_in_both_dialects(dialect: str) -> None:
    assert list(proved("SELECT a FROM t WHERE a=? AND b=?", 1, 2, dialect=dialect).params) == [1, 2, "acme"]
    twice = proved("SELECT a FROM t WHERE a=$2 AND b=$1 OR a=$2", 1, 2, dialect=dialect)
    assert twice.sql == proved("SELECT a FROM t WHERE a=$2 AND b = $1 OR a = $2", 1, 2, dialect=dialect).sql
    assert proved("INSERT INTO t (a,b) VALUES ($1,$2)", 1, 2, dialect=dialect, kind="execute")


READS = """
    INSERT INTO t (a) VALUES (1)
    UPDATE t SET a = 1
    DELETE FROM t
    DROP TABLE t
    CREATE TABLE x (a int)
    ALTER TABLE t ADD c int
    TRUNCATE t
    GRANT ALL ON t TO x
    REVOKE ALL ON t FROM x
    COPY t TO STDOUT
    COPY t TO PROGRAM $1
    SET app.tenant_id = $1
    SET ROLE postgres
    RESET ROLE
    SHOW all
    CALL f()
    DO $1
    EXPLAIN SELECT a FROM t
    EXPLAIN ANALYZE DELETE FROM t
    VACUUM
    PRAGMA writable_schema = 1
    ATTACH $1 AS x
    DETACH x
    BEGIN
    COMMIT
    ROLLBACK
    SAVEPOINT x
    LOCK TABLE t
    LISTEN x
    NOTIFY x
    PREPARE p AS SELECT 1
    EXECUTE p
    DEALLOCATE p
    DECLARE c CURSOR FOR SELECT a FROM t
    FETCH 1 FROM c
    MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DELETE
    REPLACE INTO t (a) VALUES (1)
    VALUES (1)
    TABLE t
    SELECT a INTO x FROM t
    SELECT a FROM t FOR UPDATE
    SELECT a FROM t FOR SHARE
    WITH x AS (DELETE FROM t RETURNING a) SELECT a FROM x
    WITH x AS (INSERT INTO t (a) VALUES (1) RETURNING a) SELECT a FROM x
    WITH x AS (UPDATE t SET a = 1 RETURNING a) SELECT a FROM x
    WITH t AS (SELECT 1 AS a) SELECT a FROM t
    WITH T AS (SELECT 1 AS a) SELECT a FROM t
    SELECT a FROM seen
    SELECT id FROM plain
    SELECT a FROM nowhere
    SELECT a FROM excluded
    SELECT a FROM other.t
    SELECT a FROM db.public.t
    SELECT relname AS a FROM pg_class
    SELECT a FROM pg_catalog.pg_class
    SELECT a FROM information_schema.tables
    SELECT a FROM sqlite_master
    SELECT a FROM main.sqlite_schema
    SELECT a FROM temp.t
    SELECT a FROM pragma_table_list
    SELECT a FROM pragma_table_info($1) AS t
    SELECT value AS a FROM json_each($1)
    SELECT g AS a FROM generate_series(1, 1000000000) AS g
    SELECT a FROM t, generate_series(1, 1000000000) AS g
    SELECT a FROM ROWS FROM (generate_series(1, 2)) AS x
    SELECT a FROM unnest($1) AS a
    SELECT a FROM LATERAL pg_ls_dir($1) AS a
    SELECT a FROM ONLY t
    SELECT a FROM t TABLESAMPLE SYSTEM (10)
    SELECT a FROM t INDEXED BY i
    SELECT a FROM t WHERE a IN u
    SELECT a FROM t WHERE a IN main.u
    SELECT a FROM t WHERE a IN pragma_table_list
    SELECT set_config($1, $2, true) AS a
    SELECT current_setting($1) AS a
    SELECT pg_read_file($1) AS a
    SELECT pg_catalog.pg_read_file($1) AS a
    SELECT "pg_read_file"($1) AS a
    SELECT pg_sleep(100) AS a
    SELECT dblink($1, $2) AS a
    SELECT query_to_xml($1, true, true, $2) AS a
    SELECT table_to_xml($1, true, true, $2) AS a
    SELECT lo_import($1) AS a
    SELECT lo_get(1) AS a
    SELECT load_extension($1) AS a
    SELECT readfile($1) AS a
    SELECT zeroblob(1000000000) AS a
    SELECT nextval($1) AS a
    SELECT txid_current() AS a
    SELECT version() AS a
    SELECT sqlite_version() AS a
    SELECT inet_server_addr() AS a
    SELECT current_user AS a
    SELECT session_user AS a
    SELECT current_schema AS a
    SELECT pg_advisory_lock(1) AS a
    SELECT pg_terminate_backend(1) AS a
    SELECT has_table_privilege($1, $2) AS a
    SELECT to_regclass($1) AS a
    SELECT CAST($1 AS regclass) AS a
    SELECT $1::regproc AS a
    SELECT $1::xml AS a
    SELECT $1::public.evil AS a
    SELECT a OPERATOR(public.+) b FROM t
    SELECT (t).a FROM t
    SELECT (t).* FROM t
    SELECT t.pg_relation_size FROM t
    SELECT t.everything FROM t
    SELECT nothing FROM t
    SELECT other.t.a FROM t
    SELECT a FROM t AS _millrace_cte_x
    SELECT "_MILLRACE_x" AS a FROM t
    SELECT a FROM t WHERE a = U&'x' OR a = $1
    SELECT a FROM t WHERE a = E'x' OR a = $1
    SELECT a FROM t WHERE a = N'x' OR a = $1
    SELECT a FROM t WHERE a = 'x\\' OR a = $1
    SELECT $$x$$ AS a FROM t WHERE a = $1
    SELECT a FROM t UNION SELECT relname FROM pg_class
    SELECT (SELECT relname FROM pg_class LIMIT 1) AS a FROM t
    SELECT a FROM t WHERE EXISTS (SELECT 1 FROM plain)
    SELECT a FROM t SEMI JOIN u ON t.id = u.id
    SELECT a FROM t ANTI JOIN u ON t.id = u.id
    SELECT a FROM
    nonsense
"""


@pytest.mark.parametrize("sql", [line.strip() for line in READS.strip().splitlines()])
def test_reads_are_selects_of_ones_own_tables_and_known_functions(dialect: str, sql: str) -> None:
    params = [1] * sum(f"${number}" in sql for number in (1, 2))
    words = (refusal.UNAUTHORIZED, refusal.INJECTION, refusal.PARAMETERS)
    assert refused(sql, *params, dialect=dialect).startswith(words)


WRITES = """
    SELECT a FROM t
    DROP TABLE t
    TRUNCATE t
    INSERT INTO t VALUES (1)
    INSERT INTO t DEFAULT VALUES
    INSERT INTO t (tenant_id) VALUES (1)
    INSERT INTO t (TENANT_ID) VALUES (1)
    INSERT INTO t (a) VALUES (1) RETURNING a
    INSERT INTO t AS x (a) VALUES (1)
    INSERT INTO seen (a) VALUES (1)
    INSERT INTO plain (id) VALUES (1)
    INSERT INTO pg_class (a) VALUES (1)
    INSERT INTO excluded (a) VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1
    INSERT INTO t (a) VALUES (pg_read_file(1))
    INSERT INTO t (a) SELECT id FROM plain
    INSERT INTO t (a) VALUES (1) ON CONFLICT (id) DO UPDATE SET tenant_id = 1
    INSERT INTO t (a) VALUES (1) ON CONFLICT (id) DO UPDATE SET (a, tenant_id) = (1, 2)
    INSERT INTO t (a) OVERRIDING SYSTEM VALUE VALUES (1)
    INSERT OR REPLACE INTO t (a) VALUES (1)
    INSERT OR IGNORE INTO t (a) VALUES (1)
    REPLACE INTO t (a) VALUES (1)
    UPDATE t SET tenant_id = 1
    UPDATE t SET "tenant_id" = 1
    UPDATE t SET (a, b) = (1, 2)
    UPDATE t SET t.a = 1
    UPDATE t SET a = 1 RETURNING b
    UPDATE ONLY t SET a = 1
    UPDATE OR REPLACE t SET a = 1
    UPDATE seen SET a = 1
    UPDATE plain SET id = 1
    UPDATE t SET a = 1 FROM u AS t WHERE t.id = 1
    UPDATE t AS x SET a = 1 FROM u AS X WHERE x.id = 1
    UPDATE t SET a = 1 FROM (SELECT 1 AS id) AS t WHERE t.id = 1
    UPDATE t SET a = 1 FROM u JOIN u AS t ON true WHERE t.id = 1
    UPDATE t SET a = 1 WHERE CURRENT OF c
    UPDATE t SET a = (SELECT id FROM plain)
    DELETE FROM t RETURNING a
    DELETE FROM ONLY t
    DELETE FROM seen
    DELETE FROM t USING plain
    DELETE FROM t USING u AS t WHERE t.id = 1
    DELETE FROM t ORDER BY a LIMIT 1
    DELETE FROM pg_class
    WITH x AS (DELETE FROM u RETURNING a) DELETE FROM t
    WITH t AS (SELECT 1 AS a) DELETE FROM t
    WITH x AS (SELECT 1 AS a) DELETE FROM x
    MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DELETE
"""


@pytest.mark.parametrize("sql", [line.strip() for line in WRITES.strip().splitlines()])
def test_changes_are_of_ones_own_rows_and_stay_ones_own(dialect: str, sql: str) -> None:
    assert refused(sql, dialect=dialect, kind="execute").startswith("Unauthorized operation: ")


@pytest.mark.parametrize("sql", [
    "SELECT a FROM t -- tail", "SELECT a /* in between */ FROM t", "/* head */ SELECT a FROM t",
    "SELECT 1 AS a; SELECT 2",
    "SELECT a FROM t; DROP TABLE t", "SELECT a FROM t WHERE a = 'x'", "SELECT a FROM t WHERE a = '' OR '1' = '1'",
    "SELECT a FROM t WHERE a = X'ff'", "SELECT 1 AS a;;SELECT 2 AS a",
])  # fmt: skip
def test_what_looks_like_values_written_into_a_query_is_called_so(dialect: str, sql: str) -> None:
    assert refused(sql, dialect=dialect).startswith("SQL injection detected: ")


@pytest.mark.parametrize(("sql", "params"), [
    ("SELECT a FROM t WHERE a = ?", []), ("SELECT a FROM t", [1]), ("SELECT a FROM t WHERE a = $2", [1, 2]),
    ("SELECT a FROM t WHERE a = $1 AND b = ?", [1, 2]), ("SELECT a FROM t WHERE a = :name", [1]),
    ("SELECT a FROM t WHERE a = @name", [1]), ("SELECT a FROM t WHERE a = ?1", [1]),
    ("SELECT a FROM t WHERE a = $x", [1]),
    ("SELECT a FROM t WHERE a = $1", [{"a": 1}]), ("SELECT a FROM t WHERE a = $1", ["a\0"]),
    ("SELECT a FROM t WHERE a = $1", ["\ud800"]), ("SELECT a FROM t WHERE a = $1", [2**63]),
    ("SELECT a FROM t WHERE a = $1", [[[1]]]), ("SELECT a FROM t WHERE a = $1", [[1, "x"]]),
])  # fmt: skip
def test_parameters_fit_their_placeholders(dialect: str, sql: str, params: list[Any]) -> None:
    assert refused(sql, *params, dialect=dialect).startswith("Invalid parameters: ")


def test_what_is_nested_or_long_beyond_reason_is_refused() -> None:
    for sql in (f"SELECT {'(' * 3000}1{')' * 3000} AS a", f"SELECT {'(' * 1400}1{')' * 1400} AS a",
                f"SELECT {'NOT ' * 2900}true AS a", f"SELECT {'- ' * 2900}1 AS a",
                "SELECT " + "1 + " * 9000 + "1 AS a", "SELECT a FROM t WHERE " + "a = 1 AND " * 3000 + "a = 1"):
        assert refused(sql).startswith("Unauthorized operation: ")


def test_no_function_of_the_list_reads_or_changes_anything_else() -> None:
    words = ("file", "config", "setting", "sleep", "dblink", "_xml", "load", "advisory", "backend", "nextval", "series")
    for names in functions.NAMES.values():
        for name in names:
            assert not name.startswith(("pg_", "lo_", "sqlite_", "has_"))
            assert not any(word in name for word in words)


GOOD = 'SELECT * FROM (SELECT * FROM "public"."t" WHERE "t"."tenant_id" = CAST($1 AS TEXT)) AS "t"'


@pytest.mark.parametrize("text", [
    'SELECT * FROM "public"."t"', 'SELECT * FROM "t"', GOOD.replace('"tenant_id" =', '"tenant_id" <>'),
    GOOD.replace("CAST($1 AS TEXT)", "CAST($2 AS TEXT)"), GOOD.replace("TEXT))", "TEXT) OR TRUE)"),
    GOOD.replace('"t"."tenant_id"', '"u"."tenant_id"'),
    GOOD.replace("SELECT * FROM \"public\"", 'SELECT "a" FROM "public"'),
    GOOD + ', "public"."u"', GOOD.replace('FROM "public"."t" WHERE', 'FROM "public"."t" CROSS JOIN "public"."u" WHERE'),
    GOOD.replace("public", "pg_catalog"), GOOD + " UNION SELECT * FROM \"public\".\"u\"",
    GOOD.replace("SELECT * FROM (", "SELECT PG_READ_FILE($2) FROM ("),
    'UPDATE "public"."t" SET "a" = 1',
    'UPDATE "public"."t" SET "a" = 1 WHERE "a" = 1 OR "t"."tenant_id" = CAST($1 AS TEXT)',
    'UPDATE "public"."t" SET "tenant_id" = $2 WHERE "t"."tenant_id" = CAST($1 AS TEXT)', 'DELETE FROM "public"."t"',
    'INSERT INTO "public"."t" ("a") VALUES (1)',
    'INSERT INTO "public"."t" ("tenant_id") VALUES (CAST($1 AS TEXT)), ($2)',
    'INSERT INTO "public"."t" ("tenant_id", "a") SELECT $2, "a" FROM (SELECT 1 AS "a") AS "x"',
    'INSERT INTO "public"."t" ("tenant_id") VALUES (CAST($1 AS TEXT)) ON CONFLICT("id") DO UPDATE SET "a" = 1',
])  # fmt: skip
def test_the_second_look_finds_what_the_first_would_have_missed(text: str) -> None:
    review.check(GOOD, CATALOGS[POSTGRESQL], 1, frozenset())
    with pytest.raises(refusal.Refused):
        review.check(text, CATALOGS[POSTGRESQL], 1, frozenset())


@pytest.mark.parametrize("sql", [
    "SELECT to_char(a, 'YYYY-MM-DD') AS d, date_trunc('day', a) AS e, a ->> 'k' AS f FROM t WHERE a = $1",
    "SELECT string_agg(a, ',' ORDER BY b DESC), count(*) FILTER (WHERE a > $1) FROM t GROUP BY ROLLUP (b)",
    "SELECT row_number() OVER w AS n FROM t WHERE a > $1 WINDOW w AS (PARTITION BY a ORDER BY b DESC NULLS LAST)",
    "SELECT x.a FROM t x LEFT JOIN LATERAL (SELECT u.a FROM u WHERE u.id = x.id AND u.b = $1 LIMIT 1) y ON true",
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < $1) SELECT n FROM r",
    "SELECT DISTINCT ON (a) a, interval '1 day' AS i, now() - b AS s FROM t WHERE b = ANY($1) ORDER BY a LIMIT 3",
    "SELECT count(*) FROM t WHERE (a, b) IN (SELECT a, b FROM u) HAVING count(*) > $1 ORDER BY count",
    "SELECT * FROM (t JOIN u USING (id)) AS j WHERE j.id = $1",
])  # fmt: skip
def test_much_is_allowed(sql: str) -> None:
    text = proved(sql, 1).sql
    assert text.count("tenant_id") == text.count('"tenant_id" = CAST($2 AS TEXT)')


def test_what_is_not_understood_is_not_in_our_log(dialect: str, caplog: pytest.LogCaptureFixture) -> None:
    for sql in ("WITH w AS (SELECT * FROM t) DO SELECT * FROM w", "WITH w AS (SET a) SELECT * FROM w"):
        assert "Unauthorized operation" in refused(sql, dialect=dialect)
    assert not caplog.records


@pytest.mark.parametrize("sql", ["SELECT * JOIN t ON t.a = t.b", "SELECT 1 CROSS JOIN (SELECT t.a) q"])
def test_a_join_of_nothing_breaks_nothing(sql: str, dialect: str) -> None:
    try:
        proved(sql, dialect=dialect)
    except refusal.Refused as error:
        assert error.reason == refusal.UNAUTHORIZED


def test_what_is_known_of_a_catalog_ends_with_it() -> None:
    """A server may send another one each time, each of them large."""
    catalog = Catalog(POSTGRESQL, "public", "tenant_id", TABLES)
    first = prove("SELECT a FROM t", [], catalog, "acme", "query")
    assert prove("SELECT a FROM t", [], catalog, "other", "query").sql == first.sql
    for number in range(200):
        prove(f"SELECT a + {number} AS a FROM t", [], catalog, "acme", "query")
    assert len(catalog.proven) <= 64
    gone = weakref.ref(catalog)
    del catalog
    gc.collect()
    assert gone() is None


def test_names_of_a_with_are_not_cut_to_be_the_same() -> None:
    name = "w" * 55
    ctes = f"{name}a AS (SELECT 1 AS x), {name}b AS (SELECT 2 AS x)"
    assert "too long a name" in refused(f"WITH {ctes} SELECT x FROM {name}b")
