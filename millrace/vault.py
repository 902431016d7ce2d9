"""Secrets at rest: envelope encryption.

A master key, held outside the database, wraps one data key per workspace (AES key wrap, RFC 3394); the data
key seals each value with AES-256-GCM. What is stored is worthless without a master key, a master key is
rotated by wrapping the data keys again without touching a value, and every value is bound to the place that
it belongs to: moved to another workspace, script or name it does not open.

Keeps no state, opens no file and prints no value.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from millrace import errors

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
SEALED_FORMAT = "v1"

Randomness = Callable[[int], bytes]


class VaultError(errors.PlatformError):
    """A key is missing or wrong, or a sealed value was moved or changed. Never carries a value."""


@dataclass(frozen=True)
class DataKey:
    """A workspace's key in the clear; lives only as long as it is used."""

    raw: bytes = field(repr=False)


@dataclass(frozen=True)
class MasterKey:
    """One of the operator's keys, known by the first eight hex digits of its SHA-256."""

    raw: bytes = field(repr=False)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise VaultError(f"a master key must have {KEY_BYTES} bytes, this one has {len(self.raw)}")
        object.__setattr__(self, "id", hashlib.sha256(self.raw).hexdigest()[:8])


class Keyring:
    """The master keys, newest first: the newest wraps, every one of them unwraps."""

    def __init__(self, keys: Sequence[bytes], random: Randomness = os.urandom) -> None:
        if not keys:
            raise VaultError("MILLRACE_SECRET_KEYS must hold at least one master key")
        masters = [MasterKey(key) for key in keys]
        self._newest = masters[0]
        self._by_id = {master.id: master for master in masters}
        if len(self._by_id) != len(masters):
            raise VaultError("MILLRACE_SECRET_KEYS must not hold two keys with the same id")
        self._random = random

    @classmethod
    def parse(cls, text: str, random: Randomness = os.urandom) -> "Keyring":
        """From the setting MILLRACE_SECRET_KEYS: base64 keys of 32 bytes, comma separated, newest first."""
        keys = [_parse_key(part.strip(), place) for place, part in enumerate(text.split(","), start=1)]
        return cls(keys, random)

    @property
    def ids(self) -> tuple[str, ...]:
        """The keys' ids, newest first; safe to show."""
        return tuple(self._by_id)

    def __repr__(self) -> str:
        return f"Keyring(ids={list(self.ids)})"

    def new_data_key(self) -> str:
        """A fresh data key, wrapped: `<id of the master key>.<base64url>`."""
        return _wrap(self._newest, self._random(KEY_BYTES))

    def unwrap(self, wrapped: str) -> DataKey:
        """The data key in the clear; raises VaultError when no master key fits."""
        key_id, _, encoded = wrapped.partition(".")
        master = self._by_id.get(key_id)
        if master is None:
            raise VaultError(
                f"no master key has the id {errors.shorten(key_id, 16)!r};"
                f" those of MILLRACE_SECRET_KEYS are {', '.join(self.ids)}"
            )
        try:
            return DataKey(aes_key_unwrap(master.raw, _decode(encoded)))
        except (InvalidUnwrap, ValueError):
            raise VaultError(f"a data key wrapped under the master key {key_id} was damaged") from None

    def rewrap(self, wrapped: str) -> str:
        """The same data key under the newest master key; the same text if it is there already."""
        key = self.unwrap(wrapped)
        return wrapped if wrapped.startswith(f"{self._newest.id}.") else _wrap(self._newest, key.raw)


def new_master_key(random: Randomness = os.urandom) -> str:
    """A new master key in the form that MILLRACE_SECRET_KEYS takes."""
    return _encode(random(KEY_BYTES))


def binding(workspace: str, script_uuid: str, name: str) -> bytes:
    """The associated data that ties a sealed value to its place.

    JSON rather than joined text, so that no two places can ever read the same.
    """
    return json.dumps([workspace, script_uuid, name]).encode()


def seal(key: DataKey, plaintext: str, aad: bytes, random: Randomness = os.urandom) -> str:
    """Encrypt a value for the place that `aad` names: `v1.<base64url of nonce and ciphertext>`.

    Any string is taken, also one with lone surrogates, as JSON may carry them.
    """
    nonce = random(NONCE_BYTES)
    sealed = AESGCM(key.raw).encrypt(nonce, plaintext.encode("utf-8", "surrogatepass"), aad)
    return f"{SEALED_FORMAT}.{_encode(nonce + sealed)}"


def open_(key: DataKey, sealed: str, aad: bytes) -> str:
    """The value back; raises VaultError if the key, the place or a single bit is not as it was sealed."""
    form, _, encoded = sealed.partition(".")
    if form != SEALED_FORMAT:
        raise VaultError("a sealed value has an unknown format")
    try:
        raw = _decode(encoded)
        plaintext = AESGCM(key.raw).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], aad)
    except (InvalidTag, ValueError):
        raise VaultError("a sealed value does not open: wrong key, moved or damaged") from None
    return plaintext.decode("utf-8", "surrogatepass")


def size_of(sealed: str) -> int:
    """How many bytes the value has in UTF-8, without opening it."""
    encoded = sealed.partition(".")[2].rstrip("=")
    return max(0, len(encoded) * 3 // 4 - NONCE_BYTES - TAG_BYTES)


def _wrap(master: MasterKey, raw: bytes) -> str:
    return f"{master.id}.{_encode(aes_key_wrap(master.raw, raw))}"


def _parse_key(text: str, place: int) -> bytes:
    try:
        raw = _decode(text)
    except ValueError:
        raise VaultError(f"MILLRACE_SECRET_KEYS: key {place} must be base64") from None
    if len(raw) != KEY_BYTES:
        raise VaultError(f"MILLRACE_SECRET_KEYS: key {place} must have {KEY_BYTES} bytes, it has {len(raw)}")
    return raw


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Base64 of either alphabet, padded or not; raises ValueError on anything else."""
    stripped = text.rstrip("=")
    return base64.b64decode(stripped + "=" * (-len(stripped) % 4), altchars=b"-_", validate=True)
