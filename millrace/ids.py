"""Identifiers: UUIDs of version 7, which sort by time and so keep the indexes of large tables local."""

import os
import secrets
import time
import uuid


def now_ms() -> int:
    """The wall clock in milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """A fresh UUID (RFC 9562, version 7); within one machine they sort by time to a quarter of a microsecond.

    Twelve of the random bits are the fraction of the millisecond, as the RFC's third method has it: runs that
    are accepted in the same millisecond still keep their order.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    return uuid7(milliseconds, (rest * 4096 // 1_000_000).to_bytes(2, "big") + os.urandom(8))


def uuid7(at_ms: int, entropy: bytes) -> str:
    """The version 7 UUID of this millisecond with these ten random bytes."""
    value = (at_ms & ((1 << 48) - 1)) << 80 | int.from_bytes(entropy, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def new_token(size: int = 32) -> str:
    """A random URL-safe secret of `size` bytes."""
    return secrets.token_urlsafe(size)
