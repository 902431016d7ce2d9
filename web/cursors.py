"""Cursors: opaque text for a place in a list. They hold no secret; the checksum tells a damaged or foreign one."""

import base64
import binascii
import hashlib
import struct
import uuid

from millrace.errors import Invalid
from millrace.paging import Position

_FORMAT = struct.Struct(">Bq16s4s")
_EDITION = 1
_NS_PER_MS = 1_000_000


def encode(listing: str, position: Position | None) -> str | None:
    """The cursor of this place in this listing; None, the end, stays None."""
    if position is None:
        return None
    number, tie = position
    body = number * _NS_PER_MS, uuid.UUID(tie).bytes
    packed = _FORMAT.pack(_EDITION, *body, _checksum(listing, *body))
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode(listing: str, cursor: str | None) -> Position | None:
    """The place again. Raises Invalid for a cursor that this listing did not give."""
    if cursor is None:
        return None
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        edition, nanoseconds, tie, checksum = _FORMAT.unpack(packed)
    except (binascii.Error, ValueError, struct.error):
        raise _foreign(cursor) from None
    position = nanoseconds // _NS_PER_MS, str(uuid.UUID(bytes=tie))
    whole = edition == _EDITION and checksum == _checksum(listing, nanoseconds, tie)
    if not whole or encode(listing, position) != cursor:
        raise _foreign(cursor)
    return position


def _checksum(listing: str, nanoseconds: int, tie: bytes) -> bytes:
    return hashlib.sha256(f"{listing}\n{nanoseconds}\n".encode() + tie).digest()[:4]


def _foreign(cursor: str) -> Invalid:
    return Invalid("cursor must be a next_cursor of this same list.", field="cursor", value=cursor)
