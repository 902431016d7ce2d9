"""Every example does what its description says, on a whole Millrace."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.conftest import Outside
from tests.platform import ROOT, Platform, wait_until

EXAMPLES = ROOT / "examples"


def push(platform: Platform, name: str, secrets: dict[str, str] | None = None, tmp_path: Path | None = None) -> None:
    arguments = ["scripts", "push", str(EXAMPLES / name)]
    if secrets is not None and tmp_path is not None:
        env_file = tmp_path / "secrets.env"
        env_file.write_text("".join(f"{key}={value}\n" for key, value in secrets.items()))
        arguments += ["--secrets", str(env_file)]
    done = platform.command(*arguments)
    assert done.returncode == 0, done.stderr


def run(platform: Platform, name: str, payload: Any) -> dict[str, Any]:
    with platform.client() as client:
        answer = client.post(
            f"/scripts/{name}/execute", json={"mode": "sync", "trigger_type": "manual", "payload": payload}
        )
    assert answer.status_code == 200, answer.text
    outcome: dict[str, Any] = answer.json()
    assert outcome["status"] == "completed", outcome
    result: dict[str, Any] = outcome["result"]
    return result


def latest(platform: Platform, name: str) -> dict[str, Any] | None:
    with platform.client() as client:
        listed = client.get(f"/scripts/{name}/runs", params={"page_size": 1}).json()["runs"]
    return listed[0] if listed else None


def await_run(platform: Platform, name: str) -> dict[str, Any]:
    wait_until(lambda: (found := latest(platform, name)) is not None and found["completed_at"] is not None, 90)
    found = latest(platform, name)
    assert found is not None
    return found


def test_every_example_has_a_test() -> None:
    text = Path(__file__).read_text()
    names = [each.name for each in EXAMPLES.iterdir() if each.is_dir()]
    assert len(names) >= 8
    assert [name for name in names if f'"{name}"' not in text] == []


def test_hello_greets_whoever_the_payload_names(platform: Platform) -> None:
    push(platform, "hello")
    assert run(platform, "hello", {"name": "Ada"})["message"] == "Hello, Ada!"


def test_weather_calls_the_service_with_its_secret(platform: Platform, outside: Outside, tmp_path: Path) -> None:
    push(platform, "weather", {"WEATHER_API_KEY": "sunshine-key"}, tmp_path)
    result = run(platform, "weather", {"city": "Tashkent", "service": outside.url})
    assert result == {"city": "Tashkent", "temp_f": 61, "condition": "Sunny"}
    asked = [each for each in outside.seen if each["path"] == "/v1/current.json"]
    assert asked[-1]["query"]["key"] == ["sunshine-key"]


def test_daily_sync_reads_every_page_and_has_a_schedule(
    platform: Platform, outside: Outside, tmp_path: Path
) -> None:
    push(platform, "daily-sync", {"SMARTSUITE_API_KEY": "suite-key-1", "SMARTSUITE_ACCOUNT_ID": "spyv9knb"}, tmp_path)
    result = run(platform, "daily-sync", {"service": outside.url, "pageSize": 10})
    assert result == {"partial": False, "records": 25, "open": 13}
    with platform.client() as client:
        schedule = client.get("/scripts/daily-sync/schedule").json()
    assert schedule["expression"] == "daily"
    assert all(each.endswith("T00:00:00Z") or each.endswith("T00:00:00.000Z") for each in schedule["next"])


def test_batched_import_sends_every_item_in_batches(platform: Platform, outside: Outside, tmp_path: Path) -> None:
    push(platform, "batched-import", {"DESTINATION_TOKEN": "destination-1"}, tmp_path)
    before = len(outside.seen)
    result = run(
        platform, "batched-import", {"source": f"{outside.url}/posts", "destination": f"{outside.url}/import"}
    )
    assert (result["totalItems"], result["successfulBatches"], result["failedBatches"]) == (60, 3, 0)
    sent = [each for each in outside.seen[before:] if each["path"] == "/import"]
    assert [len(each["body"]["items"]) for each in sent] == [25, 25, 10]


def test_report_keeps_a_file_with_the_run(platform: Platform) -> None:
    push(platform, "report")
    rows = [{"kind": "a", "amount": 2}, {"kind": "b", "amount": 5}, {"kind": "a", "amount": 3}]
    assert run(platform, "report", {"rows": rows, "day": "2026-11-22"}) == {"day": "2026-11-22", "kinds": 2}
    found = latest(platform, "report")
    assert found is not None
    with platform.client() as client:
        artifacts = client.get(f"/scripts/report/runs/{found['id']}/artifacts").json()["artifacts"]
    assert [(each["name"], each["content_type"]) for each in artifacts] == [("report.csv", "text/csv")]
    assert httpx.get(artifacts[0]["url"]).text == "kind,amount\na,5\nb,5\n"


def test_heartbeat_is_started_by_its_schedule(platform: Platform) -> None:
    started = await_run(platform, "heartbeat")
    assert started["trigger_type"] == "scheduled"
    assert started["result_summary"]["startedBy"] == "schedule"
    with platform.client() as client:
        firings = client.get("/scripts/heartbeat/schedule").json()["firings"]
    due_at = {each["run_id"]: each["due_at"] for each in firings}
    assert due_at[started["id"]] == started["result_summary"]["dueAt"]


def test_order_watcher_hears_of_large_orders_alone_and_publishes(platform: Platform) -> None:
    push(platform, "order-watcher")
    for total in (50, 150):
        done = platform.command("events", "publish", "order.created", json.dumps({"id": total, "total": total}))
        assert done.returncode == 0, done.stderr
    started = await_run(platform, "order-watcher")
    assert started["result_summary"]["order"] == 150
    with platform.client() as client:
        published = client.get(f"/events/{started['result_summary']['published']}").json()
        runs = client.get("/scripts/order-watcher/runs").json()["runs"]
    assert (published["name"], published["data"]) == ("review.requested", {"order": 150, "total": 150})
    assert len(runs) == 1


@pytest.mark.parametrize("signed", [True, False])
def test_github_hook_answers_signed_deliveries_alone(platform: Platform, signed: bool) -> None:
    push(platform, "github-hook")
    body = json.dumps({"zen": "Keep it logically awesome."}).encode()
    signature = hmac.new(b"change-me-please", body, hashlib.sha256).hexdigest() if signed else "0" * 64
    answer = httpx.post(
        f"{platform.url}/hooks/{platform.workspace}/github", content=body,
        headers={"Content-Type": "application/json", "X-GitHub-Event": "ping", "X-GitHub-Delivery": f"d-{signed}",
                 "X-Hub-Signature-256": f"sha256={signature}"},
    )
    assert answer.status_code == (200 if signed else 401)
    if signed:
        assert answer.json() == {"pong": "Keep it logically awesome."}


def test_summary_runs_in_python_and_keeps_a_table(platform: Platform) -> None:
    push(platform, "summary")
    result = run(platform, "summary", {"rows": [{"name": "a", "value": 1}, {"name": "b", "value": 5}]})
    assert result == {"count": 2, "sum": 6.0, "mean": 3.0, "median": 3.0}
    found = latest(platform, "summary")
    assert found is not None
    with platform.client() as client:
        artifacts = client.get(f"/scripts/summary/runs/{found['id']}/artifacts").json()["artifacts"]
    assert [each["name"] for each in artifacts] == ["rows.csv"]
    assert httpx.get(artifacts[0]["url"]).text.split() == ["name,value", "a,1", "b,5"]


def test_currency_rates_asks_once_and_remembers(platform: Platform, outside: Outside) -> None:
    push(platform, "currency-rates")
    payload = {"service": outside.url, "currency": "CHF"}
    first, second = run(platform, "currency-rates", payload), run(platform, "currency-rates", payload)
    assert first == {"currency": "CHF", "rate": 1.08, "from": "service"}
    assert second == {"currency": "CHF", "rate": 1.08, "from": "cache"}
    assert [each["query"] for each in outside.seen if each["path"] == "/rates"] == [{"currency": ["CHF"]}]
    with platform.client() as client:
        events = client.get("/events").json()["events"]
    assert [each["source"] for each in events if each["name"] == "rates.rate.changed"] == ["currency-rates"]
