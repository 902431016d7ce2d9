"""Calls whose answers come later: from other threads, in any order, while the run's log, cancel and clock go on."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sandbox import answers, protocol
from sandbox.answers import Answers
from sandbox.conversation import Conversation
from sandbox.jail import Pipes
from sandbox.job import CallRefused, Job, Limits, Pending
from tests.sandbox.hostile.arena import RAW
from tests.sandbox.python_support import Python
from tests.sandbox.support import Later, Recorder, Runner


def in_a_thread(step: Callable[[], None]) -> None:
    threading.Thread(target=step, daemon=True).start()


def test_an_answer_from_another_thread_resolves_the_call(run: Runner) -> None:
    sink = Later(on_each=lambda _, pending: in_a_thread(lambda: pending.resolve({"a": [1, None, "é"]})))
    assert run.body("return await context.publish('x')", sink=sink).result == {"a": [1, None, "é"]}


def test_an_answer_that_is_there_at_once_resolves_the_call(run: Runner) -> None:
    sink = Later(on_each=lambda _, pending: pending.resolve(5))
    assert run.body("return await context.publish('x')", sink=sink).result == 5


def test_a_refusal_that_comes_later_has_its_code_and_when_to_ask_again(run: Runner) -> None:
    refused = CallRefused("not now", code="RATE_LIMITED", retry_after_ms=1200)
    sink = Later(on_each=lambda _, pending: in_a_thread(lambda: pending.refuse(refused)))
    source = "return context.publish('x').catch((e) => [e.name, e.message, e.code, e.retryAfterMs])"
    assert run.body(source, sink=sink).result == ["Error", "not now", "RATE_LIMITED", 1200]


def test_a_refusal_without_a_code_has_none(run: Runner) -> None:
    def refuse(method: str, params: dict[str, Any]) -> Any:
        raise CallRefused("no")

    source = "return context.publish('x').catch((e) => ['code' in e, 'retryAfterMs' in e])"
    assert run.body(source, sink=Recorder(answer=refuse)).result == [False, False]


def test_two_calls_are_answered_out_of_order(run: Runner) -> None:
    sink = Later()

    def answer(number: int, _: Pending) -> None:
        if number == 1:
            sink.pending[1].resolve("second")
            # The first one's answer waits until the second one's has been used.
            sink.on_first_line = lambda: sink.pending[0].resolve("first")

    sink.on_each = answer
    ran = run.body(
        """
        const order = [];
        const note = (answer) => { order.push(answer); console.log(answer); };
        await Promise.all([context.publish('a').then(note), context.publish('b').then(note)]);
        return order;
        """,
        sink=sink,
    )
    assert ran.result == ["second", "first"]


def test_the_log_arrives_while_a_call_waits(run: Runner) -> None:
    sink = Later()
    sink.on_first_line = lambda: sink.pending[0].resolve("after the line")
    source = "const asked = context.publish('x'); console.log('meanwhile'); return asked;"
    assert run.body(source, sink=sink).result == "after the line"


def test_each_of_many_calls_gets_its_own_answer(run: Runner) -> None:
    chance = random.Random(7)

    def answer(number: int, pending: Pending) -> None:
        threading.Timer(chance.random() / 50, pending.resolve, [number]).start()

    ran = run.body(
        "return Promise.all(Array.from({ length: 200 }, () => context.publish('x')))", sink=Later(on_each=answer)
    )
    assert ran.result == list(range(200))


def resolve_all(pending: Sequence[Pending], value: Any) -> None:
    for each in pending:
        each.resolve(value)


def test_more_calls_than_may_wait_are_refused_in_words_and_not_begun(run: Runner) -> None:
    sink = Later()
    sink.on_first_line = lambda: resolve_all(sink.pending, "ok")
    ran = run.body(
        """
        const ask = () => context.publish('x').catch((e) => e.message);
        const asked = Array.from({ length: 258 }, ask);
        const refused = await Promise.all(asked.slice(256));
        console.log('refused');
        return [...refused, ...new Set(await Promise.all(asked.slice(0, 256)))];
        """,
        sink=sink,
    )
    refusal = "at most 256 calls of a run may wait for their answers at a time"
    assert ran.result == [refusal, refusal, "ok"]
    assert len(sink.calls) == answers.MOST_PENDING


def test_a_call_is_taken_again_once_others_are_answered(run: Runner) -> None:
    sink = Later()

    def answer(number: int, pending: Pending) -> None:
        if number >= answers.MOST_PENDING - 1:
            resolve_all(sink.pending, number)

    sink.on_each = answer
    ran = run.body(
        """
        await Promise.all(Array.from({ length: 256 }, () => context.publish('x')));
        return context.publish('x');
        """,
        sink=sink,
    )
    assert ran.result == 256


def test_a_cancel_ends_a_run_that_waits_within_a_second(run: Runner) -> None:
    cancel = threading.Event()
    cancelled_at = 0.0

    def answer(number: int, pending: Pending) -> None:
        def end() -> None:
            nonlocal cancelled_at
            cancelled_at = time.monotonic()
            cancel.set()

        threading.Timer(0.2, end).start()

    ran = run.body("await context.publish('x')", sink=Later(on_each=answer), cancel=cancel)
    assert ran.kind == "cancelled"
    assert time.monotonic() - cancelled_at < 1


def test_the_time_limit_ends_a_run_that_waits(run: Runner) -> None:
    ran = run.body("await context.publish('x')", sink=Later(), limits=Limits(timeout_ms=300))
    assert (ran.kind, ran.message) == ("timeout", "The run took longer than its time limit of 0.3 s")
    assert 300 <= ran.outcome.duration_ms < 1300


def test_what_still_waits_at_the_end_is_dropped(run: Runner) -> None:
    sink = Later()
    before = len(os.listdir("/proc/self/fd"))
    assert run.body("context.publish('x'); return 1", sink=sink).result == 1
    sink.pending[0].resolve("late")
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_next_run_of_a_jail_gets_no_answer_of_the_one_before(run: Runner) -> None:
    source = "exports.handler = async (p, c) => { const asked = c.publish(p); return p === 'kept' ? 0 : asked; }"
    sink = Later()
    assert run(source, "kept", sink=sink, reuse_key="waits").result == 0
    late = sink.pending[0]

    def answer(_: int, pending: Pending) -> None:
        late.resolve("old")
        pending.resolve("new")

    second = Later(on_each=answer)
    ran = run(source, "asked", sink=second, reuse_key="waits")
    assert (ran.result, ran.outcome.usage.jail) == ("new", "reused")


def test_a_late_answer_is_not_written_to_what_has_the_descriptors_number_by_then() -> None:
    waiting = Answers()
    pending = Pending()
    waiting.add(1, pending)
    number = waiting.fd
    waiting.close()
    other = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        assert other == number
        pending.resolve("late")
        with pytest.raises(BlockingIOError):
            os.eventfd_read(other)
    finally:
        os.close(other)


def test_the_first_answer_counts() -> None:
    pending, heard = Pending(), []
    pending.notify(lambda: heard.append(pending.answer()))
    pending.resolve(1)
    pending.resolve(2)
    pending.refuse(CallRefused("no"))
    assert (heard, pending.answer()) == ([1], 1)


def test_of_answers_given_at_once_one_counts_and_is_told_once() -> None:
    for _ in range(200):
        told = race_of_answers()
        assert len(told) == 1


def race_of_answers() -> list[str]:
    """What was told of a call that two threads answer while a third one begins to listen."""
    pending, told, gate = Pending(), list[str](), threading.Barrier(3)

    def tell() -> None:
        try:
            told.append(str(pending.answer()))
        except CallRefused as refused:
            told.append(str(refused))

    def take_part(step: Callable[[], None]) -> None:
        gate.wait()
        step()

    steps = [lambda: pending.resolve(1), lambda: pending.refuse(CallRefused("no")), lambda: pending.notify(tell)]
    threads = [threading.Thread(target=take_part, args=[step]) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


@pytest.mark.parametrize(
    ("value", "part"),
    [("x" * 9_000_000, "the answer is 9000002 bytes; at most 8388608 are allowed"), (float("nan"), "is not JSON")],
)
@pytest.mark.parametrize("later", [True, False])
def test_an_answer_that_no_run_may_have_is_refused(run: Runner, later: bool, value: Any, part: str) -> None:
    sink = Later(on_each=lambda _, pending: pending.resolve(value)) if later else Recorder(answer=lambda *_: value)
    assert part in run.body("return context.publish('x').catch((e) => e.message)", sink=sink).result


def test_answers_do_not_pile_up_before_a_run_that_reads_them_slowly(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve answers of 4 MB, while no further one is made once 8 MB wait to be sent."""
    sink, unsent, send = Later(), list[int](), Conversation._send

    def watched(talk: Conversation, frame: bytes) -> None:
        send(talk, frame)
        unsent.append(talk._unsent)

    monkeypatch.setattr(Conversation, "_send", watched)

    def answer(number: int, _: Pending) -> None:
        if number == 11:
            in_a_thread(lambda: resolve_all(sink.pending, "x" * 4_000_000))

    sink.on_each = answer
    ran = run.body(
        """
        const asked = Array.from({ length: 12 }, () => context.publish('x').then((text) => text.length));
        const end = Date.now() + 300; while (Date.now() < end);
        return Promise.all(asked);
        """,
        sink=sink,
    )
    assert ran.result == [4_000_000] * 12
    assert max(unsent) < 13_000_000


@pytest.mark.parametrize("is_javascript", [True, False])
def test_answers_that_wait_to_be_read_leave_room_for_further_calls(run: Runner, is_javascript: bool) -> None:
    """Forty answers of a megabyte come at once, and each is followed by another call."""
    sink = Later()

    def answer(number: int, pending: Pending) -> None:
        if number == 39:
            in_a_thread(lambda: resolve_all(sink.pending[:40], "x" * 1_000_000))
        elif number > 39:
            pending.resolve("after it")

    sink.on_each = answer
    if is_javascript:
        ran = run.body(
            """
            const one = async () => [await sdk.db.query('x'), await sdk.cache.get('y')];
            return (await Promise.all(Array.from({ length: 40 }, one))).map(([first, second]) => first.length + second);
            """,
            sink=sink,
        )
    else:
        ran = Python(run).async_body(
            """
            import asyncio
            async def one():
                return f"{len(await sdk.db.query('x'))}{await sdk.cache.get('y')}"
            return await asyncio.gather(*(one() for _ in range(40)))
            """,
            sink=sink,
        )
    assert ran.result == ["1000000after it"] * 40


def test_no_answer_is_begun_once_the_result_is_there() -> None:
    """The jail may be given its next job by then, and half an answer would stand before it."""
    reads, writes = zip(*(os.pipe() for _ in range(5)), strict=True)
    for fd in (*reads, *writes):
        os.set_blocking(fd, False)
    job_end, control_end = reads[0], writes[1]
    told = Pending()
    told.resolve("x" * 1_000_000)

    def answer(method: str, params: dict[str, Any]) -> Pending:
        os.write(control_end, protocol.encode_frame(b"R", {"left": []}, b"1"))
        return told

    pipes = Pipes(writes[0], *reads[1:])
    try:
        call = protocol.encode_frame(b"C", {"id": 1, "method": "db.query"}, b"{}")
        os.write(control_end, protocol.encode_frame(b"S", {}) + call)
        talk = Conversation(
            Job("run-1", {}, reuse_key="key"), Recorder(answer=answer), threading.Event(), pipes, has_script=False
        )
        ending = talk.run()
        assert (ending.kind, ending.clean) == ("succeeded", True)
        sent = os.read(job_end, 100_000)
        assert int.from_bytes(sent[:4], "big") == len(sent) - 4, "more than the job was sent"
    finally:
        for fd in (*reads, *writes):
            os.close(fd)


def test_parameters_that_are_nested_too_deeply_are_refused_in_words(run: Runner) -> None:
    source = """
        let deep = []; for (let depth = 0; depth < 3000; depth += 1) deep = [deep];
        return sdk.cache.set('x', deep).catch((e) => [e.name, e.message]);
    """
    sink = Later()
    assert run.body(source, sink=sink).result == [
        "Error", "the parameters of a call can't be read: it is nested too deeply"
    ]  # fmt: skip
    assert sink.calls == []


def test_to_read_what_a_call_says_counts_as_what_a_run_costs(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sink's own work does not; but a flood of large calls is work before the sink is asked."""
    talks, send, parse = [], Conversation._send, protocol.parse_json

    def kept(talk: Conversation, frame: bytes) -> None:
        talks.append(talk)
        send(talk, frame)

    def slow(text: bytes) -> Any:
        if b"slow" in text:
            burn(0.05)
        return parse(text)

    monkeypatch.setattr(Conversation, "_send", kept)
    monkeypatch.setattr(protocol, "parse_json", slow)
    assert run.body("return sdk.cache.get('slow')", sink=Recorder(answer=lambda *_: 1)).result == 1
    assert talks[-1]._served_s < 0.05


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize("is_javascript", [True, False])
def test_a_jail_whose_run_left_a_call_without_an_answer_serves_the_next(run: Runner, is_javascript: bool) -> None:
    key = f"left a call {is_javascript}"
    jails = []
    for _ in range(2):
        if is_javascript:
            ran = run.body("sdk.db.query('x'); return 1", sink=Later(), reuse_key=key)
        else:
            body = """
                import asyncio
                try:
                    await asyncio.wait_for(sdk.db.query('x'), 0.05)
                except TimeoutError:
                    return 1
            """
            ran = Python(run).async_body(body, sink=Later(), reuse_key=key)
        assert ran.result == 1
        jails.append(ran.outcome.usage.jail)
    assert jails[1] == "reused"


def test_calls_that_a_script_writes_by_hand_are_bound_like_its_others(run: Runner) -> None:
    """One number twice, more than may wait, and none of it reaches anybody but the run's own sink."""
    sink = Later()
    body = """
        const call = (id) => frame('C', JSON.stringify({ id, method: 'db.query' }), '{"sql":"x","tx":"stolen"}');
        write(4, call(1)); write(4, call(1));
        for (let id = 2; id < 400; id += 1) write(4, call(id));
        await later(300);
        return 'mine';
    """
    ran = run(f"{RAW} exports.handler = async (payload) => {{ {body} }};", sink=sink)
    assert ran.result == "mine"
    assert len(sink.calls) == answers.MOST_PENDING
    assert run.body("return 1").result == 1


def test_a_call_before_the_handler_is_refused_within_the_jail(run: Runner) -> None:
    source = "const early = sdk.cache.get('x').catch((e) => e.message); exports.handler = async () => early;"
    ran = run(source, sink=(sink := Later()))
    assert ran.result == "The platform can be called once the handler runs, not at the script's top level"
    assert sink.calls == []


def test_a_jail_that_was_sent_half_an_answer_serves_no_other_run(run: Runner) -> None:
    """The other half would be taken for the beginning of its next job."""
    source = """
        import asyncio, time
        async def handler(payload, given):
            if payload == "first":
                try:
                    await asyncio.wait_for(sdk.cache.get("x"), 0.1)
                except asyncio.TimeoutError:
                    print("gave up")
                    time.sleep(0.6)  # without reading the answer that comes meanwhile
            return payload
    """
    sink = Later()
    sink.on_first_line = lambda: sink.pending[0].resolve("x" * 6_000_000)
    python = Python(run)
    run.sandbox.figures()
    assert python(source, "first", sink=sink, reuse_key="half an answer").result == "first"
    assert python(source, "second", reuse_key="half an answer").result == "second"
    assert "broken" not in [each["reason"] for each in run.sandbox.figures()["ends"]]
