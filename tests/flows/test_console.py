"""The console in a real Chromium, on a whole Millrace with real jails: the main journeys, and every page as it looks.

The screenshots stay in build/screenshots.
"""

import contextlib
import json
import os
import re
import sqlite3
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests import factories
from tests.flows import browser
from tests.flows.browser import CHROMIUM, Watched
from tests.platform import Platform
from web import console

pytestmark = pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no Chromium on this machine")

WIDTHS = {"phone": 360, "tablet": 800, "laptop": 1400, "4k": 3840}
expect.set_options(timeout=20_000)
SOURCE = """exports.handler = async (input) => {
  sdk.log.info('greeting', { name: input.name });
  console.log('plain words');
  return { greeting: `Good day, ${input.name}!`, trigger: context.trigger.type };
};
"""
FAILING = "exports.handler = async () => { throw new TypeError('this one always fails'); };\n"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.chromium() as running:
        yield running


def credentials(platform: Platform) -> dict[str, str]:
    """What the first start wrote down for its owner."""
    found: dict[str, str] = json.loads((platform.home / "credentials.json").read_text())
    return found


def sign_in(page: Page, platform: Platform) -> None:
    """As a person does."""
    known = credentials(platform)
    page.goto(f"{platform.url}/login")
    page.get_by_label("Email").fill(known["email"])
    page.get_by_label("Password").fill(known["password"])
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url(f"{platform.url}/scripts")


@pytest.fixture(scope="module")
def state(chromium: Browser, platform: Platform) -> Any:
    """The cookies of the owner, signed in once."""
    context = chromium.new_context()
    sign_in(context.new_page(), platform)
    stored = context.storage_state()
    context.close()
    return stored


@pytest.fixture
def context(chromium: Browser, state: Any) -> Iterator[BrowserContext]:
    """A browser of the owner, with nothing else in it."""
    made = chromium.new_context(storage_state=state, viewport={"width": 1400, "height": 900})
    made.set_default_timeout(20_000)
    yield made
    made.close()


def write(page: Page, source: str, where: str = "main") -> None:
    """Put a text into the editor there. Typed, it would get the editor's own brackets and indents besides."""
    editor = page.locator(f"{where} .editor .monaco-editor").first
    editor.click()
    page.evaluate("text => monaco.editor.getEditors().find((each) => each.hasTextFocus()).setValue(text)", source)


def fill_in(page: Page, platform: Platform, name: str, source: str, **fields: str) -> str:
    """Create a script by its form; returns its address."""
    page.goto(f"{platform.url}/scripts/new")
    page.get_by_label("Name", exact=False).first.fill(name)
    write(page, source)
    page.get_by_label("Status").select_option("active")
    for label, value in fields.items():
        field = page.locator(f"[name={label}]")
        if label in ("Type", "Runtime"):
            field.select_option(value)
        else:
            field.fill(value)
    page.get_by_role("button", name="Create").click()
    page.wait_for_url(re.compile(r"/scripts/[0-9a-f-]{36}$"))
    return urlsplit(page.url).path


def test_a_script_lives_its_life_in_the_browser(context: BrowserContext, platform: Platform) -> None:
    watched = Watched(context)
    page = watched.page
    name = f"Greeter {uuid.uuid4().hex[:6]}"
    address = fill_in(page, platform, name, SOURCE)
    expect(page.locator(".toast")).to_contain_text("was created")
    expect(page.get_by_role("heading", level=1)).to_have_text(name)

    page.get_by_role("button", name="Execute").first.click()
    dialog = page.locator("dialog[open]")
    write(page, '{"name": "Ada"}', "dialog[open]")
    dialog.get_by_role("button", name="Execute").click()
    expect(page.locator(".toast", has_text="started")).to_be_visible()
    row = page.locator("#executions tr").first
    expect(row.locator(".badge")).to_have_text("completed")  # without a reload
    browser.keep(page, "journey-executed")

    row.get_by_role("link").first.click()
    expect(page.locator("body")).to_contain_text("Good day, Ada!")
    expect(page.locator("body")).to_contain_text("plain words")
    expect(page.locator("body")).to_contain_text('"name":"Ada"')
    browser.keep(page, "journey-execution")

    page.goto(f"{platform.url}{address}/edit")
    write(page, SOURCE.replace("Good day", "Good night"))
    page.get_by_label("What changed").fill("It is late")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".toast")).to_contain_text("version 2")

    page.goto(f"{platform.url}{address}/versions/2/diff?against=1")
    expect(page.locator(".diff .removed")).to_contain_text(["Good day"])
    expect(page.locator(".diff .added")).to_contain_text(["Good night"])
    browser.keep(page, "journey-diff")
    page.goto(f"{platform.url}{address}/versions")
    page.locator("tr", has_text="1").last.get_by_role("button", name=re.compile("Roll back", re.I)).click()
    page.locator("dialog[open]").get_by_role("button", name="Yes").click()
    expect(page.locator(".toast")).to_contain_text("3")

    page.goto(f"{platform.url}{address}")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".head .badge")).to_have_text("paused")
    expect(page.get_by_role("button", name="Execute").first).to_be_disabled()
    page.get_by_role("button", name="Delete").click()
    page.locator("dialog[open]").get_by_role("button", name="Yes").click()
    page.wait_for_url(f"{platform.url}/scripts")
    expect(page.locator(".toast")).to_contain_text("was deleted")
    assert watched.complaints == []
    assert watched.hosts() == {urlsplit(platform.url).netloc}


def test_a_failed_execution_shows_its_stack_and_is_retried(context: BrowserContext, platform: Platform) -> None:
    page = Watched(context).page
    fill_in(page, platform, f"Failing {uuid.uuid4().hex[:6]}", FAILING)
    page.get_by_role("button", name="Execute").first.click()
    page.locator("dialog[open]").get_by_role("button", name="Execute").click()
    row = page.locator("#executions tr.failed").first
    row.locator("summary").click()
    expect(row.locator("pre")).to_contain_text("index.js:1")
    # What was opened stays open while the list refreshes itself.
    row.get_by_role("button", name="Retry").click()
    expect(page.locator("#executions tr.failed")).to_have_count(2)
    browser.keep(page, "journey-failed")
    page.locator("#executions tr.failed").first.get_by_role("button", name="Retry").wait_for()


def test_the_trigger_fields_follow_the_type(context: BrowserContext, platform: Platform) -> None:
    page = Watched(context).page
    page.goto(f"{platform.url}/scripts/new")
    cron, path, events = (page.locator(f"#{each}") for each in ("CronExpression", "HTTPPath", "EventTypes"))
    for type_, shown in (("scheduled", cron), ("http", path), ("event", events), ("embedded", None)):
        page.locator("#Type").select_option(type_)
        for each in (cron, path, events):
            expect(each).to_be_visible() if each is shown else expect(each).to_be_hidden()


def test_the_editor_completes_what_a_script_may_use(context: BrowserContext, platform: Platform) -> None:
    page = Watched(context).page
    page.goto(f"{platform.url}/scripts/new")
    members = {"sdk.": "cache", "context.": "tenantId", "events.": "publish", "sdk.db.": "queryOne"}
    for typed, offered in members.items():
        write(page, "")
        page.keyboard.type(typed)
        page.keyboard.press("Control+Space")
        expect(page.locator(".suggest-widget .monaco-list-row", has_text=offered).first).to_be_visible()
        page.keyboard.press("Escape")


def test_a_row_leaves_the_list_when_its_script_is_deleted(context: BrowserContext, platform: Platform) -> None:
    page = Watched(context).page
    name = f"Short-lived {uuid.uuid4().hex[:6]}"
    fill_in(page, platform, name, SOURCE)
    page.goto(f"{platform.url}/scripts")
    page.get_by_role("button", name=f"Delete {name}").click()
    page.keyboard.press("Escape")  # the question is a dialog, and Escape says no
    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    page.get_by_role("button", name=f"Delete {name}").click()
    page.locator("dialog[open]").get_by_role("button", name="Yes").click()
    expect(page.get_by_role("link", name=name, exact=True)).to_have_count(0)
    assert urlsplit(page.url).path == "/scripts"


def test_the_search_narrows_the_list_without_a_reload(context: BrowserContext, platform: Platform) -> None:
    page = Watched(context).page
    page.goto(f"{platform.url}/scripts")
    page.evaluate("window.mark = 'the same page'")
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("hello")
    expect(page.locator("td.name")).to_have_count(1)
    assert page.evaluate("window.mark") == "the same page"
    assert "search=hello" in page.url


TALKING = """exports.handler = async () => {
  for (let turn = 0; turn < 600; turn += 1) {
    console.log(`turn ${turn}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
};
"""


def test_a_running_execution_is_followed_and_cancelled(context: BrowserContext, platform: Platform) -> None:
    page = Watched(context).page
    fill_in(page, platform, f"Talking {uuid.uuid4().hex[:6]}", TALKING)
    page.get_by_role("button", name="Execute").first.click()
    page.locator("dialog[open]").get_by_role("button", name="Execute").click()
    page.locator("#executions tr").first.get_by_role("link").first.click()
    log = page.locator(".log")
    expect(log).to_contain_text("turn 2")  # while it runs
    browser.keep(page, "journey-live-log")
    page.get_by_role("button", name="Cancel").first.click()
    expect(page.locator(".head .badge")).to_have_text("cancelled")
    expect(log).to_contain_text("turn 1")


def test_a_person_is_invited_chooses_a_password_and_sees_what_the_role_allows(
    chromium: Browser, context: BrowserContext, platform: Platform
) -> None:
    email = f"vera-{uuid.uuid4().hex[:6]}@example.com"
    page = Watched(context).page
    page.goto(f"{platform.url}/members")
    page.get_by_label("Email").fill(email)
    page.locator("#role").select_option("viewer")
    page.get_by_role("button", name="Invite").click()
    link = page.locator("#link").text_content()
    assert link is not None and link.startswith(f"{platform.url}/invitations/")

    theirs = chromium.new_context()
    own = theirs.new_page()
    own.goto(link)
    own.get_by_label("Password").fill("a long enough secret")
    own.get_by_label("The same again").fill("a long enough secret")
    own.get_by_role("button", name=re.compile("sign in")).click()
    own.wait_for_url(f"{platform.url}/scripts")
    expect(own.get_by_role("link", name="Hello", exact=True)).to_be_visible()
    for hidden in ("New script", "Execute", "Members", "Settings"):
        expect(own.locator("main, nav").get_by_text(hidden, exact=True)).to_have_count(0)
    browser.keep(own, "journey-viewer")
    assert own.goto(f"{platform.url}/members").status == 403  # type: ignore[union-attr]  # there is an answer
    own.goto(link)
    expect(own.locator("h1")).to_contain_text("Not found")  # it was good once
    theirs.close()


def test_the_console_speaks_the_language_that_a_person_chooses(context: BrowserContext, platform: Platform) -> None:
    page = Watched(context).page
    try:
        for language, words in (("ru", "Скрипты"), ("uz", "Skriptlar")):
            page.goto(f"{platform.url}/profile")
            page.locator("select[name=language]").select_option(language)
            page.locator("form:has(select[name=language]) button[type=submit]").click()
            page.goto(f"{platform.url}/scripts")
            expect(page.locator("h1")).to_have_text(words)
            assert page.locator("html").get_attribute("lang") == language
            browser.keep(page, f"scripts-{language}")
    finally:
        page.goto(f"{platform.url}/profile")
        page.locator("select[name=language]").select_option("")
        page.locator("form:has(select[name=language]) button[type=submit]").click()


ORDERS = """
CREATE TABLE orders (id INTEGER PRIMARY KEY, tenant_id TEXT NOT NULL, total INTEGER);
INSERT INTO orders (tenant_id, total) VALUES ('default', 10), ('default', 20), ('somebody-else', 999);
"""
ASKING = """exports.handler = async () => {
  const { sum } = await sdk.db.queryOne('SELECT sum(total) AS sum FROM orders', []);
  const changed = await sdk.db.execute('UPDATE orders SET total = total + ?', [1]);
  await sdk.cache.set('sum', sum, 60);
  const kept = await sdk.cache.get('sum');
  await events.publish('shop.sum.known', { sum });
  let refused = '';
  try { await sdk.db.query("SELECT * FROM sqlite_master", []); } catch (error) { refused = error.message; }
  return { sum, changed, kept, refused };
};
"""


def test_a_data_source_is_registered_and_a_script_sees_its_own_rows_alone(
    context: BrowserContext, platform: Platform
) -> None:
    folder = platform.home / "data-sources" / platform.workspace
    folder.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as database:
        database.executescript(ORDERS)
    page = Watched(context).page
    page.goto(f"{platform.url}/settings")
    page.get_by_role("link", name="Add SQLite").click()
    page.get_by_label("Name").fill("default")
    page.get_by_label("File").fill("shop.db")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("main")).to_contain_text("shop.db")
    browser.keep(page, "journey-data-source")
    address = fill_in(page, platform, f"Asking {uuid.uuid4().hex[:6]}", ASKING)
    with platform.client() as api:
        answer = api.get("/scripts").json()["scripts"]
        slug = next(each["id"] for each in answer if address.endswith(each["uuid"]))
        call = {"mode": "sync", "trigger_type": "manual", "payload": {}}
        done = api.post(f"/scripts/{slug}/execute", json=call).json()
    assert done["status"] == "completed", done
    assert (done["result"]["sum"], done["result"]["changed"], done["result"]["kept"]) == (30, 2, 30)
    assert done["result"]["refused"].startswith("Unauthorized operation")
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as database:
        assert database.execute("SELECT total FROM orders ORDER BY id").fetchall() == [(11,), (21,), (999,)]
    page.goto(f"{platform.url}/events")
    expect(page.locator("main")).to_contain_text("shop.sum.known")


def test_the_console_works_by_keyboard_alone(chromium: Browser, platform: Platform) -> None:
    known = credentials(platform)
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.goto(f"{platform.url}/login")
    page.keyboard.type(known["email"])
    page.keyboard.press("Tab")
    page.keyboard.type(known["password"])
    page.keyboard.press("Enter")
    page.wait_for_url(f"{platform.url}/scripts")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="New script")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"{platform.url}/scripts/new")
    page.locator("#Name").focus()
    page.keyboard.type(f"By keyboard {uuid.uuid4().hex[:6]}")
    page.locator(".editor .monaco-editor").first.wait_for()
    for _ in range(2):
        page.keyboard.press("Tab")  # the description, then the editor
    page.keyboard.press("Control+m")  # so that Tab leaves it
    page.locator("#Type").focus()
    page.get_by_role("button", name="Create").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/scripts/[0-9a-f-]{36}$"))
    context.close()


# Every page, as it looks


PAGES = {
    "scripts": "/scripts", "no-match": "/scripts?search=nothing+like+it", "new": "/scripts/new?type=http",
    "script": "{script}", "edit": "{script}/edit", "script-executions": "{script}/executions",
    "execution": "{run}", "failed-execution": "{failed}", "versions": "{script}/versions",
    "version": "{script}/versions/1", "diff": "{script}/versions/2/diff?against=1", "schedule": "{script}/schedule",
    "secrets": "{script}/secrets", "executions": "/executions", "schedules": "/schedules", "events": "/events",
    "event": "/events/{event}", "dead-letters": "/dead-letters", "usage": "/usage", "members": "/members",
    "roles": "/members/roles", "new-role": "/members/roles/new", "role": "/members/roles/{role}",
    "new-data-source": "/settings/data-sources/new?kind=postgresql", "data-source": "/settings/data-sources/{source}",
    "invitation": "{invitation}", "api-keys": "/api-keys", "audit": "/audit", "settings": "/settings",
    "profile": "/profile", "workspaces": "/workspaces", "not-found": "/scripts/nothing-of-the-kind",
}  # fmt: skip


# Addresses that answer with something else than a page.
NO_PAGES = {"/", "/login", "/login/oidc", "/login/oidc/callback"}
NO_PAGE = re.compile(r"/(input|log|result|stream)$|/artifacts/|/versions/compare$")


def test_every_page_of_the_console_is_looked_at() -> None:
    app = Flask("addresses", static_folder=None)
    for blueprint, _guard in console.BLUEPRINTS:
        app.register_blueprint(blueprint)
    rules = {rule.rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())}
    names = {"script": "/scripts/x", "run": "/scripts/x/executions/x", "failed": "/scripts/x/executions/x",
             "event": "x", "role": "x", "source": "x", "invitation": "/invitations/x"}  # fmt: skip
    adapter = app.url_map.bind("localhost")
    looked_at = {
        adapter.match(path.format(**names).partition("?")[0], return_rule=True)[0].rule for path in PAGES.values()
    }
    assert {rule for rule in rules - NO_PAGES if not NO_PAGE.search(rule)} == looked_at


@pytest.fixture(scope="module")
def made(chromium: Browser, state: Any, platform: Platform) -> dict[str, str]:
    """What only the console makes."""
    context = chromium.new_context(storage_state=state)
    page = context.new_page()
    role, source = f"auditors-{uuid.uuid4().hex[:6]}", f"shown-{uuid.uuid4().hex[:6]}"
    page.goto(f"{platform.url}/members/roles/new")
    page.locator("[name=name]").fill(role)
    page.locator("[name=title]").fill("Auditors")
    page.locator("main form button[type=submit]").first.click()
    page.goto(f"{platform.url}/settings/data-sources/new?kind=sqlite")
    page.locator("[name=name]").fill(source)
    page.locator("[name=file]").fill("shown.db")
    page.locator("main form button[type=submit]").first.click()
    page.goto(f"{platform.url}/members")
    page.locator("#email").fill(f"shown-{uuid.uuid4().hex[:6]}@example.com")
    page.get_by_role("button", name="Invite").click()
    link = page.locator("#link").text_content()
    context.close()
    return {"role": role, "source": source, "invitation": urlsplit(link or "").path}


@pytest.fixture(scope="module")
def names(platform: Platform, made: dict[str, str]) -> dict[str, str]:
    """A script with something on each of its pages, and what else addresses name."""
    with platform.client() as api:
        slug = f"shown-{uuid.uuid4().hex[:6]}"
        stored = api.post("/scripts", json={
            "id": slug, "display_name": "Monthly invoices <of all customers>", "runtime": "nodejs20",
            "description": "Makes the invoices of a month and tells who waits for them.", **factories.upload(SOURCE),
            "schedule": "cron(0 3 1 * ? *)", "time_zone": "Europe/Berlin", "secrets": {"SMTP_PASSWORD": "hidden"},
            "triggers": {"events": [{"pattern": "shown.order.*"}]},
        }).raise_for_status().json()  # fmt: skip
        api.put(f"/scripts/{slug}", json=factories.upload(SOURCE + "// the second version\n")).raise_for_status()
        call = {"mode": "sync", "trigger_type": "manual", "payload": {"name": "Ada"}}
        run = api.post(f"/scripts/{slug}/execute", json=call).raise_for_status().json()["run_id"]
        api.put(f"/scripts/{slug}", json=factories.upload(FAILING)).raise_for_status()
        failed = api.post(f"/scripts/{slug}/execute", json=call).raise_for_status().json()["run_id"]
        event = api.post("/events", json={"name": "shown.order.paid", "data": {"id": 7}}).raise_for_status().json()
    script = f"/scripts/{stored['uuid']}"
    return {
        **made,
        "script": script, "run": f"{script}/executions/{run}", "failed": f"{script}/executions/{failed}",
        "event": event["event_id"],
    }  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_whole_at_every_width_and_for_everybody(
    chromium: Browser, state: Any, platform: Platform, names: dict[str, str], name: str
) -> None:
    address = platform.url + PAGES[name].format(**names)
    for scheme, widths in (("light", WIDTHS), ("dark", {"laptop": WIDTHS["laptop"]})):
        size = {"width": 1400, "height": 900}
        context = chromium.new_context(storage_state=state, color_scheme=scheme, viewport=size)
        watched = Watched(context)
        page = watched.page
        page.goto(address, wait_until="load")
        if page.locator("main textarea[data-editor]:not(dialog *, details:not([open]) *)").count():
            page.locator(".editor .monaco-editor").first.wait_for()
        for width, pixels in widths.items():
            page.set_viewport_size({"width": pixels, "height": 900})
            assert not browser.is_too_wide(page), f"{name} scrolls sideways at {pixels} px"
            browser.keep(page, f"{name}-{width}-{scheme}")
            if width in ("phone", "laptop"):
                assert browser.violations(page) == [], f"{name} at {pixels} px, {scheme}"
        expected = ["Failed to load resource: the server responded with a status of 404 (NOT FOUND)"]
        assert watched.complaints == (expected if name == "not-found" else [])
        assert watched.hosts() == {urlsplit(platform.url).netloc}
        context.close()


def test_the_sign_in_page_is_whole_as_well(chromium: Browser, platform: Platform) -> None:
    for scheme in ("light", "dark"):
        context = chromium.new_context(color_scheme=scheme, viewport={"width": 360, "height": 800})
        watched = Watched(context)
        watched.page.goto(f"{platform.url}/login")
        assert browser.violations(watched.page) == [] and not browser.is_too_wide(watched.page)
        browser.keep(watched.page, f"login-phone-{scheme}")
        assert watched.complaints == []
        context.close()
