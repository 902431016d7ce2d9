"""`python -m scheduler`, as a process on real servers."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis

from millrace import events, ids, processes, repair
from millrace.embedded import ValkeyServer
from millrace.models import Event, Run, Schedule
from millrace.services import Services
from millrace.settings import Settings
from millrace.triggers import EventTrigger, Triggers
from tests import world
from tests.services import PostgresServer
from tests.world import ACME, reload, until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    """A process takes seconds to start, so only what may differ is tried on both."""
    return str(getattr(request, "param", "sqlite"))


def environment(settings: Settings) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "MILLRACE_HOME": str(settings.home),
        "MILLRACE_SECRET_KEYS": settings.secret_keys,
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "S3_ENDPOINT": settings.s3_endpoint,
        "S3_ACCESS_KEY": settings.s3_access_key,
        "S3_SECRET_KEY": settings.s3_secret_key,
        "S3_BUCKET": settings.s3_bucket,
    }


class Process:
    """A scheduler, and what it logs."""

    def __init__(self, log: Path, environ: dict[str, str]) -> None:
        self.log = log
        with log.open("wb") as file:
            self.child = subprocess.Popen([sys.executable, "-m", "scheduler"], cwd=ROOT, env=environ, stderr=file)

    def said(self) -> str:
        return self.log.read_text()

    def stop(self) -> float:
        """Ends it politely; returns how long that took."""
        begun = time.monotonic()
        self.child.send_signal(signal.SIGTERM)
        assert self.child.wait(10) == 0, self.said()
        return time.monotonic() - begun


@pytest.fixture
def begin(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts schedulers that end with the test."""
    started: list[Process] = []

    def start(**environ: str) -> Process:
        process = Process(tmp_path / f"scheduler-{len(started)}.log", environment(settings) | environ)
        started.append(process)
        until(lambda: "scheduler started" in process.said(), 20)
        return process

    yield start
    for process in started:
        if process.child.poll() is None:
            process.child.kill()
            process.child.wait()


def due_in(seconds: float) -> int:
    """Make the only schedule due then; returns the moment."""
    due_at = ids.now_ms() + int(seconds * 1000)
    # A rate's due times count from its anchor.
    Schedule.update(next_fire_at=due_at, anchor_at=due_at - 60_000).execute()
    return due_at


def test_a_due_time_fires_punctually(services: Services, begin: Callable[..., Process]) -> None:
    world.script(services, schedule="rate(1 minute)")
    begin()
    due_at = due_in(2.35)
    run = until(Run.get_or_none, 30)
    assert run.due_at == due_at
    assert run.created_at >= due_at
    # Far below the second of the loop's pace: it sleeps until the due time. A loaded machine is given some slack.
    assert run.created_at - due_at < 600


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
def test_several_schedulers_fire_each_due_time_once_and_route_each_event_once(
    services: Services, begin: Callable[..., Process]
) -> None:
    for _ in range(3):
        begin()
    for number in range(5):
        world.script(services, f"watcher-{number}", triggers=Triggers(events=[EventTrigger("order.*")]))
    world.script(services, schedule="rate(1 minute)")
    due_in(0.5)
    for number in range(20):
        events.publish(services, ACME, "order.created", number)
    until(lambda: Run.select().count() == 101, 60)
    until(lambda: not Event.select().where(Event.routed_at.is_null()).exists())
    assert Run.select().where(Run.due_at.is_null(False)).count() == 1
    assert services.queue.depth() == 51  # ten places each, and one


def test_a_signal_ends_it_within_two_seconds(services: Services, begin: Callable[..., Process]) -> None:
    process = begin()
    assert process.stop() < 2 + 1  # the interpreter's own end on a loaded machine
    assert "scheduler ended" in process.said()


@pytest.mark.parametrize(("name", "value"), [("REDIS_URL", ""), ("MILLRACE_SECRET_KEYS", "x"), ("S3_ENDPOINT", "")])
def test_a_wrong_setting_ends_it_with_a_sentence(settings: Settings, name: str, value: str) -> None:
    done = subprocess.run([sys.executable, "-m", "scheduler"], cwd=ROOT, env=environment(settings) | {name: value},
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 78
    assert name in done.stderr and len(done.stderr.splitlines()) == 1


def test_without_web_it_shows_what_it_counts_itself(services: Services, begin: Callable[..., Process]) -> None:
    world.script(services, schedule="rate(1 minute)")
    url = f"http://127.0.0.1:{(port := processes.free_port())}/metrics"
    process = begin(MILLRACE_METRICS_PORT=str(port))
    due_in(0.1)
    until(Run.get_or_none, 30)
    until(lambda: 'millrace_schedule_firings_total{outcome="ran"} 1.0' in httpx.get(url).text)
    assert httpx.post(url).status_code == 501
    process.stop()


def test_a_port_for_metrics_that_is_taken_ends_it_with_one_sentence(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run([sys.executable, "-m", "scheduler"], cwd=ROOT, capture_output=True, text=True, timeout=30,
                              env=environment(settings) | {"MILLRACE_METRICS_PORT": str(port)})  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"MILLRACE_METRICS_PORT is {port} but nothing can listen there")
    assert len(done.stderr.splitlines()) == 1


def test_without_redis_it_goes_on_and_with_redis_it_catches_up(
    services: Services, begin: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.script(services, "watcher", triggers=Triggers(events=[EventTrigger("order.*")]))
    world.script(services, schedule="rate(1 minute)")
    own = ValkeyServer(tmp_path / "valkey", durable=False)
    own.start()
    process = begin(REDIS_URL=own.url)
    own.stop()
    until(lambda: "event routing has to wait" in process.said())
    due_in(0.1)
    by_schedule = until(lambda: Run.get_or_none(Run.trigger == "schedule"))
    event = events.publish(services, ACME, "order.created", None)  # announced elsewhere: as good as lost
    own.start()
    try:
        until(lambda: Run.get_or_none(Run.event_id == event.id), 40)
        with redis.Redis.from_url(own.url) as client:
            until(lambda: client.hlen("millrace:runs.msgs") == 2, repair.RESEND_AFTER_MS / 1000 + 20)
        assert process.child.poll() is None
        assert reload(by_schedule).sent_at > by_schedule.sent_at
        assert "Traceback" not in process.said()
    finally:
        process.stop()
        own.stop()


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_without_its_database_it_waits_and_then_goes_on(
    services: Services, begin: Callable[..., Process], postgres_migrated: PostgresServer
) -> None:
    world.script(services, schedule="rate(1 minute)")
    process = begin()
    postgres_migrated.stop()
    until(lambda: "has to wait" in process.said(), 30)
    postgres_migrated.start()

    def fire() -> Run:
        due_in(0.1)
        return until(Run.get_or_none, 40)

    (run,) = world.at_once(services.database, fire)  # in a thread, for this one's connection is lost
    assert isinstance(run, Run)
    waits = [line for line in process.said().splitlines() if "has to wait" in line]
    assert len(waits) < 60, "no crash loop"
    assert "Traceback" not in process.said()
    assert process.child.poll() is None


def test_a_database_that_is_not_migrated_yet_is_waited_for(begin: Callable[..., Process], tmp_path: Path) -> None:
    process = begin(DATABASE_URL=f"sqlite:///{tmp_path}/empty.db")
    until(lambda: "schedules has to wait" in process.said())
    assert process.child.poll() is None
    assert process.stop() < 3
