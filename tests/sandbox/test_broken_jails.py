"""A reused jail that what an earlier run left behind breaks is replaced, and the next run never learns of it."""

from __future__ import annotations

import pytest

from sandbox.job import Limits
from tests.sandbox.support import Recorder, Runner

SOURCE = """
let n = 0;
exports.handler = async (leave) => {{
  n += 1;
  if (leave) setTimeout(() => {{ {leftover} }}, 30).unref();
  return n;
}};"""


@pytest.mark.parametrize(
    "leftover",
    [
        "process.abort()",
        "process.exit(3)",
        "for (;;);",
        "throw new Error('late')",
        "require('fs')",
    ],
)
def test_a_run_whose_jail_breaks_before_its_handler_is_carried_by_another(run: Runner, leftover: str) -> None:
    source, limits = SOURCE.format(leftover=leftover), Limits(timeout_ms=1500)
    assert run(source, True, reuse_key=leftover, limits=limits).result == 1
    sink = Recorder()
    ran = run(source, False, reuse_key=leftover, limits=limits, sink=sink)
    assert ran.kind == "succeeded", ran.outcome
    assert ran.result in (1, 2)
    assert sink.starts == 1
    assert run(source, False, reuse_key=leftover, limits=limits).kind == "succeeded"


def test_a_script_whose_every_jail_breaks_gets_one_that_nobody_has_used(run: Runner) -> None:
    source = SOURCE.format(leftover="process.abort()")
    for _ in range(8):
        assert run(source, True, reuse_key="all broken").kind == "succeeded"


def test_what_fails_in_a_new_jail_before_the_handler_is_the_scripts_failure(run: Runner) -> None:
    assert run("process.abort(); exports.handler = () => 1", reuse_key="top").kind == "crash"
