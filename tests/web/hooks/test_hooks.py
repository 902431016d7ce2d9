"""Webhooks. Alice owns the hook, Bob has a workspace of his own, and anybody may call."""

import base64
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from millrace import ids, runs, scripts, signatures
from millrace.models import Run, Script, Workspace
from millrace.services import Services
from millrace.triggers import HttpTrigger, Triggers
from tests import factories
from tests.factories import Tenant
from web.hooks import errors, serving

KEY = "a-key-of-some-length"
WHSEC = "whsec_" + base64.b64encode(b"0123456789abcdef").decode()
Make = Callable[..., Script]


@pytest.fixture
def anybody(app: Flask) -> FlaskClient:
    """A caller without a key to anything."""
    return app.test_client()


@pytest.fixture
def hook(services: Services, app: Flask, alice: Tenant) -> Make:
    """Gives Alice a script with a hook; open to all and sync, unless it is said otherwise."""

    def make(slug: str = "orders", **values: Any) -> Script:
        given = {"path": "/orders", "auth": "none", **values}
        return factories.script(services, alice, slug, triggers=Triggers(http=HttpTrigger(**given)))

    return make


def refused(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The error of an answer, which must have this status and code."""
    assert response.status_code == status, response.text
    assert response.json is not None and set(response.json) == {"error"}
    error: dict[str, Any] = response.json["error"]
    assert error["code"] == code and error["message"]
    return error


def returns(value: Any) -> factories.Handler:
    """A handler that returns this value."""
    return lambda _run, _payload: runs.Ending("succeeded", 1, result=json.dumps(value))


# What the script gets


def test_a_post_starts_the_script_with_the_request_as_its_payload(
    services: Services, hook: Make, anybody: FlaskClient
) -> None:
    script = hook()
    with factories.worker(services):
        response = anybody.post("/hooks/alice/orders?a=1&b=2&b=3&c=", json={"total": 7},
                                headers={"X-Shop": "one", "User-Agent": "shop/1"})
    assert response.status_code == 200, response.text
    payload = response.json
    assert payload is not None
    assert payload["headers"].items() >= {"x-shop": "one", "user-agent": "shop/1",
                                          "content-type": "application/json"}.items()
    del payload["headers"]
    assert payload == {
        "method": "POST", "path": "/orders", "query": {"a": "1", "b": ["2", "3"], "c": ""},
        "body": {"total": 7}, "rawBody": '{"total": 7}',
    }  # fmt: skip
    run = Run.get()
    assert (run.script_id, run.trigger, run.mode, run.caller_ip) == (script.uuid, "http", "sync", "127.0.0.1")
    assert response.headers["Millrace-Run-Id"] == run.id
    assert "Idempotent-Replayed" not in response.headers


@pytest.mark.parametrize(("kind", "raw", "body"), [
    ("application/json", b"", None),
    ("application/json", b" [1, null] ", [1, None]),
    ("application/cloudevents+json; charset=utf-8", b'{"a":"\\ud800"}', {"a": "\ud800"}),
    ("application/x-www-form-urlencoded", b"a=1&b=2&b=%C3%A9+x&c=", {"a": "1", "b": ["2", "é x"], "c": ""}),
    ("multipart/form-data; boundary=X", b'--X\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--X--\r\n',
     {"a": "1"}),
    ("text/plain", "grüß".encode(), "grüß"),
    ("", b"{}", "{}"),
    ("application/octet-stream", b"\x00NUL", "\x00NUL"),
])
def test_a_body_is_parsed_by_its_content_type(
    services: Services, hook: Make, anybody: FlaskClient, kind: str, raw: bytes, body: Any
) -> None:
    hook()
    with factories.worker(services):
        response = anybody.post("/hooks/alice/orders", data=raw, content_type=kind)
    assert response.status_code == 200, response.text
    assert response.json is not None
    assert response.json["body"] == body
    assert response.json["rawBody"] == raw.decode()
    assert "isBase64Encoded" not in response.json


def test_bytes_that_are_no_text_come_as_base64(services: Services, hook: Make, anybody: FlaskClient) -> None:
    hook()
    raw = bytes(range(256))
    with factories.worker(services):
        response = anybody.post("/hooks/alice/orders", data=raw, content_type="image/png")
    assert response.json is not None
    assert response.json["isBase64Encoded"] is True
    assert base64.b64decode(response.json["rawBody"]) == raw


@pytest.mark.parametrize("raw", [
    b"{", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b"1" * 10_000, b'{"a": 1e999}', b"\x00",
])
def test_a_body_that_is_not_the_json_it_says_is_refused(services: Services, hook: Make, anybody: FlaskClient,
                                                        raw: bytes) -> None:
    hook()
    refused(anybody.post("/hooks/alice/orders", data=raw, content_type="application/json"), 400, "INVALID_BODY")
    assert Run.select().count() == 0


def test_a_body_may_have_four_mebibytes_and_no_more(services: Services, hook: Make, anybody: FlaskClient) -> None:
    hook()
    with factories.worker(services, returns(1)):
        most = anybody.post("/hooks/alice/orders", data=b"x" * errors.MAX_BODY_BYTES, content_type="text/plain")
    assert most.status_code == 200
    for kind in ("text/plain", "application/json", "application/x-www-form-urlencoded"):
        raw = b"x" * (errors.MAX_BODY_BYTES + 1)
        refused(anybody.post("/hooks/alice/orders", data=raw, content_type=kind), 413, "TOO_LARGE")
    assert Run.select().count() == 1


def test_a_large_form_is_parsed(services: Services, hook: Make, anybody: FlaskClient) -> None:
    hook()
    with factories.worker(services):
        response = anybody.post("/hooks/alice/orders", data={"a": "x" * 1_000_000})
    assert response.json is not None and len(response.json["body"]["a"]) == 1_000_000


def test_the_cookies_of_a_browser_are_kept_from_scripts(services: Services, hook: Make, anybody: FlaskClient) -> None:
    hook()
    headers = {"Cookie": "millrace_session=secret; a=b", "Proxy-Authorization": "Basic c2VjcmV0", "X-Seen": "yes"}
    with factories.worker(services):
        response = anybody.post("/hooks/alice/orders", headers=headers)
    assert response.json is not None and response.json["headers"]["x-seen"] == "yes"
    assert "secret" not in str(runs.payload_text(services, Run.get())) and "c2VjcmV0" not in response.text


# Who may call, and with what


def test_a_hook_for_members_is_not_among_the_public_ones(services: Services, hook: Make, anybody: FlaskClient) -> None:
    hook(auth="member")
    missing = anybody.post("/hooks/alice/missing")
    for method in ("POST", "GET", "OPTIONS"):
        answer = anybody.open("/hooks/alice/orders", method=method)
        assert (answer.status_code, answer.json) == (missing.status_code, missing.json) == (404, missing.json)
    assert Run.select().count() == 0


@pytest.mark.parametrize("path", [
    "/hooks/alice/other", "/hooks/alice/orders/", "/hooks/alice/orders/1", "/hooks/bob/orders",
    "/hooks/nobody/orders", "/hooks/alice/%00", "/hooks/%00/orders", "/hooks/alice/ORDERS", "/hooks/alice/%ff",
    "/hooks/alice/" + "x" * 5000, "/hooks/alice/..%2forders",
])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_what_is_no_hook_is_not_found(
    services: Services, hook: Make, anybody: FlaskClient, bob: Tenant, path: str, method: str
) -> None:
    hook()
    assert refused(anybody.open(path, method=method), 404, "NOT_FOUND")["message"] == "There is no such hook."


def test_a_hook_of_an_inactive_script_answers_as_if_it_were_not_there(
    services: Services, hook: Make, anybody: FlaskClient
) -> None:
    script = hook()
    scripts.update(services, script, scripts.Change(columns={"status": "paused"}))
    services.database.close()
    missing, inactive = (anybody.post(f"/hooks/alice/{path}") for path in ("missing", "orders"))
    assert (inactive.status_code, inactive.json) == (missing.status_code, missing.json)
    assert inactive.status_code == 404


def test_a_suspended_workspace_asks_to_come_again(services: Services, hook: Make, anybody: FlaskClient) -> None:
    hook()
    Workspace.update(status="suspended").execute()
    services.database.close()
    response = anybody.post("/hooks/alice/orders")
    refused(response, 503, "WORKSPACE_NOT_READY")
    assert response.headers["Retry-After"]


@pytest.mark.parametrize(("methods", "allowed"), [
    (["POST"], {"POST"}), (["GET"], {"GET", "HEAD"}), (["PUT", "PATCH", "DELETE"], {"PUT", "PATCH", "DELETE"}),
    (["HEAD"], {"HEAD"}),
])
def test_only_chosen_methods_are_answered(
    services: Services, hook: Make, anybody: FlaskClient, methods: list[str], allowed: set[str]
) -> None:
    hook(methods=methods)
    with factories.worker(services, returns({"ok": True})):
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            response = anybody.open("/hooks/alice/orders", method=method)
            assert response.status_code == (200 if method in allowed else 405), method
            if method not in allowed:
                assert set(response.headers["Allow"].split(", ")) == allowed
    assert Run.select().count() == len(allowed)


def test_head_runs_the_script_and_sends_no_body(services: Services, hook: Make, anybody: FlaskClient) -> None:
    hook(methods=["GET"])
    with factories.worker(services, returns({"statusCode": 201, "headers": {"X-A": "b"}, "body": "text"})):
        response = anybody.head("/hooks/alice/orders")
    assert (response.status_code, response.headers["X-A"], response.data) == (201, "b", b"")
    assert json.loads(Run.get().payload)["method"] == "HEAD"


@pytest.mark.parametrize("headers", [
    {"Authorization": f"Bearer {KEY}"}, {"X-Api-Key": KEY}, {"x-webhook-key": KEY}, None,
])
def test_the_key_opens_and_is_not_handed_on(
    services: Services, hook: Make, anybody: FlaskClient, headers: dict[str, str] | None
) -> None:
    hook(auth="key", secret=KEY)
    path = "/hooks/alice/orders?a=1" if headers else f"/hooks/alice/orders?a=1&key={KEY}"
    with factories.worker(services):
        response = anybody.post(path, headers=headers)
    assert response.status_code == 200, response.text
    assert KEY not in response.text and KEY not in Run.get().payload
    assert response.json is not None and response.json["query"] == {"a": "1"}


@pytest.mark.parametrize("headers", [
    {}, {"Authorization": f"Bearer {KEY}x"}, {"X-Api-Key": KEY[:-1]}, {"Authorization": KEY}, {"X-Api-Key": ""},
    {"X-Api-Key": "é"},
])
def test_without_the_key_nothing_runs(
    services: Services, hook: Make, anybody: FlaskClient, headers: dict[str, str]
) -> None:
    hook(auth="key", secret=KEY)
    response = anybody.post("/hooks/alice/orders", headers=headers)
    refused(response, 401, "UNAUTHORIZED")
    assert response.headers["WWW-Authenticate"]
    assert "Millrace-Run-Id" not in response.headers
    assert Run.select().count() == 0


SCHEMES = [("standard", WHSEC), ("github", "github-secret"), ("stripe", "stripe-secret")]


@pytest.mark.parametrize(("scheme", "secret"), SCHEMES)
def test_a_signed_delivery_runs_and_a_changed_one_does_not(
    services: Services, hook: Make, anybody: FlaskClient, scheme: str, secret: str
) -> None:
    hook(auth="signature", scheme=scheme, secret=secret)
    raw = b'{"id": "evt_1",  "n": 1.0}'
    signed = signatures.sign(scheme, secret, raw, ids.now_ms(), "delivery-1")
    send = {"content_type": "application/json", "headers": signed}
    for body in (raw.replace(b"  ", b" "), raw + b" ", b""):
        refused(anybody.post("/hooks/alice/orders", data=body, **send), 401, "UNAUTHORIZED")
    refused(anybody.post("/hooks/alice/orders", data=raw, content_type="application/json"), 401, "UNAUTHORIZED")
    with factories.worker(services):
        response = anybody.post("/hooks/alice/orders", data=raw, **send)
    assert response.status_code == 200, response.text
    assert response.json is not None and response.json["rawBody"] == raw.decode()
    assert Run.select().count() == 1


@pytest.mark.parametrize("scheme", ["standard", "stripe"])
@pytest.mark.parametrize("minutes", [-6, 6])
def test_an_old_delivery_cannot_be_replayed(
    services: Services, hook: Make, anybody: FlaskClient, scheme: str, minutes: int
) -> None:
    secret = dict(SCHEMES)[scheme]
    hook(auth="signature", scheme=scheme, secret=secret)
    signed = signatures.sign(scheme, secret, b"{}", ids.now_ms() + minutes * 60_000, "delivery-1")
    refused(anybody.post("/hooks/alice/orders", data=b"{}", headers=signed), 401, "UNAUTHORIZED")
    assert Run.select().count() == 0


def test_signed_bytes_need_not_be_text(services: Services, hook: Make, anybody: FlaskClient) -> None:
    hook(auth="signature", scheme="github", secret="github-secret")
    raw = b"\xff\x00\xfe"
    signed = signatures.sign("github", "github-secret", raw, ids.now_ms(), "delivery-1")
    with factories.worker(services):
        response = anybody.post("/hooks/alice/orders", data=raw, headers=signed)
    assert response.status_code == 200


# What the caller gets


@pytest.mark.parametrize("value", [
    None, 0, "text", [], {}, {"statusCode": "200"}, {"statusCode": True}, {"statusCode": 200.5},
    {"statusCode": 99}, {"statusCode": 600}, {"statusCode": None, "body": "x"}, [{"statusCode": 200}], "\ud800",
])
def test_whatever_is_no_answer_is_json(services: Services, hook: Make, anybody: FlaskClient, value: Any) -> None:
    hook()
    with factories.worker(services, returns(value)):
        response = anybody.post("/hooks/alice/orders")
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert json.loads(response.data) == value


@pytest.mark.parametrize(("value", "status", "kind", "body"), [
    ({"statusCode": 201}, 201, None, b""),
    ({"statusCode": 200, "body": "grüß"}, 200, "text/plain; charset=utf-8", "grüß".encode()),
    ({"statusCode": 400, "body": {"a": [1]}}, 400, "application/json", b'{"a":[1]}'),
    ({"statusCode": 200, "body": False}, 200, "application/json", b"false"),
    ({"statusCode": 200, "body": "<p>", "headers": {"content-type": "text/html"}}, 200, "text/html", b"<p>"),
    ({"statusCode": 200, "body": "AAH/", "isBase64Encoded": True}, 200, "application/octet-stream", b"\x00\x01\xff"),
    ({"statusCode": 204, "body": "not sent", "headers": {"Content-Type": "text/plain"}}, 204, None, b""),
    ({"statusCode": 304, "body": "not sent"}, 304, None, b""),
    ({"statusCode": 302, "headers": {"Location": "https://example.com/"}}, 302, None, b""),
    ({"statusCode": 599, "body": "odd"}, 599, "text/plain; charset=utf-8", b"odd"),
    ({"statusCode": 200, "body": "half \ud800"}, 200, "text/plain; charset=utf-8", b"half ?"),
])
def test_an_object_with_a_status_is_the_answer_itself(
    services: Services, hook: Make, anybody: FlaskClient, value: Any, status: int, kind: str | None, body: bytes
) -> None:
    hook()
    with factories.worker(services, returns(value)):
        response = anybody.post("/hooks/alice/orders")
    assert (response.status_code, response.headers.get("Content-Type"), response.data) == (status, kind, body)
    assert response.headers["Millrace-Run-Id"] == Run.get().id


def test_headers_go_out_as_they_are_but_for_the_dangerous_ones(
    services: Services, hook: Make, anybody: FlaskClient
) -> None:
    hook()
    withheld = {
        "Connection": "close", "Transfer-Encoding": "chunked", "Content-Length": "1", "Set-Cookie": "session=stolen",
        "Access-Control-Allow-Credentials": "true",
        "Upgrade": "h2c", "X-Accel-Redirect": "/etc/passwd", "X-Sendfile": "/etc/passwd", "Millrace-Run-Id": "forged",
        "Strict-Transport-Security": "max-age=1", "Service-Worker-Allowed": "/", "Date": "yesterday",
        "Idempotent-Replayed": "true", "X-Content-Type-Options": "sniff",
    }  # fmt: skip
    passed = {"X-Text": "a b", "X-Number": 3, "X-Flag": True, "Link": ["<a>", "<b>"], "Cache-Control": "max-age=60",
              "Content-Security-Policy": "default-src 'self'"}  # fmt: skip
    value = {"statusCode": 200, "headers": {**withheld, **passed}, "body": "four"}
    with factories.worker(services, returns(value)):
        response = anybody.post("/hooks/alice/orders")
    assert response.status_code == 200
    for name, text in withheld.items():
        assert text not in response.headers.getlist(name), name
    assert response.headers["Content-Length"] == "4"
    assert [response.headers[name] for name in ("X-Text", "X-Number", "X-Flag")] == ["a b", "3", "true"]
    assert response.headers.getlist("Link") == ["<a>", "<b>"]
    assert response.headers["Cache-Control"] == "max-age=60"
    policies = response.headers.getlist("Content-Security-Policy")
    assert policies[0] == "default-src 'self'" and policies[1].startswith("sandbox ")
    assert "allow-same-origin" not in policies[1]


@pytest.mark.parametrize("value", [
    {"statusCode": 200, "headers": {"X-A": "one\r\nSet-Cookie: session=stolen"}},
    {"statusCode": 200, "headers": {"X-A": "one\nX-B: two"}},
    {"statusCode": 200, "headers": {"X-A\r\nX-B": "two"}},
    {"statusCode": 200, "headers": {"X A": "two"}},
    {"statusCode": 200, "headers": {"": "two"}},
    {"statusCode": 200, "headers": {"X-A": None}},
    {"statusCode": 200, "headers": {"X-A": {"b": 1}}},
    {"statusCode": 200, "headers": {"X-A": "日本"}},
    {"statusCode": 200, "headers": {"X-A": "\x00"}},
    {"statusCode": 200, "headers": {"X-A": "x" * 8001}},
    {"statusCode": 200, "headers": {"X-A": ["x"] * 101}},
    {"statusCode": 200, "headers": ["X-A: b"]},
    {"statusCode": 200, "headers": {"Location": "/\r\n\r\n<script>"}},
    {"statusCode": 101, "body": "switch"},
    {"statusCode": 100},
    {"statusCode": 200, "body": "no base64!", "isBase64Encoded": True},
])
def test_an_answer_that_http_does_not_have_is_the_scripts_error(
    services: Services, hook: Make, anybody: FlaskClient, value: Any
) -> None:
    hook()
    with factories.worker(services, returns(value)):
        response = anybody.post("/hooks/alice/orders")
    assert refused(response, 502, "BAD_ANSWER")["run_id"] == Run.get().id
    assert "stolen" not in str(response.headers) and "Set-Cookie" not in response.headers


@pytest.mark.parametrize(("ending", "status", "code"), [
    (runs.Ending("failed", 1, error="Error: no", error_code="SCRIPT_ERROR"), 502, "SCRIPT_ERROR"),
    (runs.Ending("failed", 1), 502, "SCRIPT_ERROR"),
    (runs.Ending("failed", 1, error="lost", error_code="WORKER_LOST"), 502, "WORKER_LOST"),
    (runs.Ending("cancelled", 1), 502, "CANCELLED"),
    (runs.Ending("timed_out", 1, error="30 s", error_code="TIMEOUT"), 504, "TIMEOUT"),
])
def test_a_run_that_does_not_succeed_is_told_with_its_id(
    services: Services, hook: Make, anybody: FlaskClient, ending: runs.Ending, status: int, code: str
) -> None:
    hook()
    with factories.worker(services, lambda _run, _payload: ending):
        response = anybody.post("/hooks/alice/orders")
    error = refused(response, status, code)
    assert error["run_id"] == response.headers["Millrace-Run-Id"] == Run.get().id
    if ending.error:
        assert error["message"] == ending.error


def test_waiting_has_an_end_and_the_run_goes_on(
    services: Services, hook: Make, anybody: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = hook()
    Script.update(timeout_seconds=0).where(Script.uuid == script.uuid).execute()
    services.database.close()
    monkeypatch.setattr(serving, "QUEUE_PATIENCE_S", 0.1)
    error = refused(anybody.post("/hooks/alice/orders"), 504, "TIMEOUT")
    assert Run.get_by_id(error["run_id"]).status == "queued"


def test_async_answers_once_the_run_is_stored(services: Services, hook: Make, anybody: FlaskClient) -> None:
    hook(mode="async")
    response = anybody.post("/hooks/alice/orders", json={"a": 1})
    run = Run.get()
    assert (response.status_code, response.json) == (202, {"run_id": run.id})
    assert (run.mode, run.status, response.headers["Millrace-Run-Id"]) == ("async", "queued", run.id)


def test_one_workspace_cannot_take_every_thread_by_waiting(
    services: Services, hook: Make, anybody: FlaskClient, app: Flask
) -> None:
    hook()
    seats = app.extensions["millrace"].waiting
    for _ in range(seats.each):
        seats.take("alice")
    response = anybody.post("/hooks/alice/orders")
    refused(response, 429, "RATE_LIMITED")
    assert response.headers["Retry-After"] == "1"
    assert Run.select().count() == 0  # refused is not accepted
    seats.leave("alice")
    with factories.worker(services, returns(1)):
        assert anybody.post("/hooks/alice/orders").status_code == 200


def test_workspaces_do_not_take_each_others_waiting_seats(app: Flask) -> None:
    seats = app.extensions["millrace"].waiting
    for _ in range(seats.each):
        seats.take("alice")
    assert seats.each == seats.all // 4
    for _ in range(seats.each):
        seats.take("bob")  # raises TooMany when there are none


def test_calls_from_anybody_leave_seats_to_callers_whom_the_workspace_knows(
    services: Services, hook: Make, anybody: FlaskClient, app: Flask
) -> None:
    hook()
    hook("known", path="/known", auth="key", secret=KEY)
    process = app.extensions["millrace"]
    assert process.open_hooks.each == process.waiting.all // 8
    for _ in range(process.open_hooks.each):
        process.open_hooks.take("alice")
        process.waiting.take("alice")
    refused(anybody.post("/hooks/alice/orders"), 429, "RATE_LIMITED")
    with factories.worker(services, returns(1)):
        assert anybody.post("/hooks/alice/known", headers={"X-Api-Key": KEY}).status_code == 200
        process.open_hooks.leave("alice")
        assert anybody.post("/hooks/alice/orders").status_code == 200
    assert process.open_hooks.taken == process.open_hooks.each - 1


# A delivery that comes again


@pytest.mark.parametrize("name", ["webhook-id", "X-GitHub-Delivery", "Idempotency-Key"])
def test_a_repeated_delivery_runs_once_and_answers_the_same(
    services: Services, hook: Make, anybody: FlaskClient, name: str
) -> None:
    hook()
    values = iter(range(10))
    with factories.worker(services, lambda _run, _payload: runs.Ending("succeeded", 1, result=str(next(values)))):
        first = anybody.post("/hooks/alice/orders", headers={name: "delivery-1"})
        again = anybody.post("/hooks/alice/orders", headers={name: "delivery-1"})
        other = anybody.post("/hooks/alice/orders", headers={name: "delivery-2"})
    assert (first.json, again.json, other.json) == (0, 0, 1)
    assert "Idempotent-Replayed" not in first.headers and "Idempotent-Replayed" not in other.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Millrace-Run-Id"] == first.headers["Millrace-Run-Id"]
    assert Run.select().count() == 2


def test_a_repeated_delivery_of_a_failure_fails_the_same(services: Services, hook: Make, anybody: FlaskClient) -> None:
    hook()
    with factories.worker(services, lambda _run, _payload: runs.Ending("failed", 1, error="no", error_code="X")):
        answers = [anybody.post("/hooks/alice/orders", headers={"webhook-id": "d"}) for _ in range(2)]
    assert answers[0].json == answers[1].json and answers[1].headers["Idempotent-Replayed"] == "true"


def test_an_async_delivery_that_comes_again_names_the_same_run(
    services: Services, hook: Make, anybody: FlaskClient
) -> None:
    hook(mode="async")
    first, again = (anybody.post("/hooks/alice/orders", headers={"webhook-id": "d"}) for _ in range(2))
    assert first.json == again.json and again.status_code == 202
    assert again.headers["Idempotent-Replayed"] == "true"


def test_two_of_the_same_delivery_at_once_are_one_run(services: Services, hook: Make, app: Flask) -> None:
    hook()
    answers: list[TestResponse] = []

    def send() -> None:
        answers.append(app.test_client().post("/hooks/alice/orders", headers={"webhook-id": "d"}))

    senders = [threading.Thread(target=send) for _ in range(5)]
    with factories.worker(services, returns("once")):
        for each in senders:
            each.start()
        for each in senders:
            each.join(30)
    assert [answer.json for answer in answers] == ["once"] * 5
    assert sorted("Idempotent-Replayed" in answer.headers for answer in answers) == [False, True, True, True, True]
    assert Run.select().count() == 1


def test_the_same_id_at_another_hook_is_another_delivery(
    services: Services, hook: Make, anybody: FlaskClient
) -> None:
    hook(mode="async")
    hook("other-one", path="/other", mode="async")
    for path in ("orders", "other"):
        anybody.post(f"/hooks/alice/{path}", headers={"webhook-id": "d"})
    assert Run.select().count() == 2


@pytest.mark.parametrize("other", [
    {"data": b"true"}, {"query_string": "a=2"}, {"query_string": ""}, {"method": "PUT"},
])
@pytest.mark.parametrize("identity", ["d", "x" * 10_000])
def test_who_knows_an_id_but_not_the_content_gets_a_run_of_its_own_where_nobody_is_proved(
    services: Services, hook: Make, anybody: FlaskClient, other: dict[str, Any], identity: str
) -> None:
    hook(mode="async", methods=["POST", "PUT"])
    sent = {"method": "POST", "data": b"null", "query_string": "a=1", "headers": {"webhook-id": identity}}
    first, guessed, again = (anybody.open("/hooks/alice/orders", **each) for each in (sent, sent | other, sent))
    assert guessed.json != first.json and "Idempotent-Replayed" not in guessed.headers
    assert again.json == first.json and again.headers["Idempotent-Replayed"] == "true"
    assert all(len(run.delivery_id) <= signatures.MAX_DELIVERY_ID for run in Run.select())


def test_the_id_of_a_proved_sender_counts_alone(services: Services, hook: Make, anybody: FlaskClient) -> None:
    hook(mode="async", auth="key", secret=KEY)
    headers = {"webhook-id": "d", "X-Api-Key": KEY}
    first, again = (anybody.post("/hooks/alice/orders", data=data, headers=headers) for data in (b"1", b"2"))
    assert first.json == again.json
    assert Run.get().delivery_id == "d"


@pytest.mark.parametrize("identity", ["x" * 10_000, "é\tü", "'; DROP TABLE run; --", "%00"])
def test_odd_delivery_ids_are_kept_apart(
    services: Services, hook: Make, anybody: FlaskClient, identity: str
) -> None:
    hook(mode="async")
    for each in (identity, identity + "2", identity):
        assert anybody.post("/hooks/alice/orders", headers={"webhook-id": each}).status_code == 202
    assert Run.select().count() == 2


def test_a_refused_delivery_may_come_again(services: Services, hook: Make, anybody: FlaskClient) -> None:
    hook(mode="async", auth="key", secret=KEY)
    refused(anybody.post("/hooks/alice/orders", headers={"webhook-id": "d"}), 401, "UNAUTHORIZED")
    accepted = anybody.post("/hooks/alice/orders", headers={"webhook-id": "d", "X-Api-Key": KEY})
    assert accepted.status_code == 202 and "Idempotent-Replayed" not in accepted.headers
