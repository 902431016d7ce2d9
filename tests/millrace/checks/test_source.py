"""From script_content and script_hash to the bytes of a source."""

import base64
import hashlib

import pytest

from millrace import errors
from millrace.checks import MAX_SOURCE_BYTES, check_source, decode_content

SOURCE = b"exports.handler = async () => 'gr\xc3\xbc\xc3\x9fe';\n"


def encoded(source: bytes) -> str:
    return base64.b64encode(source).decode()


def digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()


def refused(content: object, script_hash: object, **changes: int) -> errors.Invalid:
    with pytest.raises(errors.Invalid) as caught:
        decode_content(content, script_hash, **changes)  # type: ignore[arg-type]
    return caught.value


def test_a_source_comes_back_byte_for_byte() -> None:
    assert decode_content(encoded(SOURCE), digest(SOURCE)) == SOURCE


def test_an_empty_source_is_a_source() -> None:
    assert decode_content("", digest(b"")) == b""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_as_the_shell_command_breaks_them_are_accepted(end: str) -> None:
    source = SOURCE * 10
    content = base64.encodebytes(source).decode().replace("\n", end)
    assert decode_content(content, digest(source)) == source


def test_the_hash_may_be_in_capitals() -> None:
    assert decode_content(encoded(SOURCE), digest(SOURCE).upper()) == SOURCE


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("YWJj!", "'!' is not in its alphabet"),
        ("YW Jj", "' ' is not in its alphabet"),
        ("YWJj-_", "'-' is not in its alphabet"),
        ("YWJj\0", "is not in its alphabet"),
        ("YWJjé", "is not in its alphabet"),
        ("YWJj\ud800", "is not in its alphabet"),
        ("YWI", "padding"),
        ("YWI==", "padding"),
        ("Y", "padding"),
        ("=", "padding"),
        ("YW=I", "padding"),
        ("YWI=YWI=", "padding"),
        ("YWJ=", "bits that belong to no byte"),
        (None, "must be a string"),
        (5, "must be a string"),
    ],
)
def test_what_is_no_base64_is_refused_by_name(content: object, part: str) -> None:
    error = refused(content, digest(b"ab"))
    assert error.field == "script_content"
    assert part in error.message


@pytest.mark.parametrize("script_hash", ["", "abc", "g" * 64, "0" * 63, "0" * 65, None, 5, "٠" * 64])
def test_what_is_no_hash_is_refused_by_name(script_hash: object) -> None:
    error = refused(encoded(SOURCE), script_hash)
    assert error.field == "script_hash"
    assert "64 hexadecimal digits" in error.message


def test_the_hash_of_the_base64_is_refused_with_advice() -> None:
    content = encoded(SOURCE)
    error = refused(content, digest(content.encode()))
    assert error.field == "script_hash"
    assert digest(SOURCE) in error.message
    assert "Hash the raw source" in error.message


def test_the_limit_is_on_the_decoded_bytes() -> None:
    assert MAX_SOURCE_BYTES == 5 * 1024 * 1024
    source = b"a" * 1000
    assert decode_content(encoded(source), digest(source), limit=1000) == source
    assert "is 1000 bytes, over the limit of 999" in refused(encoded(source), digest(source), limit=999).message


def test_a_huge_content_is_refused_before_it_is_decoded_and_is_not_repeated() -> None:
    error = refused("A" * (MAX_SOURCE_BYTES * 3), digest(b""))
    assert "over the limit of 5242880 bytes" in error.message
    assert len(str(error.details[0].as_dict())) < 500


@pytest.mark.parametrize(
    ("source", "part"),
    [(b"a\xff", "UTF-8"), (b"\xed\xa0\x80", "UTF-8"), (b"a\0b", "NUL"), (b"\xff\xfea\0", "UTF-8")],
)
def test_a_source_that_is_no_text_is_refused(source: bytes, part: str) -> None:
    error = refused(encoded(source), digest(source))
    assert error.field == "script_content"
    assert part in error.message
    findings = check_source(source, runtime="nodejs20", entry_point="handler", modules=frozenset())
    assert [finding.rule for finding in findings] == ["encoding"]
