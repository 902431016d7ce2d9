"""Who belongs to a workspace, what their roles allow, and the links with which they choose a password.

Alice manages `acme`, Bob is a developer there; Charlie manages `other`.
"""

import threading
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import invitations, joining, members, passwords, removal, roles, sessions, users
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
    with pytest.raises(Invalid):
        invitations.accept(memory, token, "short")
    invitations.accept(memory, token, PASSWORD)


def test_a_link_is_used_by_one_of_many_at_once(memory: Services, alice: Place) -> None:
    token = members.invite(memory, ACME, "dan@example.com", "viewer", alice.actor).token
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
    dan = password_link(memory, "dan@example.com")  # shown to Alice
    offered = offer(memory, "dan@example.com", OTHER)
    with pytest.raises(NotFound):
        invitations.accept(memory, offered, PASSWORD)
    user = users.find("dan@example.com")
    joining.join(memory, offered, user)
    place = Member.get(Member.user == user.id, Member.workspace == OTHER)
    with pytest.raises(Forbidden, match="other workspaces"):
        members.reset(memory, OTHER, place.id, charlie.actor)
    root = join(memory, "root", "viewer", OTHER)
    users.promote(memory, root.user.email, OPERATOR)
    with pytest.raises(Forbidden):
        members.reset(memory, OTHER, root.member.id, charlie.actor)
    with pytest.raises(Forbidden):
        members.reset_any(memory, "dan@example.com", charlie.actor)
    assert invitations.find(memory, members.reset_any(memory, "dan@example.com", OPERATOR)).id == user.id
    with pytest.raises(NotFound):
        invitations.find(memory, dan)


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_link_of_before_leads_into_no_workspace_of_after(
    memory: Services, alice: Place, charlie: Place, is_reset: bool
) -> None:
    token = password_link(memory, "dan@example.com")
    if is_reset:
        invitations.accept(memory, token, PASSWORD)
        token = members.reset(memory, ACME, str(Member.get(Member.role == "viewer").id), alice.actor)
    offered = offer(memory, "dan@example.com", OTHER)
    assert invitations.find(memory, token).email == "dan@example.com"  # another workspace's link is none of theirs
    joining.join(memory, offered, users.find("dan@example.com"))
    with pytest.raises(NotFound):  # Alice has seen it, and Charlie trusts Dan
        invitations.accept(memory, token, "what Alice chose for him")


# Joining


def password_link(services: Services, email: str, workspace: str = ACME) -> str:
    """Of somebody new."""
    invited = members.invite(services, workspace, email, "viewer", OPERATOR)
    assert invited.member is not None
    return invited.token


def offer(services: Services, email: str, workspace: str = ACME, role: str = "viewer") -> str:
    """The link of somebody known, who is no member yet."""
    invited = members.invite(services, workspace, email, role, OPERATOR)
    assert invited.member is None and invited.user.email == email
    return invited.token


def test_an_account_that_was_taken_in_advance_is_in_no_other_workspace(
    memory: Services, alice: Place, charlie: Place
) -> None:
    """Alice uses the link of Dan's invitation herself. Charlie gives Dan's to Dan alone."""
    taken = invitations.accept(memory, password_link(memory, "dan@example.com"), "Alice knows this one")
    offer(memory, "dan@example.com", OTHER, "org_admin")
    assert roles.permissions(taken, OTHER) == frozenset() and roles_of(OTHER) == {"charlie": "org_admin"}
    assert [each.id for each in members.workspaces_of(taken)] == [ACME]


def test_who_was_removed_everywhere_and_has_a_password_is_still_known(memory: Services, alice: Place) -> None:
    users.add(memory, "dan@example.com", PASSWORD)
    offer(memory, "dan@example.com")
    assert roles_of() == {"alice": "org_admin"}


def test_who_is_known_joins_once_and_keeps_the_password(memory: Services, alice: Place, charlie: Place) -> None:
    token = offer(memory, charlie.user.email, role="developer")
    assert joining.is_offer(memory, token) and token not in str(list(Invitation.select().dicts()))
    found = joining.find(memory, token, charlie.user)
    assert (found.workspace_id, found.role.name) == (ACME, "developer")
    joining.join(memory, token, charlie.user)
    assert roles_of() == {"alice": "org_admin", "charlie": "developer"}
    assert User.get_by_id(charlie.user.id).password_hash == charlie.user.password_hash
    assert [each.id for each in members.workspaces_of(charlie.user)] == [ACME, OTHER]
    assert deeds() == ["operator member.invited charlie@example.com",
                       "charlie@example.com member.joined charlie@example.com"]  # fmt: skip
    with pytest.raises(NotFound, match="used already"):
        joining.join(memory, token, charlie.user)


def test_a_link_is_joined_by_once_of_many_at_once(memory: Services, alice: Place, charlie: Place) -> None:
    token = offer(memory, charlie.user.email)
    answers = at_once(memory.database, *[lambda: joining.join(memory, token, charlie.user)] * 4)
    assert sorted(type(each).__name__ for each in answers) == ["Member", "NotFound", "NotFound", "NotFound"]
    assert deeds().count("charlie@example.com member.joined charlie@example.com") == 1


def test_somebody_elses_invitation_is_worth_nothing(memory: Services, alice: Place, bob: Place, charlie: Place) -> None:
    token = offer(memory, charlie.user.email)
    dora = join(memory, "dora", "org_admin", OTHER)
    for act in (joining.find, joining.join):
        with pytest.raises(NotFound, match="for somebody else"):
            act(memory, token, dora.user)
    assert "dora" not in roles_of() and joining.join(memory, token, charlie.user).user_id == charlie.user.id


def test_an_invitation_is_good_for_seven_days(
    memory: Services, clock: Clock, alice: Place, charlie: Place
) -> None:
    token = offer(memory, charlie.user.email)
    clock.forward(s=7 * 24 * 3600 - 1)
    assert joining.find(memory, token, charlie.user) and len(joining.waiting(memory, ACME)) == 1
    clock.forward(s=1)
    assert not joining.is_offer(memory, token) and joining.waiting(memory, ACME) == []
    with pytest.raises(NotFound, match="too old"):
        joining.join(memory, token, charlie.user)
    assert invitations.remove_expired(memory) == 1 and "charlie" not in roles_of()


def test_a_second_invitation_replaces_the_first_to_there_and_no_other(
    memory: Services, alice: Place, charlie: Place
) -> None:
    users.add(memory, "dan@example.com", PASSWORD)
    dan = users.find("dan@example.com")
    first, elsewhere = offer(memory, dan.email, role="org_admin"), offer(memory, dan.email, OTHER)
    second = offer(memory, dan.email)
    with pytest.raises(NotFound):
        joining.join(memory, first, dan)
    joining.join(memory, second, dan)
    joining.join(memory, elsewhere, dan)
    assert roles_of()["dan"] == roles_of(OTHER)["dan"] == "viewer"


def test_a_chosen_password_leaves_the_invitations_to_join(memory: Services, alice: Place, charlie: Place) -> None:
    chosen = password_link(memory, "dan@example.com")
    token = offer(memory, "dan@example.com", OTHER)
    user = invitations.accept(memory, chosen, PASSWORD)
    joining.join(memory, token, User.get_by_id(user.id))
    assert roles_of(OTHER)["dan"] == "viewer"


def test_an_invitation_is_withdrawn_by_who_may_give_as_much_there(
    memory: Services, alice: Place, charlie: Place
) -> None:
    token = offer(memory, charlie.user.email, role="developer")
    roles.add(memory, ACME, "host", "Host", [MANAGE, "scripts.read"], alice.actor)
    host = join(memory, "host", "host").actor
    with pytest.raises(Forbidden):
        joining.withdraw(memory, ACME, charlie.user.id, host)
    with pytest.raises(NotFound, match="no such invitation"):
        joining.withdraw(memory, OTHER, charlie.user.id, charlie.actor)
    assert [(each.user.email, each.role) for each in joining.waiting(memory, ACME)] == [
        ("charlie@example.com", "developer")
    ]
    joining.withdraw(memory, ACME, charlie.user.id, alice.actor)
    with pytest.raises(NotFound):
        joining.join(memory, token, charlie.user)
    with pytest.raises(NotFound):
        joining.withdraw(memory, ACME, charlie.user.id, alice.actor)
    assert deeds()[-1] == "alice@example.com member.uninvited charlie@example.com"


def test_a_role_that_is_gone_is_not_given(memory: Services, alice: Place, charlie: Place) -> None:
    roles.add(memory, ACME, "release", "Release", ["scripts.read"], OPERATOR)
    roles.add(memory, OTHER, "release", "Release", ["scripts.read"], OPERATOR)
    token = offer(memory, charlie.user.email, role="release")
    roles.remove(memory, ACME, "release", OPERATOR)
    for act in (joining.find, joining.join):
        with pytest.raises(NotFound, match="role of this invitation is gone"):
            act(memory, token, charlie.user)
    assert "charlie" not in roles_of()


def test_nobody_joins_a_workspace_that_is_gone(memory: Services, alice: Place, charlie: Place) -> None:
    token, left = offer(memory, charlie.user.email), joining.find
    removal.delete_workspace(memory, ACME)
    assert Invitation.select().count() == 0 and not joining.is_offer(memory, token)
    for act in (left, joining.join):
        with pytest.raises(NotFound, match="used already"):
            act(memory, token, charlie.user)
    assert Member.select().where(Member.workspace == ACME).count() == 0


def test_who_has_a_place_meanwhile_or_finds_no_room_keeps_the_link(
    memory: Services, monkeypatch: pytest.MonkeyPatch, alice: Place, charlie: Place
) -> None:
    token = offer(memory, charlie.user.email, role="org_admin")
    with monkeypatch.context() as patch, pytest.raises(Conflict, match="can have 1 members"):
        patch.setattr(members, "MAX_MEMBERS", 1)
        joining.join(memory, token, charlie.user)
    members.add(memory, ACME, charlie.user, "viewer")
    with pytest.raises(Conflict, match="is a member already"):
        joining.join(memory, token, charlie.user)
    assert roles_of()["charlie"] == "viewer" and joining.is_offer(memory, token)


def test_whose_password_was_changed_since_the_sign_in_does_not_join(
    memory: Services, alice: Place, charlie: Place
) -> None:
    token, before = offer(memory, charlie.user.email), User.get_by_id(charlie.user.id)
    invitations.accept(memory, members.reset_any(memory, charlie.user.email, OPERATOR), "another long one")
    with pytest.raises(Conflict, match="changed just now"):
        joining.join(memory, token, before)
    joining.join(memory, token, users.find(charlie.user.email))


def test_of_joining_and_a_link_to_a_new_password_at_once_no_link_is_left(memory: Services, alice: Place) -> None:
    """Alice's link for Dan would lead into the other workspace as well."""
    world.workspace(memory, OTHER)
    for number in range(5):
        email = f"dan-{number}@example.com"
        user, _ = users.add(memory, email, PASSWORD)
        place = members.add(memory, ACME, user, "viewer")
        token = offer(memory, email, OTHER)
        at_once(memory.database,
                lambda token=token, user=user: joining.join(memory, token, user),
                lambda place=place: members.reset(memory, ACME, place.id, alice.actor))
        assert Invitation.select().count() == 0


def test_of_two_workspaces_that_invite_at_once_one_has_who_is_new(memory: Services) -> None:
    for workspace in (ACME, OTHER):
        world.workspace(memory, workspace)
    for number in range(5):
        email = f"dan-{number}@example.com"
        if number % 2:
            users.add(memory, email)
        at_once(memory.database, *[
            lambda each=each, email=email: members.invite(memory, each, email, "viewer", OPERATOR)
            for each in (ACME, OTHER)
        ])  # fmt: skip
        user = users.find(email)
        assert Member.select().where(Member.user == user.id).count() == 1
        assert Invitation.select().where(Invitation.user == user.id, Invitation.workspace.is_null()).count() == 1


@pytest.mark.parametrize("token", ["", "x", "x" * 43, "x" * 100_000, "\x00", "\ud800", "é"])
def test_what_is_no_link_is_not_found(memory: Services, alice: Place, token: str) -> None:
    members.invite(memory, ACME, "dan@example.com", "viewer", alice.actor)
    with pytest.raises(NotFound):
        invitations.find(memory, token)
    with pytest.raises(NotFound):
        joining.find(memory, token, alice.user)
    assert not joining.is_offer(memory, token)
