"""Browsers that are signed in to Alice's workspace, each with a role."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from millrace import ids, sessions
from millrace.models import Member, User
from millrace.services import Services
from tests.factories import Tenant

FRAGMENT = {"HX-Request": "true"}
_TOKEN = re.compile(r'"X-CSRF-Token": "([^"]+)"')


def member(services: Services, workspace: str, role: str, email: str = "") -> User:
    """A user with a place in this workspace."""
    with services.database.connection_context():
        user = User.create(email=email or f"{role}@{workspace}.example", created_at=services.clock())
        Member.create(id=services.new_id(), workspace=workspace, user=user, role=role, created_at=services.clock())
    return user


def sign_in(app: Flask, services: Services, user: User, workspace: str | None) -> FlaskClient:
    """A browser of this user."""
    with services.database.connection_context():
        token = sessions.begin(services, user, workspace, "a browser")
    browser = app.test_client()
    with browser.session_transaction() as cookie:
        cookie["token"] = token
    return browser


@pytest.fixture
def browser_as(app: Flask, services: Services, alice: Tenant) -> Callable[[str], FlaskClient]:
    """A browser of somebody with this role in Alice's workspace."""

    def make(role: str) -> FlaskClient:
        user = member(services, alice.id, role, f"{role}-{ids.new_token(4).lower()}@example.com")
        return sign_in(app, services, user, alice.id)

    return make


@pytest.fixture
def browser(browser_as: Callable[[str], FlaskClient]) -> FlaskClient:
    """A browser of who may do everything in Alice's workspace."""
    return browser_as("org_admin")


@pytest.fixture
def foreign_browser(app: Flask, services: Services, bob: Tenant) -> FlaskClient:
    """A browser of who may do everything in Bob's workspace, and nothing in Alice's."""
    return sign_in(app, services, member(services, bob.id, "org_admin"), bob.id)


def csrf_token(browser: FlaskClient, page: str = "/scripts") -> str:
    """The token that the forms of this browser carry."""
    found = _TOKEN.search(browser.get(page).text)
    assert found is not None
    return found[1]


def post(browser: FlaskClient, path: str, fragment: bool = False, **fields: Any) -> TestResponse:
    """Send a form as its page would."""
    headers = {"X-CSRF-Token": csrf_token(browser), **(FRAGMENT if fragment else {})}
    return browser.post(path, data=fields, headers=headers)
