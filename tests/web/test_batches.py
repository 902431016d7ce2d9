"""Batches through the API."""

from typing import Any

import pytest

from millrace import logs
from millrace.models import Batch, Run, Script
from millrace.models.run import FAILED
from millrace.services import Services
from tests import factories
from tests.web.conftest import Client, error_of, fields_of

URL = "/scripts/hello/batches"


def started(client: Client, count: int = 3, **values: Any) -> str:
    response = client.post(URL, json={"items": [{"n": number} for number in range(count)], **values})
    assert response.status_code == 202, response.text
    assert response.json is not None and response.json["total"] == count
    return str(response.json["batch_id"])


def test_a_batch_is_accepted_and_says_how_far_it_has_come(client: Client, hello: Script, services: Services) -> None:
    batch_id = started(client, 3, concurrency=2)
    shown = client.get(f"{URL}/{batch_id}").json
    stored = Batch.get_by_id(batch_id)
    assert shown == {
        "id": batch_id, "script_id": "hello", "total": 3, "concurrency": 2, "status": "running",
        "created_at": logs.timestamp(stored.created_at), "completed_at": None, "cancelled_at": None,
        "counts": {"pending": 3, "running": 0, "completed": 0, "failed": 0, "timed_out": 0, "cancelled": 0},
    }  # fmt: skip
    first, second, third = Run.select().where(Run.batch_id == batch_id).order_by(Run.batch_index)
    for run in (first, second):
        factories.claim(services, run)
        factories.finish(services, run)
    factories.claim(services, third)
    last = factories.finish(services, third, FAILED, error="x", error_code="SCRIPT_ERROR")
    shown = client.get(f"{URL}/{batch_id}").json
    assert shown is not None
    assert (shown["status"], shown["counts"]["completed"], shown["counts"]["failed"]) == ("completed", 2, 1)
    assert shown["completed_at"] == logs.timestamp(last.completed_at)


def test_its_runs_are_listed_in_the_order_of_the_items(client: Client, hello: Script) -> None:
    batch_id = started(client, 5, concurrency=1)
    page = client.get(f"{URL}/{batch_id}/runs?page_size=3").json
    assert page is not None
    assert [(run["batch_id"], run["batch_index"]) for run in page["runs"]] == [(batch_id, n) for n in range(3)]
    assert page["runs"][2]["waiting_reason"] == "1 of 1 under way for its batch"
    rest = client.get(f"{URL}/{batch_id}/runs?page_size=3&cursor={page['next_cursor']}").json
    assert rest is not None and [run["batch_index"] for run in rest["runs"]] == [3, 4] and rest["next_cursor"] is None
    assert client.get(f"{URL}/{batch_id}/runs?status=completed").json["runs"] == []  # type: ignore[index]
    one = client.get(f"/scripts/hello/runs/{rest['runs'][1]['id']}").json
    assert one is not None and (one["trigger_type"], one["waiting_place"]) == ("batch", 4)


def test_batches_are_listed_newest_first(client: Client, hello: Script) -> None:
    made = [started(client) for _ in range(3)]
    page = client.get(f"{URL}?page_size=2").json
    assert page is not None and [batch["id"] for batch in page["batches"]] == [made[2], made[1]]
    rest = client.get(f"{URL}?page_size=2&cursor={page['next_cursor']}").json
    assert rest is not None and [batch["id"] for batch in rest["batches"]] == [made[0]]


def test_cancelling_ends_what_waits(client: Client, hello: Script) -> None:
    batch_id = started(client, 4, concurrency=1)
    response = client.post(f"{URL}/{batch_id}/cancel")
    assert response.status_code == 202
    assert response.json is not None and (response.json["status"], response.json["counts"]["cancelled"]) == (
        "cancelled", 4
    )  # fmt: skip
    assert client.post(f"{URL}/{batch_id}/cancel").status_code == 409


def test_a_repeated_request_answers_for_the_first(client: Client, hello: Script) -> None:
    headers = {"Idempotency-Key": "k"}
    first = client.post(URL, json={"items": [{}, {}]}, headers=headers)
    again = client.post(URL, json={"items": [{}, {}]}, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json == again.json and again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert client.post(URL, json={"items": [{}]}, headers=headers).status_code == 409
    other = {"mode": "async", "trigger_type": "http", "payload": {}}
    assert client.post("/scripts/hello/execute", json=other, headers=headers).status_code == 409
    assert Run.select().count() == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "items"), ({"items": []}, "items"), ({"items": {}}, "items"), ({"items": "ab"}, "items"),
        ({"items": [{}, 5]}, "items[1]"), ({"items": [None]}, "items[0]"),
        ({"items": [{}], "concurrency": 0}, "concurrency"),
        ({"items": [{}], "concurrency": 1001}, "concurrency"), ({"items": [{}], "concurrency": True}, "concurrency"),
        ({"items": [{}], "concurrency": "5"}, "concurrency"), ({"items": [{}], "concurrency": None}, "concurrency"),
        ({"items": [{}], "priority": 86_401}, "priority"), ({"items": [{}], "expires_after": 0}, "expires_after"),
        ({"items": [{}], "more": 1}, "more"), ({"items": [{}] * 10_001}, "items"),
    ],
)  # fmt: skip
def test_a_bad_batch_is_refused_with_the_field_and_starts_nothing(
    client: Client, hello: Script, body: dict[str, Any], field: str
) -> None:
    response = client.post(URL, json=body)
    assert fields_of(error_of(response, 400, "VALIDATION_FAILED")) == {field}
    assert (Run.select().count(), Batch.select().count()) == (0, 0)


@pytest.mark.parametrize("path", ["", "/runs", "/cancel"])
@pytest.mark.parametrize("batch_id", ["00000000-0000-4000-8000-000000000000", "x", "%00", "\u0645"])
def test_a_batch_that_is_not_there_is_404(client: Client, hello: Script, path: str, batch_id: str) -> None:
    method = client.post if path == "/cancel" else client.get
    assert method(f"{URL}/{batch_id}{path}").status_code == 404


def test_nobody_sees_or_cancels_the_batch_of_another_tenant_or_script(
    client: Client, stranger: Client, hello: Script
) -> None:
    stranger.post("/scripts", json=factories.body())  # a script of the same id
    client.post("/scripts", json=factories.body("other"))
    batch_id = started(client)
    for path, method in (("", "get"), ("/runs", "get"), ("/cancel", "post")):
        assert getattr(stranger, method)(f"{URL}/{batch_id}{path}").status_code == 404
        assert getattr(client, method)(f"/scripts/other/batches/{batch_id}{path}").status_code == 404
    assert client.get(f"{URL}/{batch_id}").json["status"] == "running"  # type: ignore[index]


def test_an_inactive_script_starts_no_batch(client: Client, hello: Script) -> None:
    client.put("/scripts/hello", json={"status": "inactive"})
    assert client.post(URL, json={"items": [{}]}).status_code == 422


def test_the_answer_to_a_bad_batch_is_short_however_long_the_batch_is(client: Client, hello: Script) -> None:
    for items, fields in (([5] * 10_001, {"items"}), ([5] * 10_000, {f"items[{n}]" for n in range(100)})):
        response = client.post(URL, json={"items": items})
        assert fields_of(error_of(response, 400, "VALIDATION_FAILED")) == fields
        assert len(response.data) < 64 * 1024
