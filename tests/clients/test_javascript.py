"""The JavaScript client, on the Node that scripts run on, against the real application."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from millrace import runs, scripts
from millrace.models import Event, Run, Script
from millrace.services import Services
from tests import factories
from tests.clients.conftest import Line, refusing
from tests.factories import Tenant

ROOT = Path(__file__).parents[2]
NODE = ROOT / "sandbox/runtimes/node/node_modules/node20/bin/node"
PACKAGE = ROOT / "clients/javascript"


@pytest.fixture
def script(services: Services, alice: Tenant) -> Script:
    """Alice's script."""
    return factories.script(services, alice, "adder", type="embedded")


def use(url: str, tenant: Tenant, *steps: list[Any], timeout_ms: int = 30_000) -> list[dict[str, Any]]:
    """What became of these steps."""
    options = {"url": f"{url}/", "workspace": tenant.id, "apiKey": tenant.api_key, "timeoutMs": timeout_ms}
    done = subprocess.run(
        [str(NODE), str(Path(__file__).with_name("calls.mjs")), json.dumps(options), json.dumps(steps)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def test_calls_give_what_the_script_returned(services: Services, script: Script, alice: Tenant, line: Line) -> None:
    with factories.worker(services):
        first, parsed, unwrapped, empty = use(
            line.url, alice, ["call", "adder", {"n": 1, "text": "é"}], ["parsed", "adder", {"n": 2}],
            ["unwrap", "adder", {"n": 3}], ["unwrap", "adder"],
        )  # fmt: skip
    run = Run.select().order_by(Run.created_at).first()
    assert first["value"] == {
        "runId": run.id, "status": "completed", "ok": True, "value": {"n": 1, "text": "é"}, "error": None,
        "durationMs": 3, "more": {},
    }  # fmt: skip
    assert (run.trigger, run.mode) == ("api", "sync")
    assert (parsed["value"], unwrapped["value"], empty["value"]) == ("2.0", {"n": 3}, {})


def test_a_script_that_fails_is_a_result_with_its_code_and_stack(
    services: Services, script: Script, alice: Tenant, line: Line
) -> None:
    def fails(_run: Run, _payload: Any) -> runs.Ending:
        return runs.Ending("failed", 7, error="no such order", error_code="OrderError", error_stack="at main.js:3:7")

    with factories.worker(services, fails):
        result, thrown = use(line.url, alice, ["call", "adder"], ["unwrap", "adder"])
    assert (result["value"]["status"], result["value"]["ok"], result["value"]["value"]) == ("failed", False, None)
    assert result["value"]["error"] == {"code": "OrderError", "message": "no such order", "stack": "at main.js:3:7"}
    error = thrown["error"]
    assert (error["name"], error["message"], error["ours"]) == ("ScriptFailed", "OrderError: no such order", True)
    assert (error["code"], error["scriptStack"], error["status"]) == ("OrderError", "at main.js:3:7", "failed")


def test_calls_whose_answers_are_lost_are_sent_again_and_run_once(
    services: Services, script: Script, alice: Tenant, line: Line
) -> None:
    line.lose = 2
    with factories.worker(services):
        (called,) = use(line.url, alice, ["unwrap", "adder", {"n": 1}])
        line.lose = 1
        submitted, result, again = use(
            line.url, alice, ["submit", "adder", {"n": 2}, {"expiresAfter": 60}], ["result"], ["wait"]
        )
    assert called["value"] == {"n": 1} and result["value"] == {"n": 2}
    assert again["value"]["runId"] == submitted["value"]["id"] and submitted["value"]["frozen"]
    assert Run.select().count() == 2
    assert Run.get_by_id(submitted["value"]["id"]).expires_at is not None


def test_an_event_that_may_have_been_stored_is_not_sent_again(alice: Tenant, line: Line) -> None:
    line.lose = 1
    lost, sent = use(line.url, alice, ["publish", "a.b", {"n": 1}], ["publish", "a.b", {"n": 2}, {"source": "shop"}])
    assert lost["error"]["name"] == "Unreachable" and line.requests == 2
    assert [(each.data["n"], each.source) for each in Event.select().order_by(Event.created_at, Event.id)] == [
        (1, None), (2, "shop")
    ]  # fmt: skip
    assert Event.get_by_id(sent["value"])


def test_refusals_say_why_and_nobody_is_asked_for_ever(
    services: Services, script: Script, alice: Tenant, line: Line
) -> None:
    (missing,) = use(line.url, alice, ["call", "../adder"])
    assert missing["error"]["name"] == "Refused"
    assert (missing["error"]["status"], missing["error"]["code"]) == (404, "NOT_FOUND")
    scripts.change_status(services, script, "paused", "x")
    services.database.close()
    (paused,) = use(line.url, alice, ["call", "adder"])
    assert paused["error"]["code"] == "BUSINESS_RULE_VIOLATION"
    with refusing() as url:
        (away,) = use(url, alice, ["call", "adder"], timeout_ms=1_000)
    assert away["error"]["name"] == "Unreachable" and "ECONNREFUSED" in away["error"]["message"]


def test_a_call_that_is_not_over_in_time_is_found_again_by_its_key(
    services: Services, script: Script, alice: Tenant, line: Line
) -> None:
    late, submitted, later, stopped = use(
        line.url, alice, ["call", "adder", {"n": 1}, {"timeoutMs": 300}], ["submit", "adder"],
        ["wait", {"timeoutMs": 200}], ["abort", "adder"],
    )  # fmt: skip
    assert (late["error"]["name"], late["error"]["runId"]) == ("NotOver", None)
    assert (later["error"]["name"], later["error"]["runId"]) == ("NotOver", submitted["value"]["id"])
    assert stopped["error"]["message"] == "enough"
    key = late["error"]["idempotencyKey"]
    with factories.worker(services):
        found, other = use(
            line.url, alice, ["unwrap", "adder", {"n": 1}, {"idempotencyKey": key}],
            ["call", "adder", {"n": 2}, {"idempotencyKey": key}],
        )  # fmt: skip
    assert found["value"] == {"n": 1}
    assert other["error"]["code"] == "CONFLICT"


def test_the_package_has_what_it_names_and_depends_on_nothing() -> None:
    package = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))
    assert package["name"] == "@millrace/client"
    assert not {"dependencies", "devDependencies", "scripts"} & set(package)
    named = {*package["files"], package["main"].removeprefix("./"), package["types"].removeprefix("./")}
    assert named <= {path.name for path in PACKAGE.iterdir()}
    source = (PACKAGE / "index.js").read_text(encoding="utf-8")
    assert "import " not in source and "require(" not in source
