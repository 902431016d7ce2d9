"""Statements over the shop, made by a grammar: everything that a prover of tenancy may get wrong.

All of them are valid and their answers do not depend on the order of rows, so that two databases can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from millrace.sql.dialects import POSTGRESQL
from tests.millrace.sql.shop import ACME, LEAST_FOREIGN, OTHERS, TABLES

_TEXTS = ("name", "city", "status", "tenant_id")
_ALIASES = ("a", "b", "orders", "customers", '"X y"', "T", '"t"', "tenant_id", "main", "public", "excluded1")
_VALUES = st.sampled_from((0, 1, 2, 10, 30, LEAST_FOREIGN + 1))
_WORDS = st.sampled_from(("open", "paid", "name 1", "Oslo", "CANARY", ACME, *OTHERS))


@dataclass(frozen=True)
class Column:
    """A column in scope: how it is written, and whether it is text."""

    written: str
    text: bool


@dataclass
class Maker:
    """Draws parts of one statement, and collects its parameters in the order of their placeholders."""

    draw: Any
    dialect: str
    params: list[Any] = field(default_factory=list)
    ctes: list[tuple[str, list[tuple[str, bool]]]] = field(default_factory=list)
    aliases: int = 0

    def pick(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(options))

    def chance(self, percent: int) -> bool:
        return bool(self.draw(st.integers(0, 99)) < percent)

    def value(self, text: bool) -> str:
        if self.chance(60):
            self.params.append(self.draw(_WORDS if text else _VALUES))
            kind = "text" if text else "int"
            return f"CAST(? AS {kind})"
        if text:
            return f"'{self.draw(_WORDS)}'"
        return str(self.draw(_VALUES))

    def alias(self) -> str:
        self.aliases += 1
        base = self.pick(_ALIASES)
        if self.chance(50):
            return str(base)  # may shadow a table, or an alias of an outer query
        return f"q{self.aliases}"

    def table_name(self, name: str) -> str:
        schema = "public" if self.dialect == POSTGRESQL else "main"
        return str(self.pick((name, name.upper(), name.title(), f'"{name}"', f"{schema}.{name}", f'{schema}."{name}"')))

    def source(self, depth: int, outer: list[Column], taken: set[str], lateral: bool) -> tuple[str, list[Column]]:
        alias = self.alias()
        if _bare(alias) in taken:
            self.aliases += 1
            alias = f"u{self.aliases}"
        kinds = ["table", "table", "table"] + (["query"] if depth else []) + (["cte"] if self.ctes else [])
        kind = self.pick(kinds + (["lateral"] if depth and lateral and self.dialect == POSTGRESQL else []))
        if kind in ("query", "lateral"):
            sql, columns = self.select(depth - 1, outer if kind == "lateral" else [])
            sql = f"({sql})"
        elif kind == "cte":
            sql, columns = self.pick(self.ctes)
        else:
            name = self.pick(tuple(TABLES))
            sql, columns = self.table_name(name), [(column, column in _TEXTS) for column in TABLES[name]]
            if self.chance(25) and name not in taken:
                alias = ""
        called = alias or name
        taken.add(_bare(called))
        word = "LATERAL " if kind == "lateral" else ""
        return f"{word}{sql} {self.pick(('', 'AS ')) if alias else ''}{alias}", [
            Column(f"{called}.{column}", text) for column, text in columns
        ]

    def comparison(self, scope: list[Column], depth: int) -> str:
        column = self.pick(scope)
        if depth and self.chance(30):
            return self.subquery_condition(column, scope, depth)
        same = [each for each in scope if each.text is column.text]
        form = self.draw(st.integers(0, 6))
        if form == 0:
            return f"{column.written} IS {self.pick(('', 'NOT '))}NULL"
        if form == 1:
            return f"{column.written} = {self.pick(same).written}"
        if form == 2:
            return f"{column.written} IN ({self.value(column.text)}, {self.value(column.text)})"
        if form == 3 and column.text:
            return f"{column.written} {self.pick(('', 'NOT '))}LIKE '%a%'"
        if form == 4:
            return f"COALESCE({column.written}, {self.value(column.text)}) <> {self.value(column.text)}"
        if form == 5 and not column.text:
            return f"{column.written} BETWEEN {self.value(False)} AND {self.value(False)}"
        return f"{column.written} {self.pick(('=', '<>', '<', '>='))} {self.value(column.text)}"

    def subquery_condition(self, column: Column, scope: list[Column], depth: int) -> str:
        if self.chance(50):
            sql, _ = self.select(depth - 1, scope)
            return f"{self.pick(('', 'NOT '))}EXISTS ({sql})"
        # The text of a subquery comes after this one's: so do its parameters.
        taken: set[str] = set()
        source, inner = self.source(0, [], taken, False)
        fitting = [each for each in inner if each.text is column.text]
        if not fitting:
            return f"{column.written} IS NOT NULL"
        chosen = self.pick(fitting).written
        condition = self.condition([*inner], depth - 1)
        if self.chance(60):
            negated = self.pick(("", "NOT "))
            return f"{column.written} {negated}IN (SELECT {chosen} FROM {source} WHERE {condition})"
        return f"{column.written} >= (SELECT MAX({chosen}) FROM {source} WHERE {condition})"

    def condition(self, scope: list[Column], depth: int) -> str:
        parts = [self.comparison(scope, depth) for _ in range(self.draw(st.integers(1, 2)))]
        joined = self.pick((" AND ", " OR ", " and not ")).join(f"({part})" for part in parts)
        return f"NOT ({joined})" if self.chance(15) else joined

    def sources(self, depth: int, outer: list[Column]) -> tuple[str, list[Column]]:
        taken: set[str] = set()
        sql, scope = self.source(depth, outer, taken, False)
        for _ in range(self.draw(st.integers(0, 2 if depth else 1))):
            kind = self.pick(("JOIN", "LEFT JOIN", "INNER JOIN", "CROSS JOIN", ",", "FULL JOIN", "RIGHT JOIN"))
            lateral = kind in ("JOIN", "LEFT JOIN", "CROSS JOIN", ",")
            right, columns = self.source(depth, [*outer, *scope], taken, lateral)
            both = [*scope, *columns]
            if kind in (",", "CROSS JOIN"):
                # A comma binds less tightly than JOIN: what follows could not see what is before it.
                sql = f"{sql} CROSS JOIN {right}"
            elif kind == "FULL JOIN":
                left, other = self.pick(scope), None
                other = next((each for each in columns if each.text is left.text), None)
                sql = f"{sql} FULL JOIN {right} ON {left.written} = {other.written}" if other else \
                    f"{sql} CROSS JOIN {right}"
            else:
                sql = f"{sql} {kind} {right} ON {self.condition(both, 0)}"
            scope = both
        return sql, scope

    def select(self, depth: int, outer: list[Column]) -> tuple[str, list[tuple[str, bool]]]:
        """One SELECT, or several of one shape put together."""
        shape = [self.chance(50) for _ in range(self.draw(st.integers(1, 3)))]
        sql, names = self.plain(depth, outer, shape)
        if depth and self.chance(25):
            word = self.pick(("UNION", "UNION ALL", "INTERSECT", "EXCEPT"))
            other, _ = self.plain(0, outer, shape)
            sql = f"{sql} {word} {other}"
        return sql, names

    def plain(self, depth: int, outer: list[Column], shape: list[bool]) -> tuple[str, list[tuple[str, bool]]]:
        start = len(self.params)
        source, scope = self.sources(depth, outer)
        after_source = self.params[start:]
        del self.params[start:]
        grouped = self.chance(25)
        outputs, keys = [], []
        for text in shape:
            expression, key = self.output(scope, text, grouped)
            outputs.append(expression)
            keys += [key] if key else []
        self.params += after_source
        where = f" WHERE {self.condition([*scope, *outer], depth)}" if self.chance(70) else ""
        if outer and self.chance(70):
            inner, outside = self.pick(scope), None
            outside = next((each for each in outer if each.text is inner.text), None)
            if outside and outside.written.partition(".")[0] not in {each.written.partition(".")[0] for each in scope}:
                where += f"{' AND ' if where else ' WHERE '}{inner.written} = {outside.written}"
        group = (f" GROUP BY {', '.join(keys)}" if keys else "") if grouped else ""
        names = [(f"c{place}", text) for place, text in enumerate(shape)]
        listed = ", ".join(f"{expression} AS {name}" for expression, (name, _) in zip(outputs, names, strict=True))
        distinct = "DISTINCT " if self.chance(15) else ""
        return f"SELECT {distinct}{listed} FROM {source}{where}{group}", names

    def output(self, scope: list[Column], text: bool, grouped: bool) -> tuple[str, str | None]:
        fitting = [each for each in scope if each.text is text]
        if not fitting:
            return self.value(text), None
        column = self.pick(fitting).written
        if grouped:
            function = self.pick(("MIN", "MAX")) if text else self.pick(("SUM", "COUNT", "MAX"))
            if self.chance(50):
                return (f"{function}({column})" if text else f"CAST({function}({column}) AS int)"), None
            return column, column
        if text:
            return (f"UPPER({column})" if self.chance(30) else column), None
        if self.chance(20):
            partition = self.pick(scope).written
            return f"CAST(SUM({column}) OVER (PARTITION BY {partition}) AS int)", None
        return (f"({column} + 1)" if self.chance(30) else column), None

    def with_ctes(self) -> str:
        parts = []
        for number in range(self.draw(st.integers(0, 2))):
            name = self.pick((f"w{number}", f"W{number}", f'"w{number}"'))
            sql, columns = self.select(1, [])
            parts.append(f"{name} AS ({sql})")
            self.ctes.append((name, columns))
        return f"WITH {', '.join(parts)} " if parts else ""


def _bare(name: str) -> str:
    return name.strip('"').lower()


def reads(dialect: str) -> st.SearchStrategy[tuple[str, list[Any]]]:
    """SELECTs with their parameters."""

    @st.composite
    def one(draw: Any) -> tuple[str, list[Any]]:
        maker = Maker(draw, dialect)
        head = maker.with_ctes()
        sql, _ = maker.select(2, [])
        return head + sql, maker.params

    return one()


def writes(dialect: str) -> st.SearchStrategy[tuple[str, list[Any]]]:
    """INSERTs, UPDATEs and DELETEs with their parameters."""

    @st.composite
    def one(draw: Any) -> tuple[str, list[Any]]:
        maker = Maker(draw, dialect)
        head = maker.with_ctes()
        kind = maker.pick(("insert", "insert select", "update", "update from", "delete"))
        table = maker.pick(tuple(TABLES))
        columns = TABLES[table]
        text, number = columns[3 if table == "orders" else 2], columns[4 if table == "orders" else 3]
        written = maker.table_name(table)
        mine = [Column(f"{table}.{column}", column in _TEXTS) for column in columns]
        if kind.startswith("insert"):
            return head + _insert(maker, kind, written, table, text, number), maker.params
        if kind == "delete":
            return f"{head}DELETE FROM {written} WHERE {maker.condition(mine, 1)}", maker.params
        assignments = f"{number} = {table}.{number} + {maker.value(False)}, {text} = {maker.value(True)}"
        if kind == "update":
            return f"{head}UPDATE {written} SET {assignments} WHERE {maker.condition(mine, 1)}", maker.params
        taken = {table}
        source, scope = maker.source(1, [], taken, False)
        condition = maker.condition([*mine, *scope], 1)
        return f"{head}UPDATE {written} SET {assignments} FROM {source} WHERE {condition}", maker.params

    return one()


def _insert(maker: Maker, kind: str, written: str, table: str, text: str, number: str) -> str:
    columns = ["id", text, number]
    maker.draw(st.permutations(columns))
    if kind == "insert":
        rows = ", ".join(f"({key}, {maker.value(True)}, {maker.value(False)})" for key in (1, 501, LEAST_FOREIGN + 900))
        source = f"VALUES {rows}"
    else:
        inner, scope = maker.source(1, [], set(), False)
        key = next((each.written for each in scope if not each.text), "1")
        value = next((each.written for each in scope if each.text), "'x'")
        # One row for a key: of two, the first one wins, whichever that is.
        where = maker.condition(scope, 1)
        source = f"SELECT 700 + {key}, MIN({value}), {key} FROM {inner} WHERE {where} GROUP BY {key}"
    conflict = maker.pick((
        "ON CONFLICT DO NOTHING", "ON CONFLICT (id) DO NOTHING",
        f"ON CONFLICT (id) DO UPDATE SET {number} = 7",
        f"ON CONFLICT (id) DO UPDATE SET {text} = excluded.{text} WHERE {table}.{number} > 1",
    ))  # fmt: skip
    return f"INSERT INTO {written} ({', '.join(columns)}) {source} {conflict}"
