"""A reused jail that what an earlier run left behind breaks is replaced, and the next run never learns of it."""

from __future__ import annotations

import os
import threading
import time

import pytest

from sandbox import conversation, protocol
from sandbox.conversation import Conversation
from sandbox.jail import Pipes
from sandbox.job import Job, Limits
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


@pytest.mark.parametrize(
    ("stopped_s", "handler"),
    [
        (100.0, "() => ++n"),
        (6.0, "() => ++n"),
        (6.0, "() => new Promise((done) => setTimeout(() => done(++n), 1500))"),
    ],
    ids=["past the deadline", "past the start", "past the start of a slow handler"],
)
def test_a_worker_that_was_stopped_takes_the_answer_that_is_there_or_comes_and_runs_nothing_twice(
    run: Runner, monkeypatch: pytest.MonkeyPatch, stopped_s: float, handler: str
) -> None:
    source, key = f"let n = 0; exports.handler = {handler}", f"stopped {stopped_s} {handler}"
    assert run(source, reuse_key=key).result == 1
    send, late = Conversation._send, [0.0]

    def send_and_stop(talk: Conversation, frame: bytes) -> None:
        send(talk, frame)
        time.sleep(0.5)  # as if by a signal
        late[0] = stopped_s

    clock = time.monotonic
    with monkeypatch.context() as stopped:
        stopped.setattr(Conversation, "_send", send_and_stop)
        stopped.setattr(conversation.time, "monotonic", lambda: clock() + late[0])
        assert run(source, reuse_key=key).result == 2
    assert run(source, reuse_key=key).result == 3


def test_a_reused_jail_that_does_not_get_to_the_handler_is_replaced_long_before_the_time_limit(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "_START_S", 0.3)
    source = SOURCE.format(leftover="for (;;);")
    assert run(source, True, reuse_key="blocked").result == 1
    # Runs of the same jail go on until what is left in it begins.
    results = [1]
    deadline = time.monotonic() + 30
    while len(results) == 1 or results[-1] != 1:
        assert time.monotonic() < deadline, results
        begun = time.monotonic()
        results.append(run(source, False, reuse_key="blocked", limits=Limits(timeout_ms=20_000)).result)
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize(
    ("said", "entered"),
    [
        (b"", False),
        (protocol.encode_frame(protocol.ERROR, {"kind": "exception"}), False),
        (protocol.encode_frame(protocol.STARTED, {}), True),
        (protocol.encode_frame(protocol.RESULT, {"left": []}, b"1"), True),
        (b"\xff" * 20, True),
    ],
)
def test_whether_a_dead_jail_entered_the_handler_is_told_by_what_it_left_in_its_pipe(
    said: bytes, entered: bool
) -> None:
    pipes = [os.pipe() for _ in range(5)]
    ends = Pipes(pipes[0][1], *(reader for reader, _ in pipes[1:]))
    for fd in ends.all():
        os.set_blocking(fd, False)
    job = Job(run_id="r", files={}, limits=Limits(timeout_ms=1))
    talk = Conversation(job, Recorder(), threading.Event(), ends, has_script=True)
    assert talk.run().kind == "timeout"
    os.write(pipes[1][1], said)
    os.close(pipes[1][1])
    assert talk.entered_unheard() is entered
    for reader, writer in pipes:
        os.close(reader)
        if writer != pipes[1][1]:
            os.close(writer)


def test_a_call_before_the_handler_is_entered_breaks_the_jail(run: Runner) -> None:
    forged = protocol.encode_frame(protocol.CALL, {"id": 1, "method": "events.publish"}, b"{}").hex()
    text = f"Buffer.from('{forged}', 'hex').toString('latin1')"
    leftover = f"process.binding('fs').writeString(4, {text}, null, 'latin1')"
    source = SOURCE.format(leftover=leftover)
    assert run(source, True, reuse_key="early call").result == 1
    sink = Recorder()
    assert run(source, False, reuse_key="early call", sink=sink).kind == "succeeded"
    assert sink.calls == []


def test_a_sink_that_fails_when_it_is_offered_a_jail_leaves_no_descriptor(run: Runner) -> None:
    class Failing(Recorder):
        def on_assigned(self) -> bool:
            raise RuntimeError("the database is away")

    run("exports.handler = () => 1")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(RuntimeError):
            run("exports.handler = () => 1", sink=Failing())
    assert len(os.listdir("/proc/self/fd")) <= before
