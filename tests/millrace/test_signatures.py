import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest
import time_machine
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook

from millrace import errors, signatures

NOW = 1_790_000_000_000
STANDARD = "whsec_" + base64.b64encode(bytes(range(24))).decode()
SECRETS = {"standard": STANDARD, "github": "It's a Secret to Everybody", "stripe": "whsec_not_base64_at_all!"}
BODY = b'{"id": "evt_1", "total": 5}'
TIMED = ["standard", "stripe"]

schemes = pytest.mark.parametrize("scheme", signatures.SCHEMES)


def signed(scheme: str, body: bytes = BODY, now: int = NOW) -> dict[str, str]:
    return signatures.sign(scheme, SECRETS[scheme], body, now, "evt_1")


def refusal(scheme: str, headers: dict[str, str], body: bytes = BODY, now: int = NOW) -> str:
    with pytest.raises(errors.Denied) as caught:
        signatures.verify(scheme, SECRETS[scheme], headers, body, now)
    return caught.value.message


@schemes
@pytest.mark.parametrize("body", [BODY, b'{"id": "evt_1"}', b'{"id": "evt_1", "x": "\xc3\xa9"}'])
def test_what_was_signed_is_verified_with_its_delivery_id(scheme: str, body: bytes) -> None:
    headers = signed(scheme, body)
    for spelled in (headers, {name.upper(): value for name, value in headers.items()}):
        assert signatures.verify(scheme, SECRETS[scheme], spelled, body, NOW).delivery_id == "evt_1"


@schemes
@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"not json", b"[" * 100_000, b'{"id": 5}', b'{"id": ""}'])
def test_any_body_can_be_signed(scheme: str, body: bytes) -> None:
    found = signatures.verify(scheme, SECRETS[scheme], signed(scheme, body), body, NOW).delivery_id
    assert found == (None if scheme == "stripe" else "evt_1")


@schemes
def test_another_body_another_secret_and_another_scheme_are_refused(scheme: str) -> None:
    headers = signed(scheme)
    messages = {
        refusal(scheme, headers, BODY + b" "),
        refusal(scheme, headers, b""),
        refusal(scheme, {}),
        refusal(scheme, {name: "" for name in headers}),
        refusal(scheme, {name: value[:-1] for name, value in headers.items()}),
        refusal(scheme, {name: value + "\ud800é\x00" for name, value in headers.items()}),
        refusal(scheme, {name: "v1," * 10_000 for name in headers}),
        *(refusal(scheme, signed(other)) for other in signatures.SCHEMES if other != scheme),
    }
    with pytest.raises(errors.Denied) as caught:
        signatures.verify(scheme, "whsec_" + base64.b64encode(b"another").decode(), headers, BODY, NOW)
    assert messages == {caught.value.message}
    assert SECRETS[scheme] not in caught.value.message


@pytest.mark.parametrize("scheme", TIMED)
def test_five_minutes_either_way_are_tolerated_and_no_more(scheme: str) -> None:
    headers = signed(scheme)
    for late in (-300_000, -1, 0, 299_999, 300_000):
        signatures.verify(scheme, SECRETS[scheme], headers, BODY, NOW + late)
    messages = {refusal(scheme, headers, now=NOW + late) for late in (-300_001, 300_001, 10**15, -(10**15))}
    assert messages == {refusal(scheme, {})}


def test_a_github_signature_has_no_time() -> None:
    headers = signed("github")
    assert signatures.verify("github", SECRETS["github"], headers, BODY, NOW + 10**12).delivery_id == "evt_1"


@pytest.mark.parametrize("stamp", ["", "now", "-1", "1e9", "1790000000.0", " 1790000000", "١٧٩٠٠٠٠٠٠٠", "9" * 5000])
@pytest.mark.parametrize("scheme", TIMED)
def test_a_time_that_is_none_is_refused_though_it_was_signed(scheme: str, stamp: str) -> None:
    secret = SECRETS[scheme]
    if scheme == "stripe":
        digest = hmac.new(secret.encode(), f"{stamp}.".encode() + BODY, hashlib.sha256).hexdigest()
        headers = {"Stripe-Signature": f"t={stamp},v1={digest}"}
    else:
        digest_bytes = hmac.new(bytes(range(24)), f"m.{stamp}.".encode() + BODY, hashlib.sha256).digest()
        headers = {
            "webhook-id": "m",
            "webhook-timestamp": stamp,
            "webhook-signature": "v1," + base64.b64encode(digest_bytes).decode(),
        }
    refusal(scheme, headers)


def test_one_right_signature_of_several_is_enough() -> None:
    standard = signed("standard")
    standard["webhook-signature"] = f"v1a,AAAA v1,AAAA {standard['webhook-signature']} v1,BBBB"
    assert signatures.verify("standard", STANDARD, standard, BODY, NOW)
    time, right = signed("stripe")["Stripe-Signature"].split(",")
    for header in (f"{time},v1=00,{right}", f"{time}, {right}, v0=11", f"{right},{time}"):
        assert signatures.verify("stripe", SECRETS["stripe"], {"stripe-signature": header}, BODY, NOW)


def test_a_signature_of_another_version_is_refused() -> None:
    time, right = signed("stripe")["Stripe-Signature"].split(",")
    refusal("stripe", {"stripe-signature": f"{time},{right.replace('v1', 'v0')}"})
    refusal("stripe", {"stripe-signature": f"{time},{time},{right}"})
    standard = signed("standard")
    for version in ("v2,", ""):
        signature = standard["webhook-signature"].replace("v1,", version)
        refusal("standard", standard | {"webhook-signature": signature})


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp"])
def test_what_a_standard_signature_covers_cannot_be_changed(name: str) -> None:
    headers = signed("standard")
    refusal("standard", headers | {name: headers[name] + "1"})


def test_the_published_example_of_github_is_verified() -> None:
    headers = {
        "X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
    }
    found = signatures.verify("github", "It's a Secret to Everybody", headers, b"Hello, World!", NOW)
    assert found.delivery_id == "72d3162e-cc78-11e3-81ab-4c9367dc0958"


@given(st.text(), st.binary(min_size=1, max_size=64))
@settings(deadline=None)
def test_standard_signatures_are_those_of_the_reference_library(text: str, key: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    theirs = Webhook(secret)
    moment = datetime.fromtimestamp(NOW / 1000, UTC)
    ours = signatures.sign("standard", secret, text.encode(), NOW, "msg_1")
    assert ours["webhook-signature"] == theirs.sign("msg_1", moment, text)
    with time_machine.travel(moment):
        assert (
            theirs.verify(json.dumps(text), signatures.sign("standard", secret, json.dumps(text).encode(), NOW, "m"))
            == text
        )


@pytest.mark.parametrize(
    "secret", [STANDARD, STANDARD.removeprefix("whsec_"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
)
def test_secrets_of_the_standard_may_lack_the_prefix_and_the_padding(secret: str) -> None:
    for spelled in (secret, secret.rstrip("=")):
        signatures.validate_secret("standard", spelled)
        headers = signatures.sign("standard", secret, BODY, NOW, "m")
        assert signatures.verify("standard", spelled, headers, BODY, NOW).delivery_id == "m"


@pytest.mark.parametrize(
    ("scheme", "secret"),
    [
        *(("standard", secret) for secret in ("", "whsec_", "not base64!", "whsec_AAAAA", "ключ", "\ud800")),
        *((scheme, secret) for scheme in ("github", "stripe") for secret in ("", "\ud800")),
    ],
)
def test_a_secret_that_cannot_work_is_refused_and_never_matches(scheme: str, secret: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        signatures.validate_secret(scheme, secret, "triggers.http.secret")
    assert caught.value.message.startswith("triggers.http.secret must be ")
    assert caught.value.value is None
    with pytest.raises(errors.Denied):
        signatures.verify(scheme, secret, signed(scheme), BODY, NOW)


def test_a_scheme_that_is_none_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no such scheme"):
        signatures.sign("sha1", "secret", BODY, NOW, "m")


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"Webhook-Id": "msg_1"}, b"", "msg_1"),
        ({"X-GitHub-Delivery": "d-1"}, b"", "d-1"),
        ({"Idempotency-Key": "k-1"}, b"", "k-1"),
        ({"svix-id": "s-1", "idempotency-key": "k-1"}, b"", "s-1"),
        ({"webhook-id": "  ", "idempotency-key": "k-1"}, b"", "k-1"),
        ({"Stripe-Signature": "t=1"}, BODY, "evt_1"),
        ({"Stripe-Signature": "t=1"}, b'{"id": ["x"]}', None),
        ({"Stripe-Signature": "t=1"}, b"[" * 100_000, None),
        ({"Stripe-Signature": "t=1"}, b"\xff", None),
        ({}, BODY, None),
        ({"X-Request-Id": "r-1"}, BODY, None),
    ],
)
def test_the_delivery_id_is_where_its_sender_puts_it(
    headers: dict[str, str], body: bytes, expected: str | None
) -> None:
    assert signatures.delivery_id(headers, body) == expected


def test_an_unproved_delivery_id_is_one_with_each_part_of_its_content() -> None:
    contents = [(b"a", b"b"), (b"ab", b""), (b"", b"ab"), (b"a", b"b", b""), (b"b", b"a")]
    ids = [signatures.unproved_delivery_id({"webhook-id": each}, b"", content)
           for each in ("d", "e", "x" * 256) for content in contents]  # fmt: skip
    assert len(set(ids)) == len(ids)
    assert all(each is not None and len(each) <= signatures.MAX_DELIVERY_ID for each in ids)
    assert signatures.unproved_delivery_id({"webhook-id": "d"}, b"", contents[0]) == ids[0]
    assert signatures.unproved_delivery_id({}, b"", contents[0]) is None


@pytest.mark.parametrize("identity", ["x" * 256, "x" * 100_000, "a\x00b", "a\ud800"])
def test_a_delivery_id_that_cannot_be_stored_becomes_a_digest(identity: str) -> None:
    found = signatures.delivery_id({"webhook-id": identity}, b"")
    assert found is not None
    assert found.startswith("sha256:")
    assert len(found) <= signatures.MAX_DELIVERY_ID
    assert found != signatures.delivery_id({"webhook-id": identity + "x"}, b"")


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Authorization": "Bearer k-é1"}, {}),
        ({"AUTHORIZATION": "bearer  k-é1"}, {}),
        ({"X-Api-Key": "k-é1"}, {}),
        ({"x-webhook-key": "k-é1"}, {}),
        ({}, {"key": "k-é1"}),
        ({"Authorization": "Basic zzz", "X-Api-Key": "wrong"}, {"key": "k-é1"}),
    ],
)
def test_a_key_may_come_in_any_of_four_places(headers: dict[str, str], query: dict[str, str]) -> None:
    signatures.verify_key("k-é1", headers, query)


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, {}),
        ({"Authorization": "k-é1"}, {}),
        ({"Authorization": "Basic k-é1"}, {}),
        ({"Authorization": "Bearer"}, {}),
        ({"X-Api-Key": "k-é"}, {}),
        ({"X-Api-Key": "k-é1 "}, {}),
        ({"X-Other": "k-é1"}, {"Key": "k-é1"}),
        ({"X-Api-Key": "\ud800"}, {"key": "K-É1"}),
        ({"X-Api-Key": "k" * 10_000_000}, {}),
    ],
)
def test_a_missing_or_wrong_key_is_refused_alike(headers: dict[str, str], query: dict[str, str]) -> None:
    with pytest.raises(errors.Denied, match=r"^The key of this request is missing or wrong\.$"):
        signatures.verify_key("k-é1", headers, query)


def test_an_empty_key_opens_nothing() -> None:
    for headers in ({}, {"X-Api-Key": ""}, {"Authorization": "Bearer "}):
        with pytest.raises(errors.Denied):
            signatures.verify_key("", headers, {"key": ""})
