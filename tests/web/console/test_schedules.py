"""Pages about schedules: all of the workspace, one script's, pausing, resuming and backfilling."""

from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from millrace import schedules, scripts
from millrace.models import Firing, Run, Schedule, Script
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.console.conftest import FRAGMENT, post
from web.console import pages

MINUTE = 60_000
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def ticking(services: Services, hello: Script) -> Script:
    """Alice's script, every day at noon in Tokyo."""
    return planned(services, hello)


def planned(services: Services, script: Script, expression: str = "cron(0 12 * * ? *)") -> Script:
    return scripts.update(services, script, scripts.Change(schedule=expression, time_zone="Asia/Tokyo"))


def fire(services: Services, script: Script, late_ms: int = 1000) -> Firing:
    """Let the schedule have been due a moment ago."""
    due_at = services.clock() - late_ms
    Schedule.update(expression="rate(1 minute)", next_fire_at=due_at, anchor_at=due_at - MINUTE).where(
        Schedule.script == script.uuid
    ).execute()
    schedules.fire_due(services)
    return Firing.get(Firing.script == script.uuid, Firing.due_at == due_at)


def address(script: Script, more: str = "") -> str:
    return f"/scripts/{script.uuid}/schedule{more}"


def form_time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00")


def test_all_schedules_are_listed_with_their_next_and_last_firing(
    browser: FlaskClient, services: Services, ticking: Script, alice: Tenant
) -> None:
    page = browser.get("/schedules")
    assert page.status_code == 200
    link = f'href="{address(ticking)}"'
    for text in ("Hello", link, "cron(0 12 * * ? *)", "Asia/Tokyo", "T03:00:00.000", "none yet"):
        assert text in page.text
    fire(services, ticking)
    assert '<span class="badge ran">' in browser.get("/schedules").text
    scripts.change_status(services, ticking, "paused", "test")
    firing = fire(services, ticking, 500)
    assert firing.reason is not None
    page = browser.get("/schedules")
    assert '<span class="badge skipped">' in page.text
    assert firing.reason.replace("'", "&#39;") in page.text
    schedules.pause(services, ticking)
    assert '<span class="badge paused">' in browser.get("/schedules").text


def test_the_list_is_a_fragment_for_htmx_and_has_its_empty_state(browser: FlaskClient) -> None:
    whole = browser.get("/schedules")
    assert whole.text.count("<html") == 1
    assert "No schedules yet" in whole.text
    part = browser.get("/schedules", headers=FRAGMENT)
    assert "<html" not in part.text
    assert "No schedules yet" in part.text


def test_schedules_come_in_pages_each_once(
    browser: FlaskClient, services: Services, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_SIZE", 2)
    for number in range(5):
        planned(services, factories.script(services, alice, f"script-{number}"))
    seen: list[str] = []
    link: str | None = "/schedules"
    while link is not None:
        text = browser.get(link).text
        seen += [f"Script-{number}" for number in range(5) if f">Script-{number}<" in text]
        _, marked, rest = text.partition('rel="next" href="')
        link = rest.partition('"')[0].replace("&amp;", "&") if marked else None
    assert sorted(seen) == [f"Script-{number}" for number in range(5)]


def test_a_stranger_sees_no_schedule_and_changes_none(
    foreign_browser: FlaskClient, ticking: Script
) -> None:
    assert "Hello" not in foreign_browser.get("/schedules").text
    for script_id in (ticking.uuid, "hello"):
        assert foreign_browser.get(f"/scripts/{script_id}/schedule").status_code == 404
        for deed in ("pause", "resume", "backfill"):
            assert post(foreign_browser, f"/scripts/{script_id}/schedule/{deed}").status_code == 404
    assert Schedule.get().paused_at is None


def test_a_deleted_script_has_no_schedule_any_more(browser: FlaskClient, ticking: Script) -> None:
    Script.update(status="deleted").where(Script.uuid == ticking.uuid).execute()
    assert "No schedules yet" in browser.get("/schedules").text
    assert browser.get(address(ticking)).status_code == 404


def test_a_schedule_shows_ten_due_times_in_its_own_zone(browser: FlaskClient, ticking: Script) -> None:
    page = browser.get(address(ticking))
    assert page.status_code == 200
    assert page.text.count("T03:00:00.000") == 10
    assert page.text.count(" 12:00</td>") == 10
    assert 'href="/scripts/' + ticking.uuid + '/schedule" aria-current="page"' in page.text
    part = browser.get(address(ticking), headers=FRAGMENT)
    assert "<html" not in part.text
    assert part.text.count("T03:00:00.000") == 10


def test_past_firings_say_outcome_lateness_and_reason_and_lead_to_the_execution(
    browser: FlaskClient, services: Services, ticking: Script
) -> None:
    ran = fire(services, ticking, 7000)
    Firing.update(fired_at=ran.due_at + 7200).where(Firing.id == ran.id).execute()
    scripts.change_status(services, ticking, "paused", "test")
    skipped = fire(services, ticking, 500)
    page = browser.get(address(ticking))
    assert f'href="/scripts/{ticking.uuid}/executions/{ran.run_id}"' in page.text
    assert "7.2 s" in page.text
    assert skipped.reason is not None
    reason = skipped.reason.replace("'", "&#39;")
    assert reason in page.text
    assert "Only an active script runs" in page.text
    only_ran = browser.get(address(ticking, "?outcome=ran")).text
    assert reason not in only_ran
    assert str(ran.run_id) in only_ran
    assert str(ran.run_id) not in browser.get(address(ticking, "?outcome=skipped")).text


def test_past_firings_come_in_pages(
    browser: FlaskClient, services: Services, ticking: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_SIZE", 2)
    now = services.clock()
    Firing.insert_many([
        {"script": ticking.uuid, "due_at": now - number * MINUTE, "fired_at": now, "outcome": "skipped",
         "reason": f"Reason number {number}."}
        for number in range(5)
    ]).execute()  # fmt: skip
    seen: list[int] = []
    link: str | None = address(ticking)
    while link is not None:
        text = browser.get(link).text
        seen += [number for number in range(5) if f"Reason number {number}." in text]
        _, marked, rest = text.partition('rel="next" href="')
        link = rest.partition('"')[0].replace("&amp;", "&") if marked else None
    assert seen == list(range(5))


def test_a_script_without_a_schedule_says_so(browser: FlaskClient, hello: Script) -> None:
    page = browser.get(address(hello))
    assert page.status_code == 200
    assert "This script has no schedule" in page.text
    assert "Past firings" not in page.text
    for deed in ("pause", "resume", "backfill"):
        assert post(browser, address(hello, f"/{deed}")).status_code == 404


def test_a_damaged_schedule_is_told_of_and_breaks_no_page(browser: FlaskClient, ticking: Script) -> None:
    for paused_at in (None, 5):
        for values in ({"expression": HOSTILE, "time_zone": "UTC"}, {"expression": "daily", "time_zone": "Nowhere"}):
            Schedule.update(paused_at=paused_at, **values).execute()
            page = browser.get(address(ticking))
            assert page.status_code == 200
            assert HOSTILE not in page.text
            assert ("can&#39;t be read any more" in page.text or "can't be read any more" in page.text) == (
                paused_at is None
            )
            assert browser.get("/schedules").status_code == 200
            answer = post(browser, address(ticking, "/backfill"), **{"from": "2026-01-01", "until": "2026-01-02"})
            assert answer.status_code == 400


def test_pausing_and_resuming_say_so_and_hold(browser: FlaskClient, ticking: Script) -> None:
    answer = post(browser, address(ticking, "/pause"))
    assert (answer.status_code, answer.location) == (303, address(ticking))
    page = browser.get(address(ticking)).text
    assert "The schedule is paused" in page
    assert address(ticking, "/resume") in page
    assert address(ticking, "/pause") not in page
    assert Schedule.get().paused_at is not None
    answer = post(browser, address(ticking, "/resume"), fragment=True)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (204, address(ticking))
    assert Schedule.get().paused_at is None
    assert address(ticking, "/pause") in browser.get(address(ticking)).text


def test_who_may_not_is_shown_no_buttons_and_refused(
    browser_as: Callable[[str], FlaskClient], services: Services, ticking: Script
) -> None:
    viewer, developer = browser_as("viewer"), browser_as("developer")
    page = viewer.get(address(ticking)).text
    for deed in ("/pause", "/backfill"):
        assert address(ticking, deed) not in page
        assert post(viewer, address(ticking, deed)).status_code == 403
    page = developer.get(address(ticking)).text
    assert address(ticking, "/backfill") in page
    assert address(ticking, "/pause") not in page
    assert post(developer, address(ticking, "/pause")).status_code == 403
    schedules.pause(services, ticking)
    assert post(developer, address(ticking, "/resume")).status_code == 403
    assert Schedule.get().paused_at is not None


def test_a_backfill_runs_what_was_due_once(browser: FlaskClient, services: Services, ticking: Script) -> None:
    # By the clock of the schedule's zone, Tokyo: two noons.
    stretch = {"from": "2026-01-05T12:00", "until": "2026-01-06T12:00"}
    answer = post(browser, address(ticking, "/backfill"), **stretch)
    assert (answer.status_code, answer.location) == (303, address(ticking))
    assert "2 executions were started." in browser.get(address(ticking)).text
    due = sorted(run.due_at for run in Run.select())
    assert due == [int(datetime(2026, 1, day, 3, tzinfo=UTC).timestamp() * 1000) for day in (5, 6)]
    post(browser, address(ticking, "/backfill"), **stretch)
    assert Run.select().count() == 2
    assert "There was nothing to make up for" in browser.get(address(ticking)).text
    assert ">backfilled<" in browser.get(address(ticking)).text


REFUSED = [
    ("from", "", "2026-01-02T00:00"), ("until", "2026-01-02T00:00", ""), ("from", HOSTILE, "2026-01-02T00:00"),
    ("from", "2026-01-02T00:00", "2026-01-01T00:00"), ("until", "2026-01-02T00:00", "9999-12-31T23:59"),
    ("until", "2026-01-02T00:00", "\x00"), ("from", "2026-02-30T00:00", "2026-02-30T00:00"),
    ("until", "1970-01-01T00:00", "2026-01-01T00:00"), ("until", "0001-01-01T00:00", "2026-01-01T00:00"),
    ("from", "9999-12-31T23:59:59.999999-14:00", "2026-01-01T00:00"),
]


def test_a_stretch_that_is_none_is_refused_beside_its_field_and_kept(browser: FlaskClient, ticking: Script) -> None:
    for field, since, until in REFUSED:
        answer = post(browser, address(ticking, "/backfill"), **{"from": since, "until": until})
        assert answer.status_code == 400, (since, until)
        assert f'id="{field}-error"' in answer.text, (since, until)
        assert HOSTILE not in answer.text
        kept = [each for each in (since, until) if each.isprintable() and each not in ("", HOSTILE)]
        assert all(f'value="{each}"' in answer.text for each in kept), (since, until)
    assert Run.select().count() == 0


def test_a_backfill_of_a_script_that_is_not_active_is_409(
    browser: FlaskClient, services: Services, ticking: Script
) -> None:
    scripts.change_status(services, ticking, "paused", "test")
    stretch = {"from": "2026-01-05T12:00", "until": "2026-01-06T12:00"}
    assert post(browser, address(ticking, "/backfill"), **stretch).status_code == 409


def test_hostile_addresses_are_no_500(browser: FlaskClient, ticking: Script) -> None:
    for bad in ("x" * 4000, HOSTILE, "\x00", "'", "AAAA"):
        text = quote(bad, safe="")
        assert browser.get(f"/schedules?cursor={text}").status_code == 400
        assert browser.get(address(ticking, f"?cursor={text}")).status_code == 400
        assert browser.get(address(ticking, f"?outcome={text}")).status_code == 200
        assert browser.get(f"/scripts/{text}/schedule").status_code == 404


def test_a_name_is_shown_as_text(browser: FlaskClient, services: Services, ticking: Script) -> None:
    scripts.update(services, ticking, scripts.Change(columns={"display_name": HOSTILE}))
    for path in ("/schedules", address(ticking)):
        text = browser.get(path).text
        assert HOSTILE not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
