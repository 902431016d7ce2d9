"""Events: stored, announced, routed."""

import logging

import pytest

from millrace import events, scripts, triggers
from millrace.errors import Invalid, NotFound, TooLarge
from millrace.models import Event, Run, Subscription, Workspace
from millrace.services import Services
from millrace.triggers import EventTrigger, Triggers
from tests import world
from tests.world import ACME, OTHER, Clock, at_once


def watcher(services: Services, slug: str, *patterns: str, owner: str = ACME, filter: object = None) -> str:
    found = [EventTrigger(pattern, filter) for pattern in patterns]  # type: ignore[arg-type]
    return str(world.script(services, slug, owner=owner, triggers=Triggers(events=found)).uuid)


def test_an_event_is_stored_before_it_is_announced(memory: Services, clock: Clock) -> None:
    world.workspace(memory)
    event = events.publish(memory, ACME, "order.created", {"total": 7}, source="shop", subject="order/1")
    stored = events.find(ACME, event.id)
    assert (stored.name, stored.data) == ("order.created", {"total": 7})
    assert (stored.source, stored.subject) == ("shop", "order/1")
    assert (stored.depth, stored.created_at, stored.routed_at, stored.outcome) == (0, clock.now, None, None)
    assert [each.event_id for each in memory.bus.receive("me", 0)] == [event.id]


@pytest.mark.parametrize("data", [None, 0, False, "", [], {}, "NUL \x00", "half \ud800", [[[]]], {"b": 1, "a": 2}])
def test_any_json_is_data(memory: Services, data: object) -> None:
    world.workspace(memory)
    event = events.publish(memory, ACME, "a.b", data)
    stored = events.find(ACME, event.id)
    assert stored.data == data
    assert events.payload_of(stored) == {"id": event.id, "name": "a.b", "source": None, "subject": None, "data": data,
                                         "time": event.created_at}


@pytest.mark.parametrize(("values", "field"), [
    ({"name": ""}, "name"), ({"name": "a..b"}, "name"), ({"name": "a.*"}, "name"), ({"name": "x" * 256}, "name"),
    ({"name": "run.completed"}, "name"), ({"name": "script"}, "name"), ({"name": "a\x00"}, "name"),
    ({"source": "x" * 256}, "source"), ({"source": "\x00"}, "source"), ({"subject": "\ud800"}, "subject"),
    ({"data": float("nan")}, "data"),
])
def test_a_bad_event_is_refused_by_its_field(memory: Services, values: dict[str, object], field: str) -> None:
    world.workspace(memory)
    given = {"name": "a.b", "data": None, **values}
    with pytest.raises(Invalid) as refused:
        events.publish(memory, ACME, given.pop("name"), given.pop("data"), **given)  # type: ignore[arg-type]
    assert refused.value.field == field
    assert Event.select().count() == 0 and memory.bus.backlog() == 0


def test_data_has_a_limit(memory: Services) -> None:
    world.workspace(memory)
    events.publish(memory, ACME, "a.b", "x" * (events.MAX_DATA_BYTES - 2))
    with pytest.raises(TooLarge, match="262145 bytes"):
        events.publish(memory, ACME, "a.b", "x" * (events.MAX_DATA_BYTES - 1))


def test_only_the_owner_finds_an_event(memory: Services) -> None:
    world.workspace(memory)
    world.workspace(memory, OTHER)
    event = events.publish(memory, ACME, "a.b", None)
    for workspace, event_id in ((OTHER, event.id), (ACME, memory.new_id()), (ACME, "\x00"), (ACME, "")):
        with pytest.raises(NotFound):
            events.find(workspace, event_id)


def test_an_event_goes_to_whoever_subscribed_in_its_workspace(memory: Services) -> None:
    exact = watcher(memory, "exact-one", "order.created")
    star = watcher(memory, "star-one", "order.*", "*.created", "**")  # three reasons, one run
    watcher(memory, "deeper-one", "order.*.*")
    watcher(memory, "charlies", "**", owner=OTHER)
    picky = watcher(memory, "picky-one", "order.*", filter={"data.total": [{"numeric": [">", 5]}]})
    watcher(memory, "pickier", "order.*", filter={"source": ["elsewhere"]})
    event = events.publish(memory, ACME, "order.created", {"total": 7})
    assert triggers.route(memory, event.id) == 3
    assert [each.script_id for each in Run.select().order_by(Run.created_at, Run.id)] == [exact, star, picky]
    assert {run.workspace_id for run in Run.select()} == {ACME}
    assert events.find(ACME, event.id).outcome == "routed"


def test_an_event_is_routed_once_however_often_it_is_tried(memory: Services) -> None:
    watcher(memory, "one-script", "**")
    event = events.publish(memory, ACME, "a.b", None)
    assert sum(at_once(memory.database, *[lambda: triggers.route(memory, event.id)] * 4)) == 1
    assert triggers.route(memory, event.id) == 0
    assert Run.select().count() == 1


def test_who_subscribes_later_does_not_hear_of_what_was(memory: Services) -> None:
    world.workspace(memory)
    event = events.publish(memory, ACME, "a.b", None)
    triggers.route(memory, event.id)
    watcher(memory, "late-one", "**")
    assert triggers.route(memory, event.id) == 0


def test_an_inactive_script_hears_nothing(memory: Services) -> None:
    world.script(memory, status="draft", triggers=Triggers(events=[EventTrigger("**")]))
    event = events.publish(memory, ACME, "a.b", None)
    assert triggers.route(memory, event.id) == 0


def test_a_script_that_cannot_run_is_told_of_at_the_event_and_stops_nobody(memory: Services) -> None:
    watcher(memory, "one-script", "**")
    event = events.publish(memory, ACME, "a.b", None)
    Workspace.update(status="suspended").execute()
    assert triggers.route(memory, event.id) == 0
    routed = events.find(ACME, event.id)
    assert routed.outcome == "routed" and routed.reason == "Workspace 'acme' is suspended and can't run scripts now."


def test_a_subscription_that_is_no_longer_valid_stops_nobody(
    memory: Services, caplog: pytest.LogCaptureFixture
) -> None:
    broken = watcher(memory, "broken", "a.*")
    good = watcher(memory, "good-one", "a.*")
    Subscription.update(filter={"data": [{"no such": 1}]}).where(Subscription.script == broken).execute()
    event = events.publish(memory, ACME, "a.b", None)
    with caplog.at_level(logging.ERROR):
        assert triggers.route(memory, event.id) == 1
    assert Run.get().script_id == good
    assert "no longer valid" in caplog.text


def test_a_loop_is_cut_at_a_depth_of_ten_with_a_record(memory: Services) -> None:
    watcher(memory, "echo-one", "**")
    event = events.publish(memory, ACME, "a.b", None)
    links = 0
    while triggers.route(memory, event.id):
        links += 1
        run = Run.get(Run.event_id == event.id)
        assert run.depth == event.depth
        event = events.publish(memory, ACME, "a.b", None, depth=run.depth + 1)
    assert links == events.MAX_DEPTH + 1  # the event from outside, and ten that follow from it
    cut = events.find(ACME, event.id)
    assert cut.outcome == "cut" and cut.reason == "depth 11: more than 10 events in a row follow from each other"


def test_facts_of_the_platform_can_make_no_loop_either(memory: Services) -> None:
    script = world.script(memory, triggers=Triggers(events=[EventTrigger("run.*")]))
    run = world.start(memory, script)
    for _ in range(events.MAX_DEPTH + 5):
        world.finish(memory, run)
        for event_id in events.unrouted(memory.clock() + 1):
            triggers.route(memory, event_id)
        following = Run.get_or_none(Run.status == "queued")
        if following is None:
            break
        run = following
    assert Run.select().count() == events.MAX_DEPTH + 1
    assert Event.select().where(Event.outcome == "cut").count() == 1


def test_a_changed_script_is_a_fact(memory: Services) -> None:
    script = world.script(memory)
    watcher(memory, "watcher", "script.updated")
    scripts.update(memory, script, scripts.Change(source=b"exports.handler = () => 2\n"))
    fact = Event.get()
    assert (fact.name, fact.subject) == ("script.updated", "hello")
    assert fact.data == {"script_id": "hello", "script_version": 2}
    assert memory.bus.backlog() == 1


def test_unrouted_events_are_listed_oldest_first(memory: Services, clock: Clock) -> None:
    world.workspace(memory)
    listed = []
    for number in range(3):
        listed.append(events.publish(memory, ACME, "a.b", number).id)
        clock.forward(ms=10)
    assert events.unrouted(clock.now - 10) == listed[:2]
    assert events.unrouted(clock.now, limit=1) == listed[:1]
    assert events.count_unrouted() == 3
    triggers.route(memory, listed[0])
    assert events.unrouted(clock.now) == listed[1:]


def test_an_event_that_a_router_failed_with_hides_none_that_was_never_announced(
    memory: Services, clock: Clock
) -> None:
    world.workspace(memory)
    failing, lost = (events.publish(memory, ACME, "a.b", number).id for number in range(2))
    assert not events.note_failure(memory, failing, "KeyError in the router")
    assert events.find(ACME, failing).reason == "KeyError in the router"
    clock.forward(ms=1)
    assert events.unrouted(clock.now, limit=1) == [lost]
    assert set(events.unrouted(clock.now)) == {lost, failing}


def test_an_event_is_given_up_only_when_it_is_old(memory: Services, clock: Clock) -> None:
    world.workspace(memory)
    event = events.publish(memory, ACME, "a.b", None)
    assert not events.note_failure(memory, event.id, "no")
    clock.forward(ms=events.GIVE_UP_MS)
    assert events.note_failure(memory, event.id, "half \ud800")
    assert not events.note_failure(memory, event.id, "again")
    assert events.find(ACME, event.id).outcome == "failed"
