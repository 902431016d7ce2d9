"""The page on usage: who sees it, whose figures it shows, and what of it HTMX gets."""

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from flask.testing import FlaskClient

from millrace import limits, usage
from millrace.models import Member, Role, Run, UsageHour, Workspace
from millrace.services import Services
from millrace.usage import HOUR_MS
from tests import factories
from tests.factories import Tenant
from tests.web.console.conftest import FRAGMENT


def an_hour(owner: Tenant, at: int, runs: int, failed: int = 0, ms: int = 1000) -> None:
    UsageHour.create(
        workspace=owner.id, hour=at - at % HOUR_MS, runs=runs, failed=failed, worker_ms=runs * ms,
        durations={str(usage.bucket(ms)): runs},
    )  # fmt: skip


def pictures(page: str) -> list[ElementTree.Element]:
    """The charts of a page, each of which is sound XML."""
    return [
        ElementTree.fromstring(each) for each in re.findall(r"<svg viewBox.*?</svg>", page, re.DOTALL)
    ]


def test_the_page_has_charts_of_what_is_summed_up_and_of_now(
    browser: FlaskClient, services: Services, alice: Tenant
) -> None:
    an_hour(alice, services.clock() - 3 * HOUR_MS, 700, 11)
    factories.finished(services, factories.script(services, alice))
    page = browser.get("/usage").text
    assert "<html" in page
    runs, durations, work = pictures(page)
    assert len(runs.findall("g")) == len(durations.findall("g")) == len(work.findall("g")) == 24
    assert len(runs.findall("g/rect[@class='colour-2']")) == 1  # failures, of one hour
    assert len(runs.findall("g/rect[@class='colour-1']")) == 2
    assert len(durations.findall("path[@class]")) == 3
    assert "700 executions, 11 of them failed or timed out" in page
    assert "701 executions ended in this time" in page


def test_each_chart_says_what_it_is_and_the_figures_are_a_table_as_well(
    browser: FlaskClient, services: Services, alice: Tenant
) -> None:
    an_hour(alice, services.clock() - 3 * HOUR_MS, 1234, 11)
    page = browser.get("/usage").text
    for picture in pictures(page):
        title, text = picture.find("title"), picture.find("desc")
        assert picture.attrib["role"] == "img"
        assert title is not None and title.text and text is not None and text.text
        assert picture.attrib["aria-labelledby"] == f"{title.attrib['id']} {text.attrib['id']}"
    assert '<td class="number">1234</td><td class="number">11</td>' in page


@pytest.mark.parametrize(("name", "count"), [("24h", 24), ("7d", 168), ("30d", 30)])
def test_another_range_is_a_fragment_for_htmx_and_a_page_otherwise(
    browser: FlaskClient, services: Services, alice: Tenant, name: str, count: int
) -> None:
    an_hour(alice, services.clock(), 7)
    an_hour(alice, services.clock() - 40 * 24 * HOUR_MS, 5000)
    whole, part = browser.get(f"/usage?range={name}"), browser.get(f"/usage?range={name}", headers=FRAGMENT)
    assert "<html" in whole.text and "Limits" in whole.text
    assert part.text.startswith('<section id="figures"') and "Limits" not in part.text
    for page in (whole.text, part.text):
        assert [len(each.findall("g")) for each in pictures(page)] == [count] * 3
        assert re.search(rf'id="range-{name}"[^>]* aria-current="true"', page)
        assert page.count('aria-current="true"') == 1
        assert "7 executions ended in this time" in page and "5000" not in page


@pytest.mark.parametrize("name", ["1y", "", "24h%00", "<b>"])
def test_a_range_that_there_is_not_is_refused_in_a_page(browser: FlaskClient, name: str) -> None:
    answer = browser.get("/usage", query_string={"range": name})
    assert answer.status_code == 400
    assert "<html" in answer.text and "Choose one of these ranges: 24h, 7d, 30d." in answer.text


def test_nothing_to_show_is_said(browser: FlaskClient) -> None:
    page = browser.get("/usage").text
    assert "No executions in this time" in page and "<svg viewBox" not in page


def test_another_workspaces_figures_never_appear(
    browser: FlaskClient, foreign_browser: FlaskClient, services: Services, alice: Tenant
) -> None:
    an_hour(alice, services.clock() - HOUR_MS, 4321)
    limits.change(services, alice.id, {"runs_per_day": 9876})
    factories.finished(services, factories.script(services, alice))
    for headers in ({}, FRAGMENT):
        page = foreign_browser.get("/usage", headers=headers).text
        assert "4321" not in page and "4322" not in page and "9876" not in page
        assert "No executions in this time" in page
        assert "4322" in browser.get("/usage", headers=headers).text


def test_whoever_may_read_sees_it_and_nobody_else(
    browser_as: Callable[[str], FlaskClient], app: object, services: Services
) -> None:
    assert browser_as("viewer").get("/usage").status_code == 200
    Role.create(workspace=None, name="nothing", title="Nothing", permissions=["scripts.execute"])
    assert browser_as("nothing").get("/usage").status_code == 403


def test_limits_are_shown_with_what_is_used_of_them(
    browser: FlaskClient, services: Services, alice: Tenant
) -> None:
    limits.change(services, alice.id, {
        "runs_per_day": 4, "max_concurrent_runs": 10, "stored_mb": 100, "retention_days.logs": 1,
        "retention_days.events": None,
    })  # fmt: skip
    Workspace.update(stored_bytes=95 * limits.MB, stored_at=1).where(Workspace.id == alice.id).execute()
    script = factories.script(services, alice)
    for _ in range(2):
        factories.claim(services, factories.run(services, script))
    page = browser.get("/usage").text
    assert re.search(r"today.*?<b>2</b>\s*<span class=\"muted\">of 4<", page, re.DOTALL)
    assert re.search(r"Running now.*?<b>2</b>\s*<span class=\"muted\">of 10<", page, re.DOTALL)
    assert re.search(r"Stored.*?<b>95.0 MB</b>\s*<span class=\"muted\">of 100.0 MB<", page, re.DOTALL)
    assert re.findall(r'class="meter( full)?" aria-hidden="true"><span style="width: (\d+)%', page) == [
        ("", "50"), ("", "20"), (" full", "95"),
    ]  # fmt: skip
    assert "<dt>Logs are kept</dt><dd>1 day</dd>" in page
    assert "<dt>Events are kept</dt><dd>for ever</dd>" in page
    assert "<dt>Executions are kept</dt><dd>90 days</dd>" in page


def test_without_limits_it_says_so(browser: FlaskClient) -> None:
    page = browser.get("/usage").text
    assert page.count("no limit") == 3 and "not measured yet" in page and 'class="meter' not in page


def test_a_present_hour_that_is_cut_is_marked(
    browser: FlaskClient, services: Services, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = factories.script(services, alice)
    for _ in range(3):
        factories.finished(services, script)
    assert "not all counted yet" not in browser.get("/usage").text
    monkeypatch.setattr(usage, "MOST_LIVE", 2)
    assert "not all counted yet" in browser.get("/usage").text
    assert Run.select().count() == 3 and Member.select().count() == 1
