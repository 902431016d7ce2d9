"""The tree rewritten, so that no row of another tenant can be read, changed or made.

    reading   `t AS a` becomes `(SELECT * FROM t WHERE t.tenant = $n) AS a`, wherever a table is named
    CTEs      get names that no table can have, so that a name means the CTE or nothing, whatever its scope
    UPDATE, DELETE   the target's rows are narrowed by the same predicate
    INSERT    the tenant's column comes first and has the tenant's value, whatever the columns after it
    conflict  DO UPDATE changes a row of this tenant only

Where an expression of the script could fail on a row's values, and so tell of rows that it does not see, the predicate
is a fence: those rows are chosen before anything else is asked of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlglot import exp

from millrace.sql import functions, parameters, refusal
from millrace.sql.catalog import Catalog, Table, lower
from millrace.sql.dialects import POSTGRESQL
from millrace.sql.names import MAX_BYTES, RESERVED

_CTE = f"{RESERVED}cte_"
_ROWS = f"{RESERVED}rows"

_HARMLESS: tuple[type[exp.Expr], ...] = (
    exp.Alias, exp.And, exp.Between, exp.Boolean, exp.CTE, exp.Column, exp.Distinct, exp.EQ, exp.Except, exp.Exists,
    exp.From, exp.GT, exp.GTE, exp.Group, exp.Having, exp.Identifier, exp.In, exp.Intersect, exp.Is, exp.Join, exp.LT,
    exp.LTE, exp.Lateral, exp.Limit, exp.Literal, exp.NEQ, exp.Not, exp.Null, exp.NullSafeEQ, exp.NullSafeNEQ,
    exp.Offset, exp.Or, exp.Order, exp.Ordered, exp.Parameter, exp.Paren, exp.Placeholder, exp.Schema, exp.Select,
    exp.Star, exp.Subquery, exp.Table, exp.TableAlias, exp.Tuple, exp.Union, exp.Where, exp.Window, exp.WindowSpec,
    exp.With, exp.DataType, exp.DataTypeParam, exp.Update, exp.Delete,
)  # fmt: skip
_AFTER_ROWS = ("expressions", "order", "group", "having", "distinct", "windows", "limit", "offset")
"""Parts of the outermost SELECT, and the SET of an UPDATE: evaluated when the rows are chosen."""


@dataclass(frozen=True)
class Rewritten:
    """The statement, and which tables it leaves to row-level security."""

    tree: exp.Expr
    protected: frozenset[str]


def tenant_parameter(dialect: str, number: int) -> exp.Expr:
    """The placeholder that stands for the tenant."""
    if dialect == POSTGRESQL:
        return exp.Parameter(this=exp.Literal.number(number))
    return exp.Placeholder(this=parameters.name_of(number))


class Guard:
    """Makes what tells this tenant's rows from the others."""

    def __init__(self, catalog: Catalog, number: int) -> None:
        self._catalog = catalog
        self._number = number

    def value(self, table: Table) -> exp.Expr:
        """The tenant, as the table's column has it."""
        placeholder = tenant_parameter(self._catalog.dialect, self._number)
        if self._catalog.dialect != POSTGRESQL:
            return placeholder
        kind = exp.DType.UUID if table.tenant_type == "UUID" else exp.DType.TEXT
        return exp.Cast(this=placeholder, to=exp.DataType(this=kind, nested=False))

    def column(self) -> exp.Identifier:
        """The column's name."""
        return _identifier(self._catalog.tenant_column)

    def predicate(self, table: Table, called: str) -> exp.Expr:
        """That a row, of the table as it is called here, is this tenant's."""
        value = self.value(table)
        if self._catalog.dialect != POSTGRESQL:
            # Whatever collation the column has: 'acme' and 'ACME' are two tenants.
            value = exp.Collate(this=value, expression=_identifier("BINARY"))
        return exp.EQ(this=exp.Column(this=self.column(), table=_identifier(called)), expression=value)


def rewrite(tree: exp.Expr, catalog: Catalog, tenant: int) -> Rewritten:
    """Confine the statement, in place, to the tenant that the placeholder of this number stands for.

    Raises Refused for a table that may not be named or cannot be confined.
    """
    return _Rewriting(tree, catalog, Guard(catalog, tenant)).run()


class _Rewriting:
    def __init__(self, tree: exp.Expr, catalog: Catalog, guard: Guard) -> None:
        self._tree = tree
        self._catalog = catalog
        self._guard = guard
        self._fenced = needs_fence(tree)
        self._protected: set[str] = set()

    def run(self) -> Rewritten:
        target = _target(self._tree)
        tables = [table for table in self._tree.find_all(exp.Table) if table is not target]
        ctes = self._rename_ctes()
        for reference in tables:
            name = self._catalog.fold(reference.name)
            if name in ctes and not reference.args.get("db"):
                _read_cte(reference)
            else:
                self._read_table(reference)
        match self._tree:
            case exp.Insert():
                self._insert(self._tree)
            case exp.Update() | exp.Delete():
                self._change(self._tree)
        return Rewritten(self._tree, frozenset(self._protected))

    def _rename_ctes(self) -> set[str]:
        names: set[str] = set()
        for cte in self._tree.find_all(exp.CTE):
            alias = cte.args["alias"]
            name = alias.name
            if self._catalog.find(name) is not None:
                raise refusal.unauthorized(f"WITH '{name}' has the name of a table; give it another.")
            if len((_CTE + name).encode()) > MAX_BYTES:  # cut, two of them might be one
                raise refusal.unauthorized(f"WITH '{name}' has too long a name.")
            names.add(self._catalog.fold(name))
            alias.set("this", _identifier(_CTE + self._catalog.fold(name)))
        return names

    def _known(self, reference: exp.Table) -> Table:
        name, schema = reference.name, reference.args.get("db")
        if not isinstance(reference.this, exp.Identifier):
            raise refusal.unauthorized("a function in place of a table is not allowed.")
        if schema is not None and self._catalog.fold(schema.name) != self._catalog.fold(self._catalog.schema):
            raise refusal.unauthorized(f"there is no schema '{schema.name}' for scripts.")
        table = self._catalog.find(name)
        if table is None or lower(name) == "excluded":  # which ON CONFLICT knows as another thing
            raise refusal.unauthorized(f"there is no table '{name}'.")
        if table.unfit is not None:
            raise refusal.unauthorized(f"the table '{name}' may not be used: {table.unfit}.")
        if not table.protected and table.unguarded is not None:
            raise refusal.unauthorized(f"the table '{name}' cannot be confined to this workspace: {table.unguarded}.")
        return table

    def _read_table(self, reference: exp.Table) -> None:
        table = self._known(reference)
        alias = reference.args.get("alias") or exp.TableAlias(this=_identifier(reference.name))
        plain = exp.Table(this=_identifier(table.name), db=_identifier(self._catalog.schema))
        if table.protected:
            self._protected.add(table.name)
            plain.set("alias", alias)
            plain.set("joins", reference.args.get("joins"))
            reference.replace(plain)
            return
        rows = exp.Select(
            expressions=[exp.Star()], from_=exp.From(this=plain),
            where=exp.Where(this=self._guard.predicate(table, table.name)),
        )  # fmt: skip
        if self._fenced:
            _fence(rows, self._catalog.dialect)
        reference.replace(exp.Subquery(this=rows, alias=alias, joins=reference.args.get("joins")))

    def _change(self, statement: exp.Update | exp.Delete) -> None:
        target = statement.this
        if not isinstance(target, exp.Table) or target.args.get("joins"):
            raise refusal.unauthorized("UPDATE and DELETE change one table.")
        table = self._known(target)
        if isinstance(statement, exp.Update):
            self._check_set(statement.expressions)
        _qualify(target, table, self._catalog.schema)
        if table.protected:
            self._protected.add(table.name)
            return
        called = target.alias or table.name
        if self._catalog.fold(called) in beside(statement, self._catalog):
            # Which of the two the predicate means would be the database's choice.
            raise refusal.unauthorized(f"'{called}' is changed and read at once; give the one that is read an alias.")
        statement.set("where", self._narrowed(statement.args.get("where"), self._fenced,
                                              lambda: self._guard.predicate(table, called)))

    def _check_set(self, assignments: Iterable[exp.Expr]) -> None:
        for each in assignments:
            column = each.this if isinstance(each, exp.EQ) else None
            if not isinstance(column, exp.Column) or column.args.get("table") or isinstance(column.this, exp.Star):
                raise refusal.unauthorized("SET takes plain columns, one by one.")
            if self._catalog.is_tenant_column(column.name):
                raise refusal.unauthorized(f"the column '{column.name}' says whose a row is, and is not changed.")

    def _narrowed(self, where: exp.Where | None, fenced: bool, predicate: Callable[[], exp.Expr]) -> exp.Where:
        if where is None:
            return exp.Where(this=predicate())
        condition: exp.Expr = exp.Paren(this=where.this)
        if fenced:
            choice = exp.If(this=predicate(), true=condition)
            condition = exp.Case(ifs=[choice], default=exp.Boolean(this=False))
        return exp.Where(this=exp.And(this=predicate(), expression=condition))

    def _insert(self, statement: exp.Insert) -> None:
        into = statement.this
        if not isinstance(into, exp.Schema) or not isinstance(into.this, exp.Table) or not into.expressions:
            raise refusal.unauthorized("INSERT names its columns.")
        if into.this.args.get("alias") or into.this.args.get("joins"):
            raise refusal.unauthorized("the table of an INSERT has no alias.")
        table = self._known(into.this)
        if not all(isinstance(column, exp.Identifier) for column in into.expressions):
            raise refusal.unauthorized("INSERT takes plain columns.")
        if any(self._catalog.is_tenant_column(column.name) for column in into.expressions):
            raise refusal.unauthorized(
                f"the column '{self._catalog.tenant_column}' is filled in for you, and not to be named."
            )
        _qualify(into.this, table, self._catalog.schema)
        if table.unguarded is None:
            into.set("expressions", [self._guard.column(), *into.expressions])
            statement.set("expression", self._rows(statement, table))
        if table.protected:
            self._protected.add(table.name)
        self._conflict(statement, table)

    def _rows(self, statement: exp.Insert, table: Table) -> exp.Expr:
        source = statement.expression
        if isinstance(source, exp.Values):
            tuples = source.expressions
            if source.args.get("alias") or not all(isinstance(each, exp.Tuple) for each in tuples):
                raise refusal.unauthorized("VALUES takes rows in parentheses.")
            return exp.Values(expressions=[
                exp.Tuple(expressions=[self._guard.value(table), *each.expressions]) for each in tuples
            ])  # fmt: skip
        if not isinstance(source, exp.Select | exp.Union | exp.Except | exp.Intersect | exp.Subquery):
            raise refusal.unauthorized("INSERT takes VALUES or a SELECT.")
        if isinstance(source, exp.Subquery) and source.args.get("alias"):
            raise refusal.unauthorized("the SELECT of an INSERT has no alias.")
        inner = exp.Subquery(this=source, alias=exp.TableAlias(this=_identifier(_ROWS)))
        return exp.Select(
            expressions=[self._guard.value(table), exp.Column(this=exp.Star(), table=_identifier(_ROWS))],
            from_=exp.From(this=inner),
            # Without it SQLite reads the ON of ON CONFLICT as that of a join.
            where=exp.Where(this=exp.Boolean(this=True)),
        )

    def _conflict(self, statement: exp.Insert, table: Table) -> None:
        conflict = statement.args.get("conflict")
        if conflict is None or not conflict.expressions:
            return
        self._check_set(conflict.expressions)
        if not table.protected:
            conflict.set("where", self._narrowed(conflict.args.get("where"), True,
                                                 lambda: self._guard.predicate(table, table.name)))


def beside(statement: exp.Update | exp.Delete, catalog: Catalog) -> set[str]:
    """What a statement reads beside the table that it changes, by the names that it has for its WHERE."""
    sources = [statement.args.get("from_"), *(statement.args.get("using") or ())]
    return {
        catalog.fold(node.alias_or_name)
        for source in sources if source is not None
        for node in source.walk(prune=lambda inner: isinstance(inner, exp.Select | exp.SetOperation))
        if isinstance(node, exp.Table | exp.Subquery | exp.Lateral | exp.Values)
    }  # fmt: skip


def needs_fence(tree: exp.Expr) -> bool:
    """Whether an expression might be asked of rows that are not chosen yet, and fail on their values."""
    return any(not _is_harmless(node) and not _comes_after(node, tree) for node in tree.walk())


def _is_harmless(node: exp.Expr) -> bool:
    if isinstance(node, exp.Anonymous):
        return node.name.lower() in functions.HARMLESS
    if isinstance(node, exp.Cast | exp.Any):
        return node.find(exp.Column, exp.Select) is None
    return isinstance(node, _HARMLESS)


def _comes_after(node: exp.Expr, tree: exp.Expr) -> bool:
    """Whether it belongs to a part of the outermost statement that comes after its rows are chosen."""
    if not isinstance(tree, exp.Select | exp.Update):
        return False
    while node.parent is not None and node.parent is not tree:
        if isinstance(node.parent, exp.Query):
            return False
        node = node.parent
    return str(node.arg_key) in _AFTER_ROWS


def _fence(rows: exp.Select, dialect: str) -> None:
    """Neither database moves a condition into a SELECT that has these."""
    if dialect != POSTGRESQL:
        rows.set("limit", exp.Limit(expression=exp.Neg(this=exp.Literal.number(1))))
    rows.set("offset", exp.Offset(expression=exp.Literal.number(0)))


def _target(tree: exp.Expr) -> exp.Expr | None:
    """The table that a statement changes, which is not read."""
    if not isinstance(tree, exp.Insert | exp.Update | exp.Delete):
        return None
    target: exp.Expr = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    return target


def _qualify(target: exp.Table, table: Table, schema: str) -> None:
    target.set("this", _identifier(table.name))
    target.set("db", _identifier(schema))


def _read_cte(reference: exp.Table) -> None:
    if not reference.args.get("alias"):
        reference.set("alias", exp.TableAlias(this=_identifier(reference.name)))
    reference.set("this", _identifier(_CTE + reference.name))


def _identifier(name: str) -> exp.Identifier:
    return exp.Identifier(this=name, quoted=True)
