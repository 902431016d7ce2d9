"""Marshmallow fields that are as strict as the API: no text that a store refuses, no number that was not one."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields, validate

_DIGITS = re.compile(r"-?[0-9]{1,18}")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = rf"^(\*\.)?({_LABEL}\.)*[A-Za-z]([A-Za-z0-9_-]{{0,61}}[A-Za-z0-9_])?$"

TIME = {"format": "date-time"}

Data = Mapping[str, Any] | None


class Text(fields.String):
    """Text without NUL and without halves of surrogate pairs: a database could not keep either."""

    def _deserialize(self, value: Any, attr: str | None, data: Data, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise self.make_error("invalid")
        if "\x00" in value or not _encodes(value):
            raise ValidationError("Must be valid Unicode without NUL.")
        return value


def _encodes(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Number(fields.Integer):
    """A whole number: 5 and 5.0 of JSON, and "5" of a query; neither true nor "5" of JSON."""

    def __init__(self, low: int, high: int, *, of_query: bool = False, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(low, high), **kwargs)
        self.of_query = of_query

    def _deserialize(self, value: Any, attr: str | None, data: Data, **kwargs: Any) -> int:
        if self.of_query:
            if not _DIGITS.fullmatch(value):
                raise self.make_error("invalid")
        elif isinstance(value, bool) or not isinstance(value, int | float) or int(value) != value:
            raise self.make_error("invalid")
        return int(value)


class Object(fields.Dict):
    """Any JSON object, passed on as it is."""

    def _deserialize(self, value: Any, attr: str | None, data: Data, **kwargs: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError("Must be a JSON object.")
        return value


class Many(fields.List[Any]):
    """A list of at most so many entries: a longer one is refused before its entries are looked at."""

    def __init__(self, entry: fields.Field[Any], low: int, high: int, **kwargs: Any) -> None:
        self._length = validate.Length(low, high)
        super().__init__(entry, validate=self._length, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Data, **kwargs: Any) -> list[Any]:
        if isinstance(value, list):
            self._length(value)
        return super()._deserialize(value, attr, data, **kwargs)


def one_of(*choices: str) -> validate.OneOf:
    """A validator: one of these words."""
    return validate.OneOf(choices, error="Must be one of: {choices}.")


def an_id() -> fields.String:
    """A shown id of Millrace's own."""
    return fields.String(required=True, metadata={"format": "uuid"})


def a_time(description: str, *, nullable: bool = False) -> fields.String:
    """A shown moment."""
    return fields.String(required=True, allow_none=nullable, metadata={"description": description, **TIME})


def is_address(value: str) -> None:
    """A validator: an IPv4 or IPv6 address."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise ValidationError("Must be an IPv4 or IPv6 address.") from None
    if getattr(address, "scope_id", None) is not None:
        raise ValidationError("Must be an address without a zone.")


def is_host(value: str) -> None:
    """A validator: a host name, `*.` and a host name, or an address."""
    if re.fullmatch(HOST, value):
        return
    try:
        is_address(value)
    except ValidationError:
        raise ValidationError(
            "Must be a host name as api.example.com, *.example.com for all below it, or an IP address."
        ) from None


def extension(description: str, **more: Any) -> dict[str, Any]:
    """The metadata of a field that SmartSuite's own API does not have."""
    return {"x-extension": True, "description": f"Extension. {description}", **more}


def described(description: str, **more: Any) -> dict[str, Any]:
    """The metadata of a field."""
    return {"description": description, **more}
