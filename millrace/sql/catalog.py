"""What a data source has: its tables as far as scripts may know of them."""

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from millrace.sql.dialects import POSTGRESQL

_UPPER_TO_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def lower(name: str) -> str:
    """As databases fold names: letters of ASCII alone."""
    return name.translate(_UPPER_TO_LOWER)


@dataclass(frozen=True)
class Table:
    """A relation of the allowed schema.

    `unfit` says why no statement may name it, `unguarded` why it cannot be confined by a predicate. `protected` is for
    one whose row-level security applies to the role that connects and compares with the tenant's setting.
    """

    name: str
    columns: frozenset[str] = frozenset()
    tenant_type: str = "TEXT"  # TEXT | UUID
    unfit: str | None = None
    unguarded: str | None = None
    protected: bool = False


@dataclass(frozen=True, eq=False)
class Catalog:
    """The relations of one schema, by name; on SQLite by name in lower case, for it does not tell them apart."""

    dialect: str
    schema: str
    tenant_column: str
    tables: Mapping[str, Table] = field(default_factory=dict)
    proven: dict[tuple[str, int, str], Any] = field(default_factory=dict, repr=False)
    """What the prover knows already; it ends with the catalog, which may be large."""

    def fold(self, name: str) -> str:
        """The name as it is compared, once it is normalised."""
        return name if self.dialect == POSTGRESQL else lower(name)

    def find(self, name: str) -> Table | None:
        """The relation of this name, whichever kind."""
        return self.tables.get(self.fold(name))

    def is_tenant_column(self, name: str) -> bool:
        """Whether it names the column that tells tenants apart."""
        return self.fold(name) == self.fold(self.tenant_column)
