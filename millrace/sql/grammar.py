"""The nodes that statements may be made of. A node or a part of one that is not listed is refused: what is not known
here cannot be judged, and is never sent."""

import re
from typing import Any

from sqlglot import exp

from millrace.sql import functions, refusal

MAX_NODES = 12_000

_BINARY: tuple[type[exp.Expr], ...] = (
    exp.Add, exp.Adjacent, exp.And, exp.ArrayContainedBy, exp.ArrayContainsAll, exp.ArrayOverlaps, exp.BitwiseAnd,
    exp.BitwiseLeftShift, exp.BitwiseOr, exp.BitwiseRightShift, exp.BitwiseXor, exp.Collate, exp.EQ, exp.Escape, exp.GT,
    exp.GTE, exp.Glob, exp.ILike, exp.IntDiv, exp.JSONBContainsAllTopKeys, exp.JSONBContainsAnyTopKeys,
    exp.JSONBDeleteAtPath, exp.JSONBExtract, exp.JSONBExtractScalar, exp.LT, exp.LTE, exp.Mod, exp.Mul, exp.NEQ,
    exp.NullSafeEQ, exp.NullSafeNEQ, exp.Or, exp.Overlaps, exp.Pow, exp.RegexpILike, exp.RegexpLike, exp.SimilarTo,
    exp.Sub,
)  # fmt: skip
_UNARY: tuple[type[exp.Expr], ...] = (
    exp.Any, exp.BitwiseNot, exp.DataTypeParam, exp.Exists, exp.Having, exp.Neg, exp.Not, exp.Paren, exp.Where,
)  # fmt: skip
_LEAVES: tuple[type[exp.Expr], ...] = (
    exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp, exp.Localtime, exp.Localtimestamp, exp.Null, exp.Star,
)  # fmt: skip
_LISTS: tuple[type[exp.Expr], ...] = (exp.Array, exp.Cube, exp.GroupingSets, exp.Rollup, exp.Tuple)
_SET_OPERATION = "this expression distinct with_ order limit offset"

_PARTS: dict[type[exp.Expr], frozenset[str]] = {
    **dict.fromkeys(_BINARY, frozenset(("this", "expression"))),
    **dict.fromkeys(_UNARY, frozenset(("this",))),
    **dict.fromkeys(_LEAVES, frozenset()),
    **dict.fromkeys(_LISTS, frozenset(("expressions",))),
    **{node: frozenset(parts.split()) for node, parts in {
        exp.Alias: "this alias",
        exp.Anonymous: "this expressions",
        exp.AtTimeZone: "this zone",
        exp.Between: "this low high",
        exp.Boolean: "this",
        exp.Bracket: "this expressions",
        exp.CTE: "this alias materialized",
        exp.Case: "this ifs default",
        exp.Cast: "this to",
        exp.Column: "this table db",
        exp.DPipe: "this expression safe",
        exp.DataType: "this expressions nested",
        exp.Delete: "this where using with_",
        exp.Distinct: "expressions on",
        exp.Div: "this expression typed safe",
        exp.Except: _SET_OPERATION,
        exp.Extract: "this expression",
        exp.Fetch: "direction count limit_options",
        exp.Filter: "this expression",
        exp.From: "this",
        exp.Group: "expressions",
        exp.Identifier: "this quoted",
        exp.If: "this true",
        exp.In: "this expressions query",
        exp.Insert: "this expression conflict with_",
        exp.Intersect: _SET_OPERATION,
        exp.Interval: "this unit",
        exp.Is: "this expression negate",
        exp.JSONExtract: "this expression only_json_types",
        exp.JSONExtractScalar: "this expression only_json_types",
        exp.Join: "this on using side kind method",
        exp.Lateral: "this alias",
        exp.Like: "this expression negate",
        exp.Limit: "expression",
        exp.LimitOptions: "rows with_ties",
        exp.Literal: "this is_string",
        exp.Offset: "expression",
        exp.OnConflict: "expressions action conflict_keys index_predicate constraint where",
        exp.Order: "this expressions",
        exp.Ordered: "this desc nulls_first",
        exp.Overlay: "this expression from_ for_",
        exp.Parameter: "this",
        exp.Placeholder: "this",
        exp.Schema: "this expressions",
        exp.Select: "expressions distinct from_ joins where group having order limit offset windows with_",
        exp.StrPosition: "this substr",
        exp.Subquery: "this alias joins order limit offset",
        exp.Substring: "this start length",
        exp.Table: "this db alias joins",
        exp.TableAlias: "this columns",
        exp.Trim: "this expression position",
        exp.Union: _SET_OPERATION,
        exp.Update: "this expressions from_ where with_",
        exp.Values: "expressions alias",
        exp.Var: "this",
        exp.Window: "this partition_by order spec alias over",
        exp.WindowSpec: "kind start start_side end end_side",
        exp.With: "expressions recursive",
        exp.WithinGroup: "this expression",
    }.items()},
}  # fmt: skip

_TYPES = frozenset((
    exp.DType.ARRAY, exp.DType.BIGINT, exp.DType.BLOB, exp.DType.BOOLEAN, exp.DType.CHAR, exp.DType.DATE,
    exp.DType.DECIMAL, exp.DType.DOUBLE, exp.DType.FLOAT, exp.DType.INT, exp.DType.INTERVAL, exp.DType.JSON,
    exp.DType.JSONB, exp.DType.SMALLINT, exp.DType.TEXT, exp.DType.TIME, exp.DType.TIMETZ, exp.DType.TIMESTAMP,
    exp.DType.TIMESTAMPTZ, exp.DType.TINYINT, exp.DType.UUID, exp.DType.VARBINARY, exp.DType.VARCHAR,
))  # fmt: skip
_WORDS_TEXT = """
    CENTURY DAY DAYS DECADE DOW DOY EPOCH HOUR HOURS ISODOW ISOYEAR JULIAN MICROSECOND MICROSECONDS MILLENNIUM
    MILLISECOND MILLISECONDS MINUTE MINUTES MONTH MONTHS QUARTER SECOND SECONDS TIMEZONE TIMEZONE_HOUR TIMEZONE_MINUTE
    WEEK WEEKS YEAR YEARS DEFAULT ALL BINARY NOCASE RTRIM
"""
_WORDS = frozenset((*_WORDS_TEXT.split(), "DO UPDATE", "DO NOTHING"))
_KEYWORD = re.compile(r"[A-Za-z_]+( [A-Za-z_]+){0,3}")
_NUMBER = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_KEEPS_TEXT = (exp.Anonymous, exp.Identifier, exp.Literal, exp.Placeholder, exp.Var)
_JOIN_KINDS = ("", "CROSS", "INNER", "OUTER")
_QUERIES = (exp.Select, exp.Union, exp.Except, exp.Intersect)


def check(tree: exp.Expr, dialect: str) -> None:
    """Raises Refused for the first node that is not known, or has a part that is not."""
    for number, node in enumerate(tree.walk()):
        if number >= MAX_NODES:
            raise refusal.unauthorized("the query is too large.")
        parts = _PARTS.get(type(node))
        if parts is None:
            raise refusal.unauthorized(f"{_call(node)} is not allowed.")
        for part, value in node.args.items():
            if value is None or value is False or value == []:
                continue
            if part not in parts:
                raise refusal.unauthorized(f"{part.strip('_').upper()} in {_call(node)} is not allowed.")
            if isinstance(value, str) and not isinstance(node, _KEEPS_TEXT) and not _KEYWORD.fullmatch(value):
                raise refusal.unauthorized(f"{value[:30]!r} in {_call(node)} is not allowed.")
        _check_one(node, dialect)


def _call(node: exp.Expr) -> str:
    return type(node).__name__.upper()


def _check_one(node: Any, dialect: str) -> None:
    """What a list of parts cannot say."""
    match node:
        case exp.Anonymous():
            if not isinstance(node.this, str) or node.this.lower() not in functions.NAMES[dialect]:
                raise refusal.unauthorized(f"the function {str(node.name)[:60]} is not one that scripts may call.")
        case exp.Literal():
            _check_literal(node)
        case exp.DataType():
            if node.this not in _TYPES:
                raise refusal.unauthorized("a cast to this type is not allowed.")
        case exp.Var():
            if not isinstance(node.this, str) or node.this.upper() not in _WORDS:
                raise refusal.unauthorized(f"{str(node.this)[:30]!r} is not allowed here.")
        case exp.CTE():
            if not isinstance(_inner(node.this), _QUERIES):
                raise refusal.unauthorized("WITH takes SELECT only.")
        case exp.Lateral():
            if not isinstance(node.this, exp.Subquery):
                raise refusal.unauthorized("LATERAL takes a SELECT in parentheses only.")
        case exp.Subquery():
            if not isinstance(node.this, (*_QUERIES, exp.Subquery, exp.Table)):
                raise refusal.unauthorized("parentheses take a SELECT or a JOIN.")
        case exp.Join():
            if (node.args.get("kind") or "").upper() not in _JOIN_KINDS:
                raise refusal.unauthorized(f"a {node.args['kind']} JOIN is not allowed.")
        case exp.In():
            if node.args.get("query") and not isinstance(node.args["query"], exp.Subquery):
                raise refusal.unauthorized("IN takes values or a SELECT in parentheses.")
        case exp.Collate():
            if not isinstance(node.expression, exp.Identifier | exp.Var):
                raise refusal.unauthorized("COLLATE takes a plain name.")


def _check_literal(node: exp.Literal) -> None:
    if not node.is_string:
        if not _NUMBER.fullmatch(node.this):
            raise refusal.unauthorized(f"{node.this[:30]!r} is not a number.")
    elif "\\" in node.this or "\0" in node.this:
        # Whether a backslash means itself is a setting of the server.
        raise refusal.injection("a quoted value with a backslash; give it as a parameter.")


def _inner(node: exp.Expr) -> exp.Expr:
    while isinstance(node, exp.Subquery):
        node = node.this
    return node
