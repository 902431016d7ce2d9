"""Tenants and their keys."""

import pytest

from millrace import roles, users, workspaces
from millrace.errors import Conflict, Denied, Invalid, NotFound
from millrace.models import ApiKey, Member, User, Workspace
from millrace.services import Services
from millrace.signinlimits import SignInLimits
from tests import world
from tests.world import ACME, OTHER, at_once


def test_a_new_workspace_has_an_org_admin_and_a_key(memory: Services) -> None:
    owner = workspaces.bootstrap(memory, ACME, "Alice@example.com")
    assert (owner.workspace, owner.email) == (ACME, "alice@example.com")
    assert workspaces.authenticate(owner.api_key).id == ACME
    assert owner.password is not None
    user = users.authenticate(memory, SignInLimits(""), owner.email, owner.password, "192.0.2.1")
    assert roles.permissions(user, ACME) == set(roles.OF_WORKSPACE)
    assert user.role is None and owner.password not in str(user.password_hash)
    with pytest.raises(Conflict):
        workspaces.bootstrap(memory, ACME, "alice@example.com")
    assert Member.select().count() == ApiKey.select().count() == User.select().count() == 1


def test_who_is_known_is_made_a_member_and_keeps_their_password(memory: Services) -> None:
    first = workspaces.bootstrap(memory, ACME, "alice@example.com")
    before = User.get().password_hash
    second = workspaces.bootstrap(memory, OTHER, "ALICE@example.com")
    assert first.password is not None and second.password is None
    assert User.get().password_hash == before and Member.select().count() == 2


def test_the_first_of_an_installation_manages_the_platform_and_no_later_one(memory: Services) -> None:
    workspaces.bootstrap(memory, "made", "operator@example.com")
    assert not users.has_superadmin()
    workspaces.bootstrap(memory, ACME, "alice@example.com", first=True)
    workspaces.bootstrap(memory, OTHER, "bob@example.com", first=True)
    assert [user.email for user in User.select().where(User.role == "superadmin")] == ["alice@example.com"]


@pytest.mark.parametrize("email", ["", "alice", "a b@example.com"])
def test_an_owner_with_a_bad_email_leaves_nothing(memory: Services, email: str) -> None:
    with pytest.raises(Invalid):
        workspaces.bootstrap(memory, ACME, email)
    assert Workspace.select().count() == ApiKey.select().count() == User.select().count() == 0


def test_of_two_that_begin_at_once_one_does(memory: Services) -> None:
    answers = at_once(memory.database, *[lambda: workspaces.bootstrap(memory, ACME, "a@example.com")] * 3)
    assert sorted(type(each).__name__ for each in answers) == ["Conflict", "Conflict", "Owner"]
    assert Workspace.select().count() == Member.select().count() == ApiKey.select().count() == 1


@pytest.mark.parametrize("name", ["", "-a", "a b", "é", "a" * 65, "a\n", "a/b", "a\x00"])
def test_a_bad_id_is_refused(memory: Services, name: str) -> None:
    with pytest.raises(Invalid):
        workspaces.create(memory, name, name)


def test_each_workspace_has_a_data_key_of_its_own(memory: Services) -> None:
    one, two = world.workspace(memory), world.workspace(memory, OTHER)
    assert memory.keyring.unwrap(one.data_key) != memory.keyring.unwrap(two.data_key)


def test_a_key_opens_its_workspace_until_it_is_revoked(memory: Services) -> None:
    world.workspace(memory)
    world.workspace(memory, OTHER)
    key, other = (workspaces.new_api_key(memory, name, "ci") for name in (ACME, OTHER))
    assert (workspaces.authenticate(key).id, workspaces.authenticate(other).id) == (ACME, OTHER)
    with pytest.raises(NotFound):
        workspaces.revoke_api_key(memory, OTHER, key.split("_")[1])  # not theirs
    workspaces.revoke_api_key(memory, ACME, key.split("_")[1])
    with pytest.raises(Denied):
        workspaces.authenticate(key)
    with pytest.raises(NotFound):
        workspaces.revoke_api_key(memory, ACME, key.split("_")[1])
    with pytest.raises(NotFound):
        workspaces.new_api_key(memory, "nobody", "ci")


def test_no_secret_is_stored(memory: Services) -> None:
    world.workspace(memory)
    for _ in range(50):  # a secret may begin with '_' or '-'
        key = workspaces.new_api_key(memory, ACME, "ci")
        assert workspaces.authenticate(key).id == ACME
        assert key.split("_", 2)[2] not in str(list(ApiKey.select().dicts()))


@pytest.mark.parametrize("change", [
    lambda key: "", lambda key: key[:-1], lambda key: key + "x", lambda key: key.lower(), lambda key: f" {key}",
    lambda key: key[:-1] + ("a" if key[-1] != "a" else "b"), lambda key: "mr_" + "0" * 16 + key[19:],
    lambda key: key + "\n", lambda key: key.replace("mr_", "MR_"), lambda key: "\x00" * 63, lambda key: "é" * 63,
])
def test_anything_but_a_key_is_denied_in_the_same_words(memory: Services, change: object) -> None:
    world.workspace(memory)
    key = workspaces.new_api_key(memory, ACME, "ci")
    with pytest.raises(Denied, match="The API key is not valid"):
        workspaces.authenticate(change(key))  # type: ignore[operator]
