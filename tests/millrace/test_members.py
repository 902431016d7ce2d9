"""Who belongs to a workspace, what their roles allow, and the links with which they choose a password.

Alice manages `acme`, Bob is a developer there; Charlie manages `other`.
"""

import threading
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import invitations, members, passwords, removal, roles, sessions, users
from millrace.errors import Conflict, DomainError, Forbidden, Invalid, NotFound
from millrace.models import Audit, Invitation, Member, Role, Session, User
from millrace.roles import MANAGE, OPERATOR, PLATFORM, Actor
from millrace.services import Services
from tests import world
from tests.world import ACME, OTHER, Clock, at_once

PASSWORD = "a long enough one"


@dataclass(frozen=True)
class Place:
    user: User
    member: Member

    @property
    def actor(self) -> Actor:
        return Actor(self.user.email, roles.permissions(self.user, self.member.workspace_id))


def join(services: Services, name: str, role: str, workspace: str = ACME, password: str | None = PASSWORD) -> Place:
    world.workspace(services, workspace)
    user, _ = users.add(services, f"{name}@example.com", password)
    return Place(user, members.add(services, workspace, user, role))


@pytest.fixture
def alice(memory: Services) -> Place:
    return join(memory, "alice", "org_admin")


@pytest.fixture
def bob(memory: Services) -> Place:
    return join(memory, "bob", "developer")


@pytest.fixture
def charlie(memory: Services) -> Place:
    return join(memory, "charlie", "org_admin", OTHER)


def roles_of(workspace: str = ACME) -> dict[str, str]:
    return {member.user.email.partition("@")[0]: member.role for member in members.of(workspace)}


def deeds(workspace: str | None = ACME) -> list[str]:
    return [f"{row.actor} {row.action} {row.subject}" for row in Audit.select().order_by(Audit.id)
            if row.workspace_id == workspace]  # fmt: skip


# Roles


def test_millraces_own_roles_give_what_the_issue_says(memory: Services) -> None:
    world.workspace(memory)
    all_scripts = {each for each in roles.PERMISSIONS if each.startswith("scripts.")}
    assert {role.name: set(role.permissions) for role in Role.select()} == {
        "superadmin": set(roles.PERMISSIONS), "org_admin": all_scripts | {MANAGE},
        "developer": {"scripts.read", "scripts.create", "scripts.execute"}, "viewer": {"scripts.read"},
    }  # fmt: skip
    assert [role.name for role in roles.of(ACME)] == ["org_admin", "developer", "viewer"]


def test_permissions_are_the_union_of_the_role_everywhere_and_the_place_here(
    memory: Services, alice: Place, bob: Place, charlie: Place
) -> None:
    assert roles.permissions(bob.user, ACME) == {"scripts.read", "scripts.create", "scripts.execute"}
    assert roles.permissions(bob.user, OTHER) == roles.permissions(charlie.user, ACME) == frozenset()
    assert roles.permissions(users.promote(memory, bob.user.email, OPERATOR), OTHER) == set(roles.PERMISSIONS)
    User.update(role="viewer").where(User.id == bob.user.id).execute()
    assert roles.permissions(User.get_by_id(bob.user.id), OTHER) == {"scripts.read"}
    User.update(role="nonsense").where(User.id == bob.user.id).execute()
    assert roles.permissions(User.get_by_id(bob.user.id), OTHER) == frozenset()


def test_a_place_never_manages_the_platform(memory: Services, bob: Place) -> None:
    Member.update(role="superadmin").where(Member.id == bob.member.id).execute()
    assert PLATFORM not in roles.permissions(bob.user, ACME)


def test_a_workspace_adds_changes_and_removes_roles_of_its_own(
    memory: Services, alice: Place, bob: Place, charlie: Place
) -> None:
    added = roles.add(memory, ACME, "release", "Release manager", ["scripts.update", "scripts.read"], alice.actor)
    assert added.permissions == ["scripts.read", "scripts.update"]
    members.set_role(memory, ACME, bob.member.id, "release", alice.actor)
    assert roles.permissions(bob.user, ACME) == {"scripts.read", "scripts.update"}
    roles.change(memory, ACME, "release", "Releases", ["scripts.read"], alice.actor)
    assert roles.permissions(bob.user, ACME) == {"scripts.read"}
    with pytest.raises(Conflict, match="Members have"):
        roles.remove(memory, ACME, "release", alice.actor)
    members.set_role(memory, ACME, bob.member.id, "viewer", alice.actor)
    roles.remove(memory, ACME, "release", alice.actor)
    assert [each.split()[1] for each in deeds() if "role." in each] == ["role.added", "role.changed", "role.removed"]


def test_a_role_of_another_workspace_is_not_there(memory: Services, alice: Place, bob: Place, charlie: Place) -> None:
    roles.add(memory, OTHER, "release", "Release", ["scripts.delete"], charlie.actor)
    assert "release" not in [role.name for role in roles.of(ACME)]
    for act in (lambda: roles.change(memory, ACME, "release", "x", [], alice.actor),
                lambda: roles.remove(memory, ACME, "release", alice.actor),
                lambda: members.set_role(memory, ACME, bob.member.id, "release", alice.actor),
                lambda: members.invite(memory, ACME, "d@example.com", "release", alice.actor)):  # fmt: skip
        with pytest.raises(NotFound, match="There is no role 'release'"):
            act()
    Member.update(role="release").where(Member.id == bob.member.id).execute()
    assert roles.permissions(bob.user, ACME) == frozenset()


@pytest.mark.parametrize(("name", "title", "wanted", "error"), [
    ("Release", "x", [], Invalid), ("", "x", [], Invalid), ("x" * 31, "x", [], Invalid), ("a b", "x", [], Invalid),
    ("ok", "", [], Invalid), ("ok", "x" * 61, [], Invalid), ("ok", "a\nb", [], Invalid),
    ("ok", "x", [PLATFORM], Invalid), ("ok", "x", ["scripts.fly"], Invalid), ("viewer", "x", [], Conflict),
    ("superadmin", "x", [], Conflict), ("taken", "x", [], Conflict),
])  # fmt: skip
def test_a_bad_role_is_refused(
    memory: Services, alice: Place, name: str, title: str, wanted: list[str], error: type[DomainError]
) -> None:
    roles.add(memory, ACME, "taken", "Taken", [], alice.actor)
    with pytest.raises(error):
        roles.add(memory, ACME, name, title, wanted, OPERATOR)
    assert Role.select().count() == 5


@pytest.mark.parametrize("name", ["superadmin", "org_admin", "developer", "viewer"])
def test_millraces_own_roles_stay_as_they_are(memory: Services, alice: Place, name: str) -> None:
    before = list(Role.select().dicts())
    for act in (lambda: roles.change(memory, ACME, name, "x", [], OPERATOR),
                lambda: roles.remove(memory, ACME, name, OPERATOR)):  # fmt: skip
        with pytest.raises((Conflict, NotFound)):
            act()
    assert list(Role.select().dicts()) == before


# What somebody may give


def test_nobody_gives_or_takes_more_than_they_have(memory: Services, alice: Place, bob: Place) -> None:
    roles.add(memory, ACME, "host", "Host", [MANAGE, "scripts.read"], alice.actor)
    host = join(memory, "host", "host").actor
    for act in (lambda: members.invite(memory, ACME, "d@example.com", "developer", host),
                lambda: members.set_role(memory, ACME, bob.member.id, "viewer", host),  # may more than the host
                lambda: members.set_role(memory, ACME, alice.member.id, "viewer", host),
                lambda: members.remove(memory, ACME, alice.member.id, host),
                lambda: members.reset(memory, ACME, alice.member.id, host),
                lambda: roles.add(memory, ACME, "mine", "Mine", ["scripts.delete"], host),
                lambda: roles.change(memory, ACME, "host", "Host", [MANAGE, "scripts.delete"], host)):  # fmt: skip
        with pytest.raises(Forbidden, match="permissions that you do not have"):
            act()
    members.invite(memory, ACME, "d@example.com", "viewer", host)
    assert roles_of() == {"alice": "org_admin", "bob": "developer", "host": "host", "d": "viewer"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(roles.OF_WORKSPACE)), st.sets(st.sampled_from(roles.OF_WORKSPACE)))
def test_a_role_is_given_exactly_by_whoever_has_all_of_it(has: set[str], wanted: set[str]) -> None:
    actor = Actor("x", frozenset(has))
    if wanted <= has:
        actor.check_all(wanted)
    else:
        with pytest.raises(Forbidden):
            actor.check_all(wanted)


# Members


def test_another_workspaces_member_is_not_there(memory: Services, alice: Place, charlie: Place) -> None:
    for act in (lambda: members.find(ACME, charlie.member.id),
                lambda: members.set_role(memory, ACME, charlie.member.id, "viewer", alice.actor),
                lambda: members.remove(memory, ACME, charlie.member.id, alice.actor),
                lambda: members.reset(memory, ACME, charlie.member.id, alice.actor)):  # fmt: skip
        with pytest.raises(NotFound, match="There is no member"):
            act()
    assert roles_of(OTHER) == {"charlie": "org_admin"}


def test_a_member_who_is_removed_is_signed_out_there_and_nowhere_else(
    memory: Services, alice: Place, bob: Place, charlie: Place
) -> None:
    members.add(memory, OTHER, bob.user, "viewer")
    here, there = (sessions.begin(memory, bob.user, each, "browser") for each in (ACME, OTHER))
    members.remove(memory, ACME, bob.member.id, alice.actor)
    assert sessions.find(memory, here) is None and sessions.find(memory, there) is not None
    assert roles_of() == {"alice": "org_admin"}
    assert deeds()[-1] == "alice@example.com member.removed bob@example.com"


def test_the_last_who_manages_stays_and_keeps_managing(memory: Services, alice: Place, bob: Place) -> None:
    roles.add(memory, ACME, "host", "Host", list(roles.OF_WORKSPACE), OPERATOR)
    members.set_role(memory, ACME, alice.member.id, "host", OPERATOR)
    for act in (lambda: members.remove(memory, ACME, alice.member.id, alice.actor),
                lambda: members.set_role(memory, ACME, alice.member.id, "viewer", alice.actor),
                lambda: roles.change(memory, ACME, "host", "Host", ["scripts.read"], alice.actor)):  # fmt: skip
        with pytest.raises(Conflict, match="Somebody has to manage"):
            act()
    assert roles_of() == {"alice": "host", "bob": "developer"} and MANAGE in roles.find(ACME, "host").permissions
    members.set_role(memory, ACME, bob.member.id, "org_admin", OPERATOR)
    members.remove(memory, ACME, alice.member.id, alice.actor)
    assert roles_of() == {"bob": "org_admin"}


def test_of_two_who_manage_and_remove_each_other_at_once_one_stays(
    memory: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were both to look at who is left before either is done, each would see the other."""
    meeting, count = threading.Barrier(2), roles._managers

    def met(workspace_id: str) -> int:
        left = count(workspace_id)
        if left == 1:
            with suppress(threading.BrokenBarrierError):
                meeting.wait(0.5)
        return left

    monkeypatch.setattr(roles, "_managers", met)
    both = [join(memory, name, "org_admin") for name in ("alice", "bob")]
    actors = [each.actor for each in both]
    answers = at_once(memory.database, *[
        lambda one=one, other=other: members.remove(memory, ACME, both[one].member.id, actors[other])
        for one, other in ((0, 1), (1, 0))
    ])  # fmt: skip
    assert sorted(type(each).__name__ for each in answers) == ["Conflict", "NoneType"]
    assert list(roles_of().values()) == ["org_admin"]


def test_a_role_is_not_removed_while_it_is_given(memory: Services, alice: Place, bob: Place) -> None:
    for number in range(5):
        name = f"role-{number}"
        roles.add(memory, ACME, name, name, ["scripts.read"], OPERATOR)
        members.set_role(memory, ACME, bob.member.id, "viewer", OPERATOR)
        at_once(memory.database,
                lambda name=name: roles.remove(memory, ACME, name, OPERATOR),
                lambda name=name: members.set_role(memory, ACME, bob.member.id, name, OPERATOR))
        assert roles.permissions(bob.user, ACME) == {"scripts.read"}


def test_who_has_a_place_is_not_invited_again(memory: Services, alice: Place, bob: Place) -> None:
    with pytest.raises(Conflict, match="is a member already"):
        members.invite(memory, ACME, "BOB@example.com", "viewer", alice.actor)
    answers = at_once(memory.database, *[
        lambda: members.invite(memory, ACME, "dan@example.com", "viewer", OPERATOR)
    ] * 3)
    assert sorted(type(each).__name__ for each in answers) == ["Conflict", "Conflict", "Invited"]
    assert Member.select().count() == 3


def test_everybody_sees_their_own_workspaces_and_a_superadmin_all(
    memory: Services, alice: Place, charlie: Place
) -> None:
    assert [each.id for each in members.workspaces_of(alice.user)] == [ACME]
    promoted = users.promote(memory, alice.user.email, OPERATOR)
    assert [each.id for each in members.workspaces_of(promoted)] == [ACME, OTHER]
    removal.delete_workspace(memory, OTHER)
    assert [each.id for each in members.workspaces_of(promoted)] == [ACME]
    assert members.workspaces_of(charlie.user) == []


# Links


def test_who_is_new_gets_a_link_and_chooses_a_password_once(memory: Services, alice: Place) -> None:
    invited = members.invite(memory, ACME, "Dan@Example.com", "viewer", alice.actor)
    assert invited.token is not None
    assert invited.token not in str(list(Invitation.select().dicts())) and len(invited.token) == 43
    assert invitations.find(memory, invited.token).email == "dan@example.com"
    user = invitations.accept(memory, invited.token, PASSWORD)
    assert passwords.matches(User.get_by_id(user.id).password_hash, PASSWORD)
    for again in (invitations.find, lambda *a: invitations.accept(*a, "another long one")):
        with pytest.raises(NotFound, match="used already, or is too old"):
            again(memory, invited.token)
    assert deeds() == ["alice@example.com member.added dan@example.com"]
    assert deeds(None) == ["dan@example.com user.password_chosen dan@example.com"]


def test_a_refused_password_leaves_the_link(memory: Services, alice: Place) -> None:
    token = members.invite(memory, ACME, "dan@example.com", "viewer", alice.actor).token
    assert token is not None
    with pytest.raises(Invalid):
        invitations.accept(memory, token, "short")
    invitations.accept(memory, token, PASSWORD)


def test_a_link_is_used_by_one_of_many_at_once(memory: Services, alice: Place) -> None:
    token = members.invite(memory, ACME, "dan@example.com", "viewer", alice.actor).token
    assert token is not None
    answers = at_once(memory.database, *[
        lambda number=number: invitations.accept(memory, token, f"{PASSWORD} {number}") for number in range(4)
    ])  # fmt: skip
    won = [number for number, each in enumerate(answers) if isinstance(each, User)]
    assert len(won) == 1 and all(isinstance(each, User | NotFound) for each in answers)
    assert passwords.matches(User.get(User.email == "dan@example.com").password_hash, f"{PASSWORD} {won[0]}")


@pytest.mark.parametrize(("days", "kind"), [(7, "invited"), (1, "reset")])
def test_a_link_is_good_for_so_many_days(memory: Services, clock: Clock, alice: Place, days: int, kind: str) -> None:
    bob = join(memory, "bob", "viewer")
    if kind == "invited":
        token = members.invite(memory, ACME, "dan@example.com", "viewer", alice.actor).token
    else:
        token = members.reset(memory, ACME, bob.member.id, alice.actor)
    assert token is not None
    clock.forward(s=days * 24 * 3600 - 1)
    assert invitations.remove_expired(memory) == 0
    invitations.find(memory, token)
    clock.forward(s=1)
    with pytest.raises(NotFound):
        invitations.accept(memory, token, PASSWORD)
    assert invitations.remove_expired(memory) == 1 and Invitation.select().count() == 0


def test_a_reset_ends_all_sessions_once_it_is_used_and_earlier_links(
    memory: Services, alice: Place, bob: Place
) -> None:
    session = sessions.begin(memory, bob.user, None, "browser")
    first, second = (members.reset(memory, ACME, bob.member.id, alice.actor) for _ in range(2))
    assert sessions.find(memory, session) is not None
    with pytest.raises(NotFound):
        invitations.accept(memory, first, "another long one")
    invitations.accept(memory, second, "another long one")
    assert sessions.find(memory, session) is None and Session.select().count() == 0
    assert deeds()[-1] == "alice@example.com user.reset bob@example.com"


def test_nobody_gets_a_link_into_another_workspace(memory: Services, alice: Place, charlie: Place) -> None:
    """Whoever holds a link can choose the password, and enter all that its user may."""
    members.invite(memory, ACME, "dan@example.com", "viewer", alice.actor)  # waits for a link of Alice's
    known = members.invite(memory, OTHER, "dan@example.com", "viewer", charlie.actor)
    assert known.token is None
    with pytest.raises(Forbidden, match="other workspaces"):
        members.reset(memory, OTHER, known.member.id, charlie.actor)
    root = join(memory, "root", "viewer", OTHER)
    users.promote(memory, root.user.email, OPERATOR)
    with pytest.raises(Forbidden):
        members.reset(memory, OTHER, root.member.id, charlie.actor)
    with pytest.raises(Forbidden):
        members.reset_any(memory, "dan@example.com", charlie.actor)
    assert invitations.find(memory, members.reset_any(memory, "dan@example.com", OPERATOR)).id == known.member.user_id


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_link_of_before_leads_into_no_workspace_of_after(
    memory: Services, alice: Place, charlie: Place, is_reset: bool
) -> None:
    invited = members.invite(memory, ACME, "dan@example.com", "viewer", alice.actor)
    token = invited.token
    assert token is not None
    if is_reset:
        invitations.accept(memory, token, PASSWORD)
        token = members.reset(memory, ACME, invited.member.id, alice.actor)
    members.invite(memory, OTHER, "dan@example.com", "org_admin", charlie.actor)
    with pytest.raises(NotFound):  # Alice has seen it, and Charlie trusts Dan
        invitations.accept(memory, token, "what Alice chose for him")


def test_who_has_a_password_becomes_a_member_and_keeps_it(memory: Services, alice: Place, charlie: Place) -> None:
    invited = members.invite(memory, ACME, charlie.user.email, "viewer", alice.actor)
    assert invited.token is None and Invitation.select().count() == 0
    assert User.get_by_id(charlie.user.id).password_hash == charlie.user.password_hash
    assert [each.id for each in members.workspaces_of(charlie.user)] == [ACME, OTHER]


@pytest.mark.parametrize("token", ["", "x", "x" * 43, "x" * 100_000, "\x00", "\ud800", "é"])
def test_what_is_no_link_is_not_found(memory: Services, alice: Place, token: str) -> None:
    members.invite(memory, ACME, "dan@example.com", "viewer", alice.actor)
    with pytest.raises(NotFound):
        invitations.find(memory, token)
