"""From what a request carries to the bytes of a source; and what an entry point names."""

import base64
import binascii
import hashlib
import keyword
import re
import unicodedata

from millrace import errors
from millrace.languages import LanguageName

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


def entry_name(entry_point: str, language: LanguageName = "javascript") -> str:
    """What an entry point names in the main file of a script.

    In JavaScript the path below `module.exports`: `handler` for `exports.handler` and for `handler`; deeper paths
    (`exports.orders.created`) keep their dots. In Python a name of the module: `handler` for `main.handler` and for
    `handler`. Raises `errors.Invalid` when it is neither.
    """
    name = entry_point if isinstance(entry_point, str) else ""
    return _python_name(name, entry_point) if language == "python" else _javascript_name(name, entry_point)


def _javascript_name(name: str, entry_point: object) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    parts = name.split(".")
    if len(name) > _MAX_ENTRY_POINT or not all(_IDENTIFIER.fullmatch(part) for part in parts):
        raise _invalid_entry(entry_point, "an export, as exports.handler does: identifiers joined by dots")
    return name


def _python_name(name: str, entry_point: object) -> str:
    name = unicodedata.normalize("NFKC", name.removeprefix("main."))  # as Python reads every identifier
    if len(name) > _MAX_ENTRY_POINT or not name.isidentifier() or keyword.iskeyword(name):
        raise _invalid_entry(entry_point, "a function of main.py, as handler or main.handler does: one identifier")
    return name


def _invalid_entry(entry_point: object, rule: str) -> errors.Invalid:
    return errors.Invalid(
        f"entry_point {errors.shorten(entry_point)!r} must name {rule}, at most {_MAX_ENTRY_POINT} characters.",
        field="entry_point",
        value=entry_point,
    )


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
