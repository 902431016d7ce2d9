"""Which table a qualified name means, as PostgreSQL looks for it, and whether that has such a column.

PostgreSQL takes `t.f` for `f(t)` when t has no column f, and so would call any function of the schema that takes a row.
What may mean several tables must be a column of each, and what is not known to be a column is none.
"""

from collections.abc import Iterator

from sqlglot import exp

from millrace.sql.catalog import Catalog, Table

_LEVELS = (exp.Select, exp.Update, exp.Delete, exp.Insert)
_BEFORE_ROWS = ("from_", "joins", "using", "with_", "expression")
"""Parts of a level that do not see everything that it reads."""
_SEEN_THROUGH = (exp.Bracket, exp.Cast, exp.Collate, exp.Filter, exp.Paren, exp.Window, exp.WithinGroup)
_Names = frozenset[str]


class Scopes:
    """The names of one statement, before it is rewritten."""

    def __init__(self, tree: exp.Expr, catalog: Catalog) -> None:
        self._catalog = catalog
        self._ctes: dict[str, list[exp.CTE]] = {}
        for cte in tree.find_all(exp.CTE):
            self._ctes.setdefault(cte.alias, []).append(cte)
        self._known: dict[int, _Names] = {}
        self._read: dict[int, list[exp.Expr]] = {}

    def has_column(self, column: exp.Column) -> bool:
        """Whether everything that `t` of `t.c` may mean has a column c."""
        meant = list(self._meant(column))
        return bool(meant) and all(column.name in self._columns(each) for each in meant)

    def _meant(self, column: exp.Column) -> Iterator[exp.Expr]:
        """What the qualifier may mean, from the inside to where it is found for certain."""
        name = column.args["table"].name
        node: exp.Expr = column
        while node.parent is not None:
            part, node = str(node.arg_key), node.parent
            if isinstance(node, exp.Join):
                seen, certain = _seen(node, part), True
            elif isinstance(node, _LEVELS):
                seen, certain = self._sources(node), part not in _BEFORE_ROWS
            else:
                continue
            found = [each for each in seen if each.alias_or_name == name]
            yield from found
            if found and certain:
                return

    def _sources(self, level: exp.Expr) -> list[exp.Expr]:
        if id(level) not in self._read:
            self._read[id(level)] = _sources(level)  # kept: others may not have their ids
        return self._read[id(level)]

    def _columns(self, source: exp.Expr) -> _Names:
        known = self._known.get(id(source))
        if known is None:
            self._known[id(source)] = frozenset()  # what reads itself adds nothing
            known = self._known[id(source)] = self._found(source)
        return known

    def _found(self, source: exp.Expr) -> _Names:
        alias = source.args.get("alias")
        listed = alias.args.get("columns") if isinstance(alias, exp.TableAlias) else None
        if listed:
            return frozenset(each.name for each in listed)
        match source:
            case exp.Table():
                return self._of_table(source)
            case exp.Subquery() | exp.Lateral():
                return self._outputs(source.this)
        return frozenset()

    def _of_table(self, source: exp.Table) -> _Names:
        ctes = self._ctes.get(source.name, []) if source.args.get("db") is None else []
        if ctes:
            return frozenset.intersection(*(self._of_cte(cte) for cte in ctes))
        table: Table | None = self._catalog.find(source.name)
        return table.columns if table is not None else frozenset()

    def _of_cte(self, cte: exp.CTE) -> _Names:
        known = self._known.get(id(cte))
        if known is None:
            self._known[id(cte)] = frozenset()
            listed = cte.args["alias"].args.get("columns")
            known = frozenset(each.name for each in listed) if listed else self._outputs(cte.this)
            self._known[id(cte)] = known
        return known

    def _outputs(self, query: exp.Expr) -> _Names:
        match query:
            case exp.SetOperation() | exp.Subquery():
                return self._outputs(query.this)
            case exp.Select():
                return frozenset(name for each in query.expressions for name in self._names(each, query))
            case exp.Table():
                return frozenset(name for each in _all_of(query) for name in self._columns(each))
        return frozenset()

    def _names(self, output: exp.Expr, select: exp.Select) -> _Names:
        """What PostgreSQL calls a column that a SELECT gives."""
        while isinstance(output, _SEEN_THROUGH):
            output = output.this
        match output:
            case exp.Alias():
                return frozenset((output.alias,))
            case exp.Star():
                return frozenset(name for each in self._sources(select) for name in self._columns(each))
            case exp.Column() if isinstance(output.this, exp.Star):
                meant = [self._columns(each) for each in self._meant(output)]
                return frozenset.intersection(*meant) if meant else frozenset()
            case exp.Column():
                return frozenset((output.name,))
            case exp.Anonymous():
                return frozenset((output.name.lower(),))
            case exp.Case():
                return frozenset(("case",))
        return frozenset()


def _sources(level: exp.Expr) -> list[exp.Expr]:
    """What a level reads or changes, without what an alias hides."""
    tops: list[exp.Expr] = []
    if not isinstance(level, exp.Select):
        target = level.this.this if isinstance(level.this, exp.Schema) else level.this
        tops.append(target)
        if isinstance(level, exp.Insert):
            tops.append(exp.Table(this=target.this.copy(), alias=exp.TableAlias(this=exp.to_identifier("excluded"))))
    if level.args.get("from_") is not None:
        tops.append(level.args["from_"].this)
    tops += [join.this for join in level.args.get("joins") or ()]
    tops += level.args.get("using") or ()
    return [each for top in tops for each in _all_of(top)]


def _all_of(top: exp.Expr) -> list[exp.Expr]:
    """A source, and what is joined to it within parentheses."""
    return _own(top) + [each for join in top.args.get("joins") or () for each in _all_of(join.this)]


def _own(top: exp.Expr) -> list[exp.Expr]:
    bare = isinstance(top, exp.Subquery) and isinstance(top.this, exp.Table | exp.Subquery) and not top.alias
    return _all_of(top.this) if bare else [top]


def _seen(join: exp.Join, part: str) -> list[exp.Expr]:
    """What this part of a JOIN sees of its neighbours."""
    lateral = part == "this" and isinstance(join.this, exp.Lateral)
    if not lateral and part != "on":
        return []
    holder = join.parent
    assert holder is not None
    seen = _own(holder)
    if isinstance(holder, exp.Select):
        first = holder.args.get("from_")
        seen = [] if first is None else _all_of(first.this)
    for each in holder.args["joins"]:
        if lateral and each is join:
            break
        if not lateral and not any(each.args.get(name) for name in ("on", "using", "kind", "side", "method")):
            seen = []  # a comma, which binds less than JOIN
        seen = seen + _all_of(each.this)
        if each is join:
            break
    return seen
