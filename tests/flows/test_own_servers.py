"""Millrace on its operator's own PostgreSQL, Redis and S3: the Procfile under a stranger's runner, nothing embedded."""

import base64
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from millrace import vault
from millrace.embedded import S3Server, ValkeyServer
from tests.platform import ROOT, free_port, wait_until
from tests.services import PostgresServer

LINES = dict(re.findall(r"^([A-Za-z0-9_-]+):\s*(.+)$", (ROOT / "Procfile").read_text(), re.MULTILINE))
STOP_TIMEOUT_S = 40
ADDING = """exports.handler = async (p) => {
  console.log('adding');
  const { a, b } = p.data || p.body || p;
  return { sum: a + b };
};"""
SLOW = """exports.handler = async () => {
  await new Promise((resolve) => setTimeout(resolve, 1500));
  return 'done';
};"""
# A result that held the secret itself would be masked.
REVERSING = "exports.handler = async (p, c) => [...c.secrets.TOKEN].reverse().join('');"


class Product:
    """Every process of the Procfile, started as foreman does: each by a shell, in a group of its own, in no order."""

    def __init__(self, folder: Path, **settings: str) -> None:
        ours = ("MILLRACE_", "S3_", "DATABASE_", "REDIS_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
        self.folder = folder
        self.environ = inherited | settings | {"PATH": path}
        self.home = Path(settings["MILLRACE_HOME"])
        self.url = f"http://127.0.0.1:{settings['MILLRACE_PORT']}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.keys: dict[str, str] = {}

    def command(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """`millrace ...` in another terminal of the operator's."""
        return subprocess.run(
            ["millrace", *arguments], env=self.environ | settings, cwd=ROOT, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    def said(self, *arguments: str) -> str:
        """What a command prints that goes well."""
        done = self.command(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        """Those that do not run; returns when web says that it is ready."""
        for name in LINES.keys() - self.processes.keys():
            with (self.folder / f"{name}.out").open("ab") as output:
                self.processes[name] = subprocess.Popen(
                    f"exec {LINES[name]}", shell=True, cwd=ROOT, env=self.environ, stdin=subprocess.DEVNULL,
                    stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
        wait_until(self._is_ready, 60, self.folder / "web.out")

    def _is_ready(self) -> bool:
        for name, process in self.processes.items():
            assert process.poll() is None, (self.folder / f"{name}.out").read_text()[-4000:]
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def has_runtimes(self) -> bool:
        """Whether a worker has said what it offers, without which no script is taken."""
        with self.client() as client:
            return bool(client.get("/runtimes").json())

    def stop(self, *names: str) -> dict[str, int]:
        """SIGTERM to the whole group of each at once, as runners do. Returns the exit codes by name."""
        chosen = {name: self.processes[name] for name in names or list(self.processes)}
        for process in chosen.values():
            os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        codes = {name: process.wait(max(0.0, deadline - time.monotonic())) for name, process in chosen.items()}
        for name, process in chosen.items():
            assert members(process.pid) == [], f"{name} left processes behind"
            del self.processes[name]
        return codes

    def kill(self) -> None:
        """Whatever still runs, for a test that failed."""
        for process in self.processes.values():
            if process.poll() is None or members(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def client(self, workspace: str = "acme", key: str | None = None) -> httpx.Client:
        """The Script Management API with a workspace's own key, or another."""
        headers = {"Authorization": f"ApiKey {key or self.keys[workspace]}", "Account-Id": workspace}
        return httpx.Client(base_url=f"{self.url}/v1/scripting", timeout=60, headers=headers)


def members(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(folder.name))
    return found


def servers_below(folder: Path) -> set[str]:
    """The names of the programs that work in this folder or name it."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            place, program = (process / "cwd").readlink(), (process / "exe").readlink()
        except OSError:
            continue
        if place.is_relative_to(folder) or str(folder) in command:
            found.add(program.name)
    return found


@pytest.fixture(scope="module")
def operators() -> Iterator[Path]:
    """The folder of what the operator runs: short, since sockets have long names."""
    with tempfile.TemporaryDirectory(prefix="mr-own-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def postgres(operators: Path) -> Iterator[PostgresServer]:
    with PostgresServer(operators / "postgres") as server:
        yield server


@pytest.fixture(scope="module")
def product(operators: Path, postgres: PostgresServer) -> Iterator[Product]:
    with ExitStack() as stack:
        valkey = stack.enter_context(ValkeyServer(operators / "valkey"))
        s3 = stack.enter_context(S3Server(operators / "s3"))
        product = Product(
            operators,
            MILLRACE_HOME=str(operators / "home"), MILLRACE_PORT=str(free_port()),
            MILLRACE_SECRET_KEYS=vault.new_master_key(), MILLRACE_WARM_JAILS="2", MILLRACE_WORKER_PROCESSES="1",
            DATABASE_URL=postgres.create("product"), REDIS_URL=valkey.url,
            S3_ENDPOINT=s3.endpoint, S3_ACCESS_KEY=s3.access_key, S3_SECRET_KEY=s3.secret_key, S3_BUCKET="product",
        )  # fmt: skip
        stack.callback(product.kill)
        assert "0001_first_tables" in product.said("migrate").split()
        for workspace in ("acme", "rival"):
            made = product.said("workspaces", "create", workspace, "--email", f"owner@{workspace}.example")
            assert f"workspace  {workspace}\n" in made
            product.keys[workspace] = re.findall(r"^api key +(mr_\S+)$", made, re.MULTILINE)[0]
        product.start()
        wait_until(product.has_runtimes, 60, operators / "worker.out")
        yield product
        product.stop()


def create(product: Product, name: str, source: str, **more: Any) -> None:
    body = {
        "id": name, "display_name": name, "runtime": "nodejs20",
        "script_content": base64.b64encode(source.encode()).decode(),
        "script_hash": hashlib.sha256(source.encode()).hexdigest(), **more,
    }  # fmt: skip
    with product.client() as client:
        answer = client.post("/scripts", json=body)
    assert answer.status_code == 201, answer.text


def execute(product: Product, name: str, mode: str = "sync", **payload: Any) -> dict[str, Any]:
    with product.client() as client:
        answer = client.post(
            f"/scripts/{name}/execute", json={"mode": mode, "trigger_type": "manual", "payload": payload}
        )
    assert answer.status_code in (200, 202), answer.text
    result: dict[str, Any] = answer.json()
    return result


def test_migrations_need_the_database_and_nothing_else(postgres: PostgresServer, product: Product) -> None:
    names = {"DATABASE_URL": postgres.create("alone"), "REDIS_URL": "", "S3_ENDPOINT": "", "MILLRACE_SECRET_KEYS": ""}

    first, second = product.command("migrate", **names), product.command("migrate", **names)

    assert (first.returncode, first.stdout.split()[:1]) == (0, ["0001_first_tables"])
    assert (second.returncode, second.stdout) == (0, "nothing to do\n")


def test_calls_a_schedule_an_event_and_a_hook_start_a_script(product: Product) -> None:
    create(product, "adder", ADDING, schedule="rate(1 minute)", triggers={
        "events": [{"pattern": "numbers.*"}], "http": {"path": "/add", "methods": ["POST"], "auth": "none"},
    })  # fmt: skip
    assert execute(product, "adder", a=2, b=3)["result"] == {"sum": 5}
    run_id = execute(product, "adder", "async", a=20, b=3)["run_id"]
    hooked = httpx.post(f"{product.url}/hooks/acme/add", json={"a": 1, "b": 1}, timeout=60)
    assert (hooked.status_code, hooked.json()) == (200, {"sum": 2})

    with product.client() as client:
        assert client.get("/scripts/adder/schedule").json()["expression"] == "rate(1 minute)"
        published = client.post("/events", json={"name": "numbers.given", "data": {"a": 4, "b": 4}})
        assert published.status_code == 202
        wait_until(lambda: client.get(f"/scripts/adder/runs/{run_id}").json()["completed_at"], 30)
        assert client.get(f"/scripts/adder/runs/{run_id}").json()["result_summary"] == {"sum": 23}
        log = httpx.get(client.get(f"/scripts/adder/runs/{run_id}/logs").json()["url"])
        assert log.status_code == 200 and "adding" in log.text

        def by_event() -> list[dict[str, Any]]:
            runs: list[dict[str, Any]] = client.get("/scripts/adder/runs").json()["runs"]
            return [run for run in runs if run["trigger_type"] == "event" and run["completed_at"]]

        wait_until(by_event, 30)
        run = client.get(f"/scripts/adder/runs/{by_event()[0]['id']}").json()
        assert (run["status"], run["result_summary"]) == ("completed", {"sum": 8})


def test_nothing_is_embedded(product: Product) -> None:
    assert {"valkey-server", "rclone"} <= servers_below(product.folder)
    assert not {"valkey-server", "rclone", "postgres"} & servers_below(product.home)
    assert {path.name for path in product.home.iterdir()} & {"valkey", "s3", "millrace.db", "secret_keys"} == set()


def test_the_check_and_the_metrics_find_the_operators_servers(product: Product) -> None:
    said = product.said("check")
    assert "postgresql, all migrations applied" in said and product.environ["S3_ENDPOINT"] in said
    metrics = httpx.get(f"{product.url}/metrics", timeout=30)
    assert metrics.status_code == 200 and "millrace_" in metrics.text


def test_the_key_of_another_workspace_sees_nothing(product: Product) -> None:
    create(product, "private", ADDING)
    run_id = execute(product, "private", a=1, b=1)["run_id"]
    for stranger in (product.client("rival"), product.client("acme", product.keys["rival"])):
        with stranger as client:
            for path in ("/scripts/private", f"/scripts/private/runs/{run_id}", f"/scripts/private/runs/{run_id}/logs"):
                assert client.get(path).status_code == 404
            order = {"mode": "async", "trigger_type": "manual", "payload": {}}
            assert client.post("/scripts/private/execute", json=order).status_code == 404
    with product.client("rival") as client:
        assert client.get("/scripts").json()["scripts"] == []


def test_a_new_key_works_until_it_is_revoked(product: Product) -> None:
    key = product.said("keys", "create", "acme", "--name", "second").strip()
    with product.client(key=key) as client:
        assert client.get("/scripts").status_code == 200
        assert product.command("keys", "revoke", "rival", key.split("_")[1]).returncode == 1
        assert client.get("/scripts").status_code == 200
        product.said("keys", "revoke", "acme", key.split("_")[1])
        assert client.get("/scripts").status_code == 401
    with product.client() as client:
        assert client.get("/scripts").status_code == 200


def test_secrets_open_through_a_rotation_of_the_master_keys_and_after_it(product: Product) -> None:
    create(product, "holder", REVERSING, secrets={"TOKEN": "sesame-1234"})
    assert execute(product, "holder")["result"] == "4321-emases"
    old, new = product.environ["MILLRACE_SECRET_KEYS"], product.said("keys", "generate").strip()
    too_early = product.command("keys", "rewrap", MILLRACE_SECRET_KEYS=new)
    assert too_early.returncode == 1 and "no master key has the id" in too_early.stderr

    product.environ["MILLRACE_SECRET_KEYS"] = f"{new},{old}"
    product.stop("web", "worker")
    product.start()
    assert execute(product, "holder")["result"] == "4321-emases"
    assert product.said("keys", "rewrap") == "rewrapped 2 data keys\n"
    assert product.said("keys", "rewrap") == "rewrapped 0 data keys\n"

    del product.environ["MILLRACE_SECRET_KEYS"]
    file = product.folder / "master_key"
    file.write_text(f"{new}\n")
    product.environ["MILLRACE_SECRET_KEYS_FILE"] = str(file)
    product.stop("web", "worker", "scheduler")
    product.start()
    assert execute(product, "holder")["result"] == "4321-emases"
    with product.client() as client:
        updated = client.put("/scripts/holder", json={"secrets": {"TOKEN": "sesame-5678"}})
    assert updated.status_code == 200, updated.text
    assert execute(product, "holder")["result"] == "8765-emases"


def test_a_term_signal_to_all_lets_a_handler_end_and_ends_every_process_cleanly(product: Product) -> None:
    create(product, "slow", SLOW)
    run_id = execute(product, "slow", "async")["run_id"]
    with product.client() as client:
        wait_until(lambda: client.get(f"/scripts/slow/runs/{run_id}").json()["status"] == "running", 30)

    assert product.stop() == dict.fromkeys(LINES, 0)

    with psycopg.connect(product.environ["DATABASE_URL"]) as connection:
        row = connection.execute("SELECT status FROM run WHERE id = %s", (run_id,)).fetchone()
    product.start()
    assert row == ("succeeded",)
