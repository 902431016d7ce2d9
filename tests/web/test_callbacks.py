"""Who is to be told of the ends of runs, as the API takes and shows it."""

import base64
import random
from typing import Any

import pytest

from millrace import callbacks, runs
from millrace.callbacks import Taken, Try
from millrace.models import Callback, Run, Script
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.conftest import Client, error_of, fields_of

URL = "https://example.com/told"
SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()


@pytest.fixture
def hello(services: Services, alice: Tenant) -> Script:
    """Alice's script, of which she is told."""
    return factories.script(services, alice, callback_url=URL, callback_secret=SECRET)


def ended(services: Services, script: Script, *, tried: Try | None = None) -> Run:
    run = factories.finished(services, script)
    if tried is not None:
        callbacks.settle(services, [(taken, tried) for taken in take(services)], lambda: 0.0)
    return run


def take(services: Services) -> list[Taken]:
    return callbacks.take(services, callbacks.due(services, random.random))


def execute(client: Client, **fields: Any) -> Any:
    headers = fields.pop("headers", {})
    body = {"mode": "async", "trigger_type": "http", **fields}
    return client.post("/scripts/hello/execute", json=body, headers=headers)


def read(client: Client, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json


# Scripts


def test_a_secret_is_shown_once_by_whoever_had_it_made(client: Client) -> None:
    made = client.post("/scripts", json=factories.body("told", callback_url=URL))
    assert made.status_code == 201
    assert made.json is not None
    secret = made.json["callback_secret"]
    assert made.json["callback_url"] == URL
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 24
    changed = client.put("/scripts/told", json={"callback_url": "https://example.org/"})
    listed = read(client, "/scripts")["scripts"]
    for shown in (changed.json, read(client, "/scripts/told"), *listed):
        assert shown is not None and "callback_secret" not in shown
        assert shown["callback_url"] == "https://example.org/"
    for url in (None, URL):  # the secret stays, for those who know it
        shown = client.put("/scripts/told", json={"callback_url": url}).json
        assert shown is not None and (shown["callback_url"], "callback_secret" in shown) == (url, False)


def test_an_update_that_names_an_address_first_shows_the_secret(client: Client) -> None:
    assert client.post("/scripts", json=factories.body("plain")).json["callback_url"] is None  # type: ignore[index]
    shown = client.put("/scripts/plain", json={"callback_url": URL}).json
    assert shown is not None and shown["callback_secret"].startswith("whsec_")


def test_a_secret_of_ones_own_is_never_shown(client: Client) -> None:
    for answer in (
        client.post("/scripts", json=factories.body("own", callback_url=URL, callback_secret=SECRET)),
        client.put("/scripts/own", json={"callback_secret": SECRET.replace("a", "b")}),
        client.get("/scripts/own"),
    ):
        assert answer.status_code in (200, 201)
        assert "callback_secret" not in answer.json and SECRET not in answer.text  # type: ignore[operator]


HOSTILE = [
    5, True, [], {}, "", "example.com", "javascript:alert(1)", "file:///etc/passwd", "ftp://example.com/",
    "http://bücher.example/", "http://alice:secret@example.com/", "http://example.com/\n", "http://example.com/\x00",
    "http://example.com/ x", "http://[::1", "http://[fe80::1%eth0]/", "http://2130706433/", "http://example.com:0/",
    "https://example.com/" + "a" * 2000, "https://" + "a" * 500_000, "http://example.com/\ud800", "http://a\\@b.com/",
    "http://example.com/#x",
]  # fmt: skip


@pytest.mark.parametrize("url", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_address_is_400_and_makes_nothing(client: Client, hello: Script, url: Any) -> None:
    for answer in (
        client.post("/scripts", json=factories.body("other", callback_url=url)),
        client.put("/scripts/hello", json={"callback_url": url, "memory_mb": 512}),
        execute(client, callback_url=url),
    ):
        error = error_of(answer, 400, "VALIDATION_FAILED")
        assert fields_of(error) == {"callback_url"}
        assert "alice:secret" not in answer.text
        assert len(answer.data) < 2000
    row = Script.get()
    assert (Script.select().count(), row.callback_url, row.memory_mb, Run.select().count()) == (1, URL, 256, 0)


@pytest.mark.parametrize("url", ["http://[2001:db8::1]:8080/x", "http://10.0.0.1/", "https://xn--bcher-kva.example/?q"])
def test_an_address_is_taken_whose_reach_only_a_worker_knows(client: Client, hello: Script, url: str) -> None:
    assert client.put("/scripts/hello", json={"callback_url": url}).json["callback_url"] == url  # type: ignore[index]


@pytest.mark.parametrize("secret", [None, 5, "", "short", "whsec_not base64!", "é" * 20, "a" * 501, "whsec_\x00AAAA",
                                    "whsec_YQ==", "YWFhYWFhYWFhYWFhYWFh"])  # fmt: skip
def test_what_is_no_secret_is_400_and_is_not_repeated(client: Client, hello: Script, secret: Any) -> None:
    sealed = Script.get().callback_secret
    for answer in (
        client.post("/scripts", json=factories.body("other", callback_url=URL, callback_secret=secret)),
        client.put("/scripts/hello", json={"callback_secret": secret}),
    ):
        error = error_of(answer, 400, "VALIDATION_FAILED")
        assert fields_of(error) == {"callback_secret"}
        assert all(detail["value"] is None for detail in error["details"])
    assert (Script.select().count(), Script.get().callback_secret) == (1, sealed)


# Executions


def test_an_execution_says_who_is_told_of_it(client: Client, services: Services, hello: Script) -> None:
    answer = execute(client, callback_url="https://example.org/mine")
    assert answer.status_code == 202
    run = Run.get_by_id(answer.json["run_id"])
    runs.cancel(services, run)
    assert read(client, f"/scripts/hello/runs/{run.id}/callback")["url"] == "https://example.org/mine"


def test_an_execution_whose_callback_could_not_be_signed_is_400_and_runs_nothing(
    client: Client, services: Services, alice: Tenant
) -> None:
    factories.script(services, alice)
    error = error_of(execute(client, callback_url=URL), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"callback_url"} and "callback_secret" in error["message"]
    assert Run.select().count() == 0
    assert client.put("/scripts/hello", json={"callback_secret": SECRET}).status_code == 200
    assert execute(client, callback_url=URL).status_code == 202


def test_only_an_async_execution_names_who_is_told(client: Client, hello: Script) -> None:
    error = error_of(execute(client, mode="sync", callback_url=URL), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"callback_url"}


def test_the_address_is_a_part_of_what_an_idempotency_key_stands_for(client: Client, hello: Script) -> None:
    key = {"Idempotency-Key": "k"}
    first = execute(client, callback_url=URL, headers=key)
    assert execute(client, callback_url=URL, headers=key).json == first.json
    for fields in ({"callback_url": "https://example.org/"}, {}):
        error_of(execute(client, headers=key, **fields), 409, "CONFLICT")
    # A repeat is answered though the script could not sign any more.
    Script.update(callback_secret=None).execute()
    assert execute(client, callback_url=URL, headers=key).json == first.json
    assert Run.select().count() == 1


# Callbacks


def test_a_callback_shows_its_tries(client: Client, services: Services, hello: Script) -> None:
    run = ended(services, hello)
    path = f"/scripts/hello/runs/{run.id}/callback"
    fresh = read(client, path)
    assert (fresh["url"], fresh["status"], fresh["deliveries"]) == (URL, "pending", [])
    assert fresh["next_at"] is not None
    tried = Try(at=1_800_000_000_000, status=None, error="could not connect: ECONNREFUSED", duration_ms=12)
    callbacks.settle(services, [(take(services)[0], tried)], lambda: 0.0)
    shown = read(client, path)
    assert shown["status"] == "pending" and shown["next_at"] > fresh["next_at"]
    assert shown["deliveries"] == [
        {"at": "2027-01-15T08:00:00.000Z", "status": None, "error": "could not connect: ECONNREFUSED",
         "duration_ms": 12}
    ]  # fmt: skip


def test_one_that_is_over_is_told_once_more(client: Client, services: Services, hello: Script) -> None:
    run = ended(services, hello)
    path = f"/scripts/hello/runs/{run.id}/callback"
    error_of(client.post(f"{path}/redeliver"), 409, "CONFLICT")
    tried = Try(at=1, status=200, error=None, duration_ms=1)
    callbacks.settle(services, [(take(services)[0], tried)], lambda: 0.0)
    assert read(client, path)["next_at"] is None
    again = client.post(f"{path}/redeliver")
    assert again.status_code == 202
    assert again.json == read(client, path)
    assert again.json is not None
    assert (again.json["status"], len(again.json["deliveries"])) == ("pending", 1)
    assert len(take(services)) == 1


def test_a_run_without_one_is_404(client: Client, services: Services, alice: Tenant) -> None:
    script = factories.script(services, alice, "quiet")
    for run in (factories.finished(services, script), factories.run(services, script)):
        error_of(client.get(f"/scripts/quiet/runs/{run.id}/callback"), 404, "NOT_FOUND")
        error_of(client.post(f"/scripts/quiet/runs/{run.id}/callback/redeliver"), 404, "NOT_FOUND")


def test_what_is_anothers_is_not_there(
    client: Client, stranger: Client, services: Services, hello: Script, bob: Tenant
) -> None:
    run = ended(services, hello, tried=Try(at=1, status=200, error=None, duration_ms=1))
    factories.script(services, bob, "hello")
    factories.script(services, Tenant("alice", ""), "other")
    for who, path in (
        (stranger, f"/scripts/hello/runs/{run.id}"), (client, f"/scripts/other/runs/{run.id}"),
        (client, "/scripts/hello/runs/nothing"), (client, "/scripts/hello/runs/%00"),
        (client, f"/scripts/hello/runs/{'x' * 5000}"), (client, f"/scripts/nobody/runs/{run.id}"),
    ):  # fmt: skip
        error_of(who.get(f"{path}/callback"), 404, "NOT_FOUND")
        error_of(who.post(f"{path}/callback/redeliver"), 404, "NOT_FOUND")
    assert [row.status for row in Callback.select()] == ["delivered"]
