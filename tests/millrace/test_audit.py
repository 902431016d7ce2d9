"""The audit trail."""

from millrace import audit, removal, scripts
from millrace.audit import DAY_MS
from millrace.models import Audit
from millrace.services import Services
from tests import world
from tests.world import ACME, OTHER, Clock, at_once


def subjects(rows: list[Audit]) -> list[str]:
    return [row.subject for row in rows]


def test_a_workspace_sees_its_own_newest_first_in_pages(memory: Services, clock: Clock) -> None:
    world.workspace(memory)
    world.workspace(memory, OTHER)
    for number in range(5):
        clock.forward(ms=number // 3)  # some in the same millisecond
        audit.record(memory, ACME, "alice", "test", str(number), {"n": number})
        audit.record(memory, OTHER, "charlie", "test", "theirs")
        audit.record(memory, None, "sweeper", "test", "everybody's")
    seen, place = [], None
    while True:
        rows, place = audit.page(ACME, place, 2)
        seen += subjects(rows)
        if place is None:
            break
    assert seen == ["4", "3", "2", "1", "0"]
    assert subjects(audit.page(None, None, 9)[0]) == ["everybody's"] * 5
    newest = audit.page(ACME, None, 1)[0][0]
    assert (newest.actor, newest.action, newest.at, newest.details) == ("alice", "test", clock.now, {"n": 4})


def test_what_does_not_fit_is_cut_and_what_no_database_keeps_is_shown(memory: Services) -> None:
    world.workspace(memory)
    audit.record(memory, ACME, "a" * 300, "b" * 100, "\x00" + "c" * 400)
    row = Audit.get()
    assert [len(each) for each in (row.actor, row.action, row.subject)] == [254, 60, 300]
    assert row.subject.startswith("\\0c") and row.details == {}


def test_counts_of_a_day_are_one_record(memory: Services, clock: Clock) -> None:
    world.workspace(memory)
    clock.now = clock.now - clock.now % DAY_MS + DAY_MS - 1
    audit.add_up(memory, ACME, "sweeper", "swept", {"runs": 2})
    audit.add_up(memory, ACME, "sweeper", "swept", {"runs": 3, "logs": 1})
    clock.forward(ms=1)
    audit.add_up(memory, ACME, "sweeper", "swept", {"runs": 4})
    rows, _ = audit.page(ACME, None, 10)
    assert [row.details for row in rows] == [{"runs": 4}, {"runs": 5, "logs": 1}]
    assert subjects(rows) == ["2027-01-16", "2027-01-15"]


def test_counts_that_come_at_once_are_all_counted(memory: Services) -> None:
    world.workspace(memory)
    audit.add_up(memory, ACME, "sweeper", "swept", {"runs": 1})
    at_once(memory.database, *[lambda: audit.add_up(memory, ACME, "sweeper", "swept", {"runs": 1})] * 5)
    assert [row.details for row in Audit.select()] == [{"runs": 6}]


def test_what_is_done_with_a_script_is_on_record_with_who_did_it(memory: Services) -> None:
    world.workspace(memory)
    new = scripts.NewScript(slug="traced", display_name="Traced", runtime="nodejs20", source=b"// 1", actor="ada")
    script = scripts.create(memory, ACME, new)
    script = scripts.update(memory, script, scripts.Change(source=b"// 2", actor="bob"))
    script = scripts.rollback(memory, script, 1, actor="cy")
    removal.delete(memory, script, "dan")
    assert [(row.action, row.actor, row.subject, row.details) for row in audit.page(ACME, None, 10)[0]][::-1] == [
        ("script.created", "ada", "traced", {}), ("script.updated", "bob", "traced", {"version": 2}),
        ("script.rolled_back", "cy", "traced", {"to": 1, "version": 3}), ("script.deleted", "dan", "traced", {}),
    ]  # fmt: skip
