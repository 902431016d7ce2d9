import json
import textwrap
from typing import Any

import peewee
import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import errors as domain
from millrace.errors import Detail
from millrace.models import Script
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.conftest import API, Client, error_of, fields_of
from web import auth, strict_json
from web.bodies import MAX_BYTES
from web.scripting import lookup


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Each refuses other texts."""
    kind: str = request.param
    return kind


def test_unknown_addresses_and_methods_have_the_envelope(client: Client, app: Flask) -> None:
    for path in ("/nothing", "/scripts/", "//scripts", "/scripts/a/b/c", "/%00", "/scripts/x/versions/one/diff"):
        error_of(client.get(path), 404, "NOT_FOUND")
    error_of(app.test_client().get("/nothing-here"), 404, "NOT_FOUND")
    refused = client.patch("/scripts/x")
    error_of(refused, 405, "METHOD_NOT_ALLOWED")
    assert "PUT" in refused.headers["Allow"]


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_another_content_type_is_415(client: Client, kind: str | None) -> None:
    error_of(client.post("/scripts", data="{}", content_type=kind), 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/merge-patch+json"]
)
def test_json_by_any_of_its_names_is_read(client: Client, kind: str) -> None:
    response = client.post("/events", data='{"name": "a.b", "data": "\u2603"}'.encode(), content_type=kind)
    assert response.status_code == 202


_NO_JSON = [
    b"", b"{", b"nonsense", b"\xff\xfe{}", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}',
    b'{"a": 1%s}' % (b"0" * 400),
    b'{"a": ' + b"9" * 5000 + b"}", b'"\xed\xa0\x80"', b"[" * 100_000, b"[" * 101 + b"]" * 101, b"\xef\xbb\xbf{}",
    b"{'a': 1}", b'{"a": 1,}', b"{} {}", b'{"a": 01}', "{}".encode("utf-16"),
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
]  # fmt: skip


def test_base64_that_a_shell_wrapped_is_read(client: Client) -> None:
    """As `base64` without -w0 writes it: with raw line breaks, which strict JSON has no place for."""
    fields = factories.body(source=b"exports.handler = async () => ({ message: 'hello' }); // " + b"x" * 100)
    wrapped = "\n".join(textwrap.wrap(fields["script_content"], 76))
    body = json.dumps(fields | {"script_content": "HERE"}).replace("HERE", wrapped)
    assert client.post("/scripts", data=body, content_type="application/json").status_code == 201


def test_what_is_no_json_is_400_and_says_why(client: Client) -> None:
    for body in _NO_JSON:
        response = client.post("/scripts", data=body, content_type="application/json")
        assert fields_of(error_of(response, 400, "VALIDATION_FAILED")) == {"body"}, body[:50]


@pytest.mark.parametrize("body", ["[]", "null", "5", '"x"', "true", "[{}]"])
def test_a_body_that_is_no_object_is_400(client: Client, hello: Script, body: str) -> None:
    for path in ("/scripts", "/scripts/hello/execute", "/events", "/scripts/hello/rollback"):
        error_of(client.post(path, data=body, content_type="application/json"), 400, "VALIDATION_FAILED")
    error_of(client.put("/scripts/hello", data=body, content_type="application/json"), 400, "VALIDATION_FAILED")


def test_a_payload_may_be_as_deep_as_100_levels(client: Client, hello: Script) -> None:
    payload: Any = "bottom"
    for _ in range(98):
        payload = {"down": payload}
    given = {"mode": "async", "trigger_type": "manual", "payload": payload}
    assert client.post("/scripts/hello/execute", json=given).status_code == 202
    assert (
        client.post("/scripts/hello/execute", json={**given, "payload": {"more": {"and": payload}}}).status_code == 400
    )


def test_a_body_over_8_mib_is_413(client: Client, hello: Script) -> None:
    given = {"mode": "async", "trigger_type": "manual", "payload": {"x": "y" * MAX_BYTES}}
    error_of(client.post("/scripts/hello/execute", json=given), 413, "TOO_LARGE")


def test_any_text_goes_into_a_payload(client: Client, hello: Script, services: Services) -> None:
    payload = {"nul": "\0", "half": "\ud800", "snow": "\u2603", "": {"\0": [1e300, -0.0, 2**63, 10**40]}}
    given = {"mode": "sync", "trigger_type": "manual", "payload": payload}
    with factories.worker(services):
        response = client.post("/scripts/hello/execute", json=given)
    assert response.status_code == 200
    assert response.json is not None
    assert response.json["result"] == payload


@pytest.mark.parametrize(
    "name", ["%00", "%ED%A0%80", "..%2f..", "x" * 5000, "%F0%9F%92%A9", "'%20OR%201=1", "hello%0A"]
)
def test_odd_ids_in_the_address_are_404(client: Client, hello: Script, name: str) -> None:
    for path in (f"/scripts/{name}", f"/scripts/{name}/runs", f"/scripts/hello/runs/{name}", f"/events/{name}",
                 f"/runtimes/{name}/libraries", f"/scripts/{name}/schedule"):  # fmt: skip
        error_of(client.get(path), 404, "NOT_FOUND")
    given = {"mode": "async", "trigger_type": "manual"}
    error_of(client.post(f"/scripts/{name}/execute", json=given), 404, "NOT_FOUND")


@pytest.mark.parametrize("header", ["Account-Id", "Authorization"])
@pytest.mark.parametrize("value", ["\u00ff\u00fe", "x" * 8000, "'; DROP TABLE run; --", " "])
def test_odd_headers_are_refused(client: Client, header: str, value: str) -> None:
    response = client.get("/scripts", headers={header: value})
    assert response.status_code in (400, 401, 404)
    error_of(response, response.status_code, str(response.json["error"]["code"]))  # type: ignore[index]


class _Raise:
    """Stands for a verb that fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *_: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (domain.Invalid("m", details=[Detail("f", "m", 1)]), 400, "VALIDATION_FAILED"),
        (domain.Denied("m"), 401, "UNAUTHORIZED"), (domain.NotFound("m"), 404, "NOT_FOUND"),
        (domain.Conflict("m"), 409, "CONFLICT"), (domain.TooLarge("m"), 413, "TOO_LARGE"),
        (domain.Unprocessable("m"), 422, "BUSINESS_RULE_VIOLATION"),
        (domain.TooMany("m", retry_after=7), 429, "RATE_LIMITED"),
        (domain.NotReady("m"), 503, "WORKSPACE_NOT_READY"), (domain.Unavailable("secret words"), 503, "UNAVAILABLE"),
        (peewee.OperationalError("secret words"), 503, "UNAVAILABLE"),
    ],
)  # fmt: skip
def test_each_kind_of_error_has_its_status_and_code(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    monkeypatch.setattr(lookup, "script", _Raise(error))
    response = client.get("/scripts/hello")
    error_of(response, status, code)
    assert ("Retry-After" in response.headers) == (status in (429, 503))
    assert "secret words" not in response.text
    if isinstance(error, domain.TooMany):
        assert response.headers["Retry-After"] == "7"


def test_every_kind_of_error_is_rendered(client: Client) -> None:
    from web.scripting import errors

    kinds = {kind for kind in vars(domain).values() if isinstance(kind, type) and issubclass(kind, domain.DomainError)}
    assert kinds - {domain.DomainError} == set(errors._DOMAIN)


def test_what_nobody_foresaw_is_500_with_an_id_and_without_a_word_of_it(
    app: Flask, alice: Tenant, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app.testing = False
    monkeypatch.setattr(lookup, "script", _Raise(RuntimeError("secret words")))
    response = app.test_client().get(f"{API}/scripts/hello", headers=alice.headers)
    error = error_of(response, 500, "INTERNAL")
    assert response.headers["X-Request-Id"] in error["message"]
    assert "secret words" not in response.text
    assert "secret words" in caplog.text


def test_every_answer_is_hardened(client: Client, app: Flask) -> None:
    for response in (client.get("/scripts"), client.get("/nothing"), app.test_client().get("/docs")):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Cache-Control" in response.headers


def test_details_show_long_values_shortened(client: Client) -> None:
    response = client.post("/scripts", json={**factories.body(), "display_name": "x" * 100_000})
    (detail,) = error_of(response, 400, "VALIDATION_FAILED")["details"]
    assert len(detail["value"]) < 200


def test_details_name_the_path_to_a_nested_field(client: Client) -> None:
    triggers = {"events": [{"pattern": "a"}, {"pattern": 5}], "http": {"path": "/a", "mode": "x"}}
    response = client.post("/scripts", json=factories.body(triggers=triggers, tags={"a": 1}))
    error = error_of(response, 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"triggers.events[1].pattern", "triggers.http.mode", "tags.a"}
    assert {detail["value"] for detail in error["details"]} == {5, "x", 1}
    assert "2 more" in error["message"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(_JSON)
def test_every_json_value_is_read_as_it_is(value: Any) -> None:
    assert strict_json.parse(json.dumps(value).encode()) == value


@given(st.binary(max_size=50))
def test_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        strict_json.parse(data)
    except domain.Invalid as error:
        assert error.details


_NAMES = [*factories.body(), "secrets", "tags", "triggers", "schedule", "memory_mb", "x"]


@given(st.dictionaries(st.sampled_from(_NAMES), _JSON, min_size=1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_in_a_create_request_breaks_the_server(client: Client, fields: dict[str, Any]) -> None:
    response = client.post("/scripts", json={**factories.body(), **fields})
    assert response.status_code in (201, 400, 409, 413), response.text
    if response.status_code == 201:
        assert response.json is not None
        assert client.delete(f"/scripts/{response.json['id']}").status_code == 204


def test_guards_cover_every_blueprint(app: Flask) -> None:
    assert set(app.extensions["guards"]) == set(app.blueprints)
    assert app.extensions["guards"]["Scripts"] is auth.api_key
