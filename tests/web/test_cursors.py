import uuid

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from millrace.errors import Invalid
from web import cursors

_NUMBERS = st.integers(0, 2**63 // 1_000_000 - 1)
_IDS = st.uuids().map(str)


@given(st.text(), _NUMBERS, _IDS)
def test_a_cursor_leads_back_to_its_place(listing: str, number: int, tie: str) -> None:
    cursor = cursors.encode(listing, (number, tie))
    assert cursor is not None
    assert cursor.isascii()
    assert len(cursor) < 100
    assert cursors.decode(listing, cursor) == (number, tie)


def test_no_place_has_no_cursor() -> None:
    assert cursors.encode("x", None) is None
    assert cursors.decode("x", None) is None


@given(_NUMBERS, _IDS, st.data())
def test_a_changed_cursor_is_refused(number: int, tie: str, data: st.DataObject) -> None:
    cursor = cursors.encode("list", (number, tie))
    assert cursor is not None
    place = data.draw(st.integers(0, len(cursor) - 1))
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=. \0\u00e9"))
    changed = cursor[:place] + letter + cursor[place + 1 :]
    assume(changed != cursor)
    with pytest.raises(Invalid):
        cursors.decode("list", changed)


@given(st.text(max_size=100))
def test_text_that_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        cursors.decode("list", text)
    assert refused.value.field == "cursor"


@given(_NUMBERS, _IDS, st.text(max_size=20), st.text(max_size=20))
def test_a_cursor_of_another_list_is_refused(number: int, tie: str, one: str, other: str) -> None:
    assume(one != other)
    with pytest.raises(Invalid):
        cursors.decode(other, cursors.encode(one, (number, tie)))


def test_a_cursor_holds_no_padding_and_no_more_than_it_needs() -> None:
    cursor = cursors.encode("list", (1, str(uuid.uuid4())))
    assert cursor is not None
    for longer in (cursor + "=", cursor + "A", cursor + "\n", " " + cursor):
        with pytest.raises(Invalid):
            cursors.decode("list", longer)
