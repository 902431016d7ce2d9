"""Single sign-on: OpenID Connect's code flow with PKCE, state and nonce, towards one issuer.

The issuer says which email a person has; that a user has it lets them in. It makes no users and gives no roles.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from millrace.errors import Denied, Unavailable

ALGORITHMS = ("RS256", "ES256")  # no symmetric one: with those, who knows the public key could sign
SCOPE = "openid email profile"
DISCOVERY = "/.well-known/openid-configuration"
KEPT_S = 3600.0  # how long what the issuer says of itself is believed
FAILED_S = 5.0  # how soon it is asked again after it did not answer, so that nobody waits in a row
KEYS_KEPT_S = 30.0  # how soon its keys are asked for again when one is not among them
LEEWAY_S = 60
MAX_BYTES = 1024 * 1024
TIMEOUT = httpx.Timeout(5.0)


@dataclass(frozen=True)
class Attempted:
    """What the browser keeps meanwhile, in a signed cookie, and gives back once."""

    state: str
    nonce: str
    verifier: str

    @classmethod
    def new(cls) -> "Attempted":
        """With 256 random bits each."""
        return cls(*(secrets.token_urlsafe(32) for _ in range(3)))

    @classmethod
    def read(cls, kept: Any) -> "Attempted | None":
        """From what `as_dict` made."""
        names = ("state", "nonce", "verifier")
        if isinstance(kept, dict) and all(isinstance(kept.get(name), str) for name in names):
            return cls(*(kept[name] for name in names))
        return None

    def as_dict(self) -> dict[str, str]:
        """As JSON."""
        return asdict(self)


class Provider:
    """The issuer, as this process knows it. `monotonic` gives seconds that no one can set, `clock` the time."""

    def __init__(
        self, issuer: str, client_id: str, client_secret: str, clock: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: tuple[float, Mapping[str, Any]] | None = None
        self._keys: tuple[float, KeySet] | None = None
        self._failed = float("-inf")

    def address(self, redirect_uri: str, attempted: Attempted) -> str:
        """Where the browser goes. Raises Unavailable."""
        digest = hashlib.sha256(attempted.verifier.encode()).digest()
        query = urlencode({
            "response_type": "code", "client_id": self._client_id, "redirect_uri": redirect_uri, "scope": SCOPE,
            "state": attempted.state, "nonce": attempted.nonce, "code_challenge_method": "S256",
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        })  # fmt: skip
        endpoint = self._endpoint("authorization_endpoint")
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{query}"

    def email(self, redirect_uri: str, attempted: Attempted, state: str, code: str) -> str:
        """The verified email of who comes back. Raises Denied, and Unavailable when the issuer does not answer."""
        if not secrets.compare_digest(state.encode("utf-8", "surrogatepass"), attempted.state.encode()):
            raise Denied("This sign-in was not begun in this browser, or is too old. Begin again.")
        tokens = self._tokens(redirect_uri, attempted, code)
        claims = self._claims(str(tokens.get("id_token")), attempted.nonce)
        if "email" not in claims:
            claims |= self._userinfo(str(tokens.get("access_token")), claims["sub"])
        email = claims.get("email")
        if not isinstance(email, str) or claims.get("email_verified") is not True:
            raise Denied("The sign-in service does not say that your email is verified.")
        return email

    def _tokens(self, redirect_uri: str, attempted: Attempted, code: str) -> Mapping[str, Any]:
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri,
            "code_verifier": attempted.verifier, "client_id": self._client_id,
        }  # fmt: skip
        auth = None
        offered = self._discovered().get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if "client_secret_basic" in offered:
            auth = httpx.BasicAuth(*(_quoted(each) for each in (self._client_id, self._client_secret)))
        else:
            form["client_secret"] = self._client_secret
        status, answer = self._ask("POST", self._endpoint("token_endpoint"), data=form, auth=auth)
        if status != 200:
            raise Denied("The sign-in service did not accept this sign-in. Begin again.")
        return answer

    def _claims(self, id_token: str, nonce: str) -> dict[str, Any]:
        """What the issuer signed. Raises Denied for anything that it did not sign for us, now, for this sign-in."""
        rules = jwt.JWTClaimsRegistry(
            now=self._clock() // 1000, leeway=LEEWAY_S,
            iss={"essential": True, "value": self._discovered()["issuer"]},
            aud={"essential": True, "value": self._client_id}, nonce={"essential": True, "value": nonce},
            exp={"essential": True}, iat={"essential": True}, sub={"essential": True},
        )  # fmt: skip
        try:
            claims = dict(self._decoded(id_token).claims)
            rules.validate(claims)
        except (JoseError, ValueError) as error:
            raise Denied("The sign-in service's answer cannot be trusted. Begin again.") from error
        if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp") != self._client_id:
            raise Denied("The sign-in service's answer is for somebody else.")
        return claims

    def _decoded(self, id_token: str) -> jwt.Token:
        try:
            return jwt.decode(id_token, self._key_set(KEPT_S), ALGORITHMS)
        except InvalidKeyIdError:  # the issuer has new keys
            return jwt.decode(id_token, self._key_set(KEYS_KEPT_S), ALGORITHMS)

    def _userinfo(self, access_token: str, subject: str) -> Mapping[str, Any]:
        """Some issuers put the email here alone."""
        headers = {"Authorization": f"Bearer {access_token}"}
        status, answer = self._ask("GET", self._endpoint("userinfo_endpoint"), headers=headers)
        if status != 200 or answer.get("sub") != subject:
            raise Denied("The sign-in service does not say which email you have.")
        return {name: answer.get(name) for name in ("email", "email_verified")}

    def _discovered(self) -> Mapping[str, Any]:
        with self._lock:
            if self._known is None or self._monotonic() - self._known[0] >= KEPT_S:
                if self._monotonic() - self._failed < FAILED_S:
                    raise Unavailable(f"{self._issuer} did not answer just now.")
                self._failed = self._monotonic()  # unless it answers
                status, answer = self._ask("GET", self._issuer.rstrip("/") + DISCOVERY)
                if status != 200 or str(answer.get("issuer")).rstrip("/") != self._issuer.rstrip("/"):
                    raise Unavailable(f"What {self._issuer} says of itself cannot be used (MILLRACE_OIDC_ISSUER).")
                self._known, self._failed = (self._monotonic(), answer), float("-inf")
            return self._known[1]

    def _key_set(self, age_s: float) -> KeySet:
        """The issuer's public keys, as it gave them within this time."""
        endpoint = self._endpoint("jwks_uri")
        with self._lock:
            if self._keys is None or self._monotonic() - self._keys[0] >= age_s:
                status, answer = self._ask("GET", endpoint)
                self._keys = self._monotonic(), _public(answer if status == 200 else {})
            return self._keys[1]

    def _endpoint(self, name: str) -> str:
        url = str(self._discovered().get(name, ""))
        # Plain http only to where the issuer itself is plain: on this machine.
        allowed = ("https", "http") if self._issuer.startswith("http://") else ("https",)
        if urlsplit(url).scheme not in allowed:
            raise Unavailable(f"{self._issuer} names no {name} that can be used.")
        return url

    def _ask(self, method: str, url: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """The status and the JSON object of an answer. Raises Unavailable."""
        try:
            with httpx.Client(timeout=TIMEOUT) as client, client.stream(method, url, **more) as answer:
                body = bytearray()
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > MAX_BYTES:
                        raise Unavailable(f"{url} answers with more than {MAX_BYTES} bytes.")
            said = json.loads(body or b"{}") if answer.status_code < 500 else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise Unavailable(f"{url} does not answer as a sign-in service does: {type(error).__name__}.") from error
        if not isinstance(said, dict):
            raise Unavailable(f"{url} does not answer as a sign-in service does: {answer.status_code}.")
        return answer.status_code, said


def _public(answer: Mapping[str, Any]) -> KeySet:
    """The keys that sign with what we allow."""
    given = answer.get("keys")
    keys = [
        key for key in given if isinstance(key, dict) and key.get("kty") in ("RSA", "EC") and key.get("use") != "enc"
    ] if isinstance(given, list) else []
    try:
        return KeySet.import_key_set({"keys": keys})
    except (JoseError, ValueError, KeyError) as error:
        raise Unavailable("The sign-in service gives no keys that can be used.") from error


def _quoted(text: str) -> str:
    """As RFC 6749 wants id and secret in the header."""
    return urlencode({"": text})[1:]
