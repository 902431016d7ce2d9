import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask

from millrace.dispatch import RedisQueue, WakingBroker
from millrace.models import Run, Script
from millrace.services import Services
from tests import factories
from tests.web.conftest import Client
from web import probes
from web.app import create_app


def test_a_live_process_says_so_without_asking_anybody(services: Services) -> None:
    database = SimpleNamespace(is_closed=lambda: True)  # and nothing else
    app = create_app(replace(services, database=database, objects=None, queue=None))  # type: ignore[arg-type]
    response = app.test_client().get("/health/live")
    assert (response.status_code, response.json) == (200, {"status": "ok"})


def test_a_ready_process_shows_each_check(app: Flask) -> None:
    response = app.test_client().get("/health/ready")
    assert response.status_code == 200
    assert response.json is not None
    assert response.json["status"] == "ready"
    assert set(response.json["checks"]) == {"database", "queue", "objects", "workers"}
    assert all(check["ok"] for check in response.json["checks"].values())


def test_a_store_that_fails_is_named_with_503(app: Flask, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.objects, "access_key", "wrong")
    response = app.test_client().get("/health/ready")
    assert response.status_code == 503
    assert response.json is not None
    assert {name for name, check in response.json["checks"].items() if not check["ok"]} == {"objects"}


def test_a_store_that_hangs_is_named_in_time_and_asked_once(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "PATIENCE_S", 0.2)
    released = threading.Event()
    asked: list[int] = []

    class Hanging:
        def depth(self) -> int:
            asked.append(1)
            released.wait(60)
            return 0

    client = create_app(replace(services, queue=Hanging())).test_client()  # type: ignore[arg-type]
    began = time.monotonic()
    for _ in range(3):
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert response.json is not None
        assert response.json["checks"]["queue"] == {"ok": False, "detail": "no answer within 0.2 s"}
    released.set()
    assert len(asked) == 1
    assert time.monotonic() - began < 30


def test_runs_that_wait_long_for_a_worker_are_shown_but_do_not_count(
    app: Flask, services: Services, hello: Script
) -> None:
    run = factories.run(services, hello)
    Run.update(sent_at=services.clock() - 100_000).where(Run.id == run.id).execute()
    response = app.test_client().get("/health/ready")
    assert response.status_code == 200
    assert response.json is not None
    assert response.json["checks"]["workers"]["ok"] is False
    assert "100 s" in response.json["checks"]["workers"]["detail"]


def _numbers(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)}


def test_metrics_count_requests_by_route_and_not_by_path(client: Client, app: Flask, hello: Script) -> None:
    def count() -> float:
        numbers = _numbers(app.test_client().get("/metrics").text)
        route = 'millrace_http_requests_total{method="GET",route="/v1/scripting/scripts/<script_id>",status="200"}'
        return numbers.get(route, 0)

    before = count()
    for _ in range(3):
        client.get("/scripts/hello")
    client.get("/made-up-by-a-stranger")
    assert count() - before == 3
    assert "made-up-by-a-stranger" not in app.test_client().get("/metrics").text


def test_metrics_show_what_waits(app: Flask, services: Services, client: Client) -> None:
    client.post("/scripts", json=factories.body(max_concurrent_runs=2))
    script = Script.get()
    first, _, held = (factories.run(services, script) for _ in range(3))
    factories.claim(services, first)
    Run.update(available_at=services.clock() - 5000).where(Run.id == held.id).execute()
    client.post("/events", json={"name": "a.b", "data": 1})
    response = app.test_client().get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain")
    numbers = _numbers(response.text)
    assert {state: numbers[f'millrace_runs_open{{state="{state}"}}'] for state in ("held", "sent", "running")} == {
        "held": 1, "sent": 1, "running": 1,
    }  # fmt: skip
    assert numbers["millrace_oldest_due_run_seconds"] >= 5
    assert numbers["millrace_queue_messages"] == 2
    assert numbers["millrace_events_unrouted"] == 1
    assert numbers["millrace_sync_waiting"] == numbers["millrace_log_streams"] == 0


def test_metrics_of_an_empty_platform_are_zero(app: Flask) -> None:
    numbers = _numbers(app.test_client().get("/metrics").text)
    assert numbers["millrace_oldest_due_run_seconds"] == 0


def test_redis_that_is_away_is_named(services: Services) -> None:
    broker = WakingBroker("redis://127.0.0.1:1/0")
    response = create_app(replace(services, queue=RedisQueue(broker))).test_client().get("/health/ready")
    assert response.status_code == 503
    assert response.json is not None
    assert {name for name, check in response.json["checks"].items() if not check["ok"]} == {"queue"}
    broker.close()


_COUNT_AT_ONCE = """
import inspect, sys, threading
from millrace import metrics
sys.setswitchinterval(1e-6)
names = [name for name, each in inspect.getmembers(metrics, inspect.isfunction)
         if each.__module__ == metrics.__name__ and name != "render" and not name.startswith("_")]
assert len(names) > 10, names
for name in names:
    at_once, failures = threading.Barrier(16), []
    def count(make=getattr(metrics, name)):
        at_once.wait()
        try:
            make()
        except ValueError as error:
            failures.append(error)
    threads = [threading.Thread(target=count) for _ in range(16)]
    [each.start() for each in threads]
    [each.join() for each in threads]
    assert not failures, failures
"""


def test_what_many_threads_count_for_the_first_time_at_once_is_counted() -> None:
    done = subprocess.run([sys.executable, "-c", _COUNT_AT_ONCE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


_WORK_AND_DIE = """
import os
from millrace import metrics
metrics.runs_in_work().inc()
metrics.runs_ended().labels("succeeded", "api").inc()
os._exit(0)
"""


def test_a_process_that_died_leaves_what_it_counted_and_no_run_in_work(tmp_path: Path) -> None:
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for text in (_WORK_AND_DIE, "from millrace import metrics; print(metrics.render().decode())"):
        done = subprocess.run([sys.executable, "-c", text], env=environ, capture_output=True, text=True, check=True)
    assert 'millrace_runs_total{status="succeeded",trigger="api"} 1.0' in done.stdout
    assert "millrace_runs_in_work " not in done.stdout
