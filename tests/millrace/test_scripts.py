"""Scripts and their versions."""

from collections.abc import Iterator
from contextlib import contextmanager

import peewee
import pytest

from millrace import overview, removal, scripts
from millrace.database import transaction
from millrace.errors import Conflict, Invalid, NotFound, Unavailable
from millrace.models import Hook, Script, Secret, Version
from millrace.objects import MemoryObjects
from millrace.scripts import changing, creating
from millrace.services import Services
from millrace.triggers import EventTrigger, HttpTrigger, Triggers
from tests import world
from tests.world import ACME, OTHER, Clock, at_once

ONE, TWO = b"exports.handler = () => 1\n", b"exports.handler = () => 2\n"


def test_a_new_script_has_version_1_and_its_source(memory: Services, clock: Clock) -> None:
    script = scripts.find(ACME, world.script(memory, source=ONE, tags={"team": "a"}).slug)
    assert (script.version, script.revision, script.created_at, script.tags) == (1, 1, clock.now, {"team": "a"})
    stored = scripts.version(script, 1)
    assert (stored.size, len(stored.hash), stored.restored_from) == (len(ONE), 64, None)
    assert scripts.source(memory, stored) == ONE


@pytest.mark.parametrize("slug", [
    "", "ab", "-abc", "abc-", "Abc", "a_b", "a b", "é-é-é", "a" * 64, "abc\n", "a.b", "abc\x00", "../x",
])
def test_a_bad_id_is_refused(memory: Services, slug: str) -> None:
    with pytest.raises(Invalid) as refused:
        world.script(memory, slug)
    assert refused.value.field == "id"


def test_an_id_is_taken_once_in_a_workspace(memory: Services) -> None:
    world.script(memory)
    with pytest.raises(Conflict, match="'hello' exists already"):
        world.script(memory)
    world.script(memory, owner=OTHER)


def test_of_two_that_create_the_same_at_once_one_does_and_nothing_is_left_of_the_other(memory: Services) -> None:
    world.workspace(memory)
    answers = at_once(memory.database, *[lambda: world.script(memory)] * 4)
    assert sorted(type(each).__name__ for each in answers) == ["Conflict", "Conflict", "Conflict", "Script"]
    assert len(memory.objects.list("scripts/")) == 1


@pytest.mark.parametrize("values", [
    {"schedule": "never"}, {"secrets": {"a b": "x"}}, {"triggers": Triggers(http=HttpTrigger("bad"))},
    {"triggers": Triggers([EventTrigger("a..b")])}, {"schedule": "daily", "time_zone": "Nowhere"},
])
def test_what_is_refused_leaves_nothing(memory: Services, values: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        world.script(memory, **values)
    assert Script.select().count() == Version.select().count() == Secret.select().count() == 0
    assert memory.objects.list("scripts/") == []
    script = world.script(memory)
    change = scripts.Change(columns={"display_name": "changed"}, source=TWO, secrets=values.get("secrets"),  # type: ignore[arg-type]
                            schedule=values.get("schedule"), time_zone=values.get("time_zone"),  # type: ignore[arg-type]
                            triggers=values.get("triggers"))  # type: ignore[arg-type]
    with pytest.raises(Invalid):
        scripts.update(memory, script, change)
    script = scripts.find(ACME, "hello")
    assert (script.display_name, script.version, Version.select().count()) == ("hello", 1, 1)
    assert len(memory.objects.list("scripts/")) == 1


def test_new_content_is_a_new_version_and_the_same_is_none(memory: Services, clock: Clock) -> None:
    script = world.script(memory, source=ONE)
    clock.forward(ms=5)
    script = scripts.update(memory, script, scripts.Change(source=TWO))
    assert (script.version, script.updated_at) == (2, clock.now)
    script = scripts.update(memory, script, scripts.Change(source=TWO))
    assert script.version == 2
    assert [each.number for each in scripts.versions(script)] == [2, 1]
    assert scripts.source(memory, scripts.version(script, 1)) == ONE
    assert len(memory.objects.list("scripts/")) == 2


def test_an_update_changes_what_is_given_and_nothing_else(memory: Services) -> None:
    script = world.script(memory, description="old", secrets={"a": "x"}, schedule="daily", tags={"t": "1"},
                          triggers=Triggers([EventTrigger("a.b")], HttpTrigger("/x", auth="none")))
    before = scripts.find(ACME, "hello").__data__
    script = scripts.update(memory, script, scripts.Change(columns={"display_name": "new"}))
    assert script.__data__ == {**before, "display_name": "new", "updated_at": script.updated_at}
    assert Secret.select().count() == 1 and Hook.select().count() == 1


@pytest.mark.parametrize(("column", "value", "unfit"), [
    ("memory_mb", 512, True), ("timeout_seconds", 60, True), ("entry_point", "handler", True),
    ("isolation", "fresh", True), ("egress_hosts", ["a.example"], True), ("display_name", "x", False),
    ("tags", {"a": "b"}, False), ("max_concurrent_runs", 5, False), ("status", "paused", False),
])
def test_what_a_jail_has_seen_makes_it_unfit(memory: Services, column: str, value: object, unfit: bool) -> None:
    script = world.script(memory)
    changed = scripts.update(memory, script, scripts.Change(columns={column: value}))
    assert (changed.revision > 1) == unfit
    again = scripts.update(memory, changed, scripts.Change(columns={column: value}))
    assert again.revision == changed.revision


def test_of_updates_at_once_none_undoes_another(memory: Services) -> None:
    script = world.script(memory)
    columns = [{"memory_mb": 512}, {"display_name": "new"}, {"timeout_seconds": 77}, {"tags": {"a": "b"}}]
    at_once(memory.database, *[
        lambda each=each: scripts.update(memory, script, scripts.Change(columns=each)) for each in columns
    ])
    script = scripts.find(ACME, "hello")
    assert (script.memory_mb, script.display_name, script.timeout_seconds, script.tags) == (512, "new", 77, {"a": "b"})
    assert script.revision == 3


def test_of_two_new_contents_at_once_one_is_told_to_look_again(memory: Services) -> None:
    script = world.script(memory)
    answers = at_once(memory.database, *[
        lambda number=number: scripts.update(memory, script, scripts.Change(source=b"// %d" % number))
        for number in range(3)
    ])
    assert sorted(type(each).__name__ for each in answers) == ["Conflict", "Conflict", "Script"]
    assert Version.select().count() == 2 and len(memory.objects.list("scripts/")) == 2


def test_a_difference_is_unified_text(memory: Services) -> None:
    script = world.script(memory, source=b"a\nb\nc\n")
    script = scripts.update(memory, script, scripts.Change(source=b"a\nB\nc"))
    assert scripts.diff(memory, script, 2, 1) == (
        "--- hello@1\n+++ hello@2\n@@ -1,3 +1,3 @@\n a\n-b\n-c\n+B\n+c\n\\ No newline at end of file\n"
    )
    assert scripts.diff(memory, script, 1, 1) == ""
    with pytest.raises(NotFound, match="no version 3"):
        scripts.diff(memory, script, 3, 1)


def test_a_rollback_is_a_new_version_with_the_old_content(memory: Services) -> None:
    script = world.script(memory, source=ONE)
    script = scripts.update(memory, script, scripts.Change(source=TWO))
    script = scripts.rollback(memory, script, 1)
    restored = scripts.version(script, 3)
    assert (script.version, restored.restored_from) == (3, 1)
    assert scripts.source(memory, restored) == ONE
    with pytest.raises(NotFound):
        scripts.rollback(memory, script, 9)


@pytest.mark.parametrize("slug", ["missing", "", "\x00", "half-\ud800", "HELLO", "x" * 10_000, "hello\n"])
def test_what_is_no_script_of_yours_is_not_found(memory: Services, slug: str) -> None:
    world.script(memory)
    world.workspace(memory, OTHER)
    with pytest.raises(NotFound):
        scripts.find(ACME, slug)
    with pytest.raises(NotFound):
        scripts.find(OTHER, "hello")


def test_pages_show_each_script_once_newest_first(memory: Services, clock: Clock) -> None:
    made = []
    for number in range(7):
        clock.forward(ms=number % 2)  # some share a millisecond
        made.append(world.script(memory, f"script-{number}").uuid)
    world.script(memory, owner=OTHER)
    seen, position = [], None
    while True:
        rows, position = scripts.page(ACME, position, 3)
        seen += [row.uuid for row in rows]
        if position is None:
            break
    assert seen == sorted(seen, key=made.index, reverse=True) and len(seen) == 7


@pytest.mark.parametrize("act", ["create", "update", "rollback"])
def test_a_commit_that_was_done_and_not_heard_of_keeps_its_source(
    memory: Services, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    script = None if act == "create" else world.script(memory, source=ONE)

    @contextmanager
    def unheard() -> Iterator[None]:
        with transaction():
            yield
        raise peewee.OperationalError("the connection was closed")

    with monkeypatch.context() as patched, pytest.raises(peewee.OperationalError):
        for module in (creating, changing):
            patched.setattr(module, "transaction", unheard)
        if script is None:
            world.script(memory, source=ONE)
        elif act == "update":
            scripts.update(memory, script, scripts.Change(source=TWO))
        else:
            scripts.rollback(memory, script, 1)
    script = scripts.find(ACME, "hello")
    assert scripts.source(memory, scripts.version(script, script.version)) == (TWO if act == "update" else ONE)


def test_the_same_content_is_no_success_when_another_came_first(memory: Services) -> None:
    script = world.script(memory, source=ONE)
    scripts.update(memory, script, scripts.Change(source=TWO))
    stale = Script.get_by_id(script.uuid)
    stale.version = 1  # what somebody read a moment ago
    with pytest.raises(Conflict):
        scripts.update(memory, stale, scripts.Change(source=ONE))


def test_a_source_that_a_failing_store_keeps_does_not_hide_why_a_script_was_refused(
    memory: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("The object store did not delete objects.")

    monkeypatch.setattr(MemoryObjects, "delete", away)
    with pytest.raises(Invalid):
        world.script(memory, schedule="never")


def test_what_is_shown_leaves_out_a_script_that_was_deleted_meanwhile(memory: Services) -> None:
    one, two = world.script(memory), world.script(memory, "other")
    removal.delete(memory, one)
    assert [each.script.slug for each in overview.of_all([one, two])] == ["other"]
    with pytest.raises(NotFound):
        overview.of(one)
