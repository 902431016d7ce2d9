"""What a hostile reading of the console found, and what must not come back."""

from collections.abc import Callable
from typing import Any

import peewee
import pytest
from flask import Flask
from flask.testing import FlaskClient

from millrace import overview, sessions
from millrace.errors import Unavailable
from millrace.models import ApiKey, Member, Role, Script, User
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.conftest import Client
from tests.web.console.conftest import FRAGMENT, csrf_token, member, post, sign_in

# A store that is away


@pytest.fixture
def without_database(services: Services, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and the database answers nobody any more."""

    def fail(*_args: Any, **_more: Any) -> None:
        raise peewee.OperationalError("the database is away")

    return lambda: monkeypatch.setattr(type(services.database), "execute_sql", fail)


@pytest.mark.parametrize("headers", [{}, FRAGMENT, {"Accept": "application/json"}], ids=["page", "htmx", "json"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_database_that_is_away_is_503_and_no_fault(
    browser: FlaskClient, without_database: Callable[[], None], headers: dict[str, str], method: str
) -> None:
    headers = headers | {"X-CSRF-Token": csrf_token(browser)}
    without_database()
    answer = browser.open("/scripts", method=method, headers=headers)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


@pytest.mark.parametrize("is_lost", [False, True])
def test_the_details_are_there_without_the_source(
    browser: FlaskClient, services: Services, hello: Script, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    def get(*_args: Any) -> None:
        if not is_lost:
            raise Unavailable("The object store is away.")

    monkeypatch.setattr(type(services.objects), "get", get)
    answer = browser.get(f"/scripts/{hello.uuid}")
    assert answer.status_code == 200
    assert "object store" in answer.text
    assert "Last executions" in answer.text


# Who may do what


def test_who_may_not_all_makes_no_key_that_may(app: Flask, services: Services, alice: Tenant) -> None:
    with services.database.connection_context():
        Role.create(workspace=alice.id, name="host", title="Host", permissions=["workspace.manage"])
    host = sign_in(app, services, member(services, alice.id, "host"), alice.id)
    with services.database.connection_context():
        before = ApiKey.select().count()
    answer = post(host, "/api-keys", name="more than I may")
    assert answer.status_code == 403
    assert "mr_" not in answer.text.partition("<table")[0]
    with services.database.connection_context():
        assert ApiKey.select().count() == before
    assert 'action="/api-keys"' not in host.get("/api-keys").text


def test_a_form_of_another_workspace_does_nothing_in_this_one(
    app: Flask, services: Services, alice: Tenant, bob: Tenant
) -> None:
    user = member(services, alice.id, "org_admin")
    with services.database.connection_context():
        Member.create(id=services.new_id(), workspace=bob.id, user=user, role="org_admin", created_at=services.clock())
    browser = sign_in(app, services, user, alice.id)
    assert f'name="_workspace" value="{alice.id}"' in browser.get("/api-keys").text
    assert post(browser, f"/workspaces/{bob.id}").status_code == 303
    assert post(browser, "/api-keys", name="meant for Alice's", _workspace=alice.id).status_code == 409
    with services.database.connection_context():
        assert ApiKey.select().where(ApiKey.workspace == bob.id).count() == 1  # the one of before
    assert post(browser, "/api-keys", name="meant for Bob's", _workspace=bob.id).status_code == 200


def test_of_two_who_sign_out_at_once_both_are_out(browser: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    token, end = csrf_token(browser), sessions.end

    def after_the_other(user: User, session_id: str) -> None:
        end(user, session_id)
        end(user, session_id)

    monkeypatch.setattr(sessions, "end", after_the_other)
    assert browser.post("/logout", headers={"X-CSRF-Token": token}).headers["Location"] == "/login"
    assert browser.get("/scripts").headers["Location"].startswith("/login")


# Forms and redirects


def test_htmx_is_led_to_an_address_that_a_header_can_say(
    app: Flask, services: Services, alice: Tenant, browser: FlaskClient
) -> None:
    answer = browser.get("/login?next=/scripts%3Fsearch%3D%D0%BF%D1%80%D0%B8", headers=FRAGMENT)
    assert answer.headers["HX-Redirect"] == "/scripts?search=%D0%BF%D1%80%D0%B8"


def test_a_method_that_the_form_has_no_box_for_stays(
    browser: FlaskClient, client: Client, services: Services, alice: Tenant
) -> None:
    http = {"path": "/kept", "methods": ["POST", "HEAD"], "auth": "signature", "scheme": "github",
            "secret": "s3cret-s3cret", "mode": "async"}  # fmt: skip
    created = client.post("/scripts", json=factories.body("kept", triggers={"http": http}))
    path = f"/scripts/{created.json['uuid']}"  # type: ignore[index]
    fields = {"Name": "Kept", "Type": "http", "HTTPPath": "/kept", "HTTPMethods": ["POST", "GET"],
              "HTTPAuth": "signature", "HTTPSecret": ""}  # fmt: skip
    assert post(browser, path, _method="PUT", **fields).status_code == 303
    with services.database.connection_context():
        kept = overview.of(Script.get(Script.slug == "kept")).triggers["http"]
    assert kept == {"path": "/kept", "methods": ["POST", "GET", "HEAD"], "auth": "signature", "scheme": "github",
                    "mode": "async"}  # fmt: skip


