"""Keeps secret values out of logs, errors and results, also when they appear encoded.

Masked as `***`, wherever they stand in a text: the value itself; base64 at any alignment, so also within the
encoding of a longer text (`user:secret`), of both alphabets, padded or not; URL-encoded in the flavours of
Python, JavaScript and axios; escaped for JSON, once or twice, and as Node's `util.inspect` prints strings; hex.
Hex digits match in any case. Of a value with several lines, each line of at least 8 characters is masked by
itself too.

Encodings within each other are found by reading the text once more, decoded: what is URL-encoded, escaped with
backslashes or in base64 is decoded, base64 in lines is joined, and each reading is searched for all of the above.
So base64 in a URL, JSON in a URL, a URL-encoded value in base64 or base64 twice need no forms of their own, which
every text would have to be searched for: only what reads as encoded is searched once more.

At most 2,000 forms are sought, so that one script's secrets do not make masking slow for every other's: first
each value as it is, then its encodings, at last the lines, longest first. A hundred ordinary values have fewer;
what is cut is the shortest lines of long texts, or the rarest encodings of many odd values.

Left alone, because masking them would make logs unreadable and hide nothing: values of fewer than 4
characters and a few words of every log (`true`, `null`, ...). A value that the script cuts, reverses or
encrypts is out of reach: this is a guard against accidents.

The search is one `bytes.find` per form of a value, not a regular expression. It skips through the text and is
linear whatever value and text are, while an alternation of the same forms tries each of them at every letter:
with the 74 forms of ten values 6 MB/s (20 MB/s with a prefix tree and look-ahead) against more than 50 MB/s. Lines
full of ids and paths, which may be base64, are masked at 30 MB/s, and lines full of escapes at 20 MB/s.
UTF-8 keeps that speed for every script, and its lower case moves no letter from its place.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from millrace.codings import BASE64_LETTERS, BETWEEN, CODINGS, Coding

MASK = b"***"
MIN_LENGTH = 4
MIN_LINE_LENGTH = 8
MAX_FORMS = 2000
MAX_REACH = 256 * 1024  # of a text that goes on elsewhere, about so many characters wait for the rest at most
COMMON = frozenset({"true", "false", "null", "none", "undefined", "info", "warn", "error", "debug"})

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)

# What each encoder leaves as it is, beside letters, digits and `_.-~`.
_URL_SAFE = (
    "",  # urllib's quote_plus and the strictest of the others
    "/",  # urllib's quote
    "!'()*",  # encodeURIComponent
    ";,/?:@&=+$#!'()*",  # encodeURI
    ":$,[]!'()*",  # axios
    "*",  # URLSearchParams and HTML forms
)

Hits = Iterator[tuple[int, int]]
_Form = TypeVar("_Form")


@dataclass(frozen=True)
class _Base64:
    """The letters that no neighbour changes, and on which sides stands one that a neighbour shares."""

    core: bytes
    open_left: bool
    open_right: bool


class Redactor:
    """Masks a fixed set of secret values. Never shows them itself."""

    def __init__(self, values: Iterable[str]) -> None:
        forms = _Forms()
        forms.add_all(values)
        self._exact = tuple(forms.exact)
        self._folded = tuple(forms.folded - forms.exact)
        self._base64 = tuple((form.core, form) for form in forms.encoded)
        self._numbers = frozenset(forms.numbers)
        # Twice the longest form: an encoding of an encoding is longer than any of them.
        self._reach = min(2 * forms.longest, MAX_REACH)

    def mask(self, text: str) -> str:
        """The text with every form of every value replaced; forms that overlap become one mask."""
        data = text.encode("utf-8", "surrogatepass")
        masked = self.mask_bytes(data)
        return text if masked is data else masked.decode("utf-8", "surrogatepass")

    def mask_all(self, texts: list[str]) -> list[str]:
        """Each of the texts as `mask` gives it, in one search through all of them."""
        masked = self.mask(BETWEEN.join(texts)).split(BETWEEN)
        # A text that holds the separator itself takes the slow way.
        return masked if len(masked) == len(texts) else [self.mask(text) for text in texts]

    def mask_bytes(self, data: bytes) -> bytes:
        """The same for UTF-8, which may be broken elsewhere; the very same object if nothing was found."""
        pieces = []
        masked_to = 0
        for start, end in sorted(self._hits(data)):
            if start >= masked_to:
                pieces += [data[masked_to:start], MASK]
            masked_to = max(masked_to, end)
        return b"".join([*pieces, data[masked_to:]]) if pieces else data

    def split(self, text: str) -> tuple[str, str]:
        """Cuts a text that goes on elsewhere: no form stands across the cut, or begins before it and goes on.

        The second part is to be put before what follows. It is at most twice as long as the redactor can reach.
        """
        window = text[-2 * self._reach :] if self._reach else ""
        data = window.encode("utf-8", "surrogatepass")
        wanted = len(window[: -self._reach].encode("utf-8", "surrogatepass")) if self._reach else 0
        cut = min((start for start, end in self._hits(data) if start < wanted < end), default=wanted)
        kept = len(data[cut:].decode("utf-8", "surrogatepass"))
        return text[: len(text) - kept], text[len(text) - kept :]

    def mask_json(self, value: Any) -> Any:
        """A copy of a JSON value, of any depth, with its strings, its keys and numbers that are values masked.

        Keys that become the same collapse into one.
        """
        texts = list(dict.fromkeys(_texts_within(value)))
        masked = dict(zip(texts, self.mask_all(texts), strict=True)) if texts else {}
        holder = [value]
        pending: list[Any] = [holder]
        while pending:
            container = pending.pop()
            for key, item in enumerate(container) if isinstance(container, list) else list(container.items()):
                if isinstance(item, str):
                    container[key] = masked[item]
                elif self._is_number(item):
                    container[key] = MASK.decode()
                elif isinstance(item, list):
                    container[key] = item.copy()
                    pending.append(container[key])
                elif isinstance(item, dict):
                    container[key] = {masked[name]: inner for name, inner in item.items()}
                    pending.append(container[key])
        return holder[0]

    def _is_number(self, item: Any) -> bool:
        if not self._numbers or isinstance(item, bool) or not isinstance(item, int | float):
            return False
        return _as_float(item) in self._numbers

    def _hits(self, data: bytes) -> Hits:
        return self._hits_read(data, CODINGS) if self._reach else iter(())

    def _hits_read(self, data: bytes, readings: tuple[Coding, ...]) -> Hits:
        """In this text, and in what it says once one of `readings` is decoded."""
        yield from self._hits_in(data)
        for coding in readings:
            reading = coding.read(data)
            if reading is not None:
                for start, end in self._hits_read(reading.data, coding.within):
                    yield reading.place(start, end)

    def _hits_in(self, data: bytes) -> Hits:
        # Nearly every text has no secret in it: one plain call for each form keeps that way short.
        find = data.find
        for form in self._exact:
            if (start := find(form)) >= 0:
                yield from _find_all(data, form, start)
        for core, encoded in self._base64:
            if (start := find(core)) >= 0:
                yield from _find_base64(data, encoded, start)
        lowered = data.lower() if self._folded else b""
        for form in self._folded:
            if (start := lowered.find(form)) >= 0:
                yield from _find_all(lowered, form, start)


class _Forms:
    """What is sought, up to MAX_FORMS: a form that is added first is kept first."""

    def __init__(self) -> None:
        self.exact: set[bytes] = set()
        self.folded: set[bytes] = set()
        self.encoded: set[_Base64] = set()
        self.numbers: set[float] = set()

    @property
    def longest(self) -> int:
        """How many bytes a form may have, with what belongs to it."""
        sizes = [*map(len, self.exact), *map(len, self.folded), *(len(form.core) + 4 for form in self.encoded)]
        return max(sizes, default=0)

    def add_all(self, values: Iterable[str]) -> None:
        """The forms of these values, the most telling ones first."""
        whole = {value for value in values if _is_telling(value)}
        # A value that ends in a line break is mostly used without it.
        bare = {value.strip() for value in whole if _is_telling(value.strip())}
        parts = [*sorted(bare), *sorted(whole - bare)]
        self.numbers |= {_as_float(part) for part in parts if _NUMBER.fullmatch(part)}
        self._add(self.exact, parts, _plain_spellings)
        self._add(self.encoded, parts, _base64_spellings)
        self._add(self.exact, parts, _spellings)
        self._add(self.folded, parts, _folded_spellings)
        lines = {line.strip() for value in whole for line in value.splitlines()}
        telling = sorted((line for line in lines if len(line) >= MIN_LINE_LENGTH), key=len, reverse=True)
        self._add(self.exact, telling, _spellings)

    def _add(self, kind: set[_Form], values: Iterable[str], spell: Callable[[str], set[_Form]]) -> None:
        for value in values:
            for form in spell(value):
                if len(self.exact) + len(self.folded) + len(self.encoded) >= MAX_FORMS:
                    return
                kind.add(form)


def _texts_within(value: Any) -> Iterator[str]:
    """Every string and key of a JSON value, of any depth."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            yield from item
            pending += item.values()


def _is_telling(value: str) -> bool:
    return len(value) >= MIN_LENGTH and value.lower() not in COMMON and not value.isspace()


def _as_float(number: str | float) -> float:
    """Numbers are compared as JavaScript has them."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _find_all(data: bytes, form: bytes, start: int) -> Hits:
    while start >= 0:
        end = start + len(form)
        yield start, end
        start = data.find(form, end)


def _find_base64(data: bytes, encoded: _Base64, start: int) -> Hits:
    """Where it stands, with the letters on its edges that hold some of its bits, and the padding."""
    for first, end in _find_all(data, encoded.core, start):
        widened = first
        if encoded.open_left and first and data[first - 1] in BASE64_LETTERS:
            widened = first - 1
        rest = data[end : end + 3] if encoded.open_right else b""
        shared = 1 if rest and rest[0] in BASE64_LETTERS else 0
        padding = len(rest[shared:]) - len(rest[shared:].lstrip(b"="))
        yield widened, end + shared + padding


def _utf8(value: str) -> bytes:
    """As a runtime writes it to a pipe: JavaScript turns a lone surrogate into U+FFFD."""
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _plain_spellings(value: str) -> set[bytes]:
    """The value as it is."""
    return {_utf8(value), value.encode("utf-8", "surrogatepass")}


def _spellings(value: str) -> set[bytes]:
    """The forms that are only right letter by letter."""
    forms = {value}
    for escape in (_escape, _escape_unicode, _escape_slashes):
        forms |= {escape(value), escape(escape(value))}
    inspected = value.translate(_INSPECTED)
    forms |= {inspected, inspected.replace("'", "\\'")}
    return _plain_spellings(value) | {form.encode("utf-8", "surrogatepass") for form in forms}


def _escape(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]


def _escape_unicode(value: str) -> str:
    return json.dumps(value)[1:-1]


def _escape_slashes(value: str) -> str:
    return _escape(value).replace("/", "\\/")


# How util.inspect writes a string, but for the quotes.
_INSPECTED = (
    {code: f"\\x{code:02X}" for code in (*range(0x20), *range(0x7F, 0xA0))}
    | {code: f"\\u{code:x}" for code in range(0xD800, 0xE000)}
    | {ord("\b"): r"\b", ord("\t"): r"\t", ord("\n"): r"\n", ord("\f"): r"\f", ord("\r"): r"\r", ord("\\"): r"\\"}
)


def _folded_spellings(value: str) -> set[bytes]:
    """The forms with hex digits, in lower case, to be sought in a text in lower case."""
    raw = _utf8(value)
    forms = {raw.hex()}
    for safe in _URL_SAFE:
        quoted = quote(raw, safe=safe + " ")
        for spelled in (quoted, quoted.replace("~", "%7E")):
            forms |= {spelled.replace(" ", "%20"), spelled.replace(" ", "+")}
    forms.discard(value)
    if not value.isascii():
        forms |= {_escape_unicode(value), _escape_unicode(_escape_unicode(value))}
    return {form.encode().lower() for form in forms}


def _base64_spellings(value: str) -> set[_Base64]:
    raws = {_utf8(value)}
    if not value.isascii():
        raws.add(value.encode("latin-1", "ignore"))  # btoa() takes one byte for each letter
    return {spelled for raw in raws if len(raw) >= MIN_LENGTH for spelled in _aligned(raw)}


def _aligned(raw: bytes) -> Iterator[_Base64]:
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw)
        # Six bits a letter: keep those that are wholly the value's own.
        start, end = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        core = encoded[start:end]
        open_left, open_right = before > 0, (before + len(raw)) % 3 > 0
        yield _Base64(core, open_left, open_right)
        yield _Base64(core.translate(bytes.maketrans(b"+/", b"-_")), open_left, open_right)
