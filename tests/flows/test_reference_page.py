"""The reference page in a real Chromium."""

import os
import shutil
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

from tests.platform import Platform

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Without these a browser asks for its maker's servers at every start.
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no Chromium on this machine")
def test_the_reference_shows_every_operation_and_asks_nobody_else(platform: Platform) -> None:
    asked: list[str] = []
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(f"{platform.url}/docs")
        page.wait_for_selector(".opblock")
        shown = page.locator(".opblock").count()
        browser.close()
    with platform.client() as client:
        document = client.get(f"{platform.url}/openapi.json").json()
    methods = {"get", "post", "put", "delete", "patch"}
    assert shown == sum(len(methods & path.keys()) for path in document["paths"].values())
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {urlsplit(platform.url).netloc}
    assert complaints == []
