"""Identifiers: normalised as the database would, and known."""

from sqlglot import exp

from millrace.sql import refusal
from millrace.sql.catalog import Catalog, lower
from millrace.sql.dialects import POSTGRESQL
from millrace.sql.scopes import Scopes

RESERVED = "_millrace_"
"""What names of ours begin with, and no name of a script."""
MAX_BYTES = 63  # PostgreSQL cuts longer ones, and then they may mean another thing


def normalise(tree: exp.Expr, catalog: Catalog) -> None:
    """Fold every name that is not quoted, in place, so that all can be quoted. Raises Refused for names of ours."""
    for identifier in tree.find_all(exp.Identifier):
        name = identifier.name
        if catalog.dialect == POSTGRESQL and not identifier.args.get("quoted"):
            name = lower(name)
        identifier.set("this", name)
        identifier.set("quoted", True)
        if not name or "\0" in name or len(name.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            raise refusal.unauthorized(f"a name has 1 to {MAX_BYTES} bytes.")
        if lower(name).startswith(RESERVED):
            raise refusal.unauthorized(f"no name begins with '{RESERVED}'.")
    for column in tree.find_all(exp.Column):
        _drop_schema(column, catalog)


def _drop_schema(column: exp.Column, catalog: Catalog) -> None:
    # A table that is read through its tenant's rows has its own name, and no schema.
    schema = column.args.get("db")
    if schema is not None:
        if catalog.fold(schema.name) != catalog.fold(catalog.schema):
            raise refusal.unauthorized(f"there is no schema '{schema.name}' for scripts.")
        column.set("db", None)


def check_columns(tree: exp.Expr, catalog: Catalog) -> None:
    """Raises Refused for a column that no table of the query has and that nothing in it gave a name.

    PostgreSQL takes `t.f` for a call of the function f as well, see `scopes`: this way none is called.
    """
    known = {catalog.fold(name) for name in _given(tree)}
    for table in tree.find_all(exp.Table):
        known.add(catalog.fold(table.alias or table.name))
        found = catalog.find(table.name)
        if found is not None:
            known |= {catalog.fold(name) for name in found.columns}
    scopes = Scopes(tree, catalog) if catalog.dialect == POSTGRESQL else None
    for column in tree.find_all(exp.Column):
        if isinstance(column.this, exp.Star):
            continue
        is_known = catalog.fold(column.name) in known
        if is_known and scopes is not None and column.args.get("table") is not None:
            is_known = scopes.has_column(column)
        if not is_known:
            raise refusal.unauthorized(
                f"no table of the query has a column '{column.name[:63]}'; a computed one gets its name with AS."
            )


def _given(tree: exp.Expr) -> set[str]:
    names = {"case", "excluded"}
    for node in tree.find_all(exp.Alias, exp.TableAlias, exp.Anonymous):
        match node:
            case exp.Alias():
                names.add(node.alias)
            case exp.TableAlias():
                names |= {node.name, *(column.name for column in node.args.get("columns") or ())}
            case _:
                names.add(lower(node.name))
    return names
