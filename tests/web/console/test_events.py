"""Pages about events: the list, one with what it started, publishing by hand."""

import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from millrace import events
from millrace.models import Event, Script
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.console.conftest import FRAGMENT, post
from web.console import pages

HOSTILE = "<script>alert(1)</script>"


def publish(services: Services, owner: Tenant, name: str = "order.created", **fields: object) -> Event:
    return events.publish(services, owner.id, name, fields.pop("data", {}), **fields)  # type: ignore[arg-type]


def test_the_list_shows_the_newest_first_as_page_and_as_fragment(
    browser: FlaskClient, services: Services, alice: Tenant
) -> None:
    first = publish(services, alice, "order.created", subject="order 1")
    second = publish(services, alice, "order.paid", source="shop")
    Event.update(created_at=first.created_at - 1000).where(Event.id == first.id).execute()
    whole, part = browser.get("/events"), browser.get("/events", headers=FRAGMENT)
    assert "<html" in whole.text
    assert "<html" not in part.text
    for text in (whole.text, part.text):
        assert text.index(f'/events/{second.id}"') < text.index(f'/events/{first.id}"')
        assert "order 1" in text
        assert ">shop<" in text


def test_the_list_can_be_narrowed(browser: FlaskClient, services: Services, alice: Tenant) -> None:
    publish(services, alice, "order.created")
    cut = publish(services, alice, "order.paid", depth=events.MAX_DEPTH + 1)
    assert ">order.created<" not in browser.get("/events?name=order.paid").text
    assert ">order.paid<" in browser.get("/events?name=order.paid").text
    text = browser.get("/events?outcome=cut").text
    assert ">order.created<" not in text
    assert cut.id in text
    assert "No event matches" in browser.get("/events?name=nobody").text


def test_a_list_without_events_says_so(browser: FlaskClient) -> None:
    assert "No events yet" in browser.get("/events").text


def test_events_come_in_pages_and_keep_the_filter(
    browser: FlaskClient, services: Services, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_SIZE", 2)
    ids = {publish(services, alice).id for _ in range(5)}
    publish(services, alice, "other")
    seen: list[str] = []
    link: str | None = "/events?name=order.created"
    while link is not None:
        text = browser.get(link).text
        assert ">other<" not in text
        seen += [each for each in ids if f'href="/events/{each}"' in text]
        _, marked, rest = text.partition('rel="next" href="')
        link = rest.partition('"')[0].replace("&amp;", "&") if marked else None
    assert sorted(seen) == sorted(ids)


def test_an_event_shows_its_data_and_what_it_started(
    browser: FlaskClient, services: Services, alice: Tenant, hello: Script
) -> None:
    event = publish(services, alice, subject="order 1", source="shop", data={"total": 12, "text": "Привет"})
    run = factories.run(services, hello, trigger="event", event_id=event.id)
    page = browser.get(f"/events/{event.id}")
    assert page.status_code == 200
    for text in ("order.created", "order 1", "shop", "&#34;total&#34;: 12", "Привет", "Hello",
                 f'href="/scripts/{hello.uuid}/executions/{run.id}"', '<span class="badge pending">pending</span>'):
        assert text in page.text
    assert "<html" not in browser.get(f"/events/{event.id}", headers=FRAGMENT).text


def test_an_event_that_was_not_routed_says_why(browser: FlaskClient, services: Services, alice: Tenant) -> None:
    event = publish(services, alice, depth=events.MAX_DEPTH + 1)
    page = browser.get(f"/events/{event.id}").text
    assert event.reason is not None
    assert event.reason in page
    assert "It started nothing" in page


def test_another_workspaces_event_is_not_there(
    foreign_browser: FlaskClient, services: Services, alice: Tenant
) -> None:
    event = publish(services, alice, subject="of alice")
    assert foreign_browser.get(f"/events/{event.id}").status_code == 404
    assert "No events yet" in foreign_browser.get("/events").text
    assert "of alice" not in foreign_browser.get("/events?name=order.created").text


def test_a_form_publishes_and_leads_to_the_event(browser: FlaskClient) -> None:
    answer = post(browser, "/events", name=" order.created ", data='{"total": [1, null]}', subject=" order 1 ")
    event = Event.get()
    assert (answer.status_code, answer.location) == (303, f"/events/{event.id}")
    assert (event.name, event.data, event.subject) == ("order.created", {"total": [1, None]}, "order 1")
    assert event.source == "console"
    assert "The event was published." in browser.get(answer.location).text
    answer = post(browser, "/events", fragment=True, name="order.created", data="null", subject="")
    assert answer.status_code == 204
    assert answer.headers["HX-Redirect"].startswith("/events/")
    assert Event.select().where(Event.subject.is_null()).count() == 1


REFUSED: list[tuple[str, int, dict[str, str]]] = [
    ("name", 400, {"name": ""}), ("name", 400, {"name": "a b"}), ("name", 400, {"name": "run.completed"}),
    ("name", 400, {"name": "x" * 256}), ("name", 400, {"name": "a\x00b"}), ("name", 400, {"name": HOSTILE}),
    ("data", 400, {"data": ""}), ("data", 400, {"data": "{"}), ("data", 400, {"data": "NaN"}),
    ("data", 400, {"data": "[" * 5000}), ("data", 400, {"data": HOSTILE}), ("subject", 400, {"subject": "x" * 256}),
    ("subject", 400, {"subject": "a\x00b"}), ("data", 413, {"data": json.dumps("x" * events.MAX_DATA_BYTES)}),
]  # fmt: skip


@pytest.mark.parametrize("fragment", [False, True])
def test_what_can_not_be_published_is_refused_beside_its_field_and_kept(browser: FlaskClient, fragment: bool) -> None:
    for field, status, given in REFUSED:
        sent = {"name": "order.created", "data": '{"a": 1}', "subject": "order 1", **given}
        answer = post(browser, "/events", fragment=fragment, **sent)
        assert answer.status_code == status, given
        assert f'id="{field}-error"' in answer.text, given
        assert f'aria-describedby="{field}-error' in answer.text, given
        assert HOSTILE not in answer.text
        kept = {
            "subject": 'value="order 1"', "name": 'value="order.created"', "data": "{&#34;a&#34;: 1}</textarea>",
        }  # fmt: skip
        assert all(text in answer.text for name, text in kept.items() if name != field), given
    assert Event.select().count() == 0


def test_who_may_not_execute_sees_no_form_and_publishes_nothing(
    browser_as: Callable[[str], FlaskClient], services: Services, alice: Tenant
) -> None:
    viewer = browser_as("viewer")
    publish(services, alice)
    page = viewer.get("/events")
    assert page.status_code == 200
    assert "Publish an event" not in page.text
    assert post(viewer, "/events", name="order.created", data="1").status_code == 403
    assert Event.select().count() == 1
    assert "Publish an event" in browser_as("developer").get("/events").text


def test_a_form_without_its_token_publishes_nothing(browser: FlaskClient) -> None:
    assert browser.post("/events", data={"name": "order.created", "data": "1"}).status_code == 403
    assert Event.select().count() == 0


def test_hostile_addresses_are_no_500(browser: FlaskClient, services: Services, alice: Tenant) -> None:
    publish(services, alice)
    for bad in ("x" * 4000, HOSTILE, "\x00", "'", "%", "\ud800".encode("utf-8", "surrogatepass")):
        text = quote(bad, safe="")
        page = browser.get(f"/events?name={text}&outcome={text}")
        assert page.status_code == 200
        assert "No event matches" in page.text
        assert HOSTILE not in page.text
        assert browser.get(f"/events?cursor={text}").status_code == 400
        assert browser.get(f"/events/{text}").status_code == 404


def test_what_strangers_wrote_is_shown_as_text(browser: FlaskClient, services: Services, alice: Tenant) -> None:
    event = publish(services, alice, subject=HOSTILE, source=HOSTILE, data={HOSTILE: HOSTILE})
    for path in ("/events", f"/events/{event.id}"):
        text = browser.get(path).text
        assert HOSTILE not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
