import base64
import os
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import vault

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
HERE = vault.binding("acme", "7a1d", "TOKEN")


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


@pytest.fixture
def key() -> vault.DataKey:
    keyring = vault.Keyring([NEW])
    return keyring.unwrap(keyring.new_data_key())


@given(st.text(), st.text(), st.text(), st.text())
@settings(deadline=None)
def test_what_was_sealed_opens_at_the_same_place(value: str, workspace: str, script: str, name: str) -> None:
    key, place = vault.DataKey(os.urandom(32)), vault.binding(workspace, script, name)
    assert vault.open_(key, vault.seal(key, value, place), place) == value


@pytest.mark.parametrize("value", ["", "\x00", "\ud800", "пароль", "x" * 100_000, '{"a": 1}'])
def test_any_string_survives_sealing(key: vault.DataKey, value: str) -> None:
    assert vault.open_(key, vault.seal(key, value, HERE), HERE) == value


@pytest.mark.parametrize(
    "place",
    [
        vault.binding("other", "7a1d", "TOKEN"),
        vault.binding("acme", "7a1e", "TOKEN"),
        vault.binding("acme", "7a1d", "TOKEN2"),
        vault.binding("7a1d", "acme", "TOKEN"),
        b"",
    ],
)
def test_a_value_moved_to_another_place_does_not_open(key: vault.DataKey, place: bytes) -> None:
    sealed = vault.seal(key, "hunter2", HERE)
    with pytest.raises(vault.VaultError, match="does not open"):
        vault.open_(key, sealed, place)


def test_two_places_never_read_the_same() -> None:
    places = [
        ("a|b", "c", "d"),
        ("a", "b|c", "d"),
        ("a", "b", "c|d"),
        ('a","b', "c", "d"),
        ("a", 'b","c', "d"),
    ]
    assert len({vault.binding(*place) for place in places}) == len(places)


def test_a_single_changed_bit_is_noticed(key: vault.DataKey) -> None:
    sealed = vault.seal(key, "hunter2", HERE)
    raw = base64.urlsafe_b64decode(sealed.removeprefix("v1.") + "==")
    for position in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(vault.VaultError):
            vault.open_(key, "v1." + encode(bytes(changed)), HERE)


@pytest.mark.parametrize("sealed", ["", "v1", "v1.", "v1.AAAA", "v1.é", "v1.\ud800", "v2.AAAA", "v1.!!!!", "v1.A"])
def test_what_was_never_sealed_does_not_open(key: vault.DataKey, sealed: str) -> None:
    with pytest.raises(vault.VaultError):
        vault.open_(key, sealed, HERE)


def test_the_same_value_never_looks_the_same_twice(key: vault.DataKey) -> None:
    assert vault.seal(key, "hunter2", HERE) != vault.seal(key, "hunter2", HERE)


def test_randomness_is_the_callers_to_give() -> None:
    counter = count()
    keyring = vault.Keyring([NEW], random=lambda size: bytes([next(counter)]) * size)
    key = keyring.unwrap(keyring.new_data_key())
    assert key.raw == b"\x00" * 32
    assert vault.seal(key, "a", HERE, random=bytes) == vault.seal(key, "a", HERE, random=bytes)


def test_every_key_of_the_ring_unwraps_and_the_newest_wraps() -> None:
    old, both = vault.Keyring([OLD]), vault.Keyring([NEW, OLD])
    wrapped = old.new_data_key()
    assert both.unwrap(wrapped) == old.unwrap(wrapped)
    assert both.new_data_key().startswith(both.ids[0] + ".")


def test_after_rewrapping_the_old_key_can_be_dropped() -> None:
    old, both, new = vault.Keyring([OLD]), vault.Keyring([NEW, OLD]), vault.Keyring([NEW])
    wrapped = old.new_data_key()
    sealed = vault.seal(old.unwrap(wrapped), "hunter2", HERE)
    rewrapped = both.rewrap(wrapped)
    assert rewrapped != wrapped
    assert vault.open_(new.unwrap(rewrapped), sealed, HERE) == "hunter2"
    assert new.rewrap(rewrapped) == rewrapped


def test_a_missing_master_key_is_named_by_its_id() -> None:
    old, new = vault.Keyring([OLD]), vault.Keyring([NEW])
    for attempt in (new.unwrap, new.rewrap):
        with pytest.raises(vault.VaultError, match=old.ids[0]):
            attempt(old.new_data_key())


@pytest.mark.parametrize("tail", ["", "AAAA", "!", "é"])
def test_a_damaged_data_key_is_refused(tail: str) -> None:
    keyring = vault.Keyring([NEW])
    for wrapped in (f"{keyring.ids[0]}.{tail}", keyring.new_data_key()[:-8] + tail, tail):
        with pytest.raises(vault.VaultError):
            keyring.unwrap(wrapped)


def test_the_setting_is_read_newest_first_padded_or_not() -> None:
    keyring = vault.Keyring.parse(f"{encode(NEW)}, {encode(OLD).rstrip('=')}")
    assert keyring.ids == vault.Keyring([NEW, OLD]).ids
    assert vault.Keyring.parse(vault.new_master_key()).ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "key 1 must have 32 bytes, it has 0"),
        (encode(NEW) + ",", "key 2 must have 32 bytes"),
        (encode(NEW[:31]), "key 1 must have 32 bytes, it has 31"),
        (f"{encode(NEW)},not/a key!", "key 2 must be base64"),
        ("ключ", "key 1 must be base64"),
        (f"{encode(NEW)},{encode(NEW)}", "two keys with the same id"),
    ],
)
def test_a_wrong_setting_is_one_sentence_without_the_key(text: str, message: str) -> None:
    with pytest.raises(vault.VaultError, match=message) as caught:
        vault.Keyring.parse(text)
    assert encode(NEW).rstrip("=") not in str(caught.value)


def test_a_ring_needs_a_key() -> None:
    with pytest.raises(vault.VaultError, match="at least one"):
        vault.Keyring([])


def test_no_key_shows_when_printed() -> None:
    keyring = vault.Keyring([NEW, OLD])
    key = keyring.unwrap(keyring.new_data_key())
    for shown in (repr(keyring), str(keyring), repr(key), repr(vault.MasterKey(NEW))):
        assert repr(NEW)[2:-1] not in shown
        assert repr(key.raw)[2:-1] not in shown
        assert encode(NEW) not in shown
