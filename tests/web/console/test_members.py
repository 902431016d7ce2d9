"""Members, roles and API keys on their pages: who may, what is hidden, and what is shown once."""

import re
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from millrace import members, roles, users, workspaces
from millrace.errors import Denied
from millrace.models import ApiKey, Audit, Member, Role, User
from millrace.services import Services
from tests.factories import Tenant
from tests.web.console.conftest import csrf_token, member, post, sign_in

BrowserAs = Callable[[str], FlaskClient]


@pytest.fixture
def dan(services: Services, alice: Tenant) -> Member:
    """A viewer in Alice's workspace."""
    user = member(services, alice.id, "viewer", "dan@example.com")
    return Member.get(Member.user == user.id)


@pytest.fixture
def erin(services: Services, bob: Tenant) -> Member:
    """A viewer in Bob's workspace."""
    user = member(services, bob.id, "viewer", "erin@example.com")
    return Member.get(Member.user == user.id)


PAGES = ("/members", "/members/roles", "/members/roles/new", "/members/roles/mine", "/api-keys")


@pytest.mark.parametrize("role", ["developer", "viewer"])
def test_who_does_not_manage_sees_none_of_it(browser_as: BrowserAs, role: str) -> None:
    browser = browser_as(role)
    assert {browser.get(path).status_code for path in PAGES} == {403}
    page = browser.get("/profile").text
    assert 'href="/members"' not in page and 'href="/api-keys"' not in page


@pytest.mark.parametrize("role", ["developer", "viewer"])
def test_who_does_not_manage_changes_none_of_it(browser_as: BrowserAs, dan: Member, role: str) -> None:
    browser = browser_as(role)
    before = [list(model.select().dicts()) for model in (Member, Role, ApiKey)]
    for path, fields in (
        ("/members", {"email": "new@example.com", "role": "viewer"}), (f"/members/{dan.id}/role", {"role": "viewer"}),
        (f"/members/{dan.id}/remove", {}), (f"/members/{dan.id}/reset", {}),
        (f"/members/invitations/{dan.user_id}/withdraw", {}),
        ("/members/roles/new", {"name": "mine", "title": "Mine"}), ("/members/roles/mine", {"title": "Mine"}),
        ("/members/roles/mine/remove", {}), ("/api-keys", {"name": "mine"}), ("/api-keys/x/revoke", {}),
    ):  # fmt: skip
        assert post(browser, path, **fields).status_code == 403, path
    assert [list(model.select().dicts()) for model in (Member, Role, ApiKey)] == before


def test_who_manages_sees_all_of_it(browser: FlaskClient, services: Services, alice: Tenant) -> None:
    roles.add(services, alice.id, "mine", "My role", ["scripts.read"], roles.OPERATOR)
    assert {browser.get(path).status_code for path in PAGES} == {200}


def test_nobody_is_signed_out_by_another_workspaces_forms(foreign_browser: FlaskClient, dan: Member) -> None:
    for path in ("role", "remove", "reset"):
        assert post(foreign_browser, f"/members/{dan.id}/{path}", role="viewer").status_code == 404
    assert "dan@example.com" not in foreign_browser.get("/members").text
    assert Member.get_by_id(dan.id).role == "viewer"


def test_a_form_without_its_token_does_nothing(browser: FlaskClient) -> None:
    for path in ("/members", "/api-keys", "/members/roles/new"):
        done = browser.post(path, data={"email": "new@example.com", "role": "viewer", "name": "mine", "title": "x"})
        assert done.status_code == 403
    assert not User.select().where(User.email == "new@example.com").exists() and Role.select().count() == 4


def test_an_invitation_shows_its_link_once(browser: FlaskClient, services: Services, app: Flask) -> None:
    done = post(browser, "/members", email="New@example.com", role="developer")
    link = re.search(r'<code id="link">(.*?)</code>', done.text)
    assert done.status_code == 200 and link is not None and link[1].startswith(services.settings.url)
    assert app.test_client().get(link[1].removeprefix(services.settings.url)).status_code == 200
    page = browser.get("/members").text
    assert "new@example.com" in page and "/invitations/" not in page
    assert link[1].rsplit("/", 1)[1] not in str(list(Audit.select().dicts()))


def test_who_has_a_password_gets_a_link_waits_and_is_no_member(
    browser: FlaskClient, foreign_browser: FlaskClient, services: Services
) -> None:
    user, _ = users.add(services, "known@example.com", "a long enough one")
    known = post(browser, "/members", email="known@example.com", role="viewer")
    new = post(browser, "/members", email="fresh@example.com", role="viewer")
    for done, email in ((known, "known@example.com"), (new, "fresh@example.com")):
        assert done.status_code == 200 and '<code id="link">' in done.text
        assert f"Give this link to {email} and to nobody else." in done.text
    page = browser.get("/members").text
    assert "Invited, and not here yet" in page and "known@example.com" in page and "Role of known@" not in page
    withdraw = f"/members/invitations/{user.id}/withdraw"
    assert f'action="{withdraw}"' in page and "known@example.com" not in foreign_browser.get("/members").text
    assert post(foreign_browser, withdraw).status_code == 404
    assert post(browser, withdraw).headers["Location"] == "/members"
    assert "known@example.com" not in browser.get("/members").text
    done = post(browser, withdraw)
    assert done.status_code == 404 and "There is no such invitation." in done.text


def test_nobody_withdraws_an_invitation_to_more_than_they_have(
    app: Flask, services: Services, alice: Tenant
) -> None:
    user, _ = users.add(services, "known@example.com", "a long enough one")
    members.invite(services, alice.id, user.email, "org_admin", roles.OPERATOR)
    roles.add(services, alice.id, "host", "Host", ["scripts.read", roles.MANAGE], roles.OPERATOR)
    host = sign_in(app, services, member(services, alice.id, "host"), alice.id)
    done = post(host, f"/members/invitations/{user.id}/withdraw")
    assert done.status_code == 403 and "permissions that you do not have yourself" in done.text
    assert "known@example.com" in host.get("/members").text


@pytest.mark.parametrize(("email", "role", "status"), [
    ("nobody", "viewer", 400), ("dan@example.com", "viewer", 409), ("new@example.com", "king", 404),
    ("new@example.com", "superadmin", 404),
])  # fmt: skip
@pytest.mark.usefixtures("dan")
def test_an_invitation_that_cannot_be_is_refused_with_the_email_kept(
    browser: FlaskClient, email: str, role: str, status: int
) -> None:
    done = post(browser, "/members", email=email, role=role)
    assert done.status_code == status and 'role="alert"' in done.text and f'value="{email}"' in done.text


def test_a_member_gets_another_role_a_link_and_is_removed(browser: FlaskClient, dan: Member) -> None:
    assert post(browser, f"/members/{dan.id}/role", role="developer").status_code == 303
    assert Member.get_by_id(dan.id).role == "developer"
    assert "/invitations/" in post(browser, f"/members/{dan.id}/reset").text
    assert post(browser, f"/members/{dan.id}/remove").status_code == 303
    assert Member.get_or_none(Member.id == dan.id) is None and "dan@example.com" not in browser.get("/members").text


def test_the_last_who_manages_is_told_that_they_stay(browser: FlaskClient) -> None:
    mine = Member.get(Member.role == "org_admin")
    for path, fields in (("remove", {}), ("role", {"role": "viewer"})):
        done = post(browser, f"/members/{mine.id}/{path}", **fields)
        assert done.status_code == 409 and "Somebody has to manage the workspace" in done.text
    assert Member.get_by_id(mine.id).role == "org_admin"


def test_nobody_gives_more_than_they_have(app: Flask, services: Services, alice: Tenant, dan: Member) -> None:
    roles.add(services, alice.id, "host", "Host", ["scripts.read", roles.MANAGE], roles.OPERATOR)
    host = sign_in(app, services, member(services, alice.id, "host"), alice.id)
    page = host.get("/members").text
    assert 'value="viewer"' in page and 'value="org_admin"' not in page  # hidden
    done = post(host, f"/members/{dan.id}/role", role="org_admin")  # and refused
    assert done.status_code == 403 and "permissions that you do not have yourself" in done.text
    assert Member.get_by_id(dan.id).role == "viewer"


def test_a_role_is_added_changed_and_removed(browser: FlaskClient, alice: Tenant) -> None:
    fields = {"name": "release", "title": "Release <b>", "permissions": ["scripts.read", "scripts.update"]}
    assert post(browser, "/members/roles/new", **fields).headers["Location"] == "/members/roles"
    page = browser.get("/members/roles").text
    assert "Release &lt;b&gt;" in page and "<b>" not in page.split("<table", 1)[1].split("</table", 1)[0]
    assert post(browser, "/members/roles/release", title="R", permissions=["scripts.read"]).status_code == 303
    assert roles.find(alice.id, "release").permissions == ["scripts.read"]
    assert post(browser, "/members/roles/release/remove").status_code == 303
    assert browser.get("/members/roles/release").status_code == 404


@pytest.mark.parametrize(("fields", "status"), [
    ({"name": "Bad Name", "title": "x"}, 400), ({"name": "ok", "title": ""}, 400),
    ({"name": "viewer", "title": "x"}, 409),
    ({"name": "ok", "title": "x", "permissions": ["platform.manage"]}, 400),
])  # fmt: skip
def test_a_bad_role_is_the_form_again(browser: FlaskClient, fields: dict[str, str], status: int) -> None:
    done = post(browser, "/members/roles/new", **fields)
    assert done.status_code == status and f'value="{fields["name"]}"' in done.text
    assert Role.select().count() == 4


@pytest.mark.parametrize("name", ["viewer", "org_admin"])
def test_millraces_own_roles_have_no_form(browser: FlaskClient, name: str) -> None:
    assert browser.get(f"/members/roles/{name}").status_code == 409
    assert post(browser, f"/members/roles/{name}", title="x").status_code == 409
    assert post(browser, f"/members/roles/{name}/remove").status_code == 409


# API keys


def test_a_key_is_shown_once_and_works_until_it_is_revoked(browser: FlaskClient, alice: Tenant) -> None:
    done = post(browser, "/api-keys", name="ci")
    found = re.search(r'<code id="key">(mr_(\w{16})_[\w-]{43})</code>', done.text)
    assert found is not None and workspaces.authenticate(found[1]).id == alice.id
    page = browser.get("/api-keys").text
    assert found[2] in page and found[1] not in page
    assert post(browser, f"/api-keys/{found[2]}/revoke").status_code == 303
    with pytest.raises(Denied):
        workspaces.authenticate(found[1])
    assert post(browser, f"/api-keys/{found[2]}/revoke").status_code == 404
    deeds = [(row.action, row.subject) for row in Audit.select().order_by(Audit.id)]
    assert deeds == [("api_key.created", found[2]), ("api_key.revoked", found[2])]


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "a\x00b"])
def test_a_key_without_a_good_name_is_refused(browser: FlaskClient, name: str) -> None:
    before = ApiKey.select().count()
    assert post(browser, "/api-keys", name=name).status_code == 400
    assert ApiKey.select().count() == before


def test_another_workspaces_key_is_not_there(browser: FlaskClient, bob: Tenant) -> None:
    theirs = bob.api_key.split("_")[1]
    assert theirs not in browser.get("/api-keys").text
    assert post(browser, f"/api-keys/{theirs}/revoke").status_code == 404
    assert workspaces.authenticate(bob.api_key).id == bob.id


# Profile and workspaces


def test_a_person_changes_how_pages_are_for_them(browser: FlaskClient) -> None:
    assert post(browser, "/profile", name="Ann <i>", language="ru", theme="dark").status_code == 303
    page = browser.get("/profile").text
    assert 'lang="ru"' in page and 'data-theme="dark"' in page and "Ann &lt;i&gt;" in page and "Ann <i>" not in page
    for wrong in ({"language": "xx"}, {"theme": "pink"}, {"name": "x" * 101}):
        done = post(browser, "/profile", **wrong)
        assert done.status_code == 400 and 'aria-invalid="true"' in done.text


def test_a_changed_password_signs_out_all_other_browsers(app: Flask, services: Services, alice: Tenant) -> None:
    with services.database.connection_context():
        user, _ = users.add(services, "ann@example.com", "a long enough one")
        members.add(services, alice.id, user, "viewer")
    here, there = (sign_in(app, services, user, alice.id) for _ in range(2))
    for old, password, again, words in (
        ("wrong", "another long one", "another long one", "The old password is not right"),
        ("a long enough one", "short", "short", "from 12 to 200"),
        ("a long enough one", "another long one", "another", "not the same"),
    ):  # fmt: skip
        done = post(here, "/profile/password", old=old, password=password, again=again)
        assert done.status_code == 400 and words in done.text
        assert there.get("/profile").status_code == 200
    new = {"password": "another long one", "again": "another long one"}
    done = post(here, "/profile/password", old="a long enough one", **new)
    assert done.status_code == 303
    assert here.get("/profile").status_code == 200 and there.get("/profile").status_code == 303


def test_a_person_sees_and_ends_their_own_sessions_alone(
    app: Flask, services: Services, alice: Tenant, browser: FlaskClient
) -> None:
    user = member(services, alice.id, "viewer", "ann@example.com")
    here, there, third = (sign_in(app, services, user, alice.id) for _ in range(3))
    page = here.get("/profile").text
    ends = re.findall(r'action="(/profile/sessions/\w{64}/end)"', page)
    assert len(ends) == 2 and page.count("this one") == 1
    assert post(browser, ends[0]).status_code == 404
    assert post(here, ends[0]).status_code == 303
    assert sorted(each.get("/profile").status_code for each in (there, third)) == [200, 303]
    assert post(here, "/profile/sessions/end").status_code == 303
    assert [each.get("/profile").status_code for each in (here, there, third, browser)] == [200, 303, 303, 200]


def test_a_person_switches_to_their_own_workspaces_and_to_no_other(
    app: Flask, services: Services, alice: Tenant, bob: Tenant, browser: FlaskClient
) -> None:
    user = member(services, alice.id, "org_admin", "ann@example.com")
    with services.database.connection_context():
        members.add(services, bob.id, user, "viewer")
    mine = sign_in(app, services, user, alice.id)
    assert mine.get("/members").status_code == 200
    assert f'action="/workspaces/{bob.id}"' in mine.get("/workspaces").text
    assert post(mine, f"/workspaces/{bob.id}").headers["Location"] == "/scripts"
    assert mine.get("/members").status_code == 403  # a viewer there
    assert bob.id not in browser.get("/workspaces").text
    for stranger in (bob.id, "nowhere"):
        done = post(browser, f"/workspaces/{stranger}")
        assert done.status_code == 404 and f"There is no workspace &#39;{stranger}&#39;" in done.text


def test_a_superadmin_looks_anywhere(app: Flask, services: Services, alice: Tenant, bob: Tenant) -> None:
    with services.database.connection_context():
        users.add(services, "root@example.com")
        root = users.promote(services, "root@example.com", roles.OPERATOR)
    browser = sign_in(app, services, root, None)
    assert browser.get("/members").status_code == 200
    assert post(browser, f"/workspaces/{bob.id}").status_code == 303 and browser.get("/members").status_code == 200


def test_a_removed_member_sees_nothing_from_the_next_request_on(
    app: Flask, services: Services, alice: Tenant, browser: FlaskClient
) -> None:
    user = member(services, alice.id, "developer", "ann@example.com")
    theirs = sign_in(app, services, user, alice.id)
    token = csrf_token(theirs)
    place = Member.get(Member.user == user.id)
    post(browser, f"/members/{place.id}/remove")
    assert theirs.get("/profile").status_code == 303
    assert theirs.post("/profile", data={"csrf_token": token}).status_code in (302, 303, 401)
