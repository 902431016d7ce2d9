import base64
import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from millrace import redaction
from millrace.redaction import Redactor

SECRET = "p4ss/w+rd \"ünï~=&\\ %41!'()*$,[]:;@?#"

# No asterisks, so that a mask and its neighbours cannot spell a value that was never there.
letters = st.characters(exclude_characters="*", exclude_categories=["Cs"])
secrets = st.text(letters, min_size=redaction.MIN_LENGTH, max_size=40).filter(
    lambda value: value.lower() not in redaction.COMMON and not value.isspace()
)
surroundings = st.text(letters, max_size=30)


def any_case(text: str) -> str:
    """Hex digits of %XX and \\uXXXX and of plain hex in a case chosen by chance."""
    chance = random.Random(text)
    return "".join(chance.choice((letter.lower(), letter.upper())) for letter in text)


def escape_percents(quoted: str) -> str:
    parts = quoted.split("%")
    return parts[0] + "".join("%" + any_case(part[:2]) + part[2:] for part in parts[1:])


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "quote": quote,
    "quote everything": lambda value: quote(value, safe=""),
    "quote_plus": quote_plus,
    "quote in mixed case": lambda value: escape_percents(quote(value)),
    "encodeURIComponent": lambda value: quote(value, safe="!'()*"),
    "encodeURI": lambda value: quote(value, safe=";,/?:@&=+$#!'()*"),
    "axios": lambda value: quote(value, safe=":$,[]!'()* ").replace(" ", "+"),
    "URLSearchParams": lambda value: quote(value, safe="* ").replace("~", "%7E").replace(" ", "+"),
    "query string": lambda value: urlencode({"k": value}).removeprefix("k="),
    "JSON": lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
    "JSON in ASCII": lambda value: json.dumps(value)[1:-1],
    "JSON in JSON": lambda value: json.dumps(json.dumps(value))[3:-3],
    "hex": lambda value: value.encode().hex(),
    "hex in mixed case": lambda value: any_case(value.encode().hex()),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_masked_whole(spelling: str) -> None:
    spelled = SPELLINGS[spelling](SECRET)
    assert Redactor([SECRET]).mask(f"got {spelled}, going on") == "got ***, going on"


def test_what_json_escapes_is_masked_however_often_it_was_escaped() -> None:
    secret = 'a"b\\c/d\ne'
    redactor = Redactor([secret])
    once, twice = json.dumps([secret]), json.dumps([json.dumps([secret])])
    assert redactor.mask(once) == '["***"]'
    assert redactor.mask(twice) == '["[\\"***\\"]"]'
    assert redactor.mask(once.replace("/", "\\/")) == '["***"]'


@given(st.sampled_from(sorted(SPELLINGS)), secrets, surroundings, surroundings)
@settings(deadline=None)
def test_no_spelling_survives_in_any_text(spelling: str, secret: str, before: str, after: str) -> None:
    spelled = SPELLINGS[spelling](secret)
    assert spelled not in Redactor([secret]).mask(before + spelled + after)


@given(secrets, st.binary(max_size=7), st.binary(max_size=7), st.booleans(), st.booleans())
@settings(deadline=None)
def test_no_base64_survives_at_any_alignment(
    secret: str, before: bytes, after: bytes, urlsafe: bool, padded: bool
) -> None:
    raw = secret.encode()
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    encoded = encode(before + raw + after).decode()
    telling = encoded[-(-len(before) * 8 // 6) : (len(before) + len(raw)) * 8 // 6]
    masked = Redactor([secret]).mask(f"x: {encoded if padded else encoded.rstrip('=')} :x")
    assert telling not in masked
    assert masked.startswith("x: ")
    assert masked.endswith(" :x")


@pytest.mark.parametrize("length", range(4, 12))
@pytest.mark.parametrize("padded", [True, False])
def test_a_value_in_base64_alone_leaves_only_the_mask(length: int, padded: bool) -> None:
    secret = "~>?x~>?y~>?z"[:length]
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(secret.encode()).decode()
        assert Redactor([secret]).mask(f"<{encoded if padded else encoded.rstrip('=')}>") == "<***>"


@pytest.mark.parametrize(("before", "kept"), [(b"", 0), (b"a", 1), (b"ab", 2), (b"abc", 4)])
def test_letters_of_base64_that_hold_some_bits_of_a_value_are_masked(before: bytes, kept: int) -> None:
    encoded = base64.b64encode(before + b"hunter2").decode()
    assert Redactor(["hunter2"]).mask(encoded) == encoded[:kept] + "***"


def test_a_password_in_basic_auth_is_masked() -> None:
    header = base64.b64encode(b"alice:hunter2-hunter2").decode()
    masked = Redactor(["hunter2-hunter2"]).mask(f"Authorization: Basic {header}")
    assert masked.startswith("Authorization: Basic ")
    assert masked.endswith("***")
    assert base64.b64encode(b"hunter2-hunter2").decode()[:8] not in masked


def test_a_value_that_btoa_encodes_by_letter_is_masked() -> None:
    assert Redactor(["pässwörd"]).mask(base64.b64encode("pässwörd".encode("latin-1")).decode()) == "***"


@given(st.lists(secrets, max_size=5), surroundings)
@settings(deadline=None)
def test_no_value_of_many_survives(values: list[str], text: str) -> None:
    mixed = text.join(values)
    masked = Redactor(values).mask(mixed)
    for value in values:
        assert value not in masked


@given(st.lists(secrets, max_size=3), st.text(letters))
@settings(deadline=None)
def test_a_text_without_secrets_is_returned_as_it_is(values: list[str], text: str) -> None:
    assume(not any(value[0] in text for value in values))
    redactor = Redactor(values)
    masked = redactor.mask(text)
    # Base64 and hex of a value may well be in a random text; the mask says when they were.
    assert masked == text or "***" in masked
    assert Redactor([]).mask(text) is text


def test_an_innocent_text_is_the_very_same_object() -> None:
    text = "2026-11-22 INFO order 17 created in 12 ms, naïve ☃"
    assert Redactor([SECRET, "another-one"]).mask(text) is text


def test_the_longer_of_two_values_is_masked_whole() -> None:
    assert Redactor(["token", "token-with-tail"]).mask("token-with-tail token") == "*** ***"


def test_overlapping_values_become_one_mask() -> None:
    assert Redactor(["abcdef", "defghi"]).mask("1abcdefghi2") == "1***2"


def test_values_side_by_side_are_masked_each() -> None:
    assert Redactor(["abcd", "wxyz"]).mask("abcdwxyz") == "******"


@pytest.mark.parametrize("value", ["", "a", "abc", "true", "NULL", "undefined", "    ", "\n\n\n\n\n"])
def test_short_and_common_values_are_left_alone(value: str) -> None:
    text = f"[{value}] true NULL undefined abc"
    assert Redactor([value]).mask(text) == text


def test_a_multi_line_value_is_masked_whole_and_by_line() -> None:
    key = "-----BEGIN KEY-----\r\nMIIEvQIBADANBg\n  indented/line\n\nshort\n-----END KEY-----\n"
    redactor = Redactor([key])
    assert redactor.mask(f"key={key}.") == "key=***."
    assert redactor.mask(json.dumps({"key": key})) == '{"key": "***"}'
    assert redactor.mask("line: MIIEvQIBADANBg") == "line: ***"
    assert redactor.mask("line: indented/line, short") == "line: ***, short"


def test_a_value_with_a_trailing_line_break_is_masked_without_it() -> None:
    assert Redactor(["hunter2\n"]).mask("it is hunter2!") == "it is ***!"


def test_case_matters_for_the_value_itself() -> None:
    assert Redactor(["Hunter2"]).mask("hunter2 Hunter2") == "hunter2 ***"


def test_lower_case_that_is_longer_moves_nothing() -> None:
    assert Redactor(["k/k\u0130k"]).mask("\u0130\u0130 k%2fk%C4%b0k \u0130") == "\u0130\u0130 *** \u0130"


def test_lone_surrogates_are_masked_as_written_and_as_printed() -> None:
    redactor = Redactor(["pass\ud800word"])
    assert redactor.mask("a pass\ud800word b pass\ufffdword \udfff") == "a *** b *** \udfff"
    assert redactor.mask(base64.b64encode("pass\ufffdword".encode()).decode()) == "***"


def test_bytes_are_masked_though_they_are_broken_elsewhere() -> None:
    redactor = Redactor(["pässword"])
    assert redactor.mask_bytes("\xff".encode("latin-1") + "pässword".encode()) == b"\xff***"
    innocent = b"\xff\xfe nothing"
    assert redactor.mask_bytes(innocent) is innocent


def test_strings_and_keys_of_json_are_masked_and_the_original_is_kept() -> None:
    value = {"a": ["hunter2!", 1, None, True, {"hunter2!": "x hunter2! y"}], "b": 1.5}
    before = json.dumps(value)
    masked = Redactor(["hunter2!"]).mask_json(value)
    assert masked == {"a": ["***", 1, None, True, {"***": "x *** y"}], "b": 1.5}
    assert json.dumps(value) == before


@pytest.mark.parametrize(("value", "masked"), [("hunter2!", "***"), (7, 7), (None, None), ([], []), ({}, {})])
def test_a_bare_json_value_is_masked(value: Any, masked: Any) -> None:
    assert Redactor(["hunter2!"]).mask_json(value) == masked


def test_json_of_any_depth_is_masked() -> None:
    value: Any = "hunter2!"
    for _ in range(50_000):
        value = [{"k": value}]
    masked = Redactor(["hunter2!"]).mask_json(value)
    for _ in range(50_000):
        masked = masked[0]["k"]
    assert masked == "***"


def test_no_value_shows_when_printed() -> None:
    redactor = Redactor(["hunter2-hunter2"])
    assert "hunter2" not in repr(redactor) + str(redactor)


def test_a_repetitive_text_against_a_repetitive_value_ends() -> None:
    redactor = Redactor(["a" * 50_000 + "b"])
    text = "a" * 5_000_000
    assert redactor.mask(text) is text


def test_the_forms_are_bounded_and_whole_values_and_long_lines_come_first() -> None:
    lines = [f"line-{number:05}" + "+" * (number % 50) for number in range(3000)]
    redactor = Redactor(["\n".join(lines), "p4ss/w+rd"])
    assert len(redactor._exact) + len(redactor._folded) + len(redactor._base64) <= redaction.MAX_FORMS
    assert redactor.mask("\n".join(lines)) == "***"
    assert redactor.mask(f"p4ss/w+rd {base64.b64encode(b'p4ss/w+rd').decode()}") == "*** ***"
    assert redactor.mask(lines[49]) == "***"
    assert redactor.mask(lines[50]) == lines[50]  # the shortest are let go


def test_a_hundred_ordinary_values_keep_all_their_forms() -> None:
    values = [f"{'0123456789abcdef' * 2}/{number}+x=" for number in range(100)]
    redactor = Redactor(values)
    for value in values:
        for spelling in SPELLINGS.values():
            assert redactor.mask(f"<{spelling(value)}>") == "<***>"


def test_many_texts_are_masked_each_also_if_they_hold_what_stands_between_them() -> None:
    redactor = Redactor(["hunter2!"])
    for texts in ([], [""], ["a", "hunter2!", ""], ["a\x1e\x00\x1eb", "hunter2!"], ["hunt", "er2!"]):
        assert redactor.mask_all(texts) == [redactor.mask(text) for text in texts]
