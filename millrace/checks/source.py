"""From what a request carries to the bytes of a source; and what an entry point names."""

import base64
import binascii
import hashlib
import re

from millrace import errors

MAX_SOURCE_BYTES = 5 * 1024 * 1024

_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")
_HASH = re.compile(r"[0-9a-fA-F]{64}")
_PREFIXES = ("module.exports.", "exports.")
_IDENTIFIER = re.compile(r"[^\W\d][\w$\u200c\u200d]*|[$][\w$\u200c\u200d]*")
_MAX_ENTRY_POINT = 200


def decode_content(script_content: str, script_hash: str, *, limit: int = MAX_SOURCE_BYTES) -> bytes:
    """The source that `script_content` holds in base64.

    Line breaks as the shell's `base64` makes them are ignored. `script_hash` is the SHA-256 of the decoded
    bytes, in hexadecimal, in any case. Raises `errors.Invalid`, naming field, value and rule.
    """
    source = _decode_base64(script_content, limit)
    if len(source) > limit:
        raise _too_large(script_content, f"is {len(source)} bytes", limit)
    _check_hash(source, script_hash)
    _check_text(source)
    return source


def entry_name(entry_point: str) -> str:
    """The path below `module.exports` of an entry point: `handler` for `exports.handler` and for `handler`.

    Deeper paths (`exports.orders.created`) keep their dots. Raises `errors.Invalid` when it is no path of
    identifiers.
    """
    name = entry_point if isinstance(entry_point, str) else ""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    parts = name.split(".")
    if len(name) > _MAX_ENTRY_POINT or not all(_IDENTIFIER.fullmatch(part) for part in parts):
        raise errors.Invalid(
            f"entry_point {errors.shorten(entry_point)!r} must name an export, as exports.handler does: "
            f"identifiers joined by dots, at most {_MAX_ENTRY_POINT} characters.",
            field="entry_point",
            value=entry_point,
        )
    return name


def _decode_base64(content: str, limit: int) -> bytes:
    if not isinstance(content, str):
        raise _invalid_content(content, "must be a string of base64")
    # Before any work on it: nothing that decodes within the limit is longer, line breaks included.
    if len(content) > limit * 2 + 1024:
        raise _too_large(content, f"is {len(content)} characters of base64", limit)
    packed = content.replace("\r", "").replace("\n", "")
    stray = _NOT_BASE64.search(packed)
    if stray:
        raise _invalid_content(
            content,
            f"is not base64: {stray.group().encode('unicode_escape').decode()!r} is not in its alphabet",
        )
    try:
        source = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        raise _invalid_content(
            content, "is not base64: its length and padding ('=' at the end only) do not fit"
        ) from None
    if base64.b64encode(source).decode() != packed:
        raise _invalid_content(content, "is not base64: its last characters carry bits that belong to no byte")
    return source


def _check_hash(source: bytes, script_hash: str) -> None:
    if not isinstance(script_hash, str) or not _HASH.fullmatch(script_hash):
        raise errors.Invalid(
            f"script_hash {errors.shorten(script_hash)!r} must be a SHA-256 as 64 hexadecimal digits.",
            field="script_hash",
            value=script_hash,
        )
    actual = hashlib.sha256(source).hexdigest()
    if actual != script_hash.lower():
        raise errors.Invalid(
            f"script_hash {script_hash!r} is not the SHA-256 of the decoded source, which is {actual!r}. "
            "Hash the raw source, not its base64.",
            field="script_hash",
            value=script_hash,
        )


def text_problem(source: bytes) -> tuple[int, str] | None:
    """Where and why a source is no text; None when it is UTF-8 without NUL."""
    try:
        source.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start, f"must be UTF-8 text: its byte {error.start}, 0x{source[error.start]:02x}, is not"
    nul = source.find(b"\0")
    return (nul, f"must be text without NUL: its byte {nul} is one") if nul >= 0 else None


def _check_text(source: bytes) -> None:
    problem = text_problem(source)
    if problem is not None:
        at, rule = problem
        raise _invalid_content(source[at : at + 8].hex(" "), f"decodes to a source that {rule}")


def _invalid_content(value: object, rule: str) -> errors.Invalid:
    return errors.Invalid(f"script_content {rule}.", field="script_content", value=value)


def _too_large(content: str, size: str, limit: int) -> errors.Invalid:
    return _invalid_content(content, f"{size}, over the limit of {limit} bytes of source")
