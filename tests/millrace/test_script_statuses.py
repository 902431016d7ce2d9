"""The statuses of scripts: what may follow what, who is told, and what two at once do."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import audit, removal, runs, scripts, triggers
from millrace.errors import Conflict, Invalid, NotFound, Unprocessable
from millrace.models import Audit, Event, Run, Script
from millrace.services import Services
from millrace.triggers import EventTrigger, Triggers
from tests import world
from tests.world import ACME, at_once

ALLOWED = {
    ("draft", "active"), ("active", "paused"), ("paused", "active"), ("active", "disabled"), ("disabled", "archived"),
}  # fmt: skip
ALL = ("draft", "active", "paused", "disabled", "archived")
CHANGED = Audit.action == "script.status_changed"


def in_status(memory: Services, status: str, slug: str) -> Script:
    """A script that was brought into this status, whatever the rules."""
    script = world.script(memory, slug)
    Script.update(status=status).where(Script.uuid == script.uuid).execute()
    return scripts.find(ACME, script.slug)


def by_verb(memory: Services, script: Script, status: str) -> Script:
    return scripts.change_status(memory, script, status, "alice@example.com")


def by_update(memory: Services, script: Script, status: str) -> Script:
    return scripts.update(memory, script, scripts.Change(columns={"status": status}, actor="alice@example.com"))


@pytest.mark.parametrize("change", [by_verb, by_update])
def test_only_the_five_changes_are_allowed_and_the_same_again_is_none(
    memory: Services, change: Callable[[Services, Script, str], Script]
) -> None:
    expected = []
    for before, after in itertools.product(ALL, ALL):
        script = in_status(memory, before, f"{before}-{after}")
        if before == after or (before, after) in ALLOWED:
            assert change(memory, script, after).status == after
            assert scripts.find(ACME, script.slug).status == after
        else:
            with pytest.raises(Conflict, match=f"'{before}-{after}' is {before}.*become {after}"):
                change(memory, script, after)
            assert scripts.find(ACME, script.slug).status == before
        if (before, after) in ALLOWED:
            changed = {"from": before, "to": after}
            expected.append(("script.status_changed", "alice@example.com", script.slug, changed))
    rows = [row for row in audit.page(ACME, None, 100)[0] if row.action == "script.status_changed"]
    trail = [(row.action, row.actor, row.subject, row.details) for row in rows]
    assert trail[::-1] == expected and len(expected) == 5


@given(wishes=st.lists(st.sampled_from([*ALL, "deleted", "inactive", "", "ACTIVE", "\x00"]), max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_asked_in_whatever_order_every_step_was_allowed_and_is_on_record(
    memory: Services, wishes: list[str]
) -> None:
    script = world.script(memory, f"s-{memory.new_id()}", status="draft")
    path = ["draft"]
    for wish in wishes:
        try:
            script = scripts.change_status(memory, script, wish, "x")
        except (Conflict, Invalid):
            continue
        assert script.status == wish
        if wish != path[-1]:
            path.append(wish)
    assert set(itertools.pairwise(path)) <= ALLOWED
    trail = Audit.select().where(Audit.subject == script.slug, CHANGED).order_by(Audit.id)
    assert [(row.details["from"], row.details["to"]) for row in trail] == list(itertools.pairwise(path))
    may_run = path[-1] == "active"
    try:
        world.start(memory, script)
    except Unprocessable:
        assert not may_run
    else:
        assert may_run


@pytest.mark.parametrize("status", ["paused", "disabled", "archived", "deleted", "inactive", ""])
def test_a_new_script_is_draft_or_active(memory: Services, status: str) -> None:
    with pytest.raises(Invalid) as refused:
        world.script(memory, status=status)
    assert refused.value.field == "status"
    assert Script.select().count() == 0
    assert world.script(memory, status="draft").status == "draft"


def test_of_two_changes_at_once_one_is_done_and_the_other_told(memory: Services) -> None:
    for _ in range(5):
        script = world.script(memory, f"s-{memory.new_id()}")
        answers = at_once(memory.database, *[
            lambda script=script, wish=wish: scripts.change_status(memory, script, wish, wish)
            for wish in ("paused", "disabled")
        ])
        assert sorted(type(each).__name__ for each in answers) == ["Conflict", "Script"]
        (done,) = [each for each in answers if isinstance(each, Script)]
        (told,) = [each for each in answers if isinstance(each, Conflict)]
        assert done.status == Script.get_by_id(script.uuid).status
        assert f"it is {done.status} and no longer active" in told.message
        trail = list(Audit.select().where(Audit.subject == script.slug, CHANGED))
        assert [(row.actor, row.details["to"]) for row in trail] == [(done.status, done.status)]


def test_the_same_change_at_once_is_done_once_and_nobody_is_refused(memory: Services) -> None:
    script = world.script(memory)
    answers = at_once(memory.database, *[lambda: scripts.change_status(memory, script, "paused", "x")] * 4)
    assert [each.status for each in answers] == ["paused"] * 4
    assert Audit.select().where(CHANGED).count() == 1


def test_a_stale_look_changes_nothing(memory: Services) -> None:
    script = world.script(memory)
    stale = Script.get_by_id(script.uuid)
    scripts.change_status(memory, script, "disabled", "x")
    with pytest.raises(Conflict, match="it is disabled and no longer active"):
        scripts.change_status(memory, stale, "paused", "y")
    assert scripts.find(ACME, "hello").status == "disabled"
    removal.delete(memory, script)
    with pytest.raises(NotFound):
        scripts.change_status(memory, stale, "paused", "y")


def test_no_run_begins_once_a_script_is_paused(memory: Services) -> None:
    script = world.script(memory)
    answers = at_once(
        memory.database, lambda: scripts.change_status(memory, script, "paused", "x"),
        *[lambda: runs.submit(memory, world.order(script))] * 3,
    )  # fmt: skip
    refused = [each for each in answers[1:] if isinstance(each, Unprocessable)]
    assert Run.select().count() == 3 - len(refused)
    with pytest.raises(Unprocessable, match="'hello' is paused"):
        world.start(memory, script)


def test_who_subscribed_hears_of_what_becomes_of_a_script(memory: Services) -> None:
    world.script(memory, "watcher", triggers=Triggers([EventTrigger("script.**")]))
    script = world.script(memory, status="draft")
    scripts.change_status(memory, script, "active", "x")
    script = scripts.update(memory, scripts.find(ACME, "hello"), scripts.Change(columns={"status": "paused"}))
    removal.delete(memory, script)
    facts = list(Event.select().order_by(Event.created_at, Event.id))
    version = {"script_id": "hello", "script_version": 1}
    assert [(each.name, each.subject, each.data) for each in facts] == [
        ("script.created", "hello", version),
        ("script.status_changed", "hello", {**version, "from": "draft", "to": "active"}),
        ("script.updated", "hello", version),
        ("script.status_changed", "hello", {**version, "from": "active", "to": "paused"}),
        ("script.deleted", "hello", {"script_id": "hello"}),
    ]
    assert sum(triggers.route(memory, each.id) for each in facts) == 5


def test_a_script_does_not_hear_of_its_own_making(memory: Services) -> None:
    world.script(memory, triggers=Triggers([EventTrigger("**")]))
    assert Event.select().count() == 0


def test_nobody_hears_of_the_scripts_of_a_deleted_workspace(memory: Services) -> None:
    world.script(memory, "watcher", triggers=Triggers([EventTrigger("**")]))
    world.script(memory, "zz-last", triggers=Triggers([EventTrigger("**")]))
    before = Event.select().count()
    removal.delete_workspace(memory, ACME)
    assert Event.select().count() == before
