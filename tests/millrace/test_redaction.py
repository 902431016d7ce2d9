import base64
import json
import random
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from millrace import codings, redaction
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


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def in_url(text: str) -> str:
    """As encodeURIComponent does it."""
    return quote(text, safe="!'()*")


def inspected(text: str) -> str:
    """As util.inspect writes a string in quotes that it does not hold."""
    short = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", "\\": "\\\\"}
    return "".join(
        short.get(letter) or (f"\\x{ord(letter):02X}" if letter < " " or "\x7f" <= letter < "\xa0" else letter)
        for letter in text
    )


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
    "util.inspect": inspected,
    "util.inspect with all quotes within": lambda value: inspected(value).replace("'", "\\'"),
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


NESTED: dict[str, Callable[[str], str]] = {
    "base64 in a URL": lambda value: in_url(in_base64(value)),
    "base64 in a form": lambda value: urlencode({"": in_base64(value)})[1:],
    "URL-encoded twice": lambda value: in_url(in_url(value)),
    "a form in a URL": lambda value: in_url(quote_plus(value)),
    "JSON in a URL": lambda value: in_url(json.dumps(value)[1:-1]),
    "base64 of a URL": lambda value: in_base64(in_url(value)),
    "base64 of JSON": lambda value: in_base64(json.dumps(value)[1:-1]),
    "base64 of base64": lambda value: in_base64(in_base64(value)),
    "base64 for URLs of base64": lambda value: base64.urlsafe_b64encode(in_base64(value).encode()).decode(),
    "JSON in util.inspect": lambda value: inspected(json.dumps(value)[1:-1]),
    "JSON in util.inspect with all quotes": lambda value: inspected(json.dumps(value)[1:-1]).replace("'", "\\'"),
    "util.inspect in JSON": lambda value: json.dumps(inspected(value))[1:-1],
    "util.inspect twice": lambda value: inspected(inspected(value)),
}


@pytest.mark.parametrize("nesting", NESTED)
def test_an_encoding_within_another_is_masked_whole(nesting: str) -> None:
    spelled = NESTED[nesting](SECRET)
    assert Redactor([SECRET]).mask(f"got <{spelled}>, going on") == "got <***>, going on"


@given(st.sampled_from(sorted(NESTED)), secrets)
@settings(deadline=None)
def test_no_encoding_within_another_survives(nesting: str, secret: str) -> None:
    spelled = NESTED[nesting](secret)
    assume(len(spelled.rstrip("=")) >= len(codings._RUN))
    assert spelled not in Redactor([secret]).mask(f"é {spelled} €")


@given(secrets, st.binary(max_size=4), st.binary(max_size=4), st.binary(max_size=4))
@settings(deadline=None)
def test_no_base64_of_base64_survives_at_any_alignment(
    secret: str, before: bytes, between: bytes, after: bytes
) -> None:
    inner = base64.b64encode(before + secret.encode() + after)
    outer = base64.b64encode(between + inner)
    start = -(-len(between + inner[: -(-len(before) * 8 // 6)]) * 8 // 6)
    end = len(between + inner[: (len(before) + len(secret.encode())) * 8 // 6]) * 8 // 6
    assert outer[start:end].decode() not in Redactor([secret]).mask(f"x: {outer.decode()} :x")


@pytest.mark.parametrize("columns", [64, 76])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\n    ", "\\n", "\\r\\n"])
def test_base64_in_lines_is_masked_over_the_breaks(columns: int, line_end: str) -> None:
    encoded = in_base64("x" * 45 + SECRET + "y" * 100)
    lines = [encoded[at : at + columns] for at in range(0, len(encoded), columns)]
    masked = Redactor([SECRET]).mask(line_end.join(lines))
    assert masked.startswith(encoded[:60] + "***")
    assert masked.split("***")[1].replace(line_end, "") == encoded[60 + -(-len(SECRET.encode()) * 4 // 3) :]


def test_what_inspect_breaks_after_line_breaks_is_masked_also_by_short_lines() -> None:
    secret = 'ab\ncd\nit\'s\n"e"\\f\n'
    printed = """{ key: 'ab\\n' +\n    'cd\\n' +\n    "it's\\n" +\n    '"e"\\\\f\\n' }"""
    assert Redactor([secret]).mask(printed) == "{ key: '***' }"


def test_what_is_around_an_encoding_is_kept_letter_by_letter() -> None:
    redactor = Redactor(["hunter/2!"])
    text = '%7B%22a%22:\\"%68unter%2F2!\\" \\u00e9 ü \\n%C3%BC'
    assert redactor.mask(text) == '%7B%22a%22:\\"***\\" \\u00e9 ü \\n%C3%BC'
    assert redactor.mask("\\\\ \\ud83d\\ude00hunter\\x2f2\\u0021\\ud800") == "\\\\ \\ud83d\\ude00***\\ud800"


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


def test_a_number_that_is_a_value_is_masked_in_json() -> None:
    redactor = Redactor(["48151623", "-2.50e3", "1234567890123456789", "0x10", "0012345", "nan_"])
    value = [48151623, 48151623.0, -2500, 1234567890123456800, 481516, 16, 12345, True, 10**400]
    assert redactor.mask_json(value) == ["***", "***", "***", "***", 481516, 16, "***", True, 10**400]
    assert redactor.mask_json({"pin": 48151623}) == {"pin": "***"}


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


@pytest.mark.parametrize(
    "part", ["\\\\", "%41", "%25", "\\n", "\n", "a" * 76 + "\n", "abcdefghijkl ", "\\' +\n", "\\ud83d"]
)
def test_a_text_full_of_encodings_takes_time_by_its_length_alone(part: str) -> None:
    redactor = Redactor(["hunter2-hunter2", "p4ss/w+rd"])
    taken = []
    for size in (200_000, 2_000_000):
        text = (part * (size // len(part) + 1))[:size]
        begun = time.process_time()
        assert redactor.mask(text) is text
        taken.append(time.process_time() - begun)
    assert taken[1] < 40 * taken[0] + 0.1


@given(st.sampled_from(sorted(SPELLINGS)), secrets, surroundings, surroundings, st.data())
@settings(deadline=None)
def test_a_text_in_pieces_shows_no_more_than_the_whole(
    spelling: str, secret: str, before: str, after: str, data: st.DataObject
) -> None:
    redactor = Redactor([secret, "another-one"])
    whole = before * 10 + SPELLINGS[spelling](secret) + after
    at = data.draw(st.integers(0, len(whole)))
    first, kept = redactor.split(whole[:at])
    assert first + kept == whole[:at]
    assert redactor.mask(first) + redactor.mask(kept + whole[at:]) == redactor.mask(whole)


def test_only_as_much_is_kept_of_a_piece_as_a_form_may_need() -> None:
    text = "é" * 300_000
    first, kept = Redactor(["hunter2-hunter2"]).split(text)
    assert (first + kept, 30 < len(kept) < 200) == (text, True)
    first, kept = Redactor(["x" * 300_000]).split(text)
    assert len(kept) == redaction.MAX_REACH
    assert Redactor([]).split(text) == (text, "")


def test_a_form_that_ends_within_what_is_kept_is_kept_whole() -> None:
    redactor = Redactor(["hunter2-hunter2"])
    for after in range(120):
        first, kept = redactor.split("x" * 1000 + "hunter2-hunter2" + "y" * after)
        assert "hunter2-hunter2" in first or "hunter2-hunter2" in kept


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
