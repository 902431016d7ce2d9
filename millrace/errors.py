"""What can go wrong for a person, and for the platform.

A `DomainError` is a person's mistake or a rule of the house; each face renders it in its own shape.
A `PlatformError` is ours: a store that does not answer. A failing script is neither, it is a value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Detail:
    """One thing that is wrong: where, with what value (shortened), by which rule."""

    field: str
    message: str
    value: Any = None
    line: int | None = None
    column: int | None = None
    rule: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The detail as JSON, without what was not said."""
        given = {"field": self.field, "message": self.message, "value": shorten(self.value)}
        if self.rule is not None:
            given["rule"] = self.rule
        if self.line is not None:
            given |= {"line": self.line, "column": self.column}
        return given


def shorten(value: Any, limit: int = 120) -> Any:
    """A value that is safe to repeat in a message: long texts are cut, containers are described."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        text = value.encode("utf-8", "backslashreplace").decode("utf-8")
        return text if len(text) <= limit else text[:limit] + "..."
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, Sequence | dict) else type(value).__name__


class DomainError(Exception):
    """A request that cannot be carried out, in words for the person who made it."""

    def __init__(self, message: str, *, details: Sequence[Detail] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)


class Invalid(DomainError):
    """What was sent breaks a rule; names the field, the value and the rule."""

    def __init__(
        self, message: str, *, field: str = "", value: Any = None, details: Sequence[Detail] = ()
    ) -> None:
        if field and not details:
            details = (Detail(field, message, value),)
        super().__init__(message, details=details)
        self.field = field
        self.value = value


class NotFound(DomainError):
    """No such thing in this workspace; another workspace's thing answers the same."""


class Conflict(DomainError):
    """It exists already, or it changed meanwhile."""


class Denied(DomainError):
    """The caller did not prove who they are."""


class Forbidden(DomainError):
    """Who the caller is we know, and they may not do this."""


class Unprocessable(DomainError):
    """Well formed, but a rule of the house forbids it now: for example, the script is not active."""


class NotReady(DomainError):
    """The workspace cannot run scripts at the moment."""


class TooLarge(DomainError):
    """More bytes than the limit; the message names both."""


class TooMany(DomainError):
    """Over a rate or a quota; try again after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PlatformError(Exception):
    """Something of ours failed."""


class Unavailable(PlatformError):
    """A store or service did not answer in time, or answered that it cannot."""


class Missing(Unavailable):
    """The store answers, and does not have what should be there: asking again would not help."""
