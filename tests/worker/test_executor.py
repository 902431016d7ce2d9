"""One run from its message to its record, with jails that do as they are told, on both databases."""

import errno
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import peewee
import pytest
from playhouse.pool import MaxConnectionsExceeded

from millrace import artifacts, audit, events, removal, runs, scripts, secrets
from millrace.cache import Namespace
from millrace.dispatch import MemoryQueue
from millrace.models import Artifact, Event, Run, Script, Secret
from millrace.models import Schedule as ScheduleRow
from millrace.services import Services
from sandbox.job import CallRefused, Job, Kind, LogLine, Outcome, Pending, SandboxUnavailable, Sink
from tests.worker.support import (
    FakeJails,
    FlakyObjects,
    eventually,
    in_thread,
    log_text,
    new_script,
    outcome,
    reload,
    says,
    submit,
    until_cancelled,
    worker_on,
)  # fmt: skip
from worker.executor import Executor, _NotBegun
from worker.runlog import RunLog


def carry(services: Services, jails: FakeJails, run: Run, attempt: int = 1, **options: object) -> Run:
    """Handle one message; the run as it is recorded then."""
    with worker_on(services, jails, **options) as executor:
        executor.execute(run.id, attempt)
    return reload(run)


def unavailable(*, reached: bool = False) -> SandboxUnavailable:
    return SandboxUnavailable("the launcher is gone", reached_handler=reached)


# What a job gets


def test_the_job_has_all_that_the_handler_needs(local: Services) -> None:
    script = new_script(
        local, secrets={"KEY": "top-secret"}, memory_mb=512, timeout_seconds=7, egress_hosts=["api.example.com"],
        entry_point="exports.main",
    )  # fmt: skip
    jails = FakeJails()
    run = submit(local, script, {"n": 1}, event_id="e-1")
    carry(local, jails, run)
    (job,) = jails.jobs
    assert job.run_id == run.id
    assert job.files == {"index.js": b"exports.handler = async (payload) => ({hello: payload.name});"}
    assert (job.main, job.entry_point, job.runtime) == ("index.js", "exports.main", "nodejs20")
    assert json.loads(job.payload) == {"n": 1}
    assert job.secrets == {"KEY": "top-secret"}
    assert job.egress_hosts == ("api.example.com",)
    assert (job.limits.memory_mb, job.limits.timeout_ms) == (512, 7000)
    assert job.context == {
        "runId": run.id, "workspaceId": "acme", "scriptUuid": script.uuid, "scriptId": "hello", "scriptVersion": 1,
        "attempt": 1, "trigger": {"type": "api", "event": "e-1"},
        "sdk": {
            "tenantId": "acme", "userId": None, "organizationId": None, "scriptId": script.uuid,
            "executionId": run.id, "trigger": {"type": "api", "eventType": None, "cronExpression": None},
        },
    }  # fmt: skip


def sdk_context(services: Services, script: Script, payload: Any = None, **values: Any) -> dict[str, Any]:
    """What the SDK's context tells of one run."""
    jails = FakeJails()
    order = runs.Order(workspace="acme", script=script.uuid, payload=payload, **values)
    carry(services, jails, runs.submit(services, order).run)
    told: dict[str, Any] = jails.jobs[0].context["sdk"]
    return told


def test_the_sdk_tells_who_started_the_run_and_what_did(local: Services) -> None:
    script = new_script(local)
    ScheduleRow.create(script=script.uuid, expression="cron(0 9 * * ? *)", anchor_at=0)
    types = {}
    for trigger in ("api", "manual", "http", "event", "schedule", "batch"):
        told = sdk_context(local, script, {"name": "order.made"}, trigger=trigger, user_id=7)
        assert told["userId"] == 7
        types[trigger] = told["trigger"]
    nothing = {"eventType": None, "cronExpression": None}
    assert types == {
        "api": {"type": "api", **nothing},
        "manual": {"type": "manual", **nothing},
        "http": {"type": "http", **nothing},
        "event": {"type": "event", "eventType": "order.made", "cronExpression": None},
        "schedule": {"type": "cron", "eventType": None, "cronExpression": "cron(0 9 * * ? *)"},
        "batch": {"type": "api", **nothing},
    }


@pytest.mark.parametrize("payload", [None, [], "text", {"name": 5}, {"name": None}, [[[]]] * 9])
def test_an_event_without_a_name_has_no_type(local: Services, payload: Any) -> None:
    assert sdk_context(local, new_script(local), payload, trigger="event")["trigger"]["eventType"] is None


def test_the_finer_limits_of_a_script_are_its_jobs(local: Services) -> None:
    script = new_script(local, memory_mb=512, timeout_seconds=7)
    jails = FakeJails()
    carry(local, jails, submit(local, script))
    script.limits = {"timeout_ms": 1500, "memory_bytes": 100 * 2**20 + 1, "output_bytes": 2000}
    script.save(only=["limits"])
    carry(local, jails, submit(local, script))
    plain, finer = (job.limits for job in jails.jobs)
    assert (plain.timeout_ms, plain.memory_mb, plain.runtime_mb, plain.result_bytes) == (7000, 512, 0, 6 * 2**20)
    assert (finer.timeout_ms, finer.memory_mb, finer.runtime_mb, finer.result_bytes) == (1500, 64 + 101, 64, 2000)


def test_null_and_empty_lists_of_hosts_are_not_the_same(local: Services) -> None:
    jails = FakeJails()
    carry(local, jails, submit(local, new_script(local)))
    carry(local, jails, submit(local, new_script(local, slug="closed", egress_hosts=[])))
    assert [job.egress_hosts for job in jails.jobs] == [None, ()]


def test_a_jail_is_shared_by_runs_of_one_version_with_the_same_secrets_and_limits(local: Services) -> None:
    script = new_script(local)
    jails = FakeJails()
    keys = []

    def once() -> None:
        carry(local, jails, submit(local, script))
        keys.append(jails.jobs[-1].reuse_key)

    once()
    once()
    scripts.update(local, scripts.find("acme", "hello"), scripts.Change(secrets={"A": "b" * 8}))
    once()
    scripts.update(local, scripts.find("acme", "hello"), scripts.Change(columns={"memory_mb": 512}))
    once()
    scripts.update(local, scripts.find("acme", "hello"), scripts.Change(source=b"exports.handler = () => 2;"))
    once()
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
    assert all(key is not None and script.uuid in key and "acme" in key for key in keys)


def test_an_isolated_script_shares_no_jail(local: Services) -> None:
    jails = FakeJails()
    carry(local, jails, submit(local, new_script(local, isolation="fresh")))
    assert jails.jobs[0].reuse_key is None


def test_a_large_payload_arrives_whole(local: Services) -> None:
    jails = FakeJails()
    payload = {"text": "é" * 200_000}
    carry(local, jails, submit(local, new_script(local), payload))
    assert json.loads(jails.jobs[0].payload) == payload


def test_a_run_keeps_the_version_that_it_was_accepted_with(local: Services) -> None:
    script = new_script(local)
    run = submit(local, script)
    scripts.update(local, script, scripts.Change(source=b"exports.handler = () => 2;"))
    jails = FakeJails()
    carry(local, jails, run)
    assert jails.jobs[0].files["index.js"].startswith(b"exports.handler = async")


def test_source_is_read_from_the_store_once(local: Services, objects_of: FlakyObjects) -> None:
    script = new_script(local)
    with worker_on(local, FakeJails()) as executor:
        for _ in range(3):
            executor.execute(submit(local, script).id, 1)
    assert len([key for key in objects_of.reads if key.startswith("scripts/")]) == 1


# Claim


def test_a_run_is_recorded_with_result_summary_usage_and_times(local: Services) -> None:
    result = outcome(result=b'{"a":1}')
    done = carry(local, FakeJails(lambda *_: Outcome(Kind.SUCCEEDED, b'{"a":1}', usage=result.usage)),
                 submit(local, new_script(local)))  # fmt: skip
    assert (done.status, done.result, done.summary, done.error) == ("succeeded", '{"a":1}', {"a": 1}, None)
    assert (done.attempt, done.worker, done.lease_until) == (1, "test-worker", None)
    assert done.created_at <= done.started_at <= done.completed_at
    assert done.usage["jail"] == "warm"


def test_whoever_waits_is_told(local: Services) -> None:
    run = submit(local, new_script(local))
    with local.bus.listen(f"run:{run.id}") as hints:
        carry(local, FakeJails(), run)
        assert hints.get(timeout=1) == "end succeeded"


def test_the_run_is_queued_until_a_jail_is_in_hand_and_claimed_before_its_job_is_sent(
    local: Services,
) -> None:
    run = submit(local, new_script(local))
    seen = []

    def look(cancel: threading.Event) -> None:
        seen.append(reload(run).status)

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        seen.append(reload(run).status)
        return outcome()

    carry(local, FakeJails(behave, before=look), run)
    assert seen == ["queued", "running"]


def test_two_messages_for_one_run_execute_it_once(local: Services) -> None:
    run = submit(local, new_script(local))
    jails = FakeJails()
    carry(local, jails, run)
    done = carry(local, jails, run)
    assert len(jails.jobs) == 1
    assert done.status == "succeeded"


def test_of_two_workers_with_the_same_message_at_once_one_executes_it(local: Services) -> None:
    run = submit(local, new_script(local))
    both_have_a_jail = threading.Barrier(2, timeout=10)

    def meet(cancel: threading.Event) -> None:
        both_have_a_jail.wait()

    jails = FakeJails(before=meet)
    with worker_on(local, jails, name="other") as other, in_thread(local, lambda: other.execute(run.id, 1)):
        carry(local, jails, run)
    assert len(jails.jobs) == 1
    assert reload(run).status == "succeeded"


@pytest.mark.parametrize("attempt", [0, 2, 3])
def test_a_message_for_another_attempt_than_the_next_does_nothing(local: Services, attempt: int) -> None:
    jails = FakeJails()
    assert carry(local, jails, submit(local, new_script(local)), attempt).status == "queued"
    assert jails.jobs == []


def test_a_message_for_a_run_that_is_gone_does_nothing(local: Services) -> None:
    run = submit(local, new_script(local))
    removal.delete(local, scripts.find("acme", "hello"))
    jails = FakeJails()
    with worker_on(local, jails) as executor:
        executor.execute(run.id, 1)
    assert jails.jobs == []


# The platform fails


def test_without_a_jail_for_a_moment_the_run_begins_a_moment_later(local: Services, queue_of: MemoryQueue) -> None:
    failures = [unavailable(), unavailable()]

    def fail(cancel: threading.Event) -> None:
        if failures:
            raise failures.pop()

    done = carry(local, FakeJails(before=fail), submit(local, new_script(local)))
    assert (done.status, done.attempt) == ("succeeded", 1)
    assert len(queue_of.take()) == 1


def always(error: Exception) -> Callable[..., Outcome]:
    def fail(*_: object) -> Outcome:
        raise error

    return fail


def test_without_a_jail_three_attempts_are_made_and_then_the_platform_is_to_blame(
    local: Services, queue_of: MemoryQueue
) -> None:
    run = submit(local, new_script(local))
    jails = FakeJails(before=always(unavailable()))
    assert queue_of.take() == [(run.id, 1)]
    assert carry(local, jails, run, 1).status == "queued"
    assert queue_of.take() == [(run.id, 2)]
    assert carry(local, jails, run, 2).status == "queued"
    assert queue_of.take() == [(run.id, 3)]
    done = carry(local, jails, run, 3)
    assert (done.status, done.error_code) == ("failed", "PLATFORM_ERROR")
    assert "the launcher is gone" in done.error
    assert queue_of.take() == []


def test_a_jail_that_fails_before_the_handler_costs_an_attempt_and_no_more(
    local: Services, queue_of: MemoryQueue
) -> None:
    run = submit(local, new_script(local))
    queue_of.take()
    broken = FakeJails(always(unavailable()))
    broken.run = _claim_and_fail(unavailable())  # type: ignore[method-assign]
    back = carry(local, broken, run, 1)
    assert (back.status, back.attempt, back.worker, back.lease_until, back.started_at) == (
        "queued", 1, None, None, None
    )  # fmt: skip
    assert queue_of.take() == [(run.id, 2)]
    done = carry(local, FakeJails(), run, 2)
    assert (done.status, done.attempt) == ("succeeded", 2)


def test_a_jail_that_fails_before_the_handler_three_times_is_the_platforms_failure(local: Services) -> None:
    run = submit(local, new_script(local))
    broken = FakeJails()
    broken.run = _claim_and_fail(unavailable())  # type: ignore[method-assign]
    statuses = [carry(local, broken, run, attempt).status for attempt in (1, 2, 3)]
    assert statuses == ["queued", "queued", "failed"]
    assert reload(run).error_code == "PLATFORM_ERROR"


def _claim_and_fail(error: SandboxUnavailable) -> Callable[[Job, Sink, threading.Event], Outcome]:
    def run(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        assert sink.on_assigned()
        raise error

    return run


def test_a_jail_that_fails_within_the_handler_is_never_run_again(local: Services, queue_of: MemoryQueue) -> None:
    run = submit(local, new_script(local))
    queue_of.take()
    done = carry(local, FakeJails(always(unavailable())), run)  # FakeJails says on_start first
    assert (done.status, done.error_code) == ("failed", "WORKER_LOST")
    assert queue_of.take() == []
    assert carry(local, FakeJails(), run, 2).status == "failed"


def test_a_source_that_the_store_lost_ends_in_a_failure_of_the_platform(local: Services) -> None:
    run = submit(local, new_script(local))
    local.objects.delete_prefix("scripts/")
    for attempt in (1, 2, 3):
        done = carry(local, FakeJails(), run, attempt)
    assert (done.status, done.error_code) == ("failed", "PLATFORM_ERROR")
    assert "missing in the object store" in done.error


def test_an_error_of_our_own_is_recorded_and_does_not_leave_the_run_running(local: Services) -> None:
    done = carry(local, FakeJails(always(ZeroDivisionError("a bug"))), submit(local, new_script(local)))
    assert (done.status, done.error_code) == ("failed", "PLATFORM_ERROR")
    assert "a bug" not in done.error


def test_an_error_of_our_own_before_the_job_is_sent_costs_an_attempt_and_no_more(
    local: Services, queue_of: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submit(local, new_script(local))
    queue_of.take()
    with monkeypatch.context() as broken:
        broken.setattr(RunLog, "begin", lambda *_: 1 / 0)  # after the claim, before the jail has the job
        back = carry(local, FakeJails(), run, 1)
    assert (back.status, back.attempt, back.worker, back.lease_until) == ("queued", 1, None, None)
    assert queue_of.take() == [(run.id, 2)]
    assert carry(local, FakeJails(), run, 2).status == "succeeded"


def test_an_outcome_outlives_a_database_that_is_away_for_a_while(
    local: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, failures = runs.finish, [peewee.OperationalError("away"), peewee.InterfaceError("closed")]

    def flaky(*arguments: object, **named: object) -> bool:
        if failures:
            raise failures.pop()
        return finish(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "finish", flaky)
    assert carry(local, FakeJails(), submit(local, new_script(local))).status == "succeeded"


def test_a_database_that_is_away_when_a_run_should_begin_is_asked_again(
    local: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, failures = runs.claim, [peewee.OperationalError("away")]

    def flaky(*arguments: object) -> bool:
        if failures:
            raise failures.pop()
        return claim(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "claim", flaky)
    assert carry(local, FakeJails(), submit(local, new_script(local))).status == "succeeded"


def test_a_large_result_goes_to_the_object_store(local: Services) -> None:
    result = json.dumps({"x": "y" * 100_000}).encode()
    run = submit(local, new_script(local))
    done = carry(local, FakeJails(lambda *_: Outcome(Kind.SUCCEEDED, result)), run)
    assert done.result is None
    assert runs.result_text(local, done) == result.decode()
    assert done.summary["truncated"] is True


def test_a_large_result_that_cannot_be_stored_is_a_failure_and_not_a_success_without_result(
    local: Services, objects_of: FlakyObjects
) -> None:
    def behave(*_: object) -> Outcome:
        objects_of.away = True
        return Outcome(Kind.SUCCEEDED, b'"' + b"y" * 100_000 + b'"')

    done = carry(local, FakeJails(behave), submit(local, new_script(local)))
    assert (done.status, done.error_code, done.summary) == ("failed", "PLATFORM_ERROR", None)
    assert "100002 bytes" in done.error


# Cancel, lose, stop


def test_a_running_handler_is_cancelled_within_a_second(local: Services) -> None:
    run = submit(local, new_script(local))
    with (
        worker_on(local, FakeJails(until_cancelled)) as executor,
        in_thread(local, lambda: executor.execute(run.id, 1)) as thread,
    ):
        eventually(lambda: reload(run).status == "running")
        runs.cancel(local, reload(run))
        thread.join(2)
        assert not thread.is_alive()
    done = reload(run)
    assert (done.status, done.error_code) == ("cancelled", "CANCELLED")


def test_a_run_that_is_cancelled_while_it_waits_for_a_jail_is_not_executed(local: Services) -> None:
    run = submit(local, new_script(local))
    jails = FakeJails(before=lambda cancel: runs.cancel(local, reload(run)))
    done = carry(local, jails, run)
    assert (done.status, jails.jobs) == ("cancelled", [])


def test_a_run_that_was_taken_over_is_ended_and_its_result_and_log_thrown_away(local: Services) -> None:
    run = submit(local, new_script(local))

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        sink.on_log([LogLine(1, "INFO", "of the first attempt")])
        Run.update(attempt=2, worker="the other").where(Run.id == run.id).execute()
        return until_cancelled(job, sink, cancel)

    done = carry(local, FakeJails(behave), run, look_s=0.05)
    assert (done.status, done.attempt, done.worker, done.result) == ("running", 2, "the other", None)
    assert not local.objects.exists(f"logs/acme/{run.id}.log")


def test_a_worker_that_slept_through_its_lease_throws_its_result_away(local: Services) -> None:
    run = submit(local, new_script(local))

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        sink.on_log([LogLine(1, "INFO", "late")])
        Run.update(status="failed", error_code="WORKER_LOST").where(Run.id == run.id).execute()
        return outcome()

    # A lease so short that it lapsed, and a keeper that has not looked yet.
    done = carry(local, FakeJails(behave), run, lease_ms=0, look_s=60)
    assert (done.status, done.error_code, done.result) == ("failed", "WORKER_LOST", None)
    assert not local.objects.exists(f"logs/acme/{run.id}.log")


def test_leases_are_renewed_as_long_as_handlers_run(local: Services) -> None:
    run = submit(local, new_script(local))
    first: list[int] = []

    def behave(*_: object) -> Outcome:
        first.append(reload(run).lease_until)
        eventually(lambda: reload(run).lease_until > first[0] + 100)
        return outcome()

    done = carry(local, FakeJails(behave), run, lease_ms=2000, renew_s=0.1, look_s=0.05)
    assert done.status == "succeeded"


def test_stopping_hands_waiting_runs_on_and_lets_running_ones_end(local: Services, queue_of: MemoryQueue) -> None:
    script = new_script(local)
    running, waiting = submit(local, script), submit(local, script)
    queue_of.take()
    may_end = threading.Event()

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        assert may_end.wait(10)
        return outcome()

    def no_jail(cancel: threading.Event) -> Outcome | None:
        if reload(running).status == "queued":
            return None
        assert cancel.wait(10)
        return outcome(Kind.CANCELLED)

    jails = FakeJails(behave, before=no_jail)
    with (
        worker_on(local, jails) as executor,
        in_thread(local, lambda: executor.execute(running.id, 1)),
    ):
        eventually(lambda: reload(running).status == "running")
        with in_thread(local, lambda: executor.execute(waiting.id, 1)):
            eventually(lambda: len(executor._sessions) == 2)
            executor.stop()
        assert queue_of.take() == [(waiting.id, 1)]
        assert reload(waiting).status == "queued"
        may_end.set()
    assert reload(running).status == "succeeded"


def test_what_still_runs_after_the_grace_is_recorded_as_stopped(local: Services) -> None:
    run = submit(local, new_script(local))
    with (
        worker_on(local, FakeJails(until_cancelled)) as executor,
        in_thread(local, lambda: executor.execute(run.id, 1)),
    ):
        eventually(lambda: reload(run).status == "running")
        executor.stop()
        executor.end_all()
    done = reload(run)
    assert (done.status, done.error_code) == ("failed", "WORKER_LOST")
    assert done.error == "Stopped with the platform before it ended."


def test_a_run_that_cannot_begin_is_handed_on_when_the_worker_stops(local: Services, queue_of: MemoryQueue) -> None:
    run = submit(local, new_script(local))
    queue_of.take()
    jails = FakeJails(before=always(unavailable()))
    with (
        worker_on(local, jails, begin_pauses=(30.0,)) as executor,
        in_thread(local, lambda: executor.execute(run.id, 1)),
    ):
        executor.stop()
    assert queue_of.take() == [(run.id, 1)]
    assert reload(run).status == "queued"


def test_a_script_that_is_deleted_while_it_runs_leaves_nothing_behind(local: Services) -> None:
    run = submit(local, new_script(local))

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        removal.delete(local, scripts.find("acme", "hello"))
        sink.on_log([LogLine(1, "INFO", "too late")])
        sink.on_call("cache.set", {"key": "too late", "value": 1})
        return Outcome(Kind.SUCCEEDED, b'"' + b"y" * 100_000 + b'"')

    with worker_on(local, FakeJails(behave), look_s=60) as executor:
        executor.execute(run.id, 1)
    assert Run.get_or_none(Run.id == run.id) is None
    assert local.objects.list("") == []
    assert not local.cache.exists(Namespace("acme", run.script_id), "too late")


# What a script may ask for


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_run_has_open_in_data_sources_is_closed_before_it_is_recorded(local: Services, fails: bool) -> None:
    seen: list[str] = []
    run = submit(local, new_script(local))

    class Sources:
        def session(self, workspace_id: str) -> "Sources":
            seen.append(workspace_id)
            return self

        def call(self, method: str, params: dict[str, Any]) -> Pending:
            return Pending()

        def close(self) -> None:
            seen.append(reload(run).status)

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        assert isinstance(sink.on_call("db.begin", {}), Pending)
        if fails:
            raise unavailable(reached=True)
        return outcome()

    done = carry(local, FakeJails(behave), run, databases=Sources())
    assert seen == ["acme", "running"]
    assert done.status == ("failed" if fails else "succeeded")
    assert done.usage["api_calls"] == 1


def test_connections_that_were_refused_are_added_up_in_the_audit_trail(local: Services) -> None:
    script = new_script(local)

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        return replace(outcome(), refused_counts={"address": 2, "host": 1})

    for _ in range(2):
        carry(local, FakeJails(behave), submit(local, script))
    (row,) = [each for each in audit.page("acme", None, 10)[0] if each.action == "egress.refused"]
    assert (row.actor, row.details) == ("egress", {"address": 4, "host": 2})


def asking(step: Callable[[Sink], object]) -> tuple[FakeJails, list[object]]:
    """Jails whose handler does this; and what came of it: a value, or the message of a refusal."""
    answers: list[object] = []

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        try:
            answers.append(step(sink))
        except CallRefused as refused:
            answers.append(str(refused))
        return outcome()

    return FakeJails(behave), answers


def test_a_script_publishes_events_one_step_deeper_than_itself(local: Services) -> None:
    jails, answers = asking(lambda sink: sink.on_call("events.publish", {"name": "order.made", "data": {"n": 1}}))
    run = submit(local, new_script(local), depth=3)
    assert carry(local, jails, run).status == "succeeded"
    event = Event.get(Event.name == "order.made")
    assert answers == [{"event_id": event.id}]
    assert (event.workspace_id, event.source, event.data, event.depth) == ("acme", "hello", {"n": 1}, 4)


def test_a_script_reads_in_its_log_that_a_chain_of_events_was_cut(local: Services) -> None:
    jails, answers = asking(lambda sink: sink.on_call("events.publish", {"name": "order.made", "data": 1}))
    run = submit(local, new_script(local), depth=events.MAX_DEPTH)
    assert carry(local, jails, run).status == "succeeded"
    assert answers == [{"event_id": Event.get(Event.outcome == "cut").id}]
    assert "SYSTEM event 'order.made' starts nothing: depth 11: more than 10 events" in log_text(local, run)


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("events.publish", {"name": "run.completed"}, "which only Millrace itself publishes"),
        ("events.publish", {"name": "a..b"}, "a..b"),
        ("events.publish", {"name": 3}, "must be text"),
        ("events.publish", {}, "must be text"),
        ("events.publish", {"name": "a", "subject": []}, "must be text"),
        ("events.publish", {"name": "a", "data": "x" * 300_000}, "262144 at most"),
        ("files.read", {"name": "a"}, "There is no method 'files.read'"),
    ],
)
def test_a_call_that_breaks_a_rule_is_refused_in_words(
    local: Services, method: str, params: dict[str, object], words: str
) -> None:
    jails, answers = asking(lambda sink: sink.on_call(method, params))
    assert carry(local, jails, submit(local, new_script(local))).status == "succeeded"
    assert words in str(answers[0])
    assert Event.select().count() == 0


def test_a_run_publishes_a_thousand_events_at_most(local: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.sdk.MAX_PUBLISHED", 3)

    def publish(sink: Sink) -> None:
        for _ in range(4):
            sink.on_call("events.publish", {"name": "tick"})

    jails, answers = asking(publish)
    carry(local, jails, submit(local, new_script(local)))
    assert answers == ["A run can publish 3 events."]
    assert Event.select().count() == 3


def test_artifacts_are_kept_and_the_same_name_again_replaces(local: Services) -> None:
    def write(sink: Sink) -> None:
        sink.on_artifact("report.csv", "text/csv", b"a;b")
        sink.on_artifact("report.csv", "text/plain", b"a;b;c")

    jails, _ = asking(write)
    run = submit(local, new_script(local))
    carry(local, jails, run)
    (kept,) = Artifact.select().where(Artifact.run == run.id)
    assert (kept.name, kept.size, kept.content_type) == ("report.csv", 5, "text/plain")
    assert local.objects.get(kept.object_key) == b"a;b;c"


def test_an_artifact_that_cannot_be_stored_is_the_scripts_to_handle(local: Services, objects_of: FlakyObjects) -> None:
    def write(sink: Sink) -> None:
        objects_of.away = True
        try:
            sink.on_artifact("report.csv", "text/csv", b"a")
        finally:
            objects_of.away = False

    jails, answers = asking(write)
    done = carry(local, jails, submit(local, new_script(local)))
    assert answers == ["The platform could not store the artifact now."]
    assert done.status == "succeeded"
    assert Artifact.select().count() == 0


def test_a_run_that_was_taken_over_writes_no_artifact(local: Services) -> None:
    run = submit(local, new_script(local))

    def write(sink: Sink) -> None:
        Run.update(attempt=2).where(Run.id == run.id).execute()
        sink.on_artifact("report.csv", "text/csv", b"a")

    jails, answers = asking(write)
    carry(local, jails, run)
    assert "is not at attempt 1 any more" in str(answers[0])
    assert local.objects.list("artifacts/") == []


# Secrets


def test_secrets_are_masked_in_log_error_and_stack(local: Services) -> None:
    script = new_script(local, secrets={"KEY": "pa$$word/1"})
    run = submit(local, script)
    failed = outcome(Kind.EXCEPTION, message="no pa$$word/1", stack="at pa%24%24word%2F1")
    done = carry(local, FakeJails(says("is pa$$word/1", "or cGEkJHdvcmQvMQ==", then=failed)), run)
    text = (local.objects.get(done.log_key) or b"").decode()
    assert (done.error, done.error_stack) == ("Error: no ***", "at ***")
    assert text.count("***") == 2
    assert "word" not in text.replace("*", "")
    assert secrets.open_all(local, script) == {"KEY": "pa$$word/1"}


def test_a_secret_that_does_not_open_is_a_failure_of_the_platform(local: Services) -> None:
    script = new_script(local, secrets={"KEY": "a-secret-value"})
    run = submit(local, script)
    Secret.update(sealed="v1.broken").execute()
    jails = FakeJails()
    for attempt in (1, 2, 3):
        done = carry(local, jails, run, attempt)
    assert (done.status, done.error_code, jails.jobs) == ("failed", "PLATFORM_ERROR", [])
    # Neither the value nor which keys the operator has.
    assert done.error == "The platform could not carry out this run: a secret of the script could not be opened."


# Errors that nobody foresaw


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), TypeError("a bug"), MaxConnectionsExceeded("too many")],
)
def test_whatever_fails_before_the_claim_is_counted_as_an_attempt(
    local: Services, queue_of: MemoryQueue, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run = submit(local, new_script(local))
    monkeypatch.setattr(runs, "payload_text", always(error))
    statuses = [carry(local, FakeJails(), run, attempt).status for attempt in (1, 2, 3)]
    assert statuses == ["queued", "queued", "failed"]
    assert reload(run).error_code == "PLATFORM_ERROR"
    assert "a bug" not in reload(run).error
    assert queue_of.take() == [(run.id, 1), (run.id, 2), (run.id, 3)]


def test_a_bug_before_a_jail_is_had_is_counted_too(local: Services) -> None:
    run = submit(local, new_script(local))
    jails = FakeJails(before=always(TypeError("a bug")))
    statuses = [carry(local, jails, run, attempt).status for attempt in (1, 2, 3)]
    assert statuses == ["queued", "queued", "failed"]


def no_pause(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a thread of the worker is kept waiting."""
    monkeypatch.setattr(executor._stopping, "wait", always(AssertionError("it waits")))


def test_what_no_wait_can_mend_is_not_waited_for(local: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = submit(local, new_script(local, slug="sealed", secrets={"KEY": "a-secret-value"}))
    Secret.update(sealed="v1.broken").execute()
    lost = submit(local, new_script(local, slug="lost"))
    local.objects.delete_prefix(f"scripts/{lost.script_id}/")
    with worker_on(local, FakeJails()) as executor:
        no_pause(executor, monkeypatch)
        for attempt in (1, 2, 3):
            executor.execute(sealed.id, attempt)
            executor.execute(lost.id, attempt)
    assert [reload(run).error_code for run in (sealed, lost)] == ["PLATFORM_ERROR"] * 2


def test_a_run_that_cannot_even_be_counted_is_left_to_the_sweeper(
    local: Services, queue_of: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submit(local, new_script(local))
    queue_of.take()
    monkeypatch.setattr("millrace.assignments.load", always(peewee.InternalError("read-only")))
    monkeypatch.setattr(runs, "release", always(peewee.InternalError("read-only")))
    assert carry(local, FakeJails(), run).status == "queued"
    assert queue_of.take() == []


@pytest.mark.parametrize("error", [peewee.InternalError("read-only"), MaxConnectionsExceeded("too many")])
def test_an_outcome_outlives_a_database_that_takes_no_writes_for_a_while(
    local: Services, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    finish, failures = runs.finish, [error, error]

    def flaky(*arguments: object, **named: object) -> bool:
        if failures:
            raise failures.pop()
        return finish(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "finish", flaky)
    assert carry(local, FakeJails(), submit(local, new_script(local))).status == "succeeded"


@pytest.mark.parametrize("error", [peewee.InternalError("read-only"), TypeError("a bug")])
def test_a_run_whose_outcome_cannot_be_recorded_does_not_begin_anew(
    local: Services, queue_of: MemoryQueue, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run = submit(local, new_script(local))
    queue_of.take()
    jails = FakeJails()
    monkeypatch.setattr(runs, "finish", always(error))
    assert carry(local, jails, run).status == "running"
    assert (len(jails.jobs), queue_of.take()) == (1, [])


def test_a_run_that_was_lost_because_its_script_is_gone_leaves_nothing_behind(local: Services) -> None:
    run = submit(local, new_script(local))

    def behave(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        sink.on_artifact("report.csv", "text/csv", b"a")
        removal.delete(local, scripts.find("acme", "hello"))
        sink.on_log([LogLine(1, "INFO", "too late")])
        sink.on_call("cache.set", {"key": "too late", "value": 1})
        eventually(lambda: local.objects.list("logs/") != [])
        return until_cancelled(job, sink, cancel)

    with worker_on(local, FakeJails(behave), look_s=0.7) as executor:
        executor.execute(run.id, 1)
    assert local.objects.list("") == []


def test_an_artifact_that_is_being_read_is_not_written_over(local: Services) -> None:
    keys: list[str] = []

    def write(sink: Sink) -> None:
        for data in (b"a;b", b"a;b;c", b"a;b;c;d"):
            sink.on_artifact("report.csv", "text/csv", data)
            keys.append(Artifact.get().object_key)
            assert local.objects.list("artifacts/") == keys[-1:]
            assert local.objects.get(keys[-1]) == data

    jails, answers = asking(write)
    run = submit(local, new_script(local))
    assert carry(local, jails, run).status == "succeeded"
    assert answers == [None]
    assert keys[0] == f"artifacts/acme/{run.id}/report.csv"
    assert len(set(keys)) == 3
    assert all(key.startswith(f"artifacts/acme/{run.id}/") and key.endswith("/report.csv") for key in keys)


def test_an_attempt_that_lost_the_run_while_it_stored_an_artifact_spoils_nothing(
    local: Services, objects_of: FlakyObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submit(local, new_script(local))
    put = objects_of.put

    def overtaken(key: str, data: bytes, *, content_type: str = "") -> None:
        monkeypatch.setattr(objects_of, "put", put)
        Run.update(attempt=2).where(Run.id == run.id).execute()
        artifacts.store(local, run, 2, "report.csv", "text/csv", b"of the second")
        put(key, data, content_type=content_type)

    def write(sink: Sink) -> None:
        monkeypatch.setattr(objects_of, "put", overtaken)
        sink.on_artifact("report.csv", "text/csv", b"of the first")

    jails, answers = asking(write)
    carry(local, jails, run, look_s=60)
    assert "is not at attempt 1 any more" in str(answers[0])
    (kept,) = Artifact.select().where(Artifact.run == run.id)
    assert local.objects.get(kept.object_key) == b"of the second"
    assert local.objects.list("artifacts/") == [kept.object_key]


def test_a_claim_whose_answer_was_lost_costs_an_attempt_and_no_more(
    local: Services, queue_of: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, jails, claim = submit(local, new_script(local)), FakeJails(), runs.claim
    queue_of.take()

    def unheard(*arguments: Any) -> bool:
        claim(*arguments)
        raise peewee.OperationalError("the connection was closed")

    with monkeypatch.context() as patched:
        patched.setattr(runs, "claim", unheard)
        back = carry(local, jails, run)
    assert (back.status, back.attempt, jails.jobs) == ("queued", 1, [])
    assert queue_of.take() == [(run.id, 2)]
    assert carry(local, jails, run, 2).status == "succeeded"


def test_who_cannot_begin_does_not_give_back_what_another_has_claimed(
    local: Services, queue_of: MemoryQueue
) -> None:
    run = submit(local, new_script(local))
    queue_of.take()

    def taken_meanwhile(cancel: threading.Event) -> Outcome | None:
        runs.claim(local, run.id, 1, "another worker", 15_000)  # it had a copy of the message
        raise unavailable()

    after = carry(local, FakeJails(before=taken_meanwhile), run)
    assert (after.status, after.worker, after.attempt) == ("running", "another worker", 1)
    assert queue_of.take() == []


def test_a_copy_of_a_message_does_not_give_back_what_this_process_carries(
    local: Services, queue_of: MemoryQueue
) -> None:
    run = submit(local, new_script(local))
    queue_of.take()
    entered, done = threading.Event(), threading.Event()

    def busy(job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        entered.set()
        assert done.wait(20)
        return outcome()

    with worker_on(local, FakeJails(busy)) as executor, in_thread(local, lambda: executor.execute(run.id, 1)):
        assert entered.wait(20)
        executor._give_up(run.id, 1, _NotBegun("no jail", may_pass=False))
        assert reload(run).status == "running" and queue_of.take() == []
        done.set()
    assert reload(run).status == "succeeded"
