"""HTTP scripts. Alice owns the script, Bob has a workspace of his own, and a browser is signed in to Alice's."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from itsdangerous import URLSafeTimedSerializer
from werkzeug.test import TestResponse

from millrace import runs, scripts, workspaces
from millrace.embedded import ValkeyServer
from millrace.errors import TooMany
from millrace.models import Run, Script, User, Workspace
from millrace.services import Services
from millrace.triggers import HttpTrigger, Triggers
from tests import factories
from tests.factories import Tenant
from tests.web.console.conftest import member, sign_in
from web.hooks import serving
from web.httpscripts import rates

URL = "/api/scripts/orders"
Make = Callable[..., Script]


@pytest.fixture
def anybody(app: Flask) -> FlaskClient:
    """A caller without a key to anything."""
    return app.test_client()


@pytest.fixture
def script(services: Services, app: Flask, alice: Tenant) -> Make:
    """Gives Alice an HTTP script."""

    def make(slug: str = "orders", **values: Any) -> Script:
        given = {"path": "/orders", "methods": ["GET", "POST"], "auth": "member", **values}
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


def with_token(app: Flask, browser: FlaskClient) -> dict[str, str]:
    """The header that the console's pages send."""
    raw = hashlib.sha1(b"anything").hexdigest()
    with browser.session_transaction() as cookie:
        cookie["csrf_token"] = raw
    return {"X-CSRF-Token": str(URLSafeTimedSerializer(app.secret_key or "", salt="wtf-csrf-token").dumps(raw))}


def browser_as(app: Flask, services: Services, role: str, workspace: str = "alice") -> FlaskClient:
    """A browser of somebody who has this role there."""
    return sign_in(app, services, member(services, workspace, role), workspace)


# What the script gets and answers


def test_a_request_with_a_key_starts_the_script_and_its_result_is_the_answer(
    services: Services, script: Make, anybody: FlaskClient, alice: Tenant
) -> None:
    made = script()
    headers = {**alice.headers, "Cookie": "millrace_session=secret", "X-Shop": "one", "X-CSRF-Token": "secret"}
    with factories.worker(services):
        response = anybody.post(f"{URL}?a=1&key=2", json={"total": 7}, headers=headers)
    assert response.status_code == 200, response.text
    payload = response.json
    assert payload is not None
    seen = payload.pop("headers")
    assert seen["x-shop"] == "one"
    assert not {"authorization", "account-id", "cookie", "x-csrf-token"} & set(seen)
    assert payload == {
        "method": "POST", "path": "/orders", "query": {"a": "1", "key": "2"}, "body": {"total": 7},
        "rawBody": '{"total": 7}', "params": {},
    }  # fmt: skip
    run = Run.get()
    assert (run.script_id, run.trigger, run.mode, run.user_id) == (made.uuid, "http", "sync", None)
    assert response.headers["Millrace-Run-Id"] == run.id
    kept = runs.payload_text(services, run)
    assert "secret" not in kept and alice.api_key not in kept


def test_a_script_chooses_status_headers_and_body(
    services: Services, script: Make, anybody: FlaskClient, alice: Tenant
) -> None:
    script()
    own = {
        "statusCode": 418, "body": "tea",
        "headers": {"X-Pot": "small", "Set-Cookie": "a=b", "Access-Control-Allow-Credentials": "true"},
    }
    with factories.worker(services, returns(own)):
        response = anybody.get(URL, headers=alice.headers)
    assert (response.status_code, response.text, response.headers["X-Pot"]) == (418, "tea", "small")
    assert not {"Set-Cookie", "Access-Control-Allow-Credentials"} & set(response.headers.keys())
    assert response.headers["Content-Security-Policy"].startswith("sandbox")


@pytest.mark.parametrize(("own", "status", "text"), [
    ({"status": 201, "body": {"made": 1}}, 201, '{"made":1}'),
    ({"status": 404, "headers": {"Content-Type": "text/plain"}, "body": "gone"}, 404, "gone"),
    ({"status": 200}, 200, '{"status": 200}'), ({"status": 404, "items": []}, 200, '{"status": 404, "items": []}'),
    ({"status": "open", "body": "x"}, 200, '{"status": "open", "body": "x"}'),
])
def test_a_status_by_its_short_name_is_the_answer_where_nothing_else_stands_beside_it(
    services: Services, script: Make, anybody: FlaskClient, alice: Tenant, own: Any, status: int, text: str
) -> None:
    script()
    with factories.worker(services, returns(own)):
        response = anybody.get(URL, headers=alice.headers)
    assert (response.status_code, response.text) == (status, text)


@pytest.mark.parametrize(("ending", "status", "code"), [
    (runs.Ending("failed", 1, error="boom", error_code="RangeError"), 500, "RangeError"),
    (runs.Ending("timed_out", 1, error="too long", error_code="TIMEOUT"), 504, "TIMEOUT"),
    (runs.Ending("succeeded", 1, result='{"statusCode": 200, "headers": []}'), 500, "BAD_ANSWER"),
])
def test_what_goes_wrong_in_a_script_names_its_run(
    services: Services, script: Make, anybody: FlaskClient, alice: Tenant, ending: runs.Ending, status: int, code: str
) -> None:
    script()
    with factories.worker(services, lambda _run, _payload: ending):
        error = refused(anybody.post(URL, headers=alice.headers), status, code)
    assert error["run_id"] == Run.get().id


def test_a_script_that_does_not_end_in_time_is_504_and_goes_on(
    services: Services, script: Make, anybody: FlaskClient, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = script()
    monkeypatch.setattr(serving, "QUEUE_PATIENCE_S", 0.1)
    Script.update(timeout_seconds=0).where(Script.uuid == made.uuid).execute()
    services.database.close()
    error = refused(anybody.post(URL, headers=alice.headers), 504, "TIMEOUT")
    assert Run.get().status == "queued" and error["run_id"] == Run.get().id


def test_an_async_script_answers_at_once(services: Services, script: Make, anybody: FlaskClient, alice: Tenant) -> None:
    script(mode="async")
    response = anybody.post(URL, headers=alice.headers)
    assert (response.status_code, response.json) == (202, {"run_id": Run.get().id})


def test_a_request_that_is_repeated_runs_once_and_another_of_the_same_id_runs_too(
    services: Services, script: Make, anybody: FlaskClient, alice: Tenant
) -> None:
    script(mode="async")
    headers = {**alice.headers, "Idempotency-Key": "one"}
    first, again = (anybody.post(URL, json={"n": 1}, headers=headers) for _ in range(2))
    assert first.json == again.json and again.headers["Idempotent-Replayed"] == "true"
    other = anybody.post(URL, json={"n": 2}, headers=headers)
    assert other.json != first.json and Run.select().count() == 2


@pytest.mark.parametrize("auth", ["none", "key", "signature", "member"])
def test_any_hook_of_the_workspace_is_served_without_its_own_secret(
    services: Services, script: Make, anybody: FlaskClient, alice: Tenant, auth: str
) -> None:
    more = {"none": {}, "member": {}, "key": {"secret": "a-secret"}, "signature": {"scheme": "github", "secret": "s"}}
    script(auth=auth, **more[auth])
    with factories.worker(services):
        assert anybody.post(URL, headers=alice.headers).status_code == 200


# Who may call


def test_who_proves_nothing_is_401(script: Make, anybody: FlaskClient, alice: Tenant) -> None:
    script()
    for path in (URL, "/api/scripts/missing"):
        for headers in ({}, {"Authorization": "ApiKey nonsense"}, {"Authorization": "Bearer x"},
                        {"Cookie": "millrace_session=forged"}, {"Account-Id": alice.id}):
            response = anybody.post(path, headers=headers)
            refused(response, 401, "UNAUTHORIZED")
            assert response.headers["WWW-Authenticate"] == "ApiKey"
    assert Run.select().count() == 0


def test_a_key_opens_its_own_workspace_alone(
    services: Services, script: Make, anybody: FlaskClient, alice: Tenant, bob: Tenant
) -> None:
    script()
    refused(anybody.post(URL, headers=bob.headers), 404, "NOT_FOUND")
    refused(anybody.post(URL, headers={**bob.headers, "Account-Id": "alice"}), 404, "NOT_FOUND")
    refused(anybody.post(URL, headers={"Authorization": alice.headers["Authorization"]}), 400, "BAD_REQUEST")
    workspaces.revoke_api_key(services, alice.id, alice.api_key.split("_")[1])
    services.database.close()
    refused(anybody.post(URL, headers=alice.headers), 401, "UNAUTHORIZED")
    assert Run.select().count() == 0


@pytest.mark.parametrize(("role", "status"), [("org_admin", 200), ("developer", 200), ("viewer", 403)])
def test_whoever_is_signed_in_and_may_execute_scripts_may_call(
    app: Flask, services: Services, script: Make, role: str, status: int
) -> None:
    script()
    browser = browser_as(app, services, role)
    headers = with_token(app, browser)
    with factories.worker(services):
        for response in (browser.get(URL), browser.post(URL, json={"n": 1}, headers=headers),
                         browser.post(URL, data={"n": "1"}, headers=headers)):
            assert response.status_code == status, response.text
            if status == 403:
                refused(response, 403, "FORBIDDEN")
    if status == 200:
        assert response.json is not None
        assert (response.json["body"], response.json["rawBody"]) == ({"n": "1"}, "n=1")
        assert "x-csrf-token" not in response.json["headers"] and "cookie" not in response.json["headers"]
        assert {run.user_id for run in Run.select()} == {User.get().id}


def test_a_browser_of_another_workspace_finds_nothing(
    app: Flask, services: Services, script: Make, bob: Tenant
) -> None:
    script()
    browser = browser_as(app, services, "org_admin", bob.id)
    refused(browser.get(URL), 404, "NOT_FOUND")
    refused(browser.get(URL, headers={"Account-Id": "alice"}), 404, "NOT_FOUND")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_another_site_cannot_make_a_browser_change_things(
    app: Flask, services: Services, script: Make, method: str
) -> None:
    script(methods=["POST", "PUT", "PATCH", "DELETE"])
    browser = browser_as(app, services, "org_admin")
    for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "made-up"}):
        refused(browser.open(URL, method=method, headers=headers), 403, "FORBIDDEN")
    assert Run.select().count() == 0


# What is not there


@pytest.mark.parametrize("path", [
    "missing", "orders/", "orders/1", "ORDERS", "%00", "%ff", "x" * 5000, "..%2forders", "alice/orders",
])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_what_is_no_http_script_is_not_found(
    script: Make, anybody: FlaskClient, alice: Tenant, path: str, method: str
) -> None:
    script()
    response = anybody.open(f"/api/scripts/{path}", method=method, headers=alice.headers)
    assert refused(response, 404, "NOT_FOUND")["message"] == "There is no HTTP script at this path."


@pytest.mark.parametrize("status", ["draft", "paused", "disabled", "archived"])
def test_a_script_that_is_not_active_answers_as_if_it_were_not_there(
    services: Services, script: Make, anybody: FlaskClient, alice: Tenant, status: str
) -> None:
    made = script()
    Script.update(status=status).where(Script.uuid == made.uuid).execute()
    services.database.close()
    missing, inactive = (anybody.post(f"/api/scripts/{path}", headers=alice.headers) for path in ("missing", "orders"))
    assert (inactive.status_code, inactive.json) == (missing.status_code, missing.json) == (404, missing.json)


def test_a_script_that_is_paused_between_the_look_and_the_start_is_not_found(
    services: Services, script: Make, anybody: FlaskClient, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = script()
    look = serving.find

    def slow_look(workspace_id: str, path: str) -> Any:
        found = look(workspace_id, path)
        scripts.change_status(services, scripts.find("alice", made.slug), "paused", "x")
        return found

    monkeypatch.setattr(serving, "find", slow_look)
    error = refused(anybody.post(URL, headers=alice.headers), 404, "NOT_FOUND")
    assert error["message"] == "There is no HTTP script at this path."


def test_another_method_is_405(script: Make, anybody: FlaskClient, alice: Tenant) -> None:
    script(methods=["GET"])
    response = anybody.put(URL, headers=alice.headers)
    refused(response, 405, "METHOD_NOT_ALLOWED")
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD"}


def test_a_suspended_workspace_asks_to_come_again(
    services: Services, script: Make, anybody: FlaskClient, alice: Tenant
) -> None:
    script()
    Workspace.update(status="suspended").execute()
    services.database.close()
    refused(anybody.post(URL, headers=alice.headers), 503, "WORKSPACE_NOT_READY")


# How often


def test_a_workspace_may_call_a_hundred_times_a_minute(
    script: Make, anybody: FlaskClient, alice: Tenant, bob: Tenant
) -> None:
    assert rates.PER_MINUTE == 100
    for _ in range(100):
        refused(anybody.get("/api/scripts/missing", headers=alice.headers), 404, "NOT_FOUND")
    response = anybody.get("/api/scripts/missing", headers=alice.headers)
    refused(response, 429, "RATE_LIMITED")
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    refused(anybody.get("/api/scripts/missing", headers=bob.headers), 404, "NOT_FOUND")


def test_all_processes_count_together(redis_url: str) -> None:
    one, two = (rates.Rate(redis_url, 3) for _ in range(2))
    for each in (one, two, one):
        each.take("alice")
    for each in (one, two):
        with pytest.raises(TooMany) as refused:
            each.take("alice")
        assert 1 <= refused.value.retry_after <= 60
    two.take("bob")
    with redis.Redis.from_url(redis_url) as client:
        assert all(key.startswith(b"millrace:") and 0 < client.ttl(key) <= 60 for key in client.scan_iter())
        client.flushall()
    one.take("alice")


def test_a_redis_that_is_away_stops_nobody(servers_folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    with ValkeyServer(servers_folder / "short-lived", durable=False) as server:
        rate = rates.Rate(server.url, 1)
        rate.take("alice")
    rate.take("alice")
    assert "not counted" in caplog.text
