"""Signing in and out by password, and choosing one by a link."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from millrace import invitations, joining, members, observability, removal, roles, users
from millrace.models import Invitation, Member, Session, User, Workspace
from millrace.services import Services
from millrace.settings import Settings
from millrace.signinlimits import PER_EMAIL
from tests.factories import Tenant
from tests.web.console.conftest import FRAGMENT, csrf_token, post
from web.app import create_app
from web.console import addresses

EMAIL = "ann@example.com"
PASSWORD = "a long enough one"


@pytest.fixture
def ann(services: Services, alice: Tenant) -> User:
    """Has a password, and is a developer in Alice's workspace."""
    with services.database.connection_context():
        user, _ = users.add(services, EMAIL, PASSWORD)
        members.add(services, alice.id, user, "developer")
    return user


@pytest.fixture
def visitor(app: Flask) -> FlaskClient:
    """A browser that nobody signed in."""
    return app.test_client()


def attempt(browser: FlaskClient, email: str = EMAIL, password: str = PASSWORD, **more: str) -> TestResponse:
    token = csrf_token(browser, "/login")
    return browser.post("/login", data={"email": email, "password": password, "csrf_token": token, **more})


def is_in(browser: FlaskClient) -> bool:
    return browser.get("/profile").status_code == 200


def cookie(browser: FlaskClient) -> str:
    found = browser.get_cookie("millrace_session")
    assert found is not None
    return found.value


@pytest.mark.usefixtures("ann")
def test_who_has_the_password_comes_in_and_goes_out_again(visitor: FlaskClient) -> None:
    assert visitor.get("/profile").headers["Location"].startswith("/login")
    done = attempt(visitor)
    assert (done.status_code, done.headers["Location"]) == (303, "/scripts")
    assert is_in(visitor) and EMAIL in visitor.get("/profile").text
    assert visitor.get("/login?next=/events").headers["Location"] == "/events"
    assert post(visitor, "/logout").headers["Location"] == "/login"
    assert not is_in(visitor) and Session.select().count() == 0
    assert "You are signed out." in visitor.get("/login").text


@pytest.mark.usefixtures("ann")
@pytest.mark.parametrize(("email", "password"), [
    (EMAIL, "wrong"), ("nobody@example.com", PASSWORD), ("", ""), ("<b>@example.com", PASSWORD), ("\x00", "\x00"),
])  # fmt: skip
def test_a_wrong_sign_in_is_the_form_again_with_the_email_and_without_the_password(
    visitor: FlaskClient, email: str, password: str
) -> None:
    done = attempt(visitor, email, password)
    assert done.status_code == 400 and "The email or the password is not right." in done.text
    assert "<b>@" not in done.text and PASSWORD not in done.text
    assert not is_in(visitor)
    if email == EMAIL:
        assert f'value="{EMAIL}"' in done.text


@pytest.mark.usefixtures("ann")
def test_a_form_without_its_browsers_token_does_nothing(app: Flask, visitor: FlaskClient) -> None:
    attempt(visitor)
    stolen = csrf_token(app.test_client(), "/login")  # of another browser
    for path in ("/login", "/logout", "/invitations/x", "/profile", "/profile/password", "/workspaces/alice"):
        for token in ({}, {"csrf_token": ""}, {"csrf_token": "x"}, {"csrf_token": stolen}):
            done = visitor.post(path, data={"email": EMAIL, "password": PASSWORD, "name": "Eve", **token})
            assert done.status_code == 403 and "This form is too old, or not ours" in done.text, path
    assert is_in(visitor) and User.get(User.email == EMAIL).name is None


@pytest.mark.usefixtures("ann")
def test_a_token_of_before_the_sign_in_is_worth_nothing_after_it(visitor: FlaskClient) -> None:
    before = csrf_token(visitor, "/login")
    planted = cookie(visitor)
    attempt(visitor)
    assert cookie(visitor) != planted
    assert visitor.post("/logout", data={"csrf_token": before}).status_code == 403


@pytest.mark.usefixtures("ann")
def test_a_session_that_somebody_planted_does_not_become_the_victims(app: Flask, visitor: FlaskClient) -> None:
    attempt(visitor)
    planted = cookie(visitor)
    victim = app.test_client()
    victim.set_cookie("millrace_session", planted)
    assert is_in(victim)
    post(victim, "/logout")
    victim.set_cookie("millrace_session", planted)
    assert attempt(victim).status_code == 303 and cookie(victim) != planted
    eve = app.test_client()
    eve.set_cookie("millrace_session", planted)
    assert not is_in(eve) and is_in(victim)
    rows = Session.select().count()
    second = visitor.get("/login")
    assert second.status_code == 200 and Session.select().count() == rows


@pytest.mark.usefixtures("ann")
def test_signing_in_again_ends_the_session_of_before(visitor: FlaskClient) -> None:
    attempt(visitor)
    before = {row.id for row in Session.select()}
    token = csrf_token(visitor)
    visitor.post("/login", data={"email": EMAIL, "password": PASSWORD, "csrf_token": token})
    after = {row.id for row in Session.select()}
    assert len(before) == len(after) == 1 and before != after


@pytest.mark.parametrize(("wanted", "where"), [
    ("/events?name=a", "/events?name=a"), ("/scripts/x#y", "/scripts/x#y"), ("/%2f/evil.example", "/%2f/evil.example"),
    (None, None), ("", None), ("https://evil.example", None), ("//evil.example", None), ("/\\evil.example", None),
    ("/\t/evil.example", None), ("\\\\evil.example", None), ("javascript:alert(1)", None), ("///evil.example", None),
    (" //evil.example", None), ("/a\r\nSet-Cookie: x=y", None), ("evil.example", None), ("/" + "a" * 3000, None),
    ("/a\\b", None), ("/\x00", None), ("/ /evil.example", None),
])  # fmt: skip
def test_only_a_path_of_ours_is_one_of_ours(wanted: str | None, where: str | None) -> None:
    assert addresses.own(wanted) == where


@pytest.mark.usefixtures("ann")
def test_nobody_is_led_elsewhere(app: Flask) -> None:
    for wanted, where in (("/events?name=a", "/events?name=a"), ("//evil.example", "/scripts"), ("", "/scripts")):
        browser = app.test_client()
        assert attempt(browser, next=wanted).headers["Location"] == where
        assert browser.get("/login", query_string={"next": wanted}).headers["Location"] == where


@pytest.mark.usefixtures("ann")
def test_too_many_wrong_passwords_are_refused_with_the_time_to_wait(app: Flask, visitor: FlaskClient) -> None:
    for _ in range(PER_EMAIL.amount):
        assert attempt(visitor, password="wrong").status_code == 400
    done = attempt(app.test_client())
    assert done.status_code == 429 and 0 < int(done.headers["Retry-After"]) <= 900
    assert "Try again in 15 min." in done.text and 'action="/login"' in done.text
    assert not is_in(visitor)


@pytest.mark.usefixtures("ann")
def test_the_cookie_is_for_us_alone(visitor: FlaskClient) -> None:
    flags = attempt(visitor).headers["Set-Cookie"]
    assert "HttpOnly" in flags and "SameSite=Lax" in flags and "Path=/" in flags and "Secure" not in flags


@pytest.mark.usefixtures("ann")
def test_the_cookie_is_secure_when_the_request_is(app: Flask) -> None:
    browser = app.test_client()
    page = browser.get("/login", base_url="https://localhost")
    assert "Secure" in page.headers["Set-Cookie"]


def test_the_cookie_is_secure_when_people_reach_us_by_https(
    services: Services, make_settings: Callable[..., Settings]
) -> None:
    app = create_app(replace(services, settings=make_settings(MILLRACE_PUBLIC_URL="https://millrace.example.com")))
    assert "Secure" in app.test_client().get("/login").headers["Set-Cookie"]


def test_who_belongs_nowhere_is_told_and_can_sign_out(services: Services, visitor: FlaskClient) -> None:
    users.add(services, EMAIL, PASSWORD)
    assert attempt(visitor).headers["Location"] == "/workspaces"
    page = visitor.get("/workspaces").text
    assert "You belong to no workspace" in page and 'action="/logout"' in page
    assert visitor.get("/scripts").status_code == 403 and is_in(visitor)


def test_the_form_offers_another_service_only_where_there_is_one(visitor: FlaskClient) -> None:
    assert "/login/oidc" not in visitor.get("/login").text
    for path in ("/login/oidc", "/login/oidc/callback"):
        assert visitor.get(path).status_code in (403, 404)


def test_htmx_is_led_to_the_sign_in(visitor: FlaskClient) -> None:
    done = visitor.get("/profile", headers=FRAGMENT)
    assert done.status_code == 401 and done.headers["HX-Redirect"].startswith("/login")


# Links


def choose(browser: FlaskClient, link: str, password: str = PASSWORD, again: str | None = None) -> TestResponse:
    token = csrf_token(browser, "/login")
    return browser.post(link, data={"password": password, "again": again or password, "csrf_token": token})


def invited(services: Services, alice: Tenant) -> str:
    with services.database.connection_context():
        token = members.invite(services, alice.id, EMAIL, "viewer", roles.OPERATOR).token
    return f"/invitations/{token}"


def test_an_invited_person_chooses_a_password_and_is_in(
    services: Services, alice: Tenant, visitor: FlaskClient, app: Flask
) -> None:
    link = invited(services, alice)
    page = visitor.get(link)
    assert page.status_code == 200 and EMAIL in page.text and 'autocomplete="new-password"' in page.text
    assert page.headers["Referrer-Policy"] == "same-origin" and page.headers["Cache-Control"] == "no-store"
    done = choose(visitor, link)
    assert (done.status_code, done.headers["Location"]) == (303, "/scripts") and is_in(visitor)
    again = app.test_client()
    assert again.get(link).status_code == 404 and "used already" in again.get(link).text
    assert choose(again, link).status_code == 404 and not is_in(again)


@pytest.mark.parametrize(("password", "again", "words"), [
    ("short", "short", "from 12 to 200"), (PASSWORD, PASSWORD + "!", "not the same"),
    (EMAIL.upper(), EMAIL.upper(), "the email"),
    ("password1234", "password1234", "anybody would try"),
])  # fmt: skip
def test_a_password_that_cannot_be_chosen_leaves_the_link(
    services: Services, alice: Tenant, visitor: FlaskClient, password: str, again: str, words: str
) -> None:
    link = invited(services, alice)
    done = choose(visitor, link, password, again)
    assert done.status_code == 400 and words in done.text and not is_in(visitor)
    assert f'value="{password}"' not in done.text
    assert choose(visitor, link).status_code == 303


def test_the_token_of_a_link_is_in_no_log(
    services: Services, alice: Tenant, visitor: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    link = invited(services, alice)
    seen: list[str] = []
    original = observability.context

    def watched(**values: str) -> object:
        seen.append(str(values))
        return original(**values)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr(observability, "context", watched)
        visitor.get(link)
    assert any("'path': '/invitations/...'" in each for each in seen)
    assert link.rsplit("/", 1)[1] not in str(seen) + caplog.text


def test_a_link_of_a_workspace_that_is_gone_still_sets_a_password(services: Services, visitor: FlaskClient) -> None:
    user, _ = users.add(services, EMAIL)
    link = f"/invitations/{invitations.issue(services, user, invitations.INVITED_MS)}"
    assert choose(visitor, link).headers["Location"] == "/workspaces"


# Joining


@pytest.fixture
def offered(services: Services, ann: User, bob: Tenant) -> str:
    """Ann, who has a password, may be a developer of Bob's."""
    with services.database.connection_context():
        invited = members.invite(services, bob.id, ann.email, "developer", roles.OPERATOR)
    assert invited.member is None
    return f"/invitations/{invited.token}"


def places(user: User) -> dict[str, str]:
    return {each.workspace_id: each.role for each in Member.select().where(Member.user == user.id)}


def test_who_is_known_signs_in_is_asked_and_joins_once(
    visitor: FlaskClient, offered: str, ann: User, alice: Tenant, bob: Tenant
) -> None:
    asked = visitor.get(offered)
    assert (asked.status_code, asked.headers["Location"]) == (303, f"/login?next={offered}")
    assert f'name="next" value="{offered}"' in visitor.get(asked.headers["Location"]).text
    assert attempt(visitor, next=offered).headers["Location"] == offered
    page = visitor.get(offered).text
    assert f"Join the workspace {Workspace.get_by_id(bob.id).name} as Developer?" in page and EMAIL in page
    assert 'type="password"' not in page and places(ann) == {alice.id: "developer"}
    assert post(visitor, offered).headers["Location"] == "/scripts"
    assert places(ann) == {alice.id: "developer", bob.id: "developer"}
    assert Session.get(Session.user == ann.id).workspace_id == bob.id
    assert f"You are a member of {Workspace.get_by_id(bob.id).name} now." in visitor.get("/scripts").text
    for done in (visitor.get(offered), post(visitor, offered)):
        assert done.status_code == 404 and "used already" in done.text


def test_who_belongs_nowhere_comes_to_the_invitation_and_in(
    services: Services, visitor: FlaskClient, bob: Tenant
) -> None:
    with services.database.connection_context():
        user, _ = users.add(services, EMAIL, PASSWORD)
        link = f"/invitations/{members.invite(services, bob.id, EMAIL, 'viewer', roles.OPERATOR).token}"
    assert attempt(visitor, next=link).headers["Location"] == link
    token = csrf_token(visitor, link)
    assert visitor.post(link, data={"csrf_token": token}).headers["Location"] == "/scripts"
    assert places(user) == {bob.id: "viewer"} and visitor.get("/scripts").status_code == 200


def test_a_link_to_join_lets_nobody_in_and_sets_no_password(visitor: FlaskClient, offered: str, ann: User) -> None:
    done = choose(visitor, offered, "another long one")
    assert done.headers["Location"] == f"/login?next={offered}" and not is_in(visitor)
    assert User.get_by_id(ann.id).password_hash == ann.password_hash and len(places(ann)) == 1
    token = csrf_token(visitor, "/login")
    attempt(visitor)
    assert visitor.post(offered, data={"csrf_token": token}).status_code == 403 and len(places(ann)) == 1


def test_somebody_else_is_told_so_and_of_nothing_more(browser: FlaskClient, offered: str, bob: Tenant) -> None:
    for done in (browser.get(offered), post(browser, offered)):
        assert done.status_code == 404 and "This invitation is for somebody else." in done.text
        assert EMAIL not in done.text and bob.id not in done.text
    assert Member.select().where(Member.workspace == bob.id).count() == 0


def test_an_account_taken_in_advance_is_not_let_in_by_its_password(
    app: Flask, services: Services, visitor: FlaskClient, alice: Tenant, bob: Tenant
) -> None:
    choose(app.test_client(), invited(services, alice), "what Alice chose for her")
    with services.database.connection_context():
        members.invite(services, bob.id, EMAIL, "org_admin", roles.OPERATOR)
    attempt(visitor, password="what Alice chose for her")
    token = csrf_token(visitor)
    assert f"/workspaces/{bob.id}" not in visitor.get("/workspaces").text
    assert visitor.post(f"/workspaces/{bob.id}", data={"csrf_token": token}).status_code == 404


@pytest.mark.parametrize("how", ["expired", "withdrawn", "workspace", "role"])
def test_an_invitation_that_is_over_is_refused_in_words(
    services: Services, visitor: FlaskClient, offered: str, ann: User, bob: Tenant, how: str
) -> None:
    attempt(visitor)
    with services.database.connection_context():
        if how == "expired":
            Invitation.update(expires_at=services.clock() - 1).execute()
        elif how == "withdrawn":
            joining.withdraw(services, bob.id, ann.id, roles.OPERATOR)
        elif how == "workspace":
            removal.delete_workspace(services, bob.id)
        else:
            Invitation.update(role="gone").execute()
    words = "The role of this invitation is gone." if how == "role" else "used already, or is too old"
    for done in (visitor.get(offered), post(visitor, offered)):
        assert done.status_code == 404 and words in done.text
    assert len(places(ann)) == 1


def test_pages_for_everybody_say_nothing_of_scripts_elsewhere(visitor: FlaskClient) -> None:
    page = visitor.get("/login")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert re.findall(r'(?:src|href)="(?:https?:)?//', page.text) == []
