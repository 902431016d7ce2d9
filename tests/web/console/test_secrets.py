"""The page of a script's secrets: names go out, values only come in."""

from collections.abc import Callable
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from millrace import scripts, secrets
from millrace.models import Audit, Script, Secret
from millrace.services import Services
from tests.web.console.conftest import FRAGMENT, post

HOSTILE = "<script>alert(1)</script>"
VALUE = "s3cr3t-value-nobody-sees"


def address(script: Script, more: str = "") -> str:
    return f"/scripts/{script.uuid}/secrets{more}"


def opened(services: Services, script: Script) -> dict[str, str]:
    with services.database.connection_context():
        return secrets.open_all(services, Script.get_by_id(script.uuid))


def revision(script: Script) -> int:
    return int(Script.get_by_id(script.uuid).revision)


def deeds() -> list[tuple[str, str, object]]:
    rows = Audit.select().where(Audit.action.startswith("secret.")).order_by(Audit.id)
    return [(row.action, row.subject, row.details) for row in rows]


@pytest.fixture
def keeper(services: Services, hello: Script) -> Script:
    """Alice's script with two secrets."""
    return scripts.update(services, hello, scripts.Change(secrets={"TOKEN": VALUE, "OTHER": "another value"}))


def test_names_are_shown_with_their_references_and_no_value(browser: FlaskClient, keeper: Script) -> None:
    whole, part = browser.get(address(keeper)), browser.get(address(keeper), headers=FRAGMENT)
    assert "<html" in whole.text
    assert "<html" not in part.text
    for text in (whole.text, part.text):
        for name in ("TOKEN", "OTHER"):
            assert f"secret://millrace/scripts/alice/hello/{name}" in text
        assert VALUE not in text
        assert "another value" not in text
        assert 'type="password"' in text
        assert 'autocomplete="off"' in text


def test_a_script_without_secrets_says_so(browser: FlaskClient, hello: Script) -> None:
    assert "No secrets yet" in browser.get(address(hello)).text


def test_a_secret_is_added_and_the_others_stay(browser: FlaskClient, services: Services, keeper: Script) -> None:
    before = revision(keeper)
    answer = post(browser, address(keeper), name="NEW", value="v4lue of new")
    assert (answer.status_code, answer.location) == (303, address(keeper))
    page = browser.get(address(keeper)).text
    assert "Secret “NEW” was added." in page
    assert "v4lue of new" not in page
    assert opened(services, keeper) == {"TOKEN": VALUE, "OTHER": "another value", "NEW": "v4lue of new"}
    assert revision(keeper) > before, "a jail that was booted with the old secrets must not be used again"


def test_a_secret_gets_a_new_value(browser: FlaskClient, services: Services, keeper: Script) -> None:
    before = revision(keeper)
    answer = post(browser, address(keeper), fragment=True, name="TOKEN", value=" kept as it is ")
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (204, address(keeper))
    assert "Secret “TOKEN” has a new value." in browser.get(address(keeper)).text
    assert opened(services, keeper) == {"TOKEN": " kept as it is ", "OTHER": "another value"}
    assert revision(keeper) > before


def test_a_secret_is_deleted_and_the_others_stay(browser: FlaskClient, services: Services, keeper: Script) -> None:
    before = revision(keeper)
    answer = post(browser, address(keeper, "/TOKEN/delete"))
    assert (answer.status_code, answer.location) == (303, address(keeper))
    page = browser.get(address(keeper)).text
    assert "Secret “TOKEN” was deleted." in page
    assert "hello/TOKEN" not in page
    assert opened(services, keeper) == {"OTHER": "another value"}
    assert revision(keeper) > before
    assert post(browser, address(keeper, "/TOKEN/delete")).status_code == 404


def test_the_audit_trail_names_names_and_no_value(
    browser_as: Callable[[str], FlaskClient], keeper: Script
) -> None:
    browser = browser_as("org_admin")
    post(browser, address(keeper), name="NEW", value="new value")
    post(browser, address(keeper), name="NEW", value="newer value")
    post(browser, address(keeper, "/NEW/delete"))
    post(browser, address(keeper, "/NEW/delete"))
    post(browser, address(keeper), name="", value="x")
    assert deeds() == [
        ("secret.set", "hello", {"name": "NEW"}), ("secret.set", "hello", {"name": "NEW"}),
        ("secret.deleted", "hello", {"name": "NEW"}),
    ]  # fmt: skip
    assert all(row.actor.startswith("org_admin-") for row in Audit.select().where(Audit.action.startswith("secret.")))


REFUSED = [
    ("name", 400, "", VALUE), ("name", 400, "1st", VALUE), ("name", 400, "a b", VALUE), ("name", 400, "x" * 129, VALUE),
    ("name", 400, HOSTILE, VALUE), ("name", 400, "a\x00b", VALUE), ("name", 400, "../x", VALUE),
    ("value", 400, "NEW", ""), ("value", 400, "NEW", "secret://millrace/scripts/bob/hello/TOKEN"),
    ("value", 400, "NEW", "secret://millrace/scripts/alice/hello/TOKEN"),
    ("value", 413, "NEW", "v" * (secrets.MAX_VALUE_BYTES + 1)), ("value", 413, "NEW", "v" * secrets.MAX_TOTAL_BYTES),
]  # fmt: skip


@pytest.mark.parametrize("fragment", [False, True])
def test_what_can_not_be_kept_is_refused_beside_its_field(
    browser: FlaskClient, services: Services, keeper: Script, fragment: bool
) -> None:
    before = revision(keeper)
    for field, status, name, value in REFUSED:
        answer = post(browser, address(keeper), fragment=fragment, name=name, value=value)
        assert answer.status_code == status, (name, value[:40])
        assert f'id="{field}-error"' in answer.text, (name, value[:40])
        assert HOSTILE not in answer.text
        assert VALUE not in answer.text
        assert not value or f'value="{value}"' not in answer.text, "a value is never shown again, be it refused"
        assert field == "name" or f'value="{name}"' in answer.text
    assert opened(services, keeper) == {"TOKEN": VALUE, "OTHER": "another value"}
    assert (revision(keeper), deeds()) == (before, [])


def test_who_may_not_change_scripts_sees_no_secrets(
    browser_as: Callable[[str], FlaskClient], hello: Script, keeper: Script
) -> None:
    for role in ("viewer", "developer"):
        other = browser_as(role)
        assert other.get(address(keeper)).status_code == 403
        assert post(other, address(keeper), name="NEW", value="x").status_code == 403
        assert post(other, address(keeper, "/TOKEN/delete")).status_code == 403
        assert address(keeper) not in other.get(f"/scripts/{keeper.uuid}/versions").text
    assert Secret.select().count() == 2


def test_another_workspaces_secrets_are_not_there(foreign_browser: FlaskClient, keeper: Script) -> None:
    for script_id in (keeper.uuid, "hello"):
        assert foreign_browser.get(f"/scripts/{script_id}/secrets").status_code == 404
        assert post(foreign_browser, f"/scripts/{script_id}/secrets", name="NEW", value="x").status_code == 404
        assert post(foreign_browser, f"/scripts/{script_id}/secrets/TOKEN/delete").status_code == 404
    assert Secret.select().count() == 2


def test_hostile_addresses_are_no_500(browser: FlaskClient, keeper: Script) -> None:
    for bad in ("x" * 4000, HOSTILE, "\x00", "'", "/", ".."):
        assert post(browser, address(keeper, f"/{quote(bad, safe='')}/delete")).status_code == 404
        assert browser.get(f"/scripts/{quote(bad, safe='')}/secrets").status_code == 404
    assert Secret.select().count() == 2
