"""Browsers that are signed in: for how long, where they look, and what they may do there."""

from collections.abc import Callable

import peewee
import pytest

from millrace import members, removal, roles, sessions, users
from millrace.errors import NotFound
from millrace.models import Session, User
from millrace.roles import OPERATOR
from millrace.services import Services
from tests import world
from tests.world import ACME, OTHER, Clock, at_once

MINUTE, DAY = 60, 24 * 3600


@pytest.fixture
def alice(memory: Services) -> User:
    """Manages `acme`."""
    world.workspace(memory)
    user, _ = users.add(memory, "alice@example.com")
    members.add(memory, ACME, user, "org_admin")
    return user


def join(services: Services, user: User, workspace: str = OTHER, role: str = "viewer") -> str:
    world.workspace(services, workspace)
    return str(members.add(services, workspace, user, role).id)


def queries(database: peewee.Database, act: Callable[[], object]) -> list[str]:
    said: list[str] = []
    execute = database.execute_sql

    def watched(sql: str, *arguments: object) -> object:
        said.append(sql)
        return execute(sql, *arguments)

    database.execute_sql = watched  # type: ignore[method-assign]
    try:
        act()
    finally:
        database.execute_sql = execute  # type: ignore[method-assign]
    return said


def test_a_token_says_who_where_and_what_they_may(memory: Services, alice: User) -> None:
    token = sessions.begin(memory, alice, ACME, "Firefox")
    found = sessions.find(memory, token)
    assert found is not None and found.workspace is not None
    assert (found.user, found.workspace.id, found.session.agent) == (alice, ACME, "Firefox")
    assert found.user.email == "alice@example.com" and found.workspace.name == ACME
    assert found.permissions == set(roles.OF_WORKSPACE) and found.may("scripts.delete") and not found.may("x")
    assert (found.actor.name, found.actor.permissions) == (alice.email, found.permissions)


def test_no_token_is_kept_and_each_is_another(memory: Services, alice: User) -> None:
    tokens = [sessions.begin(memory, alice, None, "x" * 1000 + "\x00") for _ in range(20)]
    assert len(set(tokens)) == 20 and {len(token) for token in tokens} == {43}  # 256 bits in base64
    assert not any(token in str(list(Session.select().dicts())) for token in tokens)


@pytest.mark.parametrize("token", ["", "x", "x" * 43, "\x00", "\ud800", "x" * 100_000])
def test_anything_but_a_token_is_nobody(memory: Services, alice: User, token: str) -> None:
    sessions.begin(memory, alice, None, "browser")
    assert sessions.find(memory, token) is None
    assert sessions.find(memory, Session.get().id) is None  # nor is what is kept of one


def test_it_takes_two_queries_and_a_write_a_minute(memory: Services, alice: User, clock: Clock) -> None:
    token = sessions.begin(memory, alice, ACME, "browser")
    for seconds, count in ((0, 2), (59, 2), (1, 3), (59, 2), (1, 3)):
        clock.forward(s=seconds)
        said = queries(memory.database, lambda: sessions.find(memory, token))
        assert len(said) == count, said
        assert sum(each.startswith("UPDATE") for each in said) == count - 2
    assert Session.get().seen_at == clock.now


def test_it_lives_for_seven_days_after_its_last_use(memory: Services, alice: User, clock: Clock) -> None:
    token = sessions.begin(memory, alice, None, "browser")
    for _ in range(3):
        clock.forward(s=7 * DAY - 1)
        assert sessions.find(memory, token) is not None
    clock.forward(s=7 * DAY)
    assert sessions.find(memory, token) is None and sessions.of(memory, alice) == []
    assert sessions.remove_expired(memory) == 1 and Session.select().count() == 0


def test_it_lives_for_thirty_days_at_most(memory: Services, alice: User, clock: Clock) -> None:
    token = sessions.begin(memory, alice, None, "browser")
    for _ in range(29):
        clock.forward(s=DAY)
        assert sessions.find(memory, token) is not None
    clock.forward(s=DAY - 1)
    assert sessions.find(memory, token) is not None
    clock.forward(s=1)
    assert sessions.find(memory, token) is None
    assert sessions.remove_expired(memory) == 1


def test_what_lives_is_not_removed(memory: Services, alice: User) -> None:
    sessions.begin(memory, alice, None, "browser")
    assert sessions.remove_expired(memory) == 0


def test_it_looks_at_the_first_of_their_workspaces(memory: Services, alice: User, clock: Clock) -> None:
    clock.forward(s=1)
    join(memory, alice, "aardvark")
    for wanted in (None, OTHER, "nowhere", ACME):
        found = sessions.find(memory, sessions.begin(memory, alice, wanted, "browser"))
        assert found is not None and found.workspace is not None and found.workspace.id == ACME
    bob, _ = users.add(memory, "bob@example.com")
    found = sessions.find(memory, sessions.begin(memory, bob, ACME, "browser"))
    assert found is not None and found.workspace is None and found.permissions == frozenset()
    root = users.promote(memory, bob.email, OPERATOR)
    found = sessions.find(memory, sessions.begin(memory, root, None, "browser"))
    assert found is not None and found.workspace is not None and found.workspace.id == "aardvark"


def test_it_switches_to_another_of_their_workspaces_and_to_no_stranger(memory: Services, alice: User) -> None:
    join(memory, alice)
    world.workspace(memory, "third")
    token = sessions.begin(memory, alice, ACME, "browser")
    found = sessions.find(memory, token)
    assert found is not None
    switched = sessions.switch(memory, found, OTHER)
    again = sessions.find(memory, token)
    assert again is not None and again.workspace is not None and switched.workspace == again.workspace
    assert again.workspace.id == OTHER and again.permissions == switched.permissions == {"scripts.read"}
    for stranger in ("third", "nowhere", ""):
        with pytest.raises(NotFound, match=f"There is no workspace '{stranger}'"):
            sessions.switch(memory, again, stranger)
    users.promote(memory, alice.email, OPERATOR)
    root = sessions.find(memory, token)
    assert root is not None
    assert sessions.switch(memory, root, "third").may(roles.PLATFORM)
    seen = sessions.find(memory, token)
    assert seen is not None and seen.workspace is not None and seen.workspace.id == "third"


def test_a_superadmin_who_is_none_any_more_is_led_back(memory: Services, alice: User) -> None:
    world.workspace(memory, OTHER)
    token = sessions.begin(memory, users.promote(memory, alice.email, OPERATOR), OTHER, "browser")
    users.demote(memory, alice.email, OPERATOR)
    found = sessions.find(memory, token)
    assert found is not None and found.workspace is not None
    assert found.workspace.id == ACME and not found.may(roles.PLATFORM)


@pytest.mark.parametrize("loss", ["place", "workspace", "row"])
def test_whose_workspace_is_gone_looks_at_another(memory: Services, alice: User, clock: Clock, loss: str) -> None:
    member = join(memory, alice)
    token = sessions.begin(memory, alice, OTHER, "browser")
    if loss == "place":
        members.Member.delete().where(members.Member.id == member).execute()
    else:
        removal.delete_workspace(memory, OTHER)
        clock.forward(ms=removal.LATE_MS)
        if loss == "row":
            removal.purge_workspaces(memory)
    for _ in range(2):
        found = sessions.find(memory, token)
        assert found is not None and found.workspace is not None and found.workspace.id == ACME
        assert found.may(roles.MANAGE)
    removal.delete_workspace(memory, ACME)
    left = sessions.find(memory, token)
    assert left is not None and left.workspace is None and left.permissions == frozenset()


def test_a_role_that_changes_holds_at_once(memory: Services, alice: User) -> None:
    bob, _ = users.add(memory, "bob@example.com")
    member = join(memory, bob, ACME)
    token = sessions.begin(memory, bob, ACME, "browser")
    members.set_role(memory, ACME, member, "developer", OPERATOR)
    found = sessions.find(memory, token)
    assert found is not None and found.may("scripts.create")


def test_somebody_ends_their_own_sessions_and_nobody_elses(memory: Services, alice: User, clock: Clock) -> None:
    bob, _ = users.add(memory, "bob@example.com")
    his = sessions.begin(memory, bob, None, "browser")
    mine = []
    for _ in range(3):
        mine.append(sessions.begin(memory, alice, None, "browser"))
        clock.forward(s=1)
    assert [each.id for each in sessions.of(memory, alice)] == [sessions.digest(each) for each in reversed(mine)]
    with pytest.raises(NotFound):
        sessions.end(alice, sessions.digest(his))
    sessions.end(alice, sessions.digest(mine[0]))
    assert sessions.find(memory, mine[0]) is None
    assert sessions.end_all(alice, keep=sessions.digest(mine[1])) == 1
    assert sessions.find(memory, mine[1]) is not None and sessions.find(memory, mine[2]) is None
    assert sessions.find(memory, his) is not None and sessions.end_all(bob) == 1


def test_many_requests_at_once_find_it(memory: Services, alice: User, clock: Clock) -> None:
    token = sessions.begin(memory, alice, None, "browser")
    clock.forward(s=MINUTE)
    answers = at_once(memory.database, *[lambda: sessions.find(memory, token)] * 6)
    assert all(isinstance(each, sessions.SignedIn) for each in answers)
