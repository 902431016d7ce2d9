"""The application in this process, on real stores; Alice and Bob with a workspace each."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from millrace import wiring
from millrace.models import Script
from millrace.services import Services
from millrace.settings import Settings
from tests import factories
from tests.factories import Tenant
from web.app import create_app

API = "/v1/scripting"
Error = Callable[..., dict[str, Any]]


class Client(FlaskClient):
    """Calls the API as a tenant; paths are below /v1/scripting unless they begin with another root."""

    headers: dict[str, str]

    def open(self, path: Any = "/", *args: Any, **kwargs: Any) -> TestResponse:  # type: ignore[override]
        kwargs["headers"] = {**self.headers, **kwargs.get("headers", {})}
        return super().open(f"{API}{path}" if isinstance(path, str) else path, *args, **kwargs)


@pytest.fixture
def database_kind() -> str:
    """Views hold no SQL of their own; the modules that look at what a store refuses run on both."""
    return "sqlite"


@pytest.fixture
def wired(settings: Settings) -> Iterator[wiring.Wired]:
    """As the one that it overrides, but without holding a connection: the application closes its thread's own."""
    wired = wiring.build(settings)
    yield wired
    wired.close()


@pytest.fixture
def app(services: Services) -> Flask:
    """The application; what nobody foresaw surfaces as an exception."""
    factories.runtime(services)
    app = create_app(services)
    app.testing = True
    return app


@pytest.fixture
def alice(services: Services) -> Tenant:
    """Owns what the test is about."""
    return factories.tenant(services, "alice")


@pytest.fixture
def bob(services: Services) -> Tenant:
    """A stranger with a workspace of his own."""
    return factories.tenant(services, "bob")


@pytest.fixture
def call_as(app: Flask) -> Callable[[Tenant], Client]:
    """A client for a tenant."""

    def make(tenant: Tenant) -> Client:
        client = Client(app)
        client.headers = tenant.headers
        return client

    return make


@pytest.fixture
def client(call_as: Callable[[Tenant], Client], alice: Tenant) -> Client:
    """Alice's client."""
    return call_as(alice)


@pytest.fixture
def stranger(call_as: Callable[[Tenant], Client], bob: Tenant) -> Client:
    """Bob's client."""
    return call_as(bob)


@pytest.fixture
def hello(services: Services, app: Flask, alice: Tenant) -> Script:
    """Alice's script."""
    return factories.script(services, alice)


def error_of(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The error in the envelope, which must have this status and code."""
    assert response.status_code == status, response.text
    assert response.json is not None
    assert set(response.json) == {"error"}
    error: dict[str, Any] = response.json["error"]
    assert set(error) == {"code", "message", "details"}
    assert error["code"] == code
    assert error["message"]
    return error


def fields_of(error: dict[str, Any]) -> set[str]:
    """The fields that an error's details name."""
    return {detail["field"] for detail in error["details"]}
