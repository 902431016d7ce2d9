from typing import Any

import pytest
from flask import Blueprint, Flask

from millrace import workspaces
from millrace.models import Script
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.conftest import API, Client, error_of, fields_of
from web import auth

HOOKS = "/hooks/<workspace_id>/<path:path>"  # each hook says how its callers prove who they are
# Pages that lead in; their forms are refused without the browser's token.
VISITORS = {"/login", "/logout", "/login/oidc", "/login/oidc/callback", "/invitations/<token>"}
ASSETS = "/assets/<mark>/<kind>/<path:name>"
OPEN_TO_ALL = {"/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs", "/docs/start.js", "/docs/<name>"}


def test_every_route_that_is_not_listed_here_refuses_who_has_no_key(app: Flask) -> None:
    client = app.test_client()
    seen = set()
    for rule in app.url_map.iter_rules():
        if rule.rule in {*OPEN_TO_ALL, *VISITORS, HOOKS, ASSETS}:
            continue
        path = rule.rule
        for argument in rule.arguments:
            path = path.replace(f"<int:{argument}>", "1").replace(f"<{argument}>", "x")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            # A page leads to the sign-in, unless JSON is asked for.
            response = client.open(path, method=method, headers={"Accept": "application/json"})
            assert response.status_code == 401, (method, path, response.status_code)
            seen.add(rule.rule)
    assert f"{API}/scripts/<script_id>/execute" in seen
    assert len(seen) >= 17


def test_what_leads_in_takes_no_form_of_anybody_elses(app: Flask) -> None:
    client = app.test_client()
    for path in ("/login", "/logout", "/invitations/x"):
        assert client.post(path, data={"email": "a@example.com"}).status_code == 403, path


def test_what_is_open_to_all_is_open(app: Flask) -> None:
    client = app.test_client()
    for path in OPEN_TO_ALL - {"/docs/<name>"}:
        assert client.get(path).status_code == 200, path


def test_a_blueprint_without_a_stated_guard_answers_nobody(app: Flask, alice: Tenant) -> None:
    forgotten = Blueprint("forgotten", __name__)
    forgotten.add_url_rule("/forgotten", view_func=lambda: "secret")
    app.register_blueprint(forgotten)
    response = app.test_client().get("/forgotten", headers=alice.headers)
    error_of(response, 401, "UNAUTHORIZED")
    auth.state(app, "forgotten", auth.public)
    assert app.test_client().get("/forgotten").text == "secret"


@pytest.mark.parametrize(
    "given",
    [
        "", "ApiKey", "ApiKey ", "ApiKey nonsense", "Bearer {key}", "{key}", "Basic {key}", "ApiKey {key}x",
        "ApiKey mr_0000000000000000_0000000000000000000000000000000000000000000", "ApiKey {key} {key}",
        "ApiKey \u00fc", "ApiKey mr_" + "a" * 5000,
    ],
)  # fmt: skip
def test_a_missing_or_wrong_key_is_401(app: Flask, alice: Tenant, given: str) -> None:
    headers = {"Authorization": given.format(key=alice.api_key), "Account-Id": alice.id}
    response = app.test_client().get(f"{API}/scripts", headers=headers)
    error_of(response, 401, "UNAUTHORIZED")
    assert response.headers["WWW-Authenticate"] == "ApiKey"


def test_a_revoked_key_is_401(client: Client, services: Services, alice: Tenant) -> None:
    assert client.get("/scripts").status_code == 200
    workspaces.revoke_api_key(services, alice.id, alice.api_key.split("_")[1])
    error_of(client.get("/scripts"), 401, "UNAUTHORIZED")


def test_the_scheme_may_be_written_in_any_case(client: Client, alice: Tenant) -> None:
    assert client.get("/scripts", headers={"Authorization": f"apikey {alice.api_key}"}).status_code == 200


def test_a_missing_account_is_400_and_names_the_header(app: Flask, alice: Tenant) -> None:
    headers = {"Authorization": f"ApiKey {alice.api_key}"}
    error = error_of(app.test_client().get(f"{API}/scripts", headers=headers), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"Account-Id"}


def test_anothers_account_answers_as_one_that_does_not_exist(client: Client, bob: Tenant) -> None:
    theirs = client.get("/scripts", headers={"Account-Id": bob.id})
    missing = client.get("/scripts", headers={"Account-Id": "xyz"})
    error_of(theirs, 404, "NOT_FOUND")
    assert theirs.text.replace(bob.id, "xyz") == missing.text
    assert theirs.status_code == missing.status_code


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/scripts/{id}", None),
        ("PUT", "/scripts/{id}", {"display_name": "Mine now"}),
        ("DELETE", "/scripts/{id}", None),
        ("POST", "/scripts/{id}/execute", {"mode": "async", "trigger_type": "manual"}),
        ("GET", "/scripts/{id}/runs", None),
        ("GET", "/scripts/{id}/runs/{run}", None),
        ("GET", "/scripts/{id}/runs/{run}/logs", None),
        ("GET", "/scripts/{id}/runs/{run}/logs/stream", None),
        ("GET", "/scripts/{id}/runs/{run}/artifacts", None),
        ("POST", "/scripts/{id}/runs/{run}/cancel", None),
        ("GET", "/scripts/{id}/versions", None),
        ("GET", "/scripts/{id}/versions/1/diff?against=1", None),
        ("POST", "/scripts/{id}/rollback", {"version": 1}),
        ("GET", "/scripts/{id}/schedule", None),
        ("POST", "/scripts/{id}/schedule/pause", None),
        ("POST", "/scripts/{id}/schedule/resume", None),
        ("POST", "/scripts/{id}/schedule/backfill", {"from": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}),
        ("GET", "/runs?script_id={id}", None),
    ],
)
def test_anothers_script_answers_as_one_that_does_not_exist(
    client: Client, stranger: Client, hello: Script, services: Services, method: str, path: str, body: Any
) -> None:
    run = factories.run(services, hello)
    theirs = stranger.open(path.format(id=hello.slug, run=run.id), method=method, json=body)
    missing = stranger.open(path.format(id="no-such", run=run.id), method=method, json=body)
    error_of(theirs, 404, "NOT_FOUND")
    assert theirs.text.replace(hello.slug, "no-such") == missing.text
    assert client.get(f"/scripts/{hello.slug}").json["display_name"] == "Hello"  # type: ignore[index]


def test_lists_show_nothing_of_anothers(stranger: Client, services: Services, hello: Script) -> None:
    factories.run(services, hello)
    assert stranger.get("/scripts").json == {"scripts": [], "next_cursor": None}
    assert stranger.get("/runs").json == {"runs": [], "next_cursor": None}


def test_two_workspaces_may_have_scripts_of_the_same_id(client: Client, stranger: Client, hello: Script) -> None:
    response = stranger.post("/scripts", json=factories.body(hello.slug))
    assert response.status_code == 201
    assert response.json["uuid"] != hello.uuid  # type: ignore[index]
    assert stranger.delete(f"/scripts/{hello.slug}").status_code == 204
    assert client.get(f"/scripts/{hello.slug}").status_code == 200
