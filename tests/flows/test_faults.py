"""Things die; what was accepted is still accounted for, once. A Millrace of its own, since parts of it are killed."""

import base64
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.platform import Platform, start_platform, stop_platform, wait_until

QUICK = "exports.handler = async (p) => { console.log('ran ' + p.n); return { n: p.n }; };"
SLOW = """exports.handler = async (p) => {
  console.log('begun');
  await new Promise((resolve) => setTimeout(resolve, p.ms));
  console.log('ended');
  return 'done';
};"""


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = start_platform(tmp_path_factory.mktemp("mortal"), MILLRACE_WARM_JAILS="2")
    create(running, "quick", QUICK)
    create(running, "slow", SLOW)
    yield running
    stop_platform(running)


def create(platform: Platform, name: str, source: str) -> None:
    body = {
        "id": name, "display_name": name, "runtime": "nodejs20", "timeout_seconds": 60,
        "script_content": base64.b64encode(source.encode()).decode(),
        "script_hash": hashlib.sha256(source.encode()).hexdigest(),
    }
    with platform.client() as client:
        answer = client.post("/scripts", json=body)
    assert answer.status_code == 201, answer.text


def submit(platform: Platform, name: str, payload: Any, **more: Any) -> str:
    with platform.client() as client:
        answer = client.post(
            f"/scripts/{name}/execute", json={"mode": "async", "trigger_type": "http", "payload": payload, **more}
        )
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


def read(platform: Platform, name: str, run_id: str) -> dict[str, Any]:
    with platform.client() as client:
        run: dict[str, Any] = client.get(f"/scripts/{name}/runs/{run_id}").json()
    return run


def log_of(platform: Platform, name: str, run_id: str) -> str:
    with platform.client() as client:
        url = client.get(f"/scripts/{name}/runs/{run_id}/logs").json()["url"]
    return httpx.get(url).text


def processes(platform: Platform, module: str) -> list[int]:
    """The ids of this platform's processes whose command line names the module."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environ = (folder / "environ").read_bytes()
        except OSError:
            continue
        if module in command and f"MILLRACE_HOME={platform.home}".encode() in environ:
            found.append(int(folder.name))
    return found


def redis_of(platform: Platform) -> "redis.Redis":
    known = json.loads(next(platform.home.glob("**/valkey*/server.json")).read_text())
    return redis.Redis(host="127.0.0.1", port=known["port"], password=known["secret"])


def test_a_run_whose_worker_is_killed_fails_with_worker_lost_and_keeps_its_log(mortal: Platform) -> None:
    run_id = submit(mortal, "slow", {"ms": 50_000})
    wait_until(lambda: read(mortal, "slow", run_id)["status"] == "running", 20)
    time.sleep(1.5)  # not a wait for anything: the script is to have logged and to sleep when its worker dies
    for pid in processes(mortal, "worker"):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: read(mortal, "slow", run_id)["completed_at"] is not None, 45)
    run = read(mortal, "slow", run_id)
    assert run["status"] == "failed"
    assert "WORKER_LOST" in json.dumps(run)
    log = log_of(mortal, "slow", run_id)
    assert "begun" in log and "ended" not in log


def test_workers_that_were_killed_come_back_and_take_what_was_sent_meanwhile(mortal: Platform) -> None:
    for pid in processes(mortal, "worker"):
        os.kill(pid, signal.SIGKILL)
    run_ids = [submit(mortal, "quick", {"n": n}) for n in range(20)]
    wait_until(lambda: all(read(mortal, "quick", each)["completed_at"] for each in run_ids), 60)
    outcomes = [read(mortal, "quick", each) for each in run_ids]
    assert [each for each in outcomes if each["status"] != "completed"] == []


def test_runs_finish_though_redis_is_emptied(mortal: Platform) -> None:
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(submit, mortal, "quick", {"n": n}) for n in range(60)]
        client = redis_of(mortal)
        for _ in range(20):
            client.flushall()
        run_ids = [each.result() for each in futures]
    client.flushall()
    wait_until(lambda: all(read(mortal, "quick", each)["completed_at"] for each in run_ids), 90)
    outcomes = [read(mortal, "quick", each) for each in run_ids]
    assert {each["status"] for each in outcomes} == {"completed"}
    assert sorted(each["result_summary"]["n"] for each in outcomes) == list(range(60))


def test_every_process_that_dies_is_started_again(mortal: Platform) -> None:
    for module in ("-m scheduler", "-m sandbox.launcher", "-m web", "-m worker"):
        before = set(processes(mortal, module))
        assert before, module
        for pid in before:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_until(lambda module=module, before=before: set(processes(mortal, module)) - before, 30)  # type: ignore[misc]
    wait_until(lambda: _answers(mortal), 60)


def _answers(platform: Platform) -> bool:
    try:
        with platform.client() as client:
            answer = client.post(
                "/scripts/quick/execute", json={"mode": "sync", "trigger_type": "http", "payload": {"n": 1}}
            )
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and answer.json()["status"] == "completed"


def test_a_second_start_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = start_platform(home, MILLRACE_WARM_JAILS="1")
    create(first, "quick", QUICK)
    delayed = submit(first, "quick", {"n": 5}, delay_seconds=4)
    assert stop_platform(first) == 0
    assert processes(first, "millrace") == []

    second = start_platform(home, MILLRACE_WARM_JAILS="1")
    try:
        assert second.api_key == first.api_key
        wait_until(lambda: read(second, "quick", delayed)["completed_at"] is not None, 30)
        assert read(second, "quick", delayed)["result_summary"] == {"n": 5}
    finally:
        stop_platform(second)
