from typing import Any

import pytest

from millrace import events, triggers
from millrace.models import Event, Script
from millrace.services import Services
from millrace.triggers import EventTrigger, Triggers
from tests import factories
from tests.factories import Tenant
from tests.web.conftest import Client, error_of, fields_of


def test_an_event_is_202_once_it_is_stored(client: Client, alice: Tenant) -> None:
    given = {"name": "order.created", "data": {"total": 12}, "source": "shop", "subject": "17"}
    response = client.post("/events", json=given)
    assert response.status_code == 202
    assert response.json is not None
    assert set(response.json) == {"event_id"}
    stored = Event.get_by_id(response.json["event_id"])
    assert (stored.workspace_id, stored.name, stored.data) == (alice.id, "order.created", {"total": 12})
    shown = client.get(f"/events/{stored.id}").json
    assert shown is not None
    assert shown == {
        "id": stored.id, "time": shown["time"], "outcome": None, "reason": None, "runs": [], **given,
    }  # fmt: skip


@pytest.mark.parametrize("data", [None, 0, "", [], {"a": [1, None, "\0", "\ud800"]}, 1.5, True, 10**30])
def test_data_may_be_any_json(client: Client, data: Any) -> None:
    event_id = client.post("/events", json={"name": "a.b", "data": data}).json["event_id"]  # type: ignore[index]
    shown = client.get(f"/events/{event_id}").json
    assert shown is not None
    assert shown["data"] == data


def test_an_event_shows_the_runs_that_it_started(client: Client, services: Services, app: Any, alice: Tenant) -> None:
    script = factories.script(services, alice, triggers=Triggers(events=[EventTrigger("order.*")]))
    factories.script(services, alice, "deaf-one")
    event_id = client.post("/events", json={"name": "order.paid", "data": 1}).json["event_id"]  # type: ignore[index]
    triggers.route(services, event_id)
    shown = client.get(f"/events/{event_id}").json
    assert shown is not None
    assert shown["outcome"] == "routed"
    assert [(run["script_id"], run["status"]) for run in shown["runs"]] == [("hello", "pending")]
    run = client.get(f"/scripts/{script.slug}/runs/{shown['runs'][0]['run_id']}").json
    assert run is not None
    assert run["trigger_type"] == "event"


_BROKEN: list[tuple[str, Any]] = [
    ("name", ""), ("name", None), ("name", "a..b"), ("name", "order.*"), ("name", "run.completed"),
    ("name", "script.updated"), ("name", "x" * 256), ("name", 5), ("name", "a\0b"), ("name", "a b"),
    ("source", "x" * 256), ("source", 5), ("source", "\0"), ("source", "\ud800"), ("subject", "x" * 256),
    ("subject", None), ("time", 1),
]  # fmt: skip


def test_a_bad_event_is_400_and_not_stored(client: Client) -> None:
    for field, value in _BROKEN:
        response = client.post("/events", json={"name": "a.b", "data": 1, field: value})
        assert fields_of(error_of(response, 400, "VALIDATION_FAILED")) == {field}, value
    assert not Event.select().exists()


@pytest.mark.parametrize("missing", ["name", "data"])
def test_name_and_data_are_required(client: Client, missing: str) -> None:
    given = {name: value for name, value in {"name": "a.b", "data": 1}.items() if name != missing}
    assert fields_of(error_of(client.post("/events", json=given), 400, "VALIDATION_FAILED")) == {missing}


def test_too_much_data_is_413(client: Client) -> None:
    error_of(client.post("/events", json={"name": "a.b", "data": "x" * 300_000}), 413, "TOO_LARGE")


@pytest.mark.parametrize("event_id", ["x", "%00", "01a20392-c8f7-7f55-900f-0272aa5b00b3", "X" * 36])
def test_an_event_that_is_not_there_is_404(client: Client, event_id: str) -> None:
    error_of(client.get(f"/events/{event_id}"), 404, "NOT_FOUND")


def test_anothers_event_answers_as_one_that_does_not_exist(client: Client, stranger: Client) -> None:
    event_id = client.post("/events", json={"name": "a.b", "data": 1}).json["event_id"]  # type: ignore[index]
    missing = "01a20392-c8f7-7f55-900f-0272aa5b00b3"
    theirs, none = stranger.get(f"/events/{event_id}"), stranger.get(f"/events/{missing}")
    error_of(theirs, 404, "NOT_FOUND")
    assert theirs.text.replace(event_id, missing) == none.text


def test_anothers_events_start_nothing_here(client: Client, stranger: Client, services: Services, app: Any,
                                            alice: Tenant) -> None:  # fmt: skip
    factories.script(services, alice, triggers=Triggers(events=[EventTrigger("**")]))
    event_id = stranger.post("/events", json={"name": "a.b", "data": 1}).json["event_id"]  # type: ignore[index]
    triggers.route(services, event_id)
    assert client.get("/runs").json["runs"] == []  # type: ignore[index]
    assert Script.select().count() == 1


def test_events_are_listed_newest_first_in_pages_and_by_name_and_outcome(
    client: Client, services: Services, alice: Tenant, bob: Tenant
) -> None:
    made = [events.publish(services, alice.id, f"order.{number % 2}", number).id for number in range(5)]
    events.publish(services, bob.id, "order.0", None)
    cut = events.publish(services, alice.id, "order.9", None, depth=events.MAX_DEPTH + 1).id
    seen, cursor = [], ""
    while cursor is not None:
        page = client.get(f"/events?page_size=2{cursor and '&cursor='}{cursor}").json
        assert page is not None
        seen += [each["id"] for each in page["events"]]
        cursor = page["next_cursor"]
    assert seen == [cut, *reversed(made)]

    def listed(query: str) -> list[str]:
        found = client.get(f"/events?{query}").json
        assert found is not None
        return [each["id"] for each in found["events"]]

    assert listed("name=order.1") == [made[3], made[1]]
    assert listed("outcome=cut") == [cut]
    assert listed("outcome=cut&name=order.1") == []
    error_of(client.get("/events?outcome=lost"), 400, "VALIDATION_FAILED")
    error_of(client.get("/events?cursor=nonsense"), 400, "VALIDATION_FAILED")
