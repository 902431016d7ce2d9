"""`python -m worker` tells the ends of runs, is killed in the middle of it, and is told to stop."""

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from millrace import ids, runs, signatures
from millrace.callbacks import LEASE_MS
from millrace.models import Callback
from millrace.services import Services
from tests.launcher import start_launcher
from tests.worker import test_process
from tests.worker.receiver import Receiver, Told, receiving
from tests.worker.support import eventually, new_script, submit
from tests.worker.test_callbacks import LOOPBACK, SECRET
from tests.worker.test_process import worker_process
from worker import posting
from worker.callbacks import Deliverer
from worker.posting import Poster


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


_environ = test_process.environ


@pytest.fixture
def environ(_environ: Mapping[str, str]) -> Mapping[str, str]:
    """A worker whose operator lets receivers of this host be told."""
    return {**_environ, "MILLRACE_EGRESS_ALLOW": "127.0.0.1"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Somebody who wants to be told."""
    with receiving() as made:
        yield made


def test_a_worker_that_is_killed_between_the_post_and_its_record_is_followed_by_another_with_the_same_id(
    services: Services, environ: Mapping[str, str], receiver: Receiver, tmp_path: Path
) -> None:
    script = new_script(services, callback_url=receiver.url("/ok"), callback_secret=SECRET)
    with worker_process(environ, tmp_path / "worker.log") as process:

        def kill(told: Told) -> None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

        receiver.before_answer = kill
        run = submit(services, script, {"name": "Ada"})
        eventually(lambda: len(receiver.told) == 1, 60)
        process.wait(20)
    row = Callback.get()
    assert (row.status, row.deliveries) == ("pending", []) and row.leased_until is not None
    receiver.before_answer = lambda told: None
    later = dataclasses.replace(services, clock=lambda: ids.now_ms() + LEASE_MS)
    deliverer = Deliverer(later, Poster(LOOPBACK, posting.trusted()), every_s=3600)
    try:
        deliverer.look()
    finally:
        deliverer.close()
    first, second = receiver.told
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == f"msg_{run.id}"
    assert first.body == second.body
    for told in receiver.told:
        signatures.verify("standard", SECRET, told.headers, told.body, int(told.headers["webhook-timestamp"]) * 1000)
    assert json.loads(second.body)["data"]["result_summary"] == {"hello": "Ada"}
    assert Callback.get().status == "delivered"


def test_a_worker_tells_what_it_ran_and_ends_though_a_receiver_hangs(
    services: Services, environ: Mapping[str, str], receiver: Receiver, tmp_path: Path
) -> None:
    fine = new_script(services, callback_url=receiver.url("/ok"), callback_secret=SECRET)
    slow = new_script(services, slug="slow", callback_url=receiver.url("/hang"), callback_secret=SECRET)
    reached = threading.Event()
    receiver.before_answer = lambda told: reached.set() if told.path == "/hang" else None
    with worker_process(environ, tmp_path / "worker.log") as process:
        done = submit(services, fine, {"name": "Ada"})
        assert runs.await_end(services, done.id, 60).status == "succeeded"
        eventually(lambda: Callback.get(Callback.run == done.id).status == "delivered")
        left = submit(services, slow, {"name": "Eve"})
        assert reached.wait(60)
        process.terminate()
        assert process.wait(20) == 0
    row = Callback.get(Callback.run == left.id)
    assert (row.status, row.leased_until, row.deliveries) == ("pending", None, [])
    log = (tmp_path / "worker.log").read_text()
    assert "Traceback" not in log and "whsec" not in log
