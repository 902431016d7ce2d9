"""Jails that serve several runs of one key, and never one of another."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox.client import Sandbox
from sandbox.job import Limits
from sandbox.launcher import MOST_PER_CORE
from tests.launcher import launcher_process
from tests.sandbox.processes import CONTROLLERS, Census, census
from tests.sandbox.support import Runner

COUNTER = "let n = 0; exports.handler = async (p) => { globalThis.seen = p; return [n++, process.pid]; }"


def test_state_of_modules_survives_within_a_key(run: Runner) -> None:
    results = [run(COUNTER, reuse_key="survives") for _ in range(3)]
    assert [ran.result[0] for ran in results] == [0, 1, 2]
    assert [ran.outcome.usage.jail for ran in results][1:] == ["reused", "reused"]


def test_a_jail_is_never_shared_between_keys(run: Runner) -> None:
    assert run("globalThis.loot = 'mine'; exports.handler = () => 1", reuse_key="alice").kind == "succeeded"
    ran = run("exports.handler = () => typeof globalThis.loot", reuse_key="bob")
    assert (ran.result, ran.outcome.usage.jail != "reused") == ("undefined", True)


def test_a_run_without_a_key_has_a_jail_of_its_own(run: Runner) -> None:
    for _ in range(3):
        ran = run(COUNTER)
        assert ran.result[0] == 0
        assert ran.outcome.usage.jail != "reused"


def test_other_limits_or_hosts_are_another_jail(run: Runner) -> None:
    run(COUNTER, reuse_key="limits")
    assert run(COUNTER, reuse_key="limits", limits=Limits(memory_mb=300)).result[0] == 0
    assert run(COUNTER, reuse_key="limits", egress_hosts=()).result[0] == 0
    assert run(COUNTER, reuse_key="limits", egress_group="other").result[0] == 0


@pytest.mark.parametrize(
    "ending",
    [
        "throw new Error('x')",
        "setTimeout(() => {}, 60000); return 1",
        "setInterval(() => console.log('late'), 5); return 1",
        "return 1n",
    ],
)
def test_a_jail_is_dropped_after_an_error_or_when_something_was_left_behind(run: Runner, ending: str) -> None:
    source = f"let n = 0; exports.handler = async (p) => {{ n++; if (p === 'end') {{ {ending} }} return n; }}"
    key = f"drop {ending}"
    assert run(source, "go", reuse_key=key).result == 1
    run(source, "end", reuse_key=key)
    again = run(source, "go", reuse_key=key)
    assert again.result == 1
    assert again.outcome.usage.jail != "reused"


@pytest.mark.parametrize("delay_ms", [0, 5])
def test_a_jail_that_ends_between_two_runs_is_not_the_next_runs_failure(run: Runner, delay_ms: int) -> None:
    """A timer that nobody waits for ends the process after the answer, before the freeze or at the next job's start."""
    source = f"""
        let n = 0;
        exports.handler = async () => {{ setTimeout(() => process.reallyExit(1), {delay_ms}).unref(); return ++n; }};
    """
    for _ in range(4):
        ran = run(source, reuse_key=f"ends {delay_ms}")
        assert ran.kind == "succeeded", ran.outcome.error


def test_each_run_has_a_context_and_an_environment_of_its_own(run: Runner) -> None:
    source = """
        exports.handler = async (p, c) => {
          const found = [c.secrets.S, c.runId, process.env.LEFT, process.env.REGION];
          process.env.LEFT = 'x'; process.env.REGION = 'changed'; c.secrets.S = 'changed';
          return found;
        };
    """
    for number in range(2):
        ran = run(source, reuse_key="own", context={"runId": f"r{number}"}, secrets={"S": "s"}, env={"REGION": "eu"})
        assert ran.result == ["s", f"r{number}", None, "eu"]


def test_what_an_earlier_run_kept_of_its_context_is_dead(run: Runner) -> None:
    source = """
        let old;
        exports.handler = async (p, c) => {
          if (!old) { old = c; return 'kept'; }
          return old.writeArtifact('a', 'b').then(() => 'written', (e) => e.message);
        };
    """
    assert run(source, reuse_key="dead").result == "kept"
    ran = run(source, reuse_key="dead")
    assert ran.result == "This run has ended"
    assert ran.sink.artifacts == []


def test_a_line_written_after_the_result_belongs_to_no_run(run: Runner) -> None:
    source = """
        exports.handler = async (p) => {
          const slow = async () => { for (let i = 0; i < 50; i++) await null; console.log('late'); };
          if (p === 'first') slow();
          return p;
        };
    """
    first = run(source, "first", reuse_key="late")
    second = run(source, "second", reuse_key="late")
    assert "late" not in second.texts
    assert (first.result, second.result) == ("first", "second")


def test_runs_of_one_key_at_the_same_time_have_different_jails(run: Runner) -> None:
    source = """
        let busy = 0;
        exports.handler = async () => {
          const found = ++busy;
          await new Promise((r) => setTimeout(r, 300));
          busy--;
          return found;
        };
    """
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda _: run(source, reuse_key="parallel").result, range(3)))
    assert results == [1, 1, 1]


def test_nothing_leaks_over_many_runs(tmp_path: Path) -> None:
    # No demand raises it: it is the most that is kept ready.
    warm = MOST_PER_CORE * len(os.sched_getaffinity(0))
    with launcher_process(tmp_path, MILLRACE_WARM_JAILS=str(warm)) as (process, socket_path):
        sandbox = Sandbox(socket_path)
        run = Runner(sandbox)

        def at_rest() -> Census:
            """The warm jails and the one that is kept for the key."""
            deadline, jails = time.monotonic() + 30, warm + 1
            while (found := census(process.pid, tmp_path)).jails != jails or found.groups != jails * len(CONTROLLERS):
                assert time.monotonic() < deadline, found
                time.sleep(0.05)
            return found

        run("exports.handler = () => 1", reuse_key="leak")
        before, own_before = at_rest(), len(os.listdir("/proc/self/fd"))
        for number in range(200):
            key = "leak" if number % 4 else None
            assert run("exports.handler = () => 1", reuse_key=key).kind == "succeeded"
        time.sleep(0.5)
        # A jail that is still booting lacks one or two; a leak would be of hundreds.
        assert at_rest().descriptors <= before.descriptors + 5
        assert len(os.listdir("/proc/self/fd")) <= own_before
        sandbox.close()
