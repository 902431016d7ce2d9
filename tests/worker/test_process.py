"""`python -m worker` as a process of its own, with a real launcher, queue, object store and database."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from millrace import processes, repair, runs, runtimes
from millrace.models import Event, Run
from millrace.services import Services
from tests.fake_api import FakeApi
from tests.launcher import ROOT, start_launcher
from tests.worker.support import eventually, log_text, new_script, reload, submit

SLOW = b"""exports.handler = async (p, c) => {
    await c.publish('was.here'); console.log('begun');
    await new Promise((done) => setTimeout(done, p.ms)); return 'slept' }"""

UNTIL_FOUND = b"""exports.handler = async (p) => {
    while ((await fetch(p.url)).status !== 200) await new Promise((done) => setTimeout(done, 50));
    return 'found' }"""


@pytest.fixture
def database_kind() -> str:
    """The processes are what is tested."""
    return "sqlite"


@pytest.fixture(scope="module")
def outside() -> Iterator[FakeApi]:
    """A server that handlers may ask; it knows nothing until a test tells it."""
    with FakeApi() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def launcher_home(tmp_path_factory: pytest.TempPathFactory, outside: FakeApi) -> Iterator[Path]:
    """The home of a launcher of our own."""
    home = tmp_path_factory.mktemp("launcher")
    with start_launcher(home, MILLRACE_EGRESS_ALLOW=outside.url.removeprefix("http://")):
        yield home


@pytest.fixture
def environ(services: Services, launcher_home: Path, tmp_path: Path) -> Mapping[str, str]:
    """What a worker on this test's stores is started with."""
    settings = services.settings
    (tmp_path / "metrics").mkdir()
    return {
        **os.environ,
        "MILLRACE_HOME": str(launcher_home),
        "MILLRACE_SECRET_KEYS": settings.secret_keys,
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "S3_ENDPOINT": settings.s3_endpoint,
        "S3_ACCESS_KEY": settings.s3_access_key,
        "S3_SECRET_KEY": settings.s3_secret_key,
        "S3_BUCKET": settings.s3_bucket,
        "MILLRACE_WORKER_PROCESSES": "1",
        "MILLRACE_WORKER_THREADS": "4",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
    }


@contextmanager
def worker_process(environ: Mapping[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker in a session of its own, of which nothing is left at the end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker"],
            env=dict(environ), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def worker(environ: Mapping[str, str], tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A running worker."""
    with worker_process(environ, tmp_path / "worker.log") as process:
        yield process


def test_runs_go_through_and_are_counted_and_the_runtimes_are_known(
    services: Services, worker: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    script = new_script(services)
    for name in ("Ada", "Grace"):
        run = submit(services, script, {"name": name})
        done = runs.await_end(services, run.id, 60)
        assert (done.status, done.result) == ("succeeded", f'{{"hello":"{name}"}}')
    node = runtimes.find("nodejs20")
    assert node.version.startswith("20.")
    assert {"axios", "lodash", "smartsuite-sdk"} <= {library["name"] for library in node.libraries}
    assert "crypto" in node.modules and "fs" not in node.modules
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path / "metrics"))  # type: ignore[no-untyped-call]
    eventually(lambda: b'millrace_runs_total{status="succeeded",trigger="api"} 2.0' in generate_latest(registry))
    eventually(lambda: b"millrace_runs_in_work 0.0" in generate_latest(registry))
    log = (tmp_path / "worker.log").read_text()
    assert f'"run": "{run.id}"' in log and '"workspace": "acme"' in log and '"script": "hello"' in log


def test_a_term_signal_lets_the_handler_end_and_the_process_ends_cleanly(
    services: Services, worker: "subprocess.Popen[bytes]"
) -> None:
    run = submit(services, new_script(services, SLOW), {"ms": 3000})
    eventually(lambda: reload(run).status == "running", 60)
    worker.terminate()
    late = submit(services, new_script(services, slug="late"), {})
    assert worker.wait(30) == 0
    assert (reload(run).status, reload(run).result) == ("succeeded", '"slept"')
    assert reload(late).status in ("queued", "succeeded")


def test_a_whole_group_that_is_told_to_stop_hears_it_twice_and_still_lets_the_handler_end(
    services: Services, worker: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    run = submit(services, new_script(services, SLOW), {"ms": 3000})
    eventually(lambda: reload(run).status == "running", 60)
    for pid in _children(worker.pid):
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: "stopping: running handlers have" in (tmp_path / "worker.log").read_text())
    worker.terminate()  # which tells its children again
    assert worker.wait(30) == 0
    assert (reload(run).status, reload(run).result) == ("succeeded", '"slept"')


def test_one_process_that_is_killed_costs_its_siblings_runs_nothing_and_another_takes_new_ones_meanwhile(
    services: Services, environ: Mapping[str, str], tmp_path: Path, outside: FakeApi
) -> None:
    with several(environ, tmp_path) as process:
        run = submit(services, new_script(services, UNTIL_FOUND, slug="waits"), {"url": f"{outside.url}/found"})
        eventually(lambda: reload(run).status == "running", 60)
        (idle,) = set(_children(process.pid)) - {_carrier(run)}
        os.kill(idle, signal.SIGKILL)
        # The other process has a single thread, which is taken: only the new one can carry this.
        new = submit(services, new_script(services), {"name": "Ada"})
        assert runs.await_end(services, new.id, 60).status == "succeeded"
        assert _carrier(new) not in (idle, _carrier(run))
        assert reload(run).status == "running"
        outside.answers["GET /found"] = (200, {})
        done = runs.await_end(services, run.id, 60)
        assert (done.status, done.attempt, done.result) == ("succeeded", 1, '"found"')
        assert process.poll() is None


def test_a_stop_of_the_whole_group_lets_the_handlers_of_all_end_and_a_second_one_too(
    services: Services, environ: Mapping[str, str], tmp_path: Path
) -> None:
    slow = new_script(services, SLOW)
    with several(environ, tmp_path) as process:
        both = [submit(services, slow, {"ms": 4000}) for _ in range(2)]
        for run in both:
            eventually(lambda run=run: reload(run).status == "running", 60)  # type: ignore[misc]
        children = _children(process.pid)
        assert {_carrier(run) for run in both} == set(children)
        os.killpg(process.pid, signal.SIGTERM)
        eventually(lambda: (tmp_path / "worker.log").read_text().count("stopping: running handlers have") == 2)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert [(reload(run).status, reload(run).attempt) for run in both] == [("succeeded", 1)] * 2


def test_without_web_the_worker_itself_shows_what_its_processes_count_and_those_before_them(
    services: Services, environ: Mapping[str, str], tmp_path: Path
) -> None:
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    with worker_process({**environ, "MILLRACE_METRICS_PORT": str(port)}, tmp_path / "worker.log") as process:
        run = submit(services, new_script(services, SLOW), {"ms": 60_000})
        eventually(lambda: reload(run).status == "running", 60)
        assert "millrace_runs_in_work 1.0" in httpx.get(url).text
        os.kill(_carrier(run), signal.SIGKILL)
        for number in range(2):
            other = submit(services, new_script(services, slug=f"other-{number}"), {"name": "Ada"})
            assert runs.await_end(services, other.id, 60).status == "succeeded"
        text = 'millrace_runs_total{status="succeeded",trigger="api"} 2.0'
        eventually(lambda: text in httpx.get(url).text)
        eventually(lambda: "millrace_runs_in_work 0.0" in httpx.get(url).text)
        assert httpx.post(url).status_code == 501
        process.terminate()
        assert process.wait(30) == 0


def test_a_port_for_metrics_that_is_taken_ends_it_with_one_sentence(
    environ: Mapping[str, str], tmp_path: Path, outside: FakeApi
) -> None:
    taken = outside.url.rpartition(":")[2]
    with worker_process({**environ, "MILLRACE_METRICS_PORT": taken}, tmp_path / "worker.log") as process:
        assert process.wait(60) == 1
    (line,) = (tmp_path / "worker.log").read_text().splitlines()
    assert line.startswith(f"MILLRACE_METRICS_PORT is {taken} but nothing can listen there")


@contextmanager
def several(environ: Mapping[str, str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker of two processes that carry one run each."""
    settings = {"MILLRACE_WORKER_PROCESSES": "2", "MILLRACE_WORKER_THREADS": "1"}
    with worker_process({**environ, **settings}, folder / "worker.log") as process:
        yield process


def _carrier(run: Run) -> int:
    """The process that claimed it."""
    return int((reload(run).worker or "").rpartition(":")[2])


def test_a_killed_worker_leaves_its_run_to_the_sweeper_and_another_worker_goes_on(
    services: Services, environ: Mapping[str, str], tmp_path: Path
) -> None:
    script = new_script(services, SLOW)
    with worker_process(environ, tmp_path / "worker.log") as process:
        run = submit(services, script, {"ms": 60_000})
        eventually(lambda: len(services.objects.list(f"logs/acme/{run.id}/")) == 1, 60)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with worker_process(environ, tmp_path / "worker.log"):
        other = submit(services, script, {"ms": 1})
        assert runs.await_end(services, other.id, 60).status == "succeeded"
        services.queue.send(run.id, 1)  # what the queue does with the messages of a dead worker
        services.queue.send(run.id, 2)
        third = submit(services, script, {"ms": 1})
        assert runs.await_end(services, third.id, 60).status == "succeeded"
    assert reload(run).status == "running"
    later = dataclasses.replace(services, clock=lambda: reload(run).lease_until + 1)
    (lease,) = repair.leases()
    assert repair.fail_lost(later, lease)
    done = reload(run)
    assert (done.status, done.error_code) == ("failed", "WORKER_LOST")
    repair.join_logs(services)
    assert "begun" in log_text(services, run)
    assert Event.select().count() == 3  # each handler was entered once


def test_a_worker_dies_with_its_parent_and_not_by_a_script(
    services: Services, worker: "subprocess.Popen[bytes]"
) -> None:
    for number, nasty in enumerate((b"process.abort()", b"process.exit(1)", b"for (;;) process.stdout.write('x')")):
        source = b"exports.handler = async () => { %s }" % nasty
        run = submit(services, new_script(services, source, slug=f"nasty-{number}", timeout_seconds=5))
        assert runs.await_end(services, run.id, 60).status in ("failed", "timed_out")
    children = _children(worker.pid)
    assert children
    worker.kill()
    worker.wait()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 40)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("name", "value"),
    [("MILLRACE_WORKER_THREADS", "many"), ("REDIS_URL", ""), ("MILLRACE_SANDBOX_MODE", "lax")],
)
def test_a_wrong_setting_ends_it_with_one_sentence(
    environ: Mapping[str, str], tmp_path: Path, name: str, value: str
) -> None:
    with worker_process({**environ, name: value}, tmp_path / "worker.log") as process:
        assert process.wait(60) == 78
    said = (tmp_path / "worker.log").read_text()
    assert name in said
    assert "Traceback" not in said


def test_a_queue_that_was_emptied_costs_no_run(
    services: Services, worker: "subprocess.Popen[bytes]", redis_url: str
) -> None:
    script = new_script(services, SLOW)
    run = submit(services, script, {"ms": 1500})
    eventually(lambda: reload(run).status == "running", 60)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    after = submit(services, script, {"ms": 1})
    assert runs.await_end(services, after.id, 60).status == "succeeded"
    assert runs.await_end(services, run.id, 60).status == "succeeded"
