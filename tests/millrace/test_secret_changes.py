"""Changing one secret of a script while the others stay as they are."""

import pytest

from millrace import scripts, secrets
from millrace.errors import Invalid, NotFound, TooLarge
from millrace.models import Audit, Script
from millrace.services import Services
from tests import world
from tests.world import at_once


def change(services: Services, script: Script, **changes: str | None) -> Script:
    return scripts.update(services, script, scripts.Change(secret_changes=changes, actor="alice@example.com"))


def audited() -> list[tuple[str, str, str, object]]:
    rows = Audit.select().where(Audit.action.startswith("secret.")).order_by(Audit.id)
    return [(row.actor, row.action, row.subject, row.details) for row in rows]


def test_one_is_set_or_deleted_and_the_others_stay(memory: Services) -> None:
    script = world.script(memory, secrets={"a": "one", "b": "two"})
    later = change(memory, script, c="three", a="four", b=None)
    assert secrets.open_all(memory, script) == {"a": "four", "c": "three"}
    assert later.revision == script.revision + 1, "jails that were booted with the old ones must not be used again"
    assert audited() == [
        ("alice@example.com", "secret.set", "hello", {"name": "c"}),
        ("alice@example.com", "secret.set", "hello", {"name": "a"}),
        ("alice@example.com", "secret.deleted", "hello", {"name": "b"}),
    ]


def test_what_is_refused_leaves_all_as_it_was(memory: Services) -> None:
    script = world.script(memory, secrets={"a": "one"})
    refused: list[tuple[type[Exception], dict[str, str | None]]] = [
        (NotFound, {"b": None}), (Invalid, {"1": "x"}), (TooLarge, {"b": "x" * secrets.MAX_TOTAL_BYTES}),
        (Invalid, {"a": secrets.reference(script, "b")}), (NotFound, {"a": "two", "b": None}),
    ]  # fmt: skip
    for kind, changes in refused:
        with pytest.raises(kind):
            change(memory, script, **changes)
    same = change(memory, script, a=secrets.reference(script, "a"))
    assert secrets.open_all(memory, script) == {"a": "one"}
    assert (same.revision, audited()) == (script.revision, [])


def test_changes_at_once_do_not_undo_each_other(memory: Services) -> None:
    script = world.script(memory, secrets={"a": "one"})
    wanted = {f"s{number}": f"value {number}" for number in range(6)}
    answers = at_once(
        memory.database, *[lambda name=name: change(memory, script, **{name: wanted[name]}) for name in wanted]
    )
    assert all(isinstance(each, Script) for each in answers), answers
    assert secrets.open_all(memory, script) == {"a": "one", **wanted}
    assert Script.get_by_id(script.uuid).revision == script.revision + len(wanted)
