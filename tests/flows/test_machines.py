"""Web, scheduler and workers on machines of their own, which share PostgreSQL, Valkey and an object store."""

import base64
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from millrace import vault
from sandbox.client import Sandbox
from tests.machines import (
    REDIS_ADDRESS,
    STORES_ADDRESS,
    Machine,
    Network,
    OpenPostgres,
    OpenS3,
    OpenValkey,
    are_possible,
    network,
)
from tests.platform import wait_until

pytestmark = [
    pytest.mark.skipif(not are_possible(), reason="makes network namespaces, a bridge and cables"),
    pytest.mark.timeout(300),
]
SLEEPER = """exports.handler = async ({ms}) => {
  console.log("begun");
  await new Promise((resolve) => setTimeout(resolve, ms));
  return {slept: ms};
};"""
OUTCOME = ("status", "error_code", "attempt", "completed_at", "result")
TAKES_WORK_WITHIN_S = 60  # it may have to connect again first, and a busy host
LOST_WITHIN_S = 60  # a lease of 15 s, a sweep, and a busy host


@dataclass
class Cluster:
    """The machines, and how to talk to them."""

    net: Network
    web: Machine
    workers: list[Machine]
    client: httpx.Client
    database: str

    def add_worker(self) -> Machine:
        """One more machine that carries runs."""
        added = self.net.add(f"worker-{len(self.workers) + 1}")
        added.start_worker()
        self.workers.append(added)
        return added

    def execute(self, ms: int) -> str:
        """Accept a run that sleeps; returns its id."""
        response = self.client.post("/scripts/sleeper/execute", json={
            "mode": "async", "trigger_type": "manual", "payload": {"ms": ms}})
        assert response.status_code == 202, response.text
        return str(response.json()["run_id"])

    def status(self, run: str) -> str:
        """How the run stands, by the API."""
        response = self.client.get(f"/scripts/sleeper/runs/{run}")
        return str(response.json()["status"]) if response.status_code == 200 else ""

    def row(self, run: str) -> dict[str, Any]:
        """What the database says of it."""
        with psycopg.connect(self.database, row_factory=psycopg.rows.dict_row) as connection:
            found = connection.execute("SELECT * FROM run WHERE id::text = %s", (run,)).fetchone()
        assert found is not None
        return found

    def carrier(self, run: str) -> Machine | None:
        """The machine whose worker claimed it."""
        worker = self.row(run)["worker"]
        return next((machine for machine in self.workers if machine.has(worker)), None)

    def started_by(self, machine: Machine, ms: int) -> str:
        """A run that sleeps in a jail of this machine now."""
        deadline = time.monotonic() + TAKES_WORK_WITHIN_S
        while time.monotonic() < deadline:
            run = self.execute(ms)
            wait_until(lambda run=run: self.row(run)["status"] in ("running", "succeeded"), 60, machine.output)
            if self.carrier(run) is machine:
                return run
            self.client.post(f"/scripts/sleeper/runs/{run}/cancel")
        raise AssertionError(f"{machine.name} takes no work")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Stores here; web, a scheduler and one worker elsewhere."""
    folder = tmp_path_factory.mktemp("machines")
    with (
        OpenPostgres(folder / "pg") as postgres,
        OpenValkey(folder / "valkey", durable=False) as valkey,
        OpenS3(folder / "s3") as s3,
    ):
        local = postgres.create("machines")
        s3.objects().ensure_bucket()
        settings = {
            "DATABASE_URL": local.replace("127.0.0.1", STORES_ADDRESS),
            "REDIS_URL": valkey.url.replace("127.0.0.1", REDIS_ADDRESS),
            "S3_ENDPOINT": s3.endpoint.replace("127.0.0.1", STORES_ADDRESS),
            "S3_ACCESS_KEY": s3.access_key,
            "S3_SECRET_KEY": s3.secret_key,
            "MILLRACE_SECRET_KEYS": vault.new_master_key(),
            "MILLRACE_WORKER_PROCESSES": "1",
            "MILLRACE_WORKER_THREADS": "4",
            "MILLRACE_WARM_JAILS": "1",
        }
        with network(folder, settings) as net:
            yield from _running(net, local)


def _running(net: Network, database: str) -> Iterator[Cluster]:
    web = net.add("web")
    key = _prepare(web)
    web.start("web")
    net.add("scheduler").start("scheduler")
    worker = net.add("worker-1")
    worker.start_worker()
    with httpx.Client(
        base_url=f"http://{web.address}:8080/v1/scripting", timeout=30,
        headers={"Authorization": f"ApiKey {key}", "Account-Id": "acme"},
    ) as client:
        wait_until(lambda: _ready(web), 60, web.output)
        # Until a worker has told which runtimes there are, there is none to choose.
        wait_until(lambda: _make_sleeper(client), 60, worker.output)
        yield Cluster(net, web, [worker], client, database)


def _prepare(web: Machine) -> str:
    web.command("migrate")
    said = web.command("workspaces", "create", "acme", "--email", "me@acme.test")
    return next(line.split()[-1] for line in said.splitlines() if line.startswith("api key"))


def _make_sleeper(client: httpx.Client) -> bool:
    made = client.post("/scripts", json={
        "id": "sleeper", "display_name": "Sleeper", "runtime": "nodejs20", "entry_point": "handler",
        "script_content": base64.b64encode(SLEEPER.encode()).decode(),
        "script_hash": hashlib.sha256(SLEEPER.encode()).hexdigest(),
    })
    assert made.status_code in (200, 201, 503), made.text
    return made.status_code != 503


def _ready(web: Machine) -> bool:
    try:
        return httpx.get(f"http://{web.address}:8080/health/ready", timeout=15).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_worker_that_is_added_later_takes_work_too(cluster: Cluster) -> None:
    first = cluster.execute(1)
    wait_until(lambda: cluster.row(first)["status"] == "succeeded", 60, cluster.workers[0].output)
    added = cluster.add_worker()
    cluster.started_by(added, 60_000)
    cluster.started_by(cluster.workers[0], 60_000)


def test_a_worker_that_is_cut_off_loses_its_run_once_and_works_again_when_healed(cluster: Cluster) -> None:
    worker = cluster.workers[0]
    run = cluster.started_by(worker, 100_000)
    worker.cut_off()
    try:
        wait_until(lambda: cluster.row(run)["status"] == "failed", LOST_WITHIN_S, worker.output)
        lost = cluster.row(run)
        assert lost["error_code"] == "WORKER_LOST"
        assert lost["tries"] == 0  # never begun again
        wait_until(lambda: _busy(worker) == 0, 30, worker.output)
    finally:
        worker.heal()
    again = cluster.started_by(worker, 2_000)
    wait_until(lambda: cluster.row(again)["status"] == "succeeded", 60, worker.output)
    after = cluster.row(run)  # its log may be made whole meanwhile
    assert [after[name] for name in OUTCOME] == [lost[name] for name in OUTCOME]


def test_a_run_that_ends_while_its_worker_is_cut_off_is_recorded_as_lost_and_stays_so(cluster: Cluster) -> None:
    worker = cluster.workers[0]
    run = cluster.started_by(worker, 3_000)  # its jail ends long before the lease
    worker.cut_off()
    try:
        wait_until(lambda: cluster.row(run)["status"] == "failed", LOST_WITHIN_S, worker.output)
        lost = cluster.row(run)
    finally:
        worker.heal()
    again = cluster.started_by(worker, 2_000)
    wait_until(lambda: cluster.row(again)["status"] == "succeeded", 60, worker.output)
    after = cluster.row(run)
    assert [after[name] for name in OUTCOME] == [lost[name] for name in OUTCOME]


def test_with_a_retry_policy_another_machine_carries_what_one_that_was_cut_off_had(cluster: Cluster) -> None:
    worker = cluster.workers[0]
    if len(cluster.workers) == 1:
        cluster.add_worker()
    policy = {"count": 1, "delay_seconds": 0, "on": ["worker_lost"]}
    cluster.client.put("/scripts/sleeper", json={"retry": policy}).raise_for_status()
    run = cluster.started_by(worker, 3_000)
    worker.cut_off()
    try:
        wait_until(lambda: cluster.row(run)["status"] == "succeeded", LOST_WITHIN_S, worker.output)
        assert cluster.carrier(run) in cluster.workers[1:]
        done = cluster.row(run)
    finally:
        worker.heal()
        cluster.client.put("/scripts/sleeper", json={"retry": None}).raise_for_status()
    again = cluster.started_by(worker, 2_000)
    wait_until(lambda: cluster.row(again)["status"] == "succeeded", 60, worker.output)
    after = cluster.row(run)
    assert [after[name] for name in OUTCOME] == [done[name] for name in OUTCOME]
    tries = cluster.client.get(f"/scripts/sleeper/runs/{run}/attempts").json()["attempts"]
    assert [(each["status"], each["error_code"]) for each in tries] == [("failed", "WORKER_LOST"), ("completed", None)]


def test_web_that_was_cut_off_from_redis_goes_on_when_healed(cluster: Cluster) -> None:
    cluster.web.lose(REDIS_ADDRESS)
    try:
        wait_until(lambda: not _ready(cluster.web), 60, cluster.web.output)
    finally:
        cluster.web.find(REDIS_ADDRESS)
    wait_until(lambda: _ready(cluster.web), 60, cluster.web.output)
    run = cluster.execute(1)
    wait_until(lambda: cluster.row(run)["status"] == "succeeded", 60, cluster.web.output)


def _busy(machine: Machine) -> int:
    """Jails that carry a run, by the machine's own launcher."""
    jails = Sandbox(machine.home / "run" / "launcher.sock").figures()["jails"]
    return sum(int(each["count"]) for each in jails if each["state"] == "busy")
