"""What console.js promises, in a real Chromium, on the application in this process."""

import os
import threading
from collections.abc import Iterator

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from werkzeug.serving import make_server

from millrace import sessions
from millrace.models import Run, Script
from millrace.services import Services
from tests.factories import Tenant
from tests.flows import browser as browsers
from tests.web.console.conftest import member

if browsers.CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("no Chromium is installed", allow_module_level=True)


@pytest.fixture
def page(app: Flask, services: Services, alice: Tenant) -> Iterator[Page]:
    """A page of who may do everything in Alice's workspace, with a server of its own."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with services.database.connection_context():
        token = sessions.begin(services, member(services, alice.id, "org_admin"), alice.id, "a browser")
    with app.test_request_context():
        signer = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
        cookie = signer.dumps({"token": token})
    with browsers.chromium() as chromium:
        context = chromium.new_context(base_url=f"http://localhost:{server.server_port}")
        context.add_cookies([{"name": "millrace_session", "value": cookie, "domain": "localhost", "path": "/"}])
        yield context.new_page()
    server.shutdown()
    thread.join()


def runs(services: Services) -> int:
    with services.database.connection_context():
        return int(Run.select().count())


def test_a_form_goes_out_once_however_often_it_is_pressed(page: Page) -> None:
    page.goto("/api-keys")
    page.fill("#name", "pressed twice")
    went_out = page.evaluate("""() => {
        let count = 0;
        window.addEventListener('submit', (event) => {  // the last who hears of it
            if (!event.defaultPrevented) count += 1;
            event.preventDefault();
        });
        const form = document.querySelector('form[action="/api-keys"]');
        form.requestSubmit();
        form.requestSubmit();
        return count;
    }""")
    assert went_out == 1


def test_a_double_click_on_execute_starts_one_execution(page: Page, services: Services, hello: Script) -> None:
    page.goto(f"/scripts/{hello.uuid}")
    page.click(f'[data-open="#execute-{hello.uuid}"]')
    page.evaluate("""(id) => {
        const form = document.querySelector(`#execute-${id} form`);
        const button = form.querySelector('[type=submit]');
        button.click(); button.click();
    }""", hello.uuid)
    page.wait_for_selector("#executions tr[id^=execution-]")
    page.wait_for_selector(f"#execute-{hello.uuid}", state="hidden")
    page.reload()
    assert runs(services) == 1
    # It can be started again, from the same page.
    page.click(f'[data-open="#execute-{hello.uuid}"]')
    page.click(f"#execute-{hello.uuid} [type=submit]")
    expect(page.locator("#executions tr[id^=execution-]")).to_have_count(2, timeout=20_000)


def test_a_key_is_copied_on_a_page_of_plain_http(page: Page) -> None:
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.goto("/api-keys")
    page.fill("#name", "to copy")
    page.click('form[action="/api-keys"] [type=submit]')
    page.click('[data-copy="#key"]')
    page.wait_for_selector(".toast.info")
    page.locator("#name").fill("")
    page.locator("#name").press("Control+v")
    assert page.input_value("#name").startswith("mr_")


def test_a_question_is_asked_each_time_and_escape_means_no(page: Page, services: Services, hello: Script) -> None:
    page.goto(f"/scripts/{hello.uuid}")
    delete = page.locator("form[data-confirm] button.danger")
    for _ in range(2):
        delete.click()
        page.wait_for_selector("#confirm[open]")
        page.keyboard.press("Escape")
        page.wait_for_selector("#confirm", state="hidden")
        assert page.evaluate("document.activeElement.textContent").strip() == "Delete"
    delete.click()
    page.click("#confirm [value=yes]")
    page.wait_for_url("**/scripts")
    with services.database.connection_context():
        assert not Script.select().where(Script.uuid == hello.uuid, Script.status != "deleted").exists()
