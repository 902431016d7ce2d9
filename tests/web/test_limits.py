"""What a workspace may read of its limits and of its audit trail."""

from typing import Any

import pytest

from millrace import audit, limits
from millrace.models import Script
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.conftest import Client, error_of, fields_of


def read(client: Client, path: str) -> dict[str, Any]:
    response = client.get(path)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json  # type: ignore[assignment]
    return found


def test_limits_and_usage_are_the_workspaces_own(
    client: Client, stranger: Client, services: Services, hello: Script, alice: Tenant
) -> None:
    limits.change(services, alice.id, {"runs_per_day": 5, "retention_days.logs": None})
    factories.claim(services, factories.run(services, hello))
    factories.run(services, hello)
    shown = read(client, "/limits")
    assert shown["limits"] == {
        "max_concurrent_runs": None, "runs_per_day": 5, "stored_mb": None,
        "retention_days": {"runs": 90, "logs": None, "events": 30, "artifacts": 90, "dead_letters": 30},
    }  # fmt: skip
    assert shown["usage"] == {"runs_today": 2, "running": 1, "stored_bytes": None, "measured_at": None}
    theirs = read(stranger, "/limits")
    assert theirs["limits"]["runs_per_day"] is None and theirs["usage"]["runs_today"] == 0


def test_nobody_sets_limits_by_the_api(client: Client) -> None:
    for method in ("put", "post", "patch", "delete"):
        error_of(getattr(client, method)("/limits", json={"runs_per_day": 5}), 405, "METHOD_NOT_ALLOWED")


def test_a_run_over_a_quota_is_429_and_says_when_to_come_again(
    client: Client, services: Services, hello: Script, alice: Tenant
) -> None:
    limits.change(services, alice.id, {"runs_per_day": 1})
    call = {"mode": "async", "trigger_type": "manual", "payload": {}, "caller_ip": "10.0.0.1"}
    assert client.post("/scripts/hello/execute", json=call).status_code == 202
    response = client.post("/scripts/hello/execute", json=call)
    error = error_of(response, 429, "RATE_LIMITED")
    assert "1 runs today" in error["message"] and "runs_per_day" in error["message"]
    assert 0 < int(response.headers["Retry-After"]) <= 24 * 3600


def test_the_audit_trail_is_read_in_pages_newest_first(
    client: Client, stranger: Client, services: Services, alice: Tenant, bob: Tenant
) -> None:
    for number in range(5):
        audit.record(services, alice.id, "operator", "test.done", str(number), {"n": number})
        audit.record(services, None, "sweeper", "test.done", "everybody's")
    seen, cursor = [], ""
    while True:
        page = read(client, f"/audit?page_size=2{cursor}")
        seen += page["audit"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert [each["subject"] for each in seen] == ["4", "3", "2", "1", "0"]
    assert set(seen[0]) == {"time", "actor", "action", "subject", "details"}
    assert (seen[0]["actor"], seen[0]["action"], seen[0]["details"]) == ("operator", "test.done", {"n": 4})
    assert read(stranger, "/audit") == {"audit": [], "next_cursor": None}
    error_of(stranger.get(f"/audit?{cursor[1:]}"), 400, "VALIDATION_FAILED")  # a cursor of another's list


@pytest.mark.parametrize("query", ["page_size=0", "page_size=101", "page_size=x", "cursor=x", "cursor=", "since=1"])
def test_a_wrong_question_is_400(client: Client, query: str) -> None:
    error = error_of(client.get(f"/audit?{query}"), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {query.partition("=")[0]}
