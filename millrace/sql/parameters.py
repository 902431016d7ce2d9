"""Placeholders: `?` and `$1`, in both dialects, and what may be bound to them."""

import re
from collections.abc import Sequence
from typing import Any

from sqlglot.tokenizer_core import Token, TokenType

from millrace.sql import refusal
from millrace.sql.dialects import POSTGRESQL

MAX_PARAMETERS = 1_000
_NUMBERED = re.compile(r"\$([1-9][0-9]{0,3})")
_NAMED = (TokenType.COLON, TokenType.PARAMETER)
_MAX_INTEGER = 2**63


def name_of(number: int) -> str:
    """How a placeholder is called where placeholders have names."""
    return f"p{number}"


def number_all(text: str, tokens: Sequence[Token], dialect: str) -> tuple[str, int]:
    """The text with every placeholder in the dialect's own numbered form, and how many there are.

    Raises Refused for other forms, for a mixture, and for numbers that are left out.
    """
    found = [place for place in map(_place, tokens, [*tokens[1:], None]) if place is not None]
    marks = {number is None for _, _, number in found}
    if len(marks) > 1:
        raise refusal.parameters("a query has either '?' or '$1' for its placeholders, not both.")
    numbers = [number or position for position, (_, _, number) in enumerate(found, start=1)]
    count = max(numbers, default=0)
    missing = sorted(set(range(1, count + 1)) - set(numbers))
    if missing:
        raise refusal.parameters(f"the query uses ${count}, but not ${missing[0]}.")
    parts, end = [], 0
    for (start, stop, _), number in zip(found, numbers, strict=True):
        own = f"${number}" if dialect == POSTGRESQL else f":{name_of(number)}"
        parts += [text[end:start], own]
        end = stop + 1
    return "".join([*parts, text[end:]]), count


def _place(token: Token, following: Token | None) -> tuple[int, int, int | None] | None:
    """First and last character of a placeholder, and its number if it has one."""
    adjacent = following is not None and following.start == token.end + 1 and following.token_type is TokenType.NUMBER
    if token.token_type is TokenType.PLACEHOLDER:
        if adjacent:
            raise refusal.parameters("a numbered placeholder is written '$1'.")
        return token.start, token.end, None
    numbered = None
    stop = token.end
    if token.token_type is TokenType.PARAMETER and adjacent and following is not None:
        numbered, stop = _NUMBERED.fullmatch(token.text + following.text), following.end
    elif token.token_type is TokenType.VAR:
        numbered = _NUMBERED.fullmatch(token.text)
    if numbered is not None:
        return token.start, stop, int(numbered[1])
    if token.token_type in _NAMED or (token.token_type is TokenType.VAR and token.text.startswith("$")):
        raise refusal.parameters("placeholders are '?' or '$1', '$2' and so on; they have no names.")
    return None


def check(params: object, count: int, dialect: str) -> list[Any]:
    """What is bound: as many as there are placeholders. Raises Refused for values that are no JSON scalars."""
    if not isinstance(params, list | tuple):
        raise refusal.parameters("they must be an array.")
    if len(params) > MAX_PARAMETERS:
        raise refusal.parameters(f"a query can have {MAX_PARAMETERS}, not {len(params)}.")
    if len(params) != count:
        raise refusal.parameters(f"the query has {count} placeholders, but {len(params)} parameters were given.")
    for number, value in enumerate(params, start=1):
        if isinstance(value, list) and dialect == POSTGRESQL:
            for item in value:
                _check_scalar(item, number)
            types = {type(item) for item in value if item is not None}
            if len(types) > 1 and types != {int, float}:
                raise refusal.parameters(f"the array of ${number} has values of different types.")
        else:
            _check_scalar(value, number)
    return list(params)


def _check_scalar(value: object, number: int) -> None:
    if isinstance(value, str):
        if "\0" in value or not _is_unicode(value):
            raise refusal.parameters(f"${number} is a text with NUL or half a surrogate pair in it.")
    elif isinstance(value, int):
        if not -_MAX_INTEGER <= value < _MAX_INTEGER:
            raise refusal.parameters(f"${number} has more than 64 bits; give it as a text.")
    elif value is not None and not isinstance(value, float):
        raise refusal.parameters(f"${number} is {type(value).__name__}, not text, number, boolean or null.")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
