"""The workspace's settings, and the data sources among them."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from flask.testing import FlaskClient

from millrace import datasources, limits
from millrace.datasources import NewSource
from millrace.models import Audit, DataSource
from millrace.services import Services
from tests.factories import Tenant
from tests.web.console.conftest import FRAGMENT, post

PASSWORD = "correct horse"
POSTGRESQL: Mapping[str, Any] = {
    "kind": "postgresql", "name": "shop", "host": "db.example.com", "port": "5433", "database": "shop",
    "user": "reader", "sslmode": "require", "schema": "public", "tenant_column": "owner_id",
    "tenant_setting": "app.owner", "password": PASSWORD,
}  # fmt: skip
ADDRESSES = ("/settings", "/settings/data-sources/new", "/settings/data-sources/shop")


def registered(services: Services, owner: Tenant, name: str = "shop") -> DataSource:
    place = {"host": "db.example.com", "database": "shop", "user": "reader"}
    new = NewSource(name, datasources.POSTGRESQL, place, PASSWORD)
    return datasources.register(services, owner.id, new, "alice@example.com")


def test_the_workspace_and_its_limits_are_shown(browser: FlaskClient, services: Services, alice: Tenant) -> None:
    limits.change(services, alice.id, {"runs_per_day": 4321})
    whole, part = browser.get("/settings"), browser.get("/settings", headers=FRAGMENT)
    assert "<html" in whole.text and "<html" not in part.text
    for page in (whole.text, part.text):
        assert ">Alice<" in page and ">alice<" in page and "of 4321" in page
        assert "No data sources yet" in page
    assert 'name="runs_per_day"' not in whole.text


def test_a_data_source_is_added_and_its_password_is_shown_to_nobody(
    browser: FlaskClient, services: Services, alice: Tenant
) -> None:
    answer = post(browser, "/settings/data-sources", **POSTGRESQL)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/settings")
    source = datasources.find(alice.id, "shop")
    assert source.place == {
        "host": "db.example.com", "port": 5433, "database": "shop", "user": "reader", "sslmode": "require",
        "schema": "public",
    }  # fmt: skip
    assert (source.tenant_column, source.tenant_setting) == ("owner_id", "app.owner")
    assert datasources.password_of(services, source) == PASSWORD
    for address in ADDRESSES:
        assert PASSWORD not in browser.get(address).text
    assert "reader@db.example.com:5433/shop" in browser.get("/settings").text
    assert Audit.get(Audit.action == "data_source.created").actor.startswith("org_admin-")


def test_a_sqlite_file_is_added(browser: FlaskClient, alice: Tenant) -> None:
    assert 'name="file"' in browser.get("/settings/data-sources/new?kind=sqlite").text
    fields = {"kind": "sqlite", "name": "small", "file": "small.db", "tenant_column": "tenant_id"}
    assert post(browser, "/settings/data-sources", **fields).status_code == 303
    source = datasources.find(alice.id, "small")
    assert (source.kind, source.place) == ("sqlite", {"file": "small.db"})
    assert ">small.db<" in browser.get("/settings").text


@pytest.mark.parametrize(("wrong", "field"), [
    ({"name": "Shop!"}, "name"), ({"port": "many"}, "port"), ({"port": "99999"}, "port"), ({"host": ""}, "host"),
    ({"tenant_column": "a b"}, "tenant_column"), ({"tenant_setting": "x"}, "tenant_setting"),
    ({"schema": "pg_catalog"}, "schema"), ({"sslmode": "perhaps"}, "sslmode"), ({"password": "x" * 2000}, "password"),
])  # fmt: skip
def test_what_is_wrong_is_said_beside_its_field_and_the_rest_is_kept(
    browser: FlaskClient, wrong: Mapping[str, str], field: str
) -> None:
    answer = post(browser, "/settings/data-sources", **{**POSTGRESQL, **wrong})
    assert answer.status_code == 400
    assert f'id="{field}-error"' in answer.text and answer.text.count('class="error"') == 1
    assert 'value="reader"' in answer.text
    assert PASSWORD not in answer.text
    assert DataSource.select().count() == 0


def test_a_name_that_is_taken_is_said_beside_it(browser: FlaskClient, services: Services, alice: Tenant) -> None:
    registered(services, alice)
    answer = post(browser, "/settings/data-sources", **POSTGRESQL)
    assert answer.status_code == 409
    assert 'id="name-error"' in answer.text


def test_a_data_source_is_changed_and_keeps_its_password(
    browser: FlaskClient, services: Services, alice: Tenant
) -> None:
    registered(services, alice)
    page = browser.get("/settings/data-sources/shop").text
    assert 'value="db.example.com"' in page and 'name="kind"' not in page
    fields = {**POSTGRESQL, "name": "store", "port": "5432", "sslmode": "prefer", "user": "other", "password": ""}
    assert post(browser, "/settings/data-sources/shop", **fields).status_code == 303
    source = datasources.find(alice.id, "store")
    assert source.place["user"] == "other"
    assert datasources.password_of(services, source) == PASSWORD
    assert Audit.get(Audit.action == "data_source.changed").actor.startswith("org_admin-")


def test_another_host_needs_the_password_anew(browser: FlaskClient, services: Services, alice: Tenant) -> None:
    registered(services, alice)
    fields = {**POSTGRESQL, "host": "elsewhere.example.com", "password": ""}
    answer = post(browser, "/settings/data-sources/shop", **fields)
    assert answer.status_code == 400 and 'id="password-error"' in answer.text
    assert datasources.find(alice.id, "shop").place["host"] == "db.example.com"


def test_a_data_source_is_deleted(browser: FlaskClient, services: Services, alice: Tenant) -> None:
    registered(services, alice)
    assert post(browser, "/settings/data-sources/shop/delete").status_code == 303
    assert DataSource.select().count() == 0
    assert "was deleted" in browser.get("/settings").text
    assert post(browser, "/settings/data-sources/shop/delete").status_code == 404


def test_another_workspaces_data_source_does_not_exist(
    foreign_browser: FlaskClient, services: Services, alice: Tenant
) -> None:
    registered(services, alice)
    assert "db.example.com" not in foreign_browser.get("/settings").text
    assert foreign_browser.get("/settings/data-sources/shop").status_code == 404
    for path in ("shop", "shop/delete"):
        assert post(foreign_browser, f"/settings/data-sources/{path}", **POSTGRESQL).status_code == 404
    assert datasources.find(alice.id, "shop").place["user"] == "reader"


@pytest.mark.parametrize("role", ["viewer", "developer"])
def test_only_who_manages_the_workspace_may(
    browser_as: Callable[[str], FlaskClient], services: Services, alice: Tenant, role: str
) -> None:
    registered(services, alice)
    browser = browser_as(role)
    assert [browser.get(each).status_code for each in ADDRESSES] == [403] * 3
    for path in ("", "/shop", "/shop/delete"):
        assert post(browser, f"/settings/data-sources{path}", **POSTGRESQL).status_code == 403
    assert DataSource.select().count() == 1


def test_a_form_that_is_not_ours_is_refused(browser: FlaskClient, services: Services, alice: Tenant) -> None:
    registered(services, alice)
    for path in ("", "/shop", "/shop/delete"):
        assert browser.post(f"/settings/data-sources{path}", data=POSTGRESQL).status_code == 403
    assert DataSource.select().count() == 1


def test_a_kind_that_there_is_not_is_refused(browser: FlaskClient) -> None:
    assert browser.get("/settings/data-sources/new?kind=oracle").status_code == 400
    assert post(browser, "/settings/data-sources", **{**POSTGRESQL, "kind": "oracle"}).status_code == 400
