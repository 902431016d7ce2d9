"""Without its keeper or its shipper a worker must not go on."""

import subprocess
import sys

import peewee
import pytest
from playhouse.pool import MaxConnectionsExceeded

from millrace import runs
from millrace.services import Services
from sandbox.job import Outcome
from tests.launcher import ROOT
from tests.worker.support import FakeJails, eventually, new_script, outcome, reload, submit, worker_on
from worker import vital
from worker.keeper import Keeper
from worker.runlog import Shipper
from worker.vital import VitalThread


@pytest.fixture
def database_kind() -> str:
    """The threads are what is tested."""
    return "sqlite"


@pytest.mark.parametrize("error", ["SystemExit(0)", "MemoryError()", "ZeroDivisionError()"])
def test_the_process_ends_with_the_thread(error: str) -> None:
    program = (
        "import threading\nfrom worker.vital import VitalThread\n"
        f"def work():\n    raise {error}\n"
        "VitalThread(work, 'the-heart').start()\nthreading.Event().wait(60)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60)
    assert ended.returncode == 1
    assert b"the thread 'the-heart' died" in ended.stderr


def test_a_thread_that_was_told_to_end_ends_nothing_else(local: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(vital, "end_process", lambda: ended.append("yes"))
    keeper, shipper = Keeper(local, worker="test-worker"), Shipper()
    assert isinstance(keeper._thread, VitalThread) and isinstance(shipper._thread, VitalThread)
    keeper.close()
    shipper.close()
    assert not keeper._thread.is_alive() and not shipper._thread.is_alive()
    assert ended == []


@pytest.mark.parametrize(
    "error",
    [
        peewee.InternalError("cannot execute UPDATE in a read-only transaction"),
        peewee.NotSupportedError("cached plan must not change result type"),
        MaxConnectionsExceeded("too many"),
        TypeError("a bug"),
    ],
)
def test_leases_are_renewed_again_after_whatever_went_wrong_once(
    local: Services, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    renew, failures = runs.renew, [error, error]

    def flaky(*arguments: object) -> None:
        if failures:
            raise failures.pop()
        renew(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "renew", flaky)
    run = submit(local, new_script(local))

    def behave(*_: object) -> Outcome:
        first = reload(run).lease_until
        eventually(lambda: reload(run).lease_until > first)
        return outcome()

    with worker_on(local, FakeJails(behave), renew_s=0.05, look_s=0.02) as executor:
        executor.execute(run.id, 1)
    assert reload(run).status == "succeeded"
    assert failures == []
