"""Who sent this webhook: signatures of three schemes, shared keys, and the sender's own id of the delivery.

    standard   Standard Webhooks: webhook-id, webhook-timestamp, webhook-signature "v1,<base64> v1,..."
    github     X-Hub-Signature-256 "sha256=<hex>"; no time is signed, nor is the delivery id
    stripe     Stripe-Signature "t=<seconds>,v1=<hex>,v1=..."

Every comparison takes the same time whether the first or the last letter is wrong, a signed time must be
within five minutes of now, either way, and a refusal is the same sentence whatever was wrong.

Header names are taken in any case. Where the scheme signs no time, as GitHub's does not, only the delivery id
guards against a repetition, and it is not signed either: use HTTPS.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from millrace import errors

SCHEMES = ("standard", "github", "stripe")
TOLERANCE_MS = 5 * 60 * 1000
MAX_DELIVERY_ID = 255

_BAD_SIGNATURE = "The signature of this request is missing, wrong or too old."
_BAD_KEY = "The key of this request is missing or wrong."
_SECONDS = re.compile(r"[0-9]{1,12}")
# What senders call the id of a delivery, which stays the same when they try again.
_DELIVERY_HEADERS = ("webhook-id", "svix-id", "x-github-delivery", "x-shopify-webhook-id", "idempotency-key")

Headers = Mapping[str, str]


@dataclass(frozen=True)
class Verified:
    """A request whose sender is known. `delivery_id` is the sender's name for the delivery, if it has one."""

    delivery_id: str | None


def validate_secret(scheme: str, secret: str, field: str = "secret") -> None:
    """Raises Invalid if no signature of the scheme could be checked with this secret. Never repeats it."""
    try:
        sign(scheme, secret, b"", now_ms=0, delivery_id="")
    except ValueError:
        rule = (
            "base64, with or without 'whsec_' before it, for the scheme 'standard'"
            if scheme == "standard"
            else "a text that is not empty"
        )
        raise errors.Invalid(f"{field} must be {rule}", field=field) from None


def verify(scheme: str, secret: str, headers: Headers, body: bytes, now_ms: int) -> Verified:
    """Check a request as it came, before anything parsed it; raises Denied, always with the same sentence."""
    check = _CHECKS[scheme]
    try:
        return check(secret, _lowered(headers), body, now_ms)
    except ValueError:
        # The reason stays here: telling a forger which part was right would help to find the rest.
        raise errors.Denied(_BAD_SIGNATURE) from None


def sign(scheme: str, secret: str, body: bytes, now_ms: int, delivery_id: str) -> dict[str, str]:
    """The headers that a sender of the scheme would put on this body; Stripe's id is in the body instead."""
    seconds = str(now_ms // 1000)
    if scheme == "standard":
        signature = _standard_signature(secret, delivery_id, seconds, body)
        return {
            "webhook-id": delivery_id,
            "webhook-timestamp": seconds,
            "webhook-signature": f"v1,{signature}",
        }
    if scheme == "github":
        return {"X-Hub-Signature-256": _github_signature(secret, body), "X-GitHub-Delivery": delivery_id}
    if scheme == "stripe":
        return {"Stripe-Signature": f"t={seconds},v1={_stripe_signature(secret, seconds, body)}"}
    raise ValueError(f"no such scheme: {scheme}")


def delivery_id(headers: Headers, body: bytes) -> str | None:
    """The sender's id of a delivery that is not signed, or None.

    Looks at the headers that senders use for it, and into the body of what looks like Stripe's. Another
    body's `id` is not taken: it mostly names the thing that changed, which may change again.
    """
    lowered = _lowered(headers)
    for name in _DELIVERY_HEADERS:
        if found := _usable_id(lowered.get(name)):
            return found
    return _stripe_id(body) if "stripe-signature" in lowered else None


def unproved_delivery_id(headers: Headers, body: bytes, content: Sequence[bytes]) -> str | None:
    """As `delivery_id`, where nobody proves who they are: the id counts only together with the whole content.

    So whoever learns an id neither gets the answer to another's delivery nor takes the place of one to come.
    """
    found = delivery_id(headers, body)
    if found is None:
        return None
    # Digests have one length, so that no part can pass for the end of the one before it.
    parts = (found.encode("utf-8", "surrogatepass"), *content)
    return "sha256:" + hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def verify_key(key: str, headers: Headers, query: Mapping[str, str]) -> None:
    """Check a shared key; raises Denied.

    The key may come as `Authorization: Bearer ...` (or `ApiKey ...`), `X-Api-Key`, `X-Webhook-Key`, or, for senders
    that can set nothing but the address, as `?key=...`; one right one is enough. An address ends up in logs, so prefer
    a header.
    """
    lowered = _lowered(headers)
    scheme, _, token = lowered.get("authorization", "").partition(" ")
    given = [
        token.strip() if scheme.lower() in ("bearer", "apikey") else "",
        lowered.get("x-api-key", ""),
        lowered.get("x-webhook-key", ""),
        query.get("key", ""),
    ]
    # All are compared, so that time does not tell which one it was.
    if not any([_same(key, candidate) for candidate in given if candidate]):
        raise errors.Denied(_BAD_KEY)


# The schemes. A check raises ValueError for anything that is not right.


# Not the library standardwebhooks: it looks at its own clock, refuses bodies that are not UTF-8 and raises
# whatever its parsing stumbles over. The tests compare the two.
def _check_standard(secret: str, headers: Headers, body: bytes, now_ms: int) -> Verified:
    identity, seconds = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    given = [item.removeprefix("v1,") for item in headers.get("webhook-signature", "").split() if item[:3] == "v1,"]
    _require_match(_standard_signature(secret, identity, seconds, body), given)
    _require_recent(seconds, now_ms)
    return Verified(_usable_id(identity))


def _check_github(secret: str, headers: Headers, body: bytes, now_ms: int) -> Verified:
    _require_match(_github_signature(secret, body), [headers.get("x-hub-signature-256", "")])
    return Verified(_usable_id(headers.get("x-github-delivery")))


def _check_stripe(secret: str, headers: Headers, body: bytes, now_ms: int) -> Verified:
    pairs = [item.strip().partition("=") for item in headers.get("stripe-signature", "").split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    if len(times) != 1:
        raise ValueError("no time, or several")
    given = [value for name, _, value in pairs if name == "v1"]
    _require_match(_stripe_signature(secret, times[0], body), given)
    _require_recent(times[0], now_ms)
    return Verified(_stripe_id(body))


_CHECKS: dict[str, Callable[[str, Headers, bytes, int], Verified]] = {
    "standard": _check_standard,
    "github": _check_github,
    "stripe": _check_stripe,
}


def standard_key(secret: str) -> bytes:
    """The key that a secret of Standard Webhooks stands for. Raises ValueError if it is none."""
    encoded = secret.removeprefix("whsec_").rstrip("=")
    key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    if not key:
        raise ValueError("empty key")
    return key


def _standard_signature(secret: str, identity: str, seconds: str, body: bytes) -> str:
    signed = f"{identity}.{seconds}.".encode() + body
    return base64.b64encode(_hmac(standard_key(secret), signed)).decode()


def _github_signature(secret: str, body: bytes) -> str:
    return "sha256=" + _hmac(secret.encode(), body).hex()


def _stripe_signature(secret: str, seconds: str, body: bytes) -> str:
    return _hmac(secret.encode(), f"{seconds}.".encode() + body).hex()


def _hmac(key: bytes, data: bytes) -> bytes:
    if not key:
        raise ValueError("empty key")
    return hmac.new(key, data, hashlib.sha256).digest()


def _require_match(expected: str, given: list[str]) -> None:
    """Senders give several signatures while they rotate their secret; one right one is enough."""
    if not any([_same(expected, candidate) for candidate in given]):
        raise ValueError("no signature matches")


def _require_recent(seconds: str, now_ms: int) -> None:
    if not _SECONDS.fullmatch(seconds) or abs(int(seconds) * 1000 - now_ms) > TOLERANCE_MS:
        raise ValueError("too old or too new")


def _same(expected: str, given: str) -> bool:
    """In constant time, for any text."""
    return hmac.compare_digest(_digest(expected), _digest(given))


def _digest(text: str) -> bytes:
    """Of one length for all, so that not even the length shows."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _lowered(headers: Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _stripe_id(body: bytes) -> str | None:
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return None
    identity = event.get("id") if isinstance(event, dict) else None
    return _usable_id(identity) if isinstance(identity, str) else None


def _usable_id(identity: str | None) -> str | None:
    """As it is if it is short enough to be stored, else its digest; None for an empty one."""
    if not identity or not identity.strip():
        return None
    if len(identity) <= MAX_DELIVERY_ID and identity.isprintable():
        return identity
    return "sha256:" + _digest(identity).hex()
