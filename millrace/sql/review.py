"""A second look: what was generated is parsed anew and judged without knowledge of how it was made."""

import itertools
import re

import sqlglot
from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from millrace.sql import functions, grammar, reading, refusal
from millrace.sql.catalog import Catalog, lower
from millrace.sql.dialects import DIALECTS, POSTGRESQL
from millrace.sql.names import RESERVED

_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_FENCES = ((None, None), (None, "OFFSET 0"), ("LIMIT -1", "OFFSET 0"))


def check(text: str, catalog: Catalog, tenant: int, protected: frozenset[str]) -> None:
    """Raises Refused unless every table of the text is read or changed behind the tenant's predicate."""
    _Review(text, catalog, tenant, protected).run()


class _Review:
    def __init__(self, text: str, catalog: Catalog, tenant: int, protected: frozenset[str]) -> None:
        self._text = text
        self._catalog = catalog
        self._protected = protected
        self._tenant = tenant
        self._tree = reading.parse(text, catalog.dialect)

    def run(self) -> None:
        grammar.check(self._tree, self._catalog.dialect)
        _check_calls(self._text, self._catalog.dialect)
        target = self._check_target()
        for table in self._tree.find_all(exp.Table):
            if table is not target:
                self._check_read(table)

    def _check_read(self, table: exp.Table) -> None:
        schema = table.args.get("db")
        if schema is None:
            if not lower(table.name).startswith(RESERVED) or self._catalog.find(table.name) is not None:
                raise _unguarded(table)
        elif schema.name != self._catalog.schema or self._catalog.find(table.name) is None:
            raise _unguarded(table)
        elif table.name not in self._protected:
            self._check_rows(table)

    def _check_rows(self, table: exp.Table) -> None:
        """The table stands alone in `(SELECT * FROM schema.table WHERE predicate)`, which has an alias."""
        select = table.parent.parent if isinstance(table.parent, exp.From) else None
        if not isinstance(select, exp.Select) or not isinstance(select.parent, exp.Subquery):
            raise _unguarded(table)
        given = {part for part, value in select.args.items() if value}
        fence = (self._text_of(select.args.get("limit")), self._text_of(select.args.get("offset")))
        sound = (
            given <= {"expressions", "from_", "where", "limit", "offset"}
            and fence in _FENCES
            and [type(each) for each in select.expressions] == [exp.Star]
            and not table.args.get("alias") and not table.args.get("joins")
            and bool(select.parent.alias)
            and self._is_predicate(select.args.get("where"), table.name, table.name)
        )  # fmt: skip
        if not sound:
            raise _unguarded(table)

    def _check_target(self) -> exp.Table | None:
        match self._tree:
            case exp.Update() | exp.Delete():
                return self._check_change(self._tree)
            case exp.Insert():
                return self._check_insert(self._tree)
        return None

    def _check_change(self, statement: exp.Update | exp.Delete) -> exp.Table:
        target = self._known_target(statement.this)
        if isinstance(statement, exp.Update):
            self._check_assignments(statement.expressions)
        called = target.alias or target.name
        if self._names_beside(statement, called):
            raise _unguarded(target)
        if target.name not in self._protected:
            self._check_narrowed(statement.args.get("where"), target, called)
        return target

    def _names_beside(self, statement: exp.Update | exp.Delete, called: str) -> bool:
        """Whether anything of the same level has the name of what is changed, whichever kind of thing."""
        for alias in statement.find_all(exp.TableAlias, exp.Table):
            level = alias.find_ancestor(exp.Select, exp.Update, exp.Delete)
            if level is statement and alias is not statement.this and alias.parent is not statement.this:
                name = alias.name if isinstance(alias, exp.TableAlias) else alias.alias_or_name
                if self._catalog.fold(name) == self._catalog.fold(called):
                    return True
        return False

    def _check_insert(self, statement: exp.Insert) -> exp.Table:
        if not isinstance(statement.this, exp.Schema):
            raise refusal.unauthorized("an INSERT without columns was not proven.")
        target = self._known_target(statement.this.this)
        known = self._catalog.find(target.name)
        assert known is not None
        if known.unguarded is None:
            columns = [column.name for column in statement.this.expressions]
            mine = [self._catalog.is_tenant_column(name) for name in columns]
            if mine != [True] + [False] * (len(columns) - 1) or not self._first_is_tenant(statement.expression):
                raise _unguarded(target)
        elif target.name not in self._protected:
            raise _unguarded(target)
        conflict = statement.args.get("conflict")
        if conflict is not None and conflict.expressions:
            self._check_assignments(conflict.expressions)
            if target.name not in self._protected:
                self._check_narrowed(conflict.args.get("where"), target, target.name)
        return target

    def _known_target(self, target: exp.Expr) -> exp.Table:
        schema = target.args.get("db")
        if not isinstance(target, exp.Table) or schema is None or schema.name != self._catalog.schema:
            raise refusal.unauthorized("the table that is changed was not proven.")
        if self._catalog.find(target.name) is None:
            raise _unguarded(target)
        return target

    def _check_assignments(self, assignments: list[exp.Expr]) -> None:
        for each in assignments:
            if not isinstance(each, exp.EQ) or self._catalog.is_tenant_column(each.this.name):
                raise refusal.unauthorized("a SET that was not proven.")

    def _check_narrowed(self, where: exp.Where | None, target: exp.Table, called: str) -> None:
        condition = where.this if where is not None else None
        first = condition.this if isinstance(condition, exp.And) else condition
        if first is None or not self._is_predicate(exp.Where(this=first.copy()), target.name, called):
            raise _unguarded(target)

    def _first_is_tenant(self, source: exp.Expr) -> bool:
        rows = source.expressions if isinstance(source, exp.Values) else [source]
        firsts = [row.expressions[0] if row.expressions else None for row in rows]
        return bool(firsts) and all(self._text_of(first) in self._tenant_values() for first in firsts)

    def _is_predicate(self, where: exp.Expr | None, table: str, called: str) -> bool:
        known = self._catalog.find(table)
        quote = '"' if self._catalog.dialect == POSTGRESQL else "`"
        column = ".".join(
            quote + name.replace(quote, quote * 2) + quote for name in (called, self._catalog.tenant_column)
        )
        if known is None:
            return False
        if self._catalog.dialect != POSTGRESQL:
            return self._text_of(where) == f"WHERE {column} = :p{self._tenant} COLLATE `BINARY`"
        return self._text_of(where) == f"WHERE {column} = CAST(${self._tenant} AS {known.tenant_type})"

    def _tenant_values(self) -> tuple[str, ...]:
        if self._catalog.dialect != POSTGRESQL:
            return (f":p{self._tenant}",)
        return (f"CAST(${self._tenant} AS TEXT)", f"CAST(${self._tenant} AS UUID)")

    def _text_of(self, node: exp.Expr | None) -> str | None:
        return None if node is None else generate(node, self._catalog.dialect)


def generate(tree: exp.Expr, dialect: str) -> str:
    """The text of a tree, with every name in quotes."""
    return tree.sql(dialect=DIALECTS[dialect], identify=True, comments=False).strip()


def _check_calls(text: str, dialect: str) -> None:
    """Every word before a parenthesis is a keyword or a function that scripts may call; names are all in quotes."""
    tokens = sqlglot.tokenize(text, dialect=DIALECTS[dialect])
    for word, following in itertools.pairwise(tokens):
        if following.token_type is not TokenType.L_PAREN or not _WORD.fullmatch(text[word.start:word.end + 1]):
            continue
        name = lower(word.text)
        if name not in functions.NAMES[dialect] and name not in functions.WORDS_BEFORE_PARENTHESES:
            raise refusal.unauthorized(f"the function {word.text[:60]} is not one that scripts may call.")


def _unguarded(table: exp.Table) -> refusal.Refused:
    return refusal.unauthorized(f"the table '{table.name}' was not proven to be confined to this workspace.")
