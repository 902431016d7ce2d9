"""Names that may not repeat, ids that are made of names, authors, limits, and finding scripts again."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import removal, scripts
from millrace.errors import Conflict, Invalid, NotFound, Unavailable
from millrace.models import Script, Version
from millrace.objects import MemoryObjects
from millrace.scripts import names
from millrace.services import Services
from millrace.triggers import HttpTrigger, Triggers
from tests import world
from tests.world import ACME, OTHER, Clock, at_once

ONE, TWO = b"exports.handler = () => 1\n", b"exports.handler = () => 2\n"


def named(memory: Services, name: str, owner: str = ACME, **values: Any) -> Script:
    """A script as the console makes it."""
    world.workspace(memory, owner)
    new = scripts.NewScript(None, name, "nodejs20", ONE, unique_name=True, **values)
    return scripts.create(memory, owner, new)


@pytest.mark.parametrize(("first", "second"), [
    ("Report", "Report"), ("Report", "rEPORT"), ("Straße", "STRASSE"), ("Отчёт", "ОТЧЁТ"), ("Cafe\u0301", "Café"),
    ("ΐΐΐ" * 33, "ΐΐΐ" * 33),
])
def test_a_name_is_had_once_in_a_workspace_in_whatever_case(memory: Services, first: str, second: str) -> None:
    script = named(memory, first)
    with pytest.raises(Conflict, match="with the name"):
        named(memory, second)
    other = named(memory, "Something else")
    with pytest.raises(Conflict, match="with the name"):
        scripts.update(memory, other, scripts.Change(columns={"display_name": second}, unique_name=True))
    assert scripts.find(ACME, other.slug).display_name == "Something else"
    assert len(memory.objects.list("scripts/")) == 2
    named(memory, second, OTHER)
    scripts.update(memory, script, scripts.Change(columns={"display_name": second}, unique_name=True))
    removal.delete(memory, script)
    named(memory, second)


def test_the_name_of_a_script_that_is_being_removed_is_free(
    memory: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("The object store did not delete objects.")

    monkeypatch.setattr(MemoryObjects, "delete_prefix", away)
    removal.delete(memory, named(memory, "Report"))
    named(memory, "Report")
    assert sorted(each.status for each in Script.select()) == ["active", "deleted"]


def test_the_name_of_a_script_that_may_repeat_is_taken_as_well(memory: Services) -> None:
    world.script(memory, display_name="Report")
    with pytest.raises(Conflict, match="with the name 'Report' exists"):
        named(memory, "Report")
    world.script(memory, "again", display_name="Report")


def test_a_unique_name_stays_so_until_a_change_says_otherwise(memory: Services) -> None:
    first, second = named(memory, "First"), named(memory, "Second")
    with pytest.raises(Conflict):
        scripts.update(memory, second, scripts.Change(columns={"display_name": "first"}))
    second = scripts.update(memory, second, scripts.Change(columns={"display_name": "Third"}))
    assert second.unique_name == "third"
    named(memory, "Second")
    scripts.update(memory, second, scripts.Change(unique_name=False))
    named(memory, "thIrd")
    assert scripts.find(ACME, first.slug).unique_name == "first"


@pytest.mark.parametrize("name", [
    "", "ab", "  ", "x" * 101, " name", "name ", "na\x00me", "na\nme", "na\tme", "na\u200bme", "na\u202eme",
    "na\ud800me", "na\x7fme", "na\u2028me", "\u3000\u3000\u3000",
])
def test_a_name_that_nobody_could_read_is_refused(memory: Services, name: str) -> None:
    with pytest.raises(Invalid) as refused:
        named(memory, name)
    assert refused.value.field == "display_name"
    script = named(memory, "Good name")
    with pytest.raises(Invalid):
        scripts.update(memory, script, scripts.Change(columns={"display_name": name}, unique_name=True))
    assert scripts.find(ACME, script.slug).display_name == "Good name"


def test_of_those_that_create_one_name_at_once_one_does_and_nothing_is_left_of_the_others(memory: Services) -> None:
    world.workspace(memory)
    answers = at_once(memory.database, *[lambda: named(memory, "Report")] * 4)
    assert sorted(type(each).__name__ for each in answers) == ["Conflict", "Conflict", "Conflict", "Script"]
    assert all("with the name 'Report'" in each.message for each in answers if isinstance(each, Conflict))
    assert Script.select().count() == len(memory.objects.list("scripts/")) == 1


def test_whatever_ids_were_chosen_a_name_is_had_once(memory: Services) -> None:
    world.workspace(memory)
    for _ in range(5):
        name = f"Report {memory.new_id()}"
        answers = at_once(memory.database, *[
            lambda name=name: world.script(memory, f"s-{memory.new_id()}", display_name=name, unique_name=True)
        ] * 3)
        assert sorted(type(each).__name__ for each in answers) == ["Conflict", "Conflict", "Script"]
        assert all("with the name" in each.message for each in answers if isinstance(each, Conflict))


def test_of_those_that_take_one_name_at_once_one_does(memory: Services) -> None:
    some = [named(memory, f"Name {number}") for number in range(3)]
    change = scripts.Change(columns={"display_name": "Report"}, unique_name=True)
    answers = at_once(memory.database, *[lambda each=each: scripts.update(memory, each, change) for each in some])
    assert sorted(type(each).__name__ for each in answers) == ["Conflict", "Conflict", "Script"]


def test_names_that_make_the_same_id_get_two_also_at_once(memory: Services) -> None:
    world.workspace(memory)
    answers = at_once(memory.database, *[lambda name=name: named(memory, name) for name in ("Foo!", "Foo?", "Foo.")])
    assert {type(each).__name__ for each in answers} == {"Script"}, answers
    slugs = sorted(each.slug for each in answers)
    assert slugs[0] == "foo" and len(set(slugs)) == 3 and all(each.startswith("foo") for each in slugs)


def test_a_path_that_is_taken_is_told_and_not_tried_again(memory: Services) -> None:
    hook = Triggers(http=HttpTrigger("/x", auth="member"))
    named(memory, "One one", triggers=hook, type="http")
    with pytest.raises(Conflict, match="has the path"):
        named(memory, "Two two", triggers=hook, type="http")
    assert len(memory.objects.list("scripts/")) == 1


@pytest.mark.parametrize(("name", "slug"), [
    ("Daily Report", "daily-report"), ("  Äpfel & Birnen!  ", "apfel-birnen"), ("x" * 100, "x" * 50),
    ("a_b.c", "a-b-c"),
])
def test_an_id_is_made_of_a_name(memory: Services, name: str, slug: str) -> None:
    world.workspace(memory)
    assert scripts.slug_for(ACME, name, bytes) == slug
    world.script(memory, slug)
    again = scripts.slug_for(ACME, name, lambda size: bytes(range(size)))
    assert again == f"{slug}-abcde"
    assert scripts.slug_for(OTHER, name, bytes) == slug


def test_a_name_without_latin_letters_gets_an_id_all_the_same(memory: Services) -> None:
    assert scripts.slug_for(ACME, "Отчёт", lambda size: bytes(range(size))) == "script-abcde"
    assert named(memory, "Отчёт").slug.startswith("script-")


def test_chance_that_finds_no_free_id_is_a_conflict(memory: Services) -> None:
    world.script(memory, "script-aaaaa")
    with pytest.raises(Conflict, match="No free id"):
        scripts.slug_for(ACME, "Отчёт", bytes)


@given(name=st.text(max_size=120))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_name_with_an_id_or_is_refused(memory: Services, name: str) -> None:
    world.workspace(memory)
    try:
        script = named(memory, name)
    except (Invalid, Conflict):
        return
    found = scripts.find(ACME, script.slug)
    assert (found.display_name, found.unique_name) == (name, names.key(name))
    assert names.SLUG.fullmatch(found.slug)


def test_who_made_a_version_and_why_is_kept(memory: Services) -> None:
    script = named(memory, "Report", created_by=7, note="first")
    script = scripts.update(memory, script, scripts.Change(source=TWO, created_by=8, note="faster"))
    script = scripts.update(memory, script, scripts.Change(source=TWO, created_by=9, note="the same"))
    script = scripts.rollback(memory, script, 1, created_by=10, note="too fast")
    kept = [(row.number, row.created_by, row.note) for row in Version.select().order_by(Version.number)]
    assert kept == [(1, 7, "first"), (2, 8, "faster"), (3, 10, "too fast")]
    assert script.created_by == 7


@pytest.mark.parametrize("note", ["x" * 501, "\x00", "\ud800"])
def test_a_note_that_cannot_be_kept_is_refused(memory: Services, note: str) -> None:
    with pytest.raises(Invalid) as refused:
        named(memory, "Report", note=note)
    assert refused.value.field == "note"
    script = named(memory, "Report")
    with pytest.raises(Invalid):
        scripts.update(memory, script, scripts.Change(source=TWO, note=note))
    with pytest.raises(Invalid):
        scripts.rollback(memory, script, 1, note=note)
    assert Version.select().count() == 1


# Limits


def test_finer_limits_are_kept_and_the_columns_follow(memory: Services) -> None:
    limits = {"timeout_ms": 1500, "memory_bytes": 200 * 1024 * 1024, "output_bytes": 2048}
    script = named(memory, "Report", limits=limits)
    script = scripts.find(ACME, script.slug)
    assert script.limits == limits
    assert (script.timeout_seconds, script.memory_mb) == (5, 264)
    script = scripts.update(memory, script, scripts.Change(limits={"timeout_ms": 300_000}))
    assert (script.limits, script.timeout_seconds, script.revision) == ({"timeout_ms": 300_000}, 300, 2)
    assert scripts.update(memory, script, scripts.Change(limits={"timeout_ms": 300_000})).revision == 2
    assert scripts.update(memory, script, scripts.Change(limits={})).limits is None


def test_a_limit_gives_way_to_a_later_one_in_other_units(memory: Services) -> None:
    limits = {"timeout_ms": 1500, "memory_bytes": 2_000_000, "output_bytes": 2048}
    script = named(memory, "Report", limits=limits)
    script = scripts.update(memory, script, scripts.Change(columns={"timeout_seconds": 60}))
    assert (script.limits, script.timeout_seconds) == ({"memory_bytes": 2_000_000, "output_bytes": 2048}, 60)
    script = scripts.update(memory, script, scripts.Change(columns={"memory_mb": 512, "tags": {}}))
    assert (script.limits, script.memory_mb) == ({"output_bytes": 2048}, 512)


@pytest.mark.parametrize("limits", [
    {"timeout_ms": 999}, {"timeout_ms": 300_001}, {"memory_bytes": 0}, {"output_bytes": True}, {"speed": 1},
    {"timeout_ms": "5000"}, {"timeout_ms": None}, {"api_calls_per_minute": 1.5},
])
def test_a_limit_out_of_its_range_is_refused(memory: Services, limits: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        named(memory, "Report", limits=limits)
    assert refused.value.field == next(iter(limits))
    script = named(memory, "Report")
    with pytest.raises(Invalid):
        scripts.update(memory, script, scripts.Change(limits=limits))
    assert scripts.find(ACME, script.slug).limits is None


# Finding


def found(wanted: scripts.Filter, owner: str = ACME) -> list[str]:
    """The names that a list shows."""
    return [each.display_name for each in scripts.page(owner, None, 50, wanted)[0]]


def test_a_list_is_searched_by_name_id_and_description_in_any_case(memory: Services, clock: Clock) -> None:
    for number, (name, description) in enumerate(
        [("Daily Report", None), ("Cleaner", "removes 100% of old_files"), ("Отчёт", ""), ("back\\slash", "ÄRGER")]
    ):
        clock.forward(ms=1)
        world.script(memory, f"id-{number}", display_name=name, description=description)
    world.script(memory, "foreign", owner=OTHER, display_name="Daily Report")
    assert found(scripts.Filter("rEPOr")) == ["Daily Report"]
    assert found(scripts.Filter("ID-1")) == found(scripts.Filter("100% OF")) == ["Cleaner"]
    assert found(scripts.Filter("отчёт")) == found(scripts.Filter("ОТЧЁТ")) == ["Отчёт"]
    assert found(scripts.Filter("ärger")) == ["back\\slash"]
    assert found(scripts.Filter("k\\s")) == ["back\\slash"]
    # What LIKE takes for wildcards is a character like any other.
    assert found(scripts.Filter("0%_o")) == found(scripts.Filter("a_b")) == found(scripts.Filter("%%")) == []
    assert found(scripts.Filter("_")) == found(scripts.Filter("%")) == ["Cleaner"]
    assert found(scripts.Filter("'; DROP TABLE script; --")) == []
    assert len(found(scripts.Filter())) == 4


@pytest.mark.parametrize("search", ["\x00", "\ud800", "x" * 100_000, "%" * 4001])
def test_a_search_for_what_cannot_be_there_finds_nothing(memory: Services, search: str) -> None:
    world.script(memory)
    assert scripts.page(ACME, None, 10, scripts.Filter(search)) == ([], None)


@pytest.mark.parametrize("search", ["%" * 4000, "\\" * 4000, "é" * 4000])
def test_a_long_search_is_a_search(memory: Services, search: str) -> None:
    world.script(memory, description=search)
    assert found(scripts.Filter(search)) == ["hello"]


def test_a_list_is_filtered_by_type_and_status_page_by_page(memory: Services, clock: Clock) -> None:
    for number in range(9):
        clock.forward(ms=1)
        world.script(memory, f"s-{number}", type="embedded" if number % 2 else None,
                     status="draft" if number % 3 else "active")
    wanted = scripts.Filter("s-", "embedded", "draft")
    seen, position = [], None
    while True:
        rows, position = scripts.page(ACME, position, 1, wanted)
        seen += [row.slug for row in rows]
        if position is None:
            break
    assert seen == ["s-7", "s-5", "s-1"]
    assert found(scripts.Filter(type="nothing")) == found(scripts.Filter(status="deleted")) == []


def test_the_last_run_of_each_script_comes_with_one_query(memory: Services, clock: Clock) -> None:
    busy, idle, other = (world.script(memory, slug) for slug in ("busy", "idle", "other"))
    for script in (busy, other, busy):
        last = world.start(memory, script, {"big": "x" * 1000})
    latest = world.start(memory, busy)  # in the same millisecond as those before
    clock.forward(ms=5)
    of_other = world.start(memory, other)
    newest = max(last.id, latest.id)
    found = scripts.last_runs([busy.uuid, idle.uuid, other.uuid, "nobody"])
    assert {uuid: run.id for uuid, run in found.items()} == {busy.uuid: newest, other.uuid: of_other.id}
    assert found[busy.uuid].__data__.get("payload") is None
    assert scripts.last_runs([]) == {}


def test_a_uuid_finds_a_script_of_its_workspace_alone(memory: Services) -> None:
    script = world.script(memory)
    world.workspace(memory, OTHER)
    assert scripts.find_by_uuid(ACME, script.uuid).slug == "hello"
    for owner, uuid in ((OTHER, script.uuid), (ACME, "hello"), (ACME, "\x00"), (ACME, memory.new_id()), (ACME, "")):
        with pytest.raises(NotFound):
            scripts.find_by_uuid(owner, uuid)
    Script.update(status="deleted").execute()
    with pytest.raises(NotFound):
        scripts.find_by_uuid(ACME, script.uuid)
