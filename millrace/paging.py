"""Pages of a list, newest first: where the next one begins, and what comes after a place."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import peewee

Position = tuple[int, str]  # created_at, and the id that breaks ties

R = TypeVar("R")


def older(created_at: peewee.Field, tie: peewee.Field, than: Position) -> peewee.Expression:
    """The condition for rows that come after this place."""
    moment, key = than
    return (created_at < moment) | ((created_at == moment) & (tie < key))


def cut(rows: Sequence[R], size: int, position: Callable[[R], Position]) -> tuple[list[R], Position | None]:
    """The page of `size` rows, and where the next one begins: `rows` has one row more if there is one."""
    page = list(rows[:size])
    return page, position(page[-1]) if len(rows) > size else None
