"""`python -m worker` as a process of its own, with a real launcher, queue, object store and database."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from millrace import repair, runs, runtimes
from millrace.models import Event
from millrace.services import Services
from tests.launcher import ROOT, start_launcher
from tests.worker.support import eventually, log_text, new_script, reload, submit

SLOW = b"""exports.handler = async (p, c) => {
    await c.publish('was.here'); console.log('begun');
    await new Promise((done) => setTimeout(done, p.ms)); return 'slept' }"""


@pytest.fixture
def database_kind() -> str:
    """The processes are what is tested."""
    return "sqlite"


@pytest.fixture(scope="module")
def launcher_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a launcher of our own."""
    home = tmp_path_factory.mktemp("launcher")
    with start_launcher(home):
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
