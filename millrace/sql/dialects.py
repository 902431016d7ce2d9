"""The two dialects, read in a way that changes as little as can be.

sqlglot translates between dialects, and for that turns hundreds of functions into nodes of their own. Nothing is
translated here: a call stays a name with arguments, so that one list of names says which functions there are, and
what is sent is what was written.
"""

from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.dialects.sqlite import SQLite
from sqlglot.generators.postgres import PostgresGenerator
from sqlglot.generators.sqlite import SQLiteGenerator
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.parsers.sqlite import SQLiteParser
from sqlglot.tokenizer_core import TokenType

POSTGRESQL = "postgresql"
SQLITE = "sqlite"
TIMED = {name: f"_millrace_{name}" for name in ("instr", "ltrim", "replace", "rtrim", "trim")}
"""Functions for which SQLite takes the square of their arguments, by the names of those that are called instead."""

# Functions whose arguments have words between them, or are types.
_SPECIAL_POSTGRESQL = ("CAST", "EXTRACT", "TRIM", "OVERLAY", "POSITION", "SUBSTRING")
_SPECIAL_SQLITE = ("CAST",)
_WITHOUT_PARENTHESES = ("ANY", "CASE")


def _chosen(table: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: table[name] for name in names}


def _arrow(node: type[exp.Expr]) -> Any:
    return lambda self, this, path: self.expression(node(this=this, expression=path, only_json_types=True))


def _refuse(parser: Any) -> None:
    """What is not understood is no statement; sqlglot would say so in the operator's log, script and all."""
    parser.raise_error("not understood")


def _timed(generator: Any, node: exp.Anonymous) -> str:
    return str(generator.func(TIMED.get(node.name.lower(), node.name), *node.expressions))


class PlainPostgres(Postgres):
    """PostgreSQL."""

    class Tokenizer(Postgres.Tokenizer):
        """A dollar begins a placeholder and no text: `$1,$2` would be read as one."""

        HEREDOC_STRINGS: ClassVar[list[str | tuple[str, str]]] = []
        SINGLE_TOKENS: ClassVar[dict[str, TokenType]] = {**Postgres.Tokenizer.SINGLE_TOKENS, "$": TokenType.PARAMETER}

    class Parser(PostgresParser):
        """Calls stay calls; the right side of `->` stays what it is."""

        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = _chosen(PostgresParser.FUNCTION_PARSERS, _SPECIAL_POSTGRESQL)
        NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Any]] = _chosen(
            PostgresParser.NO_PAREN_FUNCTION_PARSERS, _WITHOUT_PARENTHESES
        )
        JSON_OPERATORS: ClassVar[dict[TokenType, Any]] = {
            **PostgresParser.JSON_OPERATORS,
            TokenType.ARROW: _arrow(exp.JSONExtract),
            TokenType.DARROW: _arrow(exp.JSONExtractScalar),
        }
        _warn_unsupported = _refuse

    class Generator(PostgresGenerator):
        """The same on the way out."""

        TRANSFORMS: ClassVar[dict[Any, Any]] = {
            **PostgresGenerator.TRANSFORMS,
            exp.CurrentTime: lambda self, node: "CURRENT_TIME",
            exp.JSONExtract: lambda self, node: self.binary(node, "->"),
            exp.JSONExtractScalar: lambda self, node: self.binary(node, "->>"),
        }


class PlainSQLite(SQLite):
    """SQLite."""

    class Tokenizer(SQLite.Tokenizer):
        """Names are written in `...`: in double quotes, one that names no column would be a text instead."""

        IDENTIFIERS: ClassVar[list[str | tuple[str, str]]] = ["`", '"', ("[", "]")]

    class Parser(SQLiteParser):
        """Calls stay calls; the right side of `->` stays what it is."""

        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = _chosen(SQLiteParser.FUNCTION_PARSERS, _SPECIAL_SQLITE)
        NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Any]] = _chosen(
            SQLiteParser.NO_PAREN_FUNCTION_PARSERS, ("CASE",)
        )
        CONCAT_OPERATORS: ClassVar[dict[TokenType, Any]] = {
            **SQLiteParser.CONCAT_OPERATORS,
            TokenType.ARROW: _arrow(exp.JSONExtract),
            TokenType.DARROW: _arrow(exp.JSONExtractScalar),
        }
        _warn_unsupported = _refuse

    class Generator(SQLiteGenerator):
        """The same on the way out, but for functions that have to be others."""

        TYPE_MAPPING: ClassVar[dict[Any, str]] = {**SQLiteGenerator.TYPE_MAPPING, exp.DType.DECIMAL: "NUMERIC"}
        TRANSFORMS: ClassVar[dict[Any, Any]] = {
            **SQLiteGenerator.TRANSFORMS,
            exp.Anonymous: _timed,
            exp.JSONExtract: lambda self, node: self.binary(node, "->"),
            exp.JSONExtractScalar: lambda self, node: self.binary(node, "->>"),
        }


DIALECTS = {POSTGRESQL: PlainPostgres, SQLITE: PlainSQLite}
