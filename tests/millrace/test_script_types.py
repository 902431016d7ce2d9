"""The types of scripts: what each needs, and what a type is told from."""

from collections.abc import Mapping
from typing import Any

import pytest

from millrace import removal, schedules, scripts, triggers
from millrace.errors import Conflict, Invalid
from millrace.models import Hook, Schedule, Script, Subscription
from millrace.services import Services
from millrace.triggers import EventTrigger, HttpTrigger, Triggers
from tests import world
from tests.world import ACME

HTTP = Triggers(http=HttpTrigger("/orders", ["GET"], auth="member"))
EVENTS = Triggers([EventTrigger("order.*")])
NEEDS: dict[str, dict[str, Any]] = {
    "scheduled": {"schedule": "0 9 * * 1-5", "time_zone": "Europe/Berlin"}, "http": {"triggers": HTTP},
    "event": {"triggers": EVENTS}, "oneoff": {}, "embedded": {},
}  # fmt: skip


def starts(script: Script) -> dict[str, Any]:
    """What starts a script, as it is shown."""
    schedule = schedules.of(script)
    return triggers.of(script) | ({} if schedule is None else {"schedule": schedule.expression})


@pytest.mark.parametrize("type_", scripts.TYPES)
def test_a_script_of_each_type_has_what_the_type_needs(memory: Services, type_: str) -> None:
    script = world.script(memory, type=type_, **NEEDS[type_])
    assert scripts.find(ACME, "hello").type == type_
    expected = {
        "scheduled": {"schedule": "crontab(0 9 * * 1-5)"},
        "http": {"http": {"path": "/orders", "methods": ["GET"], "auth": "member", "mode": "sync"}},
        "event": {"events": [{"pattern": "order.*"}]},
    }
    assert starts(script) == expected.get(type_, {})


def test_manual_is_another_word_for_oneoff(memory: Services) -> None:
    script = world.script(memory, type="manual")
    assert script.type == "oneoff"
    assert scripts.update(memory, script, scripts.Change(type="manual")).type == "oneoff"


@pytest.mark.parametrize(("type_", "given", "field"), [
    ("scheduled", {}, "schedule"), ("scheduled", {"schedule": ""}, "schedule"),
    ("scheduled", {"schedule": "rate(5 minutes)"}, "schedule"), ("scheduled", {"schedule": "daily"}, "schedule"),
    ("scheduled", {"schedule": "cron(0 12 * * ? *)"}, "schedule"), ("scheduled", {"schedule": "* * * *"}, "schedule"),
    ("scheduled", {"schedule": "0 0 * * * 2030"}, "schedule"), ("scheduled", {"schedule": "61 * * * *"}, "schedule"),
    ("scheduled", {"schedule": "crontab(0 9 * * *)"}, "schedule"),
    ("scheduled", {"schedule": "0 9 * * *\x00"}, "schedule"), ("scheduled", {"schedule": "٣ * * * *"}, "schedule"),
    ("scheduled", {"schedule": "* " * 10_000}, "schedule"),
    ("scheduled", {"schedule": "0 9 * * *", "time_zone": "Mars"}, "time_zone"),
    ("scheduled", {"schedule": "0 9 * * *", "triggers": HTTP}, "triggers.http"),
    ("http", {}, "triggers.http"), ("http", {"triggers": EVENTS}, "triggers.events"),
    ("http", {"triggers": HTTP, "schedule": "0 9 * * *"}, "schedule"),
    ("http", {"triggers": HTTP, "time_zone": "UTC"}, "time_zone"),
    ("http", {"triggers": Triggers(http=HttpTrigger("/x", [], auth="member"))}, "triggers.http.methods"),
    ("http", {"triggers": Triggers(http=HttpTrigger("x", auth="member"))}, "triggers.http.path"),
    ("http", {"triggers": Triggers(http=HttpTrigger("/x", auth="anybody"))}, "triggers.http.auth"),
    ("http", {"triggers": Triggers(http=HttpTrigger("/x", auth="member", secret="k" * 9))}, "triggers.http.secret"),
    ("event", {}, "triggers.events"), ("event", {"triggers": HTTP}, "triggers.http"),
    ("event", {"triggers": Triggers([EventTrigger("a..b")])}, "triggers.events[0]"),
    ("oneoff", {"schedule": "0 9 * * *"}, "schedule"), ("oneoff", {"triggers": HTTP}, "triggers.http"),
    ("embedded", {"triggers": EVENTS}, "triggers.events"), ("cron", {}, "type"), ("", {}, "type"), ("\x00", {}, "type"),
])  # fmt: skip
def test_what_a_type_lacks_or_has_no_place_for_is_refused_by_its_field(
    memory: Services, type_: str, given: Mapping[str, Any], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        world.script(memory, type=type_, **given)
    assert refused.value.field == field
    assert Script.select().count() == 0 and memory.objects.list("scripts/") == []
    script = world.script(memory, "other", type="embedded")
    with pytest.raises(Invalid) as refused:
        scripts.update(memory, script, scripts.Change(type=type_, **given))
    assert refused.value.field == field
    assert (scripts.find(ACME, "other").type, starts(script)) == ("embedded", {})


@pytest.mark.parametrize("after", scripts.TYPES)
def test_another_type_drops_what_belonged_to_the_one_before(memory: Services, after: str) -> None:
    wanted = starts(world.script(memory, owner=world.OTHER, type=after, **NEEDS[after]))
    for before in scripts.TYPES:
        script = world.script(memory, type=before, **NEEDS[before])
        changed = scripts.update(memory, script, scripts.Change(type=after, **NEEDS[after]))
        assert changed.type == scripts.find(ACME, "hello").type == after
        assert starts(changed) == wanted
        removal.delete(memory, script)


@pytest.mark.parametrize("type_", scripts.TYPES)
def test_the_same_type_again_needs_nothing_again(memory: Services, type_: str) -> None:
    script = world.script(memory, type=type_, **NEEDS[type_])
    before = starts(script)
    again = scripts.update(memory, script, scripts.Change(type=type_, columns={"display_name": "new"}))
    assert (again.type, starts(again)) == (type_, before)


def test_what_another_face_gave_a_script_besides_stays_while_its_type_does(memory: Services) -> None:
    both = Triggers(EVENTS.events, HTTP.http)
    script = world.script(memory, schedule="rate(6 hours)", triggers=both)
    assert script.type == "scheduled"
    before = starts(script)
    script = scripts.update(memory, script, scripts.Change(type="scheduled", schedule="rate(6 hours)"))
    assert starts(script) == before
    script = scripts.update(memory, script, scripts.Change(type="scheduled", schedule="0 0 * * *", triggers=Triggers()))
    assert starts(script) == before | {"schedule": "crontab(0 0 * * *)"}
    script = scripts.update(memory, script, scripts.Change(type="http"))
    assert starts(script) == {"http": before["http"]}


def test_a_type_that_nobody_says_is_told_from_what_the_script_has(memory: Services) -> None:
    assert world.script(memory, "one-off").type == "oneoff"
    assert world.script(memory, "by-event", triggers=EVENTS).type == "event"
    assert world.script(memory, "by-http", triggers=Triggers(EVENTS.events, HTTP.http)).type == "http"
    script = world.script(memory, "by-time", schedule="daily", triggers=EVENTS)
    assert script.type == "scheduled"
    script = scripts.update(memory, script, scripts.Change(schedule=""))
    assert script.type == "event"
    script = scripts.update(memory, script, scripts.Change(triggers=Triggers()))
    assert script.type == "oneoff"
    script = scripts.update(memory, script, scripts.Change(type="embedded"))
    assert scripts.update(memory, script, scripts.Change(triggers=Triggers())).type == "embedded"
    assert scripts.update(memory, script, scripts.Change(columns={"tags": {}})).type == "embedded"
    assert scripts.update(memory, script, scripts.Change(schedule="hourly")).type == "scheduled"


def test_a_change_that_is_refused_leaves_type_and_triggers(memory: Services) -> None:
    world.script(memory, "first", type="http", triggers=HTTP)
    script = world.script(memory, type="scheduled", schedule="0 9 * * *")
    with pytest.raises(Conflict, match="has the path '/orders'"):
        scripts.update(memory, script, scripts.Change(type="http", triggers=HTTP))
    assert (scripts.find(ACME, "hello").type, starts(script)) == ("scheduled", {"schedule": "crontab(0 9 * * *)"})
    assert (Hook.select().count(), Schedule.select().count(), Subscription.select().count()) == (1, 1, 0)
