import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from millrace import observability
from millrace.models import Script
from tests.factories import Tenant
from tests.web.conftest import Client


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that gives the requests logged since."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    observability.set_up_logging("web", "info")
    yield lambda: [line for text in written.getvalue().splitlines() if (line := json.loads(text))["event"] == "request"]
    root.handlers[:], root.level = before


def test_a_request_is_one_line_with_who_and_what(client: Client, hello: Script, alice: Tenant, lines: Any) -> None:
    response = client.post("/scripts/hello/execute", json={"mode": "async", "trigger_type": "manual"})
    (line,) = lines()
    assert response.json is not None
    assert line["process"] == "web"
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/scripting/scripts/hello/execute", "202")
    assert (line["workspace"], line["script"], line["run"]) == (alice.id, "hello", response.json["run_id"])
    assert line["request"] == response.headers["X-Request-Id"]
    assert float(line["ms"]) > 0


def test_no_key_and_no_secret_gets_into_the_log(client: Client, alice: Tenant, hello: Script, lines: Any) -> None:
    client.put("/scripts/hello", json={"secrets": {"A": "sk-plain"}})
    client.get("/scripts", headers={"Authorization": f"ApiKey {alice.api_key}x"})
    logged = json.dumps(lines())
    assert "sk-plain" not in logged
    assert alice.api_key not in logged


def test_one_requests_words_do_not_stick_to_the_next(client: Client, hello: Script, lines: Any) -> None:
    client.get("/scripts/hello")
    client.get("/nothing")
    first, second = lines()
    assert first["script"] == "hello"
    assert "script" not in second
    assert "workspace" not in second
