"""Single sign-on with a real issuer: who is let in, and every lie that is not believed."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from werkzeug.test import TestResponse

from millrace import ids, members, users
from millrace.errors import Unavailable
from millrace.models import Session, User
from millrace.services import Services
from millrace.settings import Settings
from tests.factories import Tenant
from tests.web.console import provider
from tests.web.console.provider import CLIENT, SECRET, Issuer
from web.console import oidc, signin

Lie = Callable[[dict[str, Any]], Any]


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An honest one."""
    with provider.running() as issuer:
        yield issuer


@pytest.fixture
def settings(make_settings: Callable[..., Settings], issuer: Issuer) -> Settings:
    """With single sign-on."""
    return make_settings(
        MILLRACE_OIDC_ISSUER=issuer.url, MILLRACE_OIDC_CLIENT_ID=CLIENT, MILLRACE_OIDC_CLIENT_SECRET=SECRET,
        MILLRACE_OIDC_NAME="Example & Co",
    )  # fmt: skip


@pytest.fixture
def ann(services: Services, alice: Tenant) -> User:
    """Has no password, and is a viewer in Alice's workspace."""
    with services.database.connection_context():
        user, _ = users.add(services, "ann@example.com")
        members.add(services, alice.id, user, "viewer")
    return user


@pytest.fixture
def browser(app: Flask, ann: User) -> FlaskClient:
    """Of nobody yet."""
    return app.test_client()


def begin(browser: FlaskClient, issuer: Issuer, wanted: str = "") -> tuple[str, str]:
    """Off to the issuer, and what one comes back with."""
    there = browser.get("/login/oidc", query_string={"next": wanted})
    assert there.status_code == 303, there.text
    assert there.headers["Location"].startswith(f"{issuer.url}/authorize?")
    return issuer.authorize(there.headers["Location"])


def back(browser: FlaskClient, state: str, code: str) -> TestResponse:
    return browser.get("/login/oidc/callback", query_string={"state": state, "code": code})


def whole(browser: FlaskClient, issuer: Issuer) -> TestResponse:
    return back(browser, *begin(browser, issuer))


def assert_refused(browser: FlaskClient, done: TestResponse, words: str) -> None:
    assert done.status_code == 403 and words in done.text, done.text
    assert browser.get("/profile").status_code == 303 and Session.select().count() == 0


def test_who_is_known_comes_in_and_where_they_wanted(browser: FlaskClient, issuer: Issuer) -> None:
    assert "Sign in with Example &amp; Co" in browser.get("/login").text
    done = back(browser, *begin(browser, issuer, "/profile"))
    assert (done.status_code, done.headers["Location"]) == (303, "/profile")
    assert "ann@example.com" in browser.get("/profile").text
    assert 'action="/profile/password"' not in browser.get("/profile").text


@pytest.mark.parametrize("key", [
    ECKey.generate_key("P-256", {"kid": "ec"}), RSAKey.generate_key(2048, {"kid": "rsa", "alg": "RS256"})
])  # fmt: skip
def test_both_kinds_of_keys_are_taken(browser: FlaskClient, issuer: Issuer, key: RSAKey | ECKey) -> None:
    issuer.key = key
    assert whole(browser, issuer).status_code == 303


def test_the_secret_goes_in_the_form_where_the_issuer_wants_that(browser: FlaskClient, issuer: Issuer) -> None:
    issuer.more = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    assert whole(browser, issuer).status_code == 303


def test_a_stranger_is_refused_in_words_and_made_no_user(browser: FlaskClient, issuer: Issuer) -> None:
    issuer.claims = lambda claims: claims.update(email="eve@example.com")
    assert_refused(browser, whole(browser, issuer), "Nobody here has the email eve@example.com")
    assert User.select().count() == 1


@pytest.mark.parametrize(("lie", "words"), [
    (lambda claims: claims.update(nonce="another"), "cannot be trusted"),
    (lambda claims: claims.pop("nonce"), "cannot be trusted"),
    (lambda claims: claims.update(aud="another"), "cannot be trusted"),
    (lambda claims: claims.update(aud=["another", "third"]), "cannot be trusted"),
    (lambda claims: claims.update(aud=[CLIENT, "another"]), "for somebody else"),
    (lambda claims: claims.update(aud=[CLIENT, "another"], azp="another"), "for somebody else"),
    (lambda claims: claims.pop("aud"), "cannot be trusted"),
    (lambda claims: claims.update(iss="https://evil.example"), "cannot be trusted"),
    (lambda claims: claims.pop("iss"), "cannot be trusted"),
    (lambda claims: claims.update(exp=claims["exp"] - 300 - oidc.LEEWAY_S - 1), "cannot be trusted"),
    (lambda claims: claims.pop("exp"), "cannot be trusted"),
    (lambda claims: claims.update(exp="never"), "cannot be trusted"),
    (lambda claims: claims.update(iat=claims["iat"] + 3600), "cannot be trusted"),
    (lambda claims: claims.update(nbf=claims["iat"] + 3600), "cannot be trusted"),
    (lambda claims: claims.pop("sub"), "cannot be trusted"),
    (lambda claims: claims.update(email_verified=False), "verified"),
    (lambda claims: claims.update(email_verified="false"), "verified"),
    (lambda claims: claims.update(email_verified="true"), "verified"),
    (lambda claims: claims.pop("email_verified"), "verified"),
    (lambda claims: claims.update(email=["ann@example.com"]), "verified"),
    (lambda claims: claims.update(email=None), "verified"),
])  # fmt: skip
def test_what_the_issuer_should_not_sign_lets_nobody_in(
    browser: FlaskClient, issuer: Issuer, lie: Lie, words: str
) -> None:
    issuer.claims = lie
    assert_refused(browser, whole(browser, issuer), words)


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: dict[str, Any], claims: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    text = f"{base64url(json.dumps(header).encode())}.{base64url(json.dumps(claims).encode())}"
    return f"{text}.{base64url(sign(text.encode()))}"


def hs256(key: bytes) -> Callable[[bytes], bytes]:
    return lambda text: hmac.new(key, text, hashlib.sha256).digest()


def forgeries(issuer: Issuer) -> dict[str, Callable[[dict[str, Any]], str]]:
    """By somebody who knows the public key alone."""
    public = issuer.key.as_pem(private=False)
    stranger = RSAKey.generate_key(2048, {"kid": "one"})
    return {
        "none": lambda claims: forged({"alg": "none"}, claims, lambda _text: b""),
        "None with a kid": lambda claims: forged({"alg": "None", "kid": "one"}, claims, lambda _text: b""),
        "HS256 with the public key": lambda claims: forged({"alg": "HS256", "kid": "one"}, claims, hs256(public)),
        "HS256 with a key among theirs": lambda claims: forged(
            {"alg": "HS256", "kid": "symmetric"}, claims, hs256(b"secret")),
        "HS256 with our secret": lambda claims: forged({"alg": "HS256"}, claims, hs256(SECRET.encode())),
        "another's key": lambda claims: jwt.encode({"alg": "RS256", "kid": "one"}, claims, stranger),
        "another's key in the header": lambda claims: jwt.encode(
            {"alg": "RS256", "jwk": stranger.as_dict(private=False)}, claims, stranger),
        "an unknown key": lambda claims: jwt.encode({"alg": "RS256", "kid": "two"}, claims, stranger),
        "changed afterwards": lambda claims: _changed(issuer.honestly(claims), {**claims, "email": "ann@example.com"}),
        "no signature": lambda claims: issuer.honestly(claims).rsplit(".", 1)[0] + ".",
        "PS256, which is not ours": lambda claims: forged({"alg": "PS256", "kid": "one"}, claims, lambda _text: b"x"),
        "nothing": lambda claims: "", "two parts": lambda claims: "a.b", "noise": lambda claims: "é.\x00.x",
        "no object": lambda claims: forged({"alg": "RS256"}, [1], lambda _text: b""),  # type: ignore[arg-type]
    }  # fmt: skip


def _changed(token: str, claims: dict[str, Any]) -> str:
    header, _, signature = token.split(".")
    return f"{header}.{base64url(json.dumps(claims).encode())}.{signature}"


def test_no_forged_token_lets_anybody_in(browser: FlaskClient, issuer: Issuer) -> None:
    for name, forge in forgeries(issuer).items():
        issuer.sign = forge
        done = whole(browser, issuer)
        assert done.status_code == 403 and "cannot be trusted" in done.text, name
    assert Session.select().count() == 0
    issuer.sign = issuer.honestly
    assert whole(browser, issuer).status_code == 303


def test_a_state_is_good_once_and_for_its_own_browser(app: Flask, browser: FlaskClient, issuer: Issuer) -> None:
    state, code = begin(browser, issuer)
    eve = app.test_client()
    assert back(eve, state, code).status_code == 403  # begun in another browser
    begin(eve, issuer)
    assert back(eve, state, code).status_code == 403  # nor with a state of her own
    assert back(browser, state, code).status_code == 303
    rows = Session.select().count()
    assert back(browser, state, code).status_code == 403 and Session.select().count() == rows
    assert "/token" not in issuer.asked[issuer.asked.index("/token") + 1:]


@pytest.mark.parametrize("state", ["", "x", "é", "\x00"])
def test_a_state_that_is_none_uses_up_no_code(browser: FlaskClient, issuer: Issuer, state: str) -> None:
    right, code = begin(browser, issuer)
    assert_refused(browser, back(browser, state, code), "not begun in this browser")
    assert_refused(browser, back(browser, right, code), "not begun in this browser")  # one guess is all there is
    assert "/token" not in issuer.asked


def test_a_code_of_somebody_elses_sign_in_is_worth_nothing(app: Flask, browser: FlaskClient, issuer: Issuer) -> None:
    """It belongs to a verifier that their browser keeps."""
    _, stolen = begin(app.test_client(), issuer)
    state, _ = begin(browser, issuer)
    assert_refused(browser, back(browser, state, stolen), "did not accept")


def test_one_may_be_away_for_ten_minutes(
    browser: FlaskClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signin, "OIDC_MS", 0)
    state, code = begin(browser, issuer)
    assert_refused(browser, back(browser, state, code), "too old")


def test_who_says_no_there_is_told_so(browser: FlaskClient, issuer: Issuer) -> None:
    begin(browser, issuer)
    done = browser.get("/login/oidc/callback?error=access_denied&error_description=<b>")
    assert_refused(browser, done, "not completed there")
    assert "<b>" not in done.text


def test_nobody_is_led_elsewhere_afterwards(browser: FlaskClient, issuer: Issuer) -> None:
    assert back(browser, *begin(browser, issuer, "//evil.example")).headers["Location"] == "/scripts"


def test_the_session_of_before_is_over(browser: FlaskClient, issuer: Issuer) -> None:
    whole(browser, issuer)
    before = Session.get().id
    whole(browser, issuer)
    assert Session.select().count() == 1 and Session.get().id != before


def test_an_email_that_is_elsewhere_is_asked_for(browser: FlaskClient, issuer: Issuer) -> None:
    issuer.claims = lambda claims: [claims.pop("email"), claims.pop("email_verified")]
    issuer.userinfo = {"sub": "4711", "email": "ann@example.com", "email_verified": True}
    assert whole(browser, issuer).status_code == 303


@pytest.mark.parametrize("userinfo", [
    {"sub": "another", "email": "ann@example.com", "email_verified": True}, {"sub": "4711"}, {},
    {"sub": "4711", "email": "ann@example.com"},
])  # fmt: skip
def test_an_email_from_elsewhere_is_of_the_same_person_and_verified(
    browser: FlaskClient, issuer: Issuer, userinfo: dict[str, Any]
) -> None:
    issuer.claims = lambda claims: claims.pop("email")
    issuer.userinfo = userinfo
    assert_refused(browser, whole(browser, issuer), "sign-in service does not say")


# What is remembered of the issuer


class Uptime:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def uptime() -> Uptime:
    return Uptime()


@pytest.fixture
def known(issuer: Issuer, uptime: Uptime) -> oidc.Provider:
    """The issuer, as a process knows it."""
    return oidc.Provider(issuer.url, CLIENT, SECRET, ids.now_ms, uptime)


def email(known: oidc.Provider, issuer: Issuer) -> str:
    attempted = oidc.Attempted.new()
    return known.email("https://m/cb", attempted, *issuer.authorize(known.address("https://m/cb", attempted)))


def test_the_issuer_is_asked_about_itself_once_an_hour(known: oidc.Provider, issuer: Issuer, uptime: Uptime) -> None:
    def count() -> tuple[int, int]:
        return issuer.asked.count(oidc.DISCOVERY), issuer.asked.count("/keys")

    for _ in range(3):
        email(known, issuer)
    assert count() == (1, 1)
    uptime.seconds += oidc.KEPT_S
    email(known, issuer)
    assert count() == (2, 2)


def test_new_keys_are_fetched_when_one_is_unknown_and_not_for_every_noise(
    known: oidc.Provider, issuer: Issuer, uptime: Uptime
) -> None:
    email(known, issuer)
    issuer.key = RSAKey.generate_key(2048, {"kid": "new"})
    for _ in range(3):
        with pytest.raises(oidc.Denied):
            email(known, issuer)
    assert issuer.asked.count("/keys") == 1
    uptime.seconds += oidc.KEYS_KEPT_S
    assert email(known, issuer) == "Ann@Example.com" and issuer.asked.count("/keys") == 2


def test_an_issuer_that_does_not_answer_is_said_and_asked_again_soon(
    browser: FlaskClient, known: oidc.Provider, issuer: Issuer, uptime: Uptime
) -> None:
    issuer.broken = True
    assert browser.get("/login/oidc").status_code == 503
    for _ in range(3):
        with pytest.raises(Unavailable):
            known.address("https://m/cb", oidc.Attempted.new())
    assert issuer.asked.count(oidc.DISCOVERY) == 2
    issuer.broken = False
    uptime.seconds += oidc.FAILED_S
    assert email(known, issuer) == "Ann@Example.com"


@pytest.mark.parametrize("more", [
    {"issuer": "https://evil.example"}, {"issuer": None}, {"authorization_endpoint": "javascript:alert(1)"},
    {"authorization_endpoint": None}, {"authorization_endpoint": "ftp://x"},
])  # fmt: skip
def test_an_issuer_that_is_not_itself_is_not_used(
    known: oidc.Provider, issuer: Issuer, more: dict[str, Any]
) -> None:
    issuer.more = more
    with pytest.raises(Unavailable):
        known.address("https://m/cb", oidc.Attempted.new())


@pytest.mark.parametrize("more", [{"jwks_uri": "file:///etc/passwd"}, {"token_endpoint": "http://127.0.0.1:1/token"}])
def test_an_issuer_with_a_part_that_is_away_is_unavailable(
    known: oidc.Provider, issuer: Issuer, more: dict[str, Any]
) -> None:
    issuer.more = more
    with pytest.raises(Unavailable):
        email(known, issuer)


def test_an_answer_without_end_is_cut(known: oidc.Provider, issuer: Issuer) -> None:
    issuer.more = {"noise": "x" * (oidc.MAX_BYTES + 1)}
    with pytest.raises(Unavailable, match="more than"):
        known.address("https://m/cb", oidc.Attempted.new())
