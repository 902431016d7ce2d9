"""Text to tree, for the kinds of statement that scripts may send."""

from collections.abc import Sequence

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from millrace.sql import parameters, refusal
from millrace.sql.dialects import DIALECTS

MAX_TEXT = 16_384
MAX_TOKENS = 3_000
READ = "query"
WRITE = "execute"

_FIRST = {
    READ: (TokenType.SELECT, TokenType.WITH),
    WRITE: (TokenType.INSERT, TokenType.UPDATE, TokenType.DELETE, TokenType.WITH),
}
_ROOTS: dict[str, tuple[type[exp.Expr], ...]] = {
    READ: (exp.Select, exp.Union, exp.Except, exp.Intersect, exp.Subquery),
    WRITE: (exp.Insert, exp.Update, exp.Delete),
}
_MAY = {READ: "SELECT", WRITE: "INSERT, UPDATE and DELETE"}
_QUOTED = frozenset((
    TokenType.STRING, TokenType.NATIONAL_STRING, TokenType.RAW_STRING, TokenType.HEREDOC_STRING,
    TokenType.UNICODE_STRING, TokenType.BYTE_STRING, TokenType.BIT_STRING, TokenType.HEX_STRING,
))  # fmt: skip


def read(text: object, given: int, dialect: str, kind: str) -> tuple[exp.Expr, int]:
    """The one statement of this text, and how many placeholders it has, when `given` parameters came with it.

    Raises Refused when it is none, several, of another kind, or looks as if values had been written into it.
    """
    if not isinstance(text, str):
        raise refusal.unauthorized("a query must be text.")
    if len(text) > MAX_TEXT:
        raise refusal.unauthorized(f"a query can have {MAX_TEXT} characters, not {len(text)}.")
    try:
        tokens = sqlglot.tokenize(text, dialect=DIALECTS[dialect])
    except SqlglotError:
        raise refusal.unauthorized("the query cannot be read: a quote or a comment is not closed.") from None
    _check_size(tokens)
    _check_first(tokens, kind)
    _check_tokens(tokens, given)
    numbered, count = parameters.number_all(text, tokens, dialect)
    tree = parse(numbered, dialect)
    if not isinstance(tree, _ROOTS[kind]):
        raise refusal.unauthorized(f"'{kind}' takes {_MAY[kind]} only.")
    return tree, count


def parse(text: str, dialect: str) -> exp.Expr:
    """The tree of a text with one statement. Raises Refused for anything else."""
    try:
        trees = sqlglot.parse(text, dialect=DIALECTS[dialect])
    except SqlglotError as error:
        where = getattr(error, "errors", None) or [{}]
        place = f" at line {where[0]['line']}, column {where[0]['col']}" if where[0].get("line") else ""
        raise refusal.unauthorized(f"the query is not understood{place}.") from None
    except RecursionError:
        raise refusal.unauthorized("the query is nested too deeply.") from None
    if len(trees) != 1 or trees[0] is None:
        raise refusal.injection("a query is one statement.")
    return trees[0]


def _check_size(tokens: Sequence[Token]) -> None:
    if not tokens:
        raise refusal.unauthorized("the query is empty.")
    if len(tokens) > MAX_TOKENS:
        raise refusal.unauthorized(f"a query can have {MAX_TOKENS} words and signs, not {len(tokens)}.")


def _check_tokens(tokens: Sequence[Token], given: int) -> None:
    if any(token.comments for token in tokens) or any(token.token_type is TokenType.HINT for token in tokens):
        raise refusal.injection("a query has no comments.")
    if any(token.token_type is TokenType.SEMICOLON for token in tokens[:-1]):
        raise refusal.injection("a query is one statement.")
    if not given and any(token.token_type in _QUOTED for token in tokens):
        raise refusal.injection("a quoted value in a query without parameters; give values as parameters.")


def _check_first(tokens: Sequence[Token], kind: str) -> None:
    first = next((token for token in tokens if token.token_type is not TokenType.L_PAREN), tokens[0])
    if first.token_type in _FIRST[kind]:
        return
    word = first.text[:30].upper() if first.text[:1].isalpha() else "what it begins with"
    raise refusal.unauthorized(f"'{kind}' takes {_MAY[kind]} only, not {word}.")
