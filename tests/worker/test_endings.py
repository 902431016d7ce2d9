"""Outcomes of the sandbox in the words of the record."""

import json

import pytest

from millrace.redaction import Redactor
from sandbox.job import Kind, Limits, Outcome, Refused, ScriptError
from tests.worker.support import outcome
from worker import endings
from worker.keeper import Why
from worker.runlog import Stored

LIMITS = Limits(memory_mb=256, timeout_ms=30_000)
SECRET = "s3cr3t/va+lue"


@pytest.mark.parametrize(
    ("kind", "said", "status", "code", "error"),
    [
        (Kind.EXCEPTION, ("TypeError", "x is no object"), "failed", "SCRIPT_ERROR", "TypeError: x is no object"),
        (Kind.TIMEOUT, ("TimeLimit", "-"), "timed_out", "TIMED_OUT",
         "The run took longer than its time limit of 30 s."),
        (Kind.MEMORY, ("MemoryLimit", "-"), "failed", "OUT_OF_MEMORY",
         "Out of memory: the script needs more than its limit of 256 MB."),
        (Kind.KILLED, ("Killed", "killed by SIGKILL"), "failed", "KILLED", "killed by SIGKILL"),
        (Kind.CRASH, ("Crash", "crashed with SIGSEGV"), "failed", "CRASHED", "crashed with SIGSEGV"),
        (Kind.EXIT, ("ProcessExit", "exit(3) was called"), "failed", "EXITED", "exit(3) was called"),
        (Kind.NO_RESULT, ("NoResult", "never settled"), "failed", "NO_RESULT", "never settled"),
        (Kind.BAD_RESULT, ("BadResult", "a function"), "failed", "BAD_RESULT", "a function"),
        (Kind.RESULT_TOO_LARGE, ("ResultTooLarge", "7 of 6"), "failed", "RESULT_TOO_LARGE", "7 of 6"),
        (Kind.NO_HANDLER, ("NoHandler", "no handler"), "failed", "NO_HANDLER", "no handler"),
        (Kind.LOAD_ERROR, ("SyntaxError", "odd token"), "failed", "LOAD_ERROR", "SyntaxError: odd token"),
        (Kind.CANCELLED, ("Cancelled", "-"), "cancelled", "CANCELLED", "Cancelled while it was running."),
    ],
)  # fmt: skip
def test_every_kind_has_its_own_status_code_and_words(
    kind: Kind, said: tuple[str, str], status: str, code: str, error: str
) -> None:
    given = outcome(kind, name=said[0], message=said[1], stack="at index.js:1:2")
    ending = endings.of_outcome(given, LIMITS, None, None)
    assert (ending.status, ending.error_code, ending.error) == (status, code, error)
    assert ending.error_stack == "at index.js:1:2"
    assert (ending.result, ending.summary, ending.duration_ms) == (None, None, 12)


def test_no_kind_of_the_sandbox_is_without_words() -> None:
    codes = {endings.of_outcome(outcome(kind), LIMITS, None, None).error_code for kind in Kind}
    assert len(codes) == len(Kind)


def test_a_run_that_was_ended_with_the_platform_is_lost_and_not_cancelled() -> None:
    ending = endings.of_outcome(outcome(Kind.CANCELLED), LIMITS, None, Why.STOPPED)
    assert (ending.status, ending.error_code) == ("failed", "WORKER_LOST")
    assert ending.error == "Stopped with the platform before it ended."


def test_a_run_that_succeeded_just_before_it_was_cancelled_succeeded() -> None:
    assert endings.of_outcome(outcome(), LIMITS, None, Why.CANCELLED).status == "succeeded"


def _summary(result: bytes, redactor: Redactor | None = None) -> object:
    return endings.of_outcome(Outcome(Kind.SUCCEEDED, result), LIMITS, redactor, None).summary


def test_a_small_object_is_its_own_summary() -> None:
    assert _summary(b'{"a":[1,{"b":null}]}') == {"a": [1, {"b": None}]}


@pytest.mark.parametrize("value", [None, 3, "text", [1, 2], True, 1e300])
def test_another_value_is_wrapped_in_its_summary(value: object) -> None:
    assert _summary(json.dumps(value).encode()) == {"value": value}


def test_a_result_of_16_kib_is_shown_whole_and_one_byte_more_in_part() -> None:
    def of_size(size: int) -> bytes:
        return b'{"x":"' + b"y" * (size - 8) + b'"}'

    assert _summary(of_size(16 * 1024)) == json.loads(of_size(16 * 1024))
    larger = of_size(16 * 1024 + 1)
    assert _summary(larger) == {
        "truncated": True,
        "size_bytes": len(larger),
        "preview": larger[:1000].decode(),
    }


@pytest.mark.parametrize("result", [b"[" * 5000 + b"]" * 5000, b"9" * 6000, b'{"a":' * 101 + b"1" + b"}" * 101])
def test_a_result_that_is_too_deep_or_too_long_a_number_is_shown_in_part(result: bytes) -> None:
    ending = endings.of_outcome(Outcome(Kind.SUCCEEDED, result), LIMITS, None, None)
    assert ending.result == result.decode()
    assert ending.summary == {"truncated": True, "size_bytes": len(result), "preview": result[:1000].decode()}


def test_secrets_are_masked_in_errors_stacks_and_summaries_but_not_in_the_result() -> None:
    redactor = Redactor([SECRET])
    failed = endings.of_outcome(
        outcome(Kind.EXCEPTION, message=f"key {SECRET} refused", stack=f"Error: {SECRET}\n at index.js"),
        LIMITS, redactor, None,
    )  # fmt: skip
    assert failed.error == "Error: key *** refused"
    assert failed.error_stack == "Error: ***\n at index.js"
    result = json.dumps({"k": SECRET, SECRET: 1}).encode()
    ended = endings.of_outcome(Outcome(Kind.SUCCEEDED, result), LIMITS, redactor, None)
    assert ended.summary == {"k": "***", "***": 1}
    assert ended.result == result.decode()


def test_no_half_of_a_secret_shows_at_the_end_of_a_preview() -> None:
    result = json.dumps(["x" * 990 + SECRET + "y" * 20_000]).encode()
    summary = _summary(result, Redactor([SECRET]))
    assert isinstance(summary, dict)
    assert summary["preview"] == '["' + "x" * 990 + "***" + "y" * 5


@pytest.mark.parametrize("cut", [1, 6, 12])
def test_no_half_of_a_secret_shows_where_a_name_a_message_or_a_stack_is_cut(cut: int) -> None:
    redactor = Redactor([SECRET])
    name, message = ("n" * (size - cut) + SECRET for size in (endings.NAME_CHARS, endings.ERROR_CHARS))
    long_line, long_stack = ("s" * (size - cut) + SECRET for size in (endings.STACK_LINE_CHARS, 1500))
    stack = f"{name}: {message}\n at {long_line[4:]}\n" + f"{long_stack}\n" * 30
    given = outcome(Kind.EXCEPTION, name=name, message=message, stack=stack)
    ending = endings.of_outcome(given, LIMITS, redactor, None)
    for text in (ending.error, ending.error_stack):
        assert text is not None
        assert set(text) <= set("n: *sat\n")
    given = outcome(Kind.EXIT, message=message)
    assert (
        endings.of_outcome(given, LIMITS, redactor, None).error
        == ("n" * (endings.ERROR_CHARS - cut) + "***")[: endings.ERROR_CHARS]
    )


def test_no_half_of_a_secret_shows_though_masks_are_far_shorter_than_what_they_hide() -> None:
    secret = "s3cr3t/va+lue" * 4000
    text = f"<{secret}>" * 12
    redactor = Redactor([secret])
    given = outcome(Kind.EXCEPTION, name="E", message=text, stack=f"E: {text}\n    {text}")
    failed = endings.of_outcome(given, LIMITS, redactor, None)
    for shown in (failed.error, failed.error_stack, json.dumps(_summary(json.dumps([text]).encode(), redactor))):
        assert shown is not None
        assert "<***>" in shown
        assert "s3cr3t" not in shown


def test_the_place_of_an_error_is_kept_however_long_its_message_is() -> None:
    message = "a line\n" * 20_000
    given = outcome(Kind.EXCEPTION, message=message, stack=f"Error: {message}\n    at index.js:1:2")
    ending = endings.of_outcome(given, LIMITS, Redactor([SECRET]), None)
    assert ending.error_stack == str(ending.error) + "\n    at index.js:1:2"
    assert len(str(ending.error)) == endings.ERROR_CHARS


def test_a_number_that_is_a_secret_is_masked_in_the_summary() -> None:
    assert _summary(b'{"pin": 48151623, "n": 4815}', Redactor(["48151623"])) == {"pin": "***", "n": 4815}


def test_what_no_database_stores_is_replaced_and_what_is_long_is_cut() -> None:
    ending = endings.of_outcome(outcome(Kind.EXIT, message="a\x00b\ud800" + "c" * 50_000), LIMITS, None, None)
    assert ending.error is not None
    assert ending.error.startswith("a\\0b?c")
    assert len(ending.error) < 17_000


def test_usage_tells_of_refused_connections_and_lost_lines() -> None:
    refused = tuple(Refused("10.0.0.1", port, "private address", "address") for port in range(50))
    counts = {"address": 70}
    given = Outcome(Kind.EXIT, None, ScriptError("ProcessExit", "-"), refused=refused, refused_counts=counts)
    ending = endings.with_log(endings.of_outcome(given, LIMITS, None, None), Stored("logs/a/b.log", 3, 17))
    assert ending.usage is not None
    assert ending.usage["log_lost_bytes"] == 17
    assert len(ending.usage["refused_connections"]) == 20
    assert ending.usage["refused_connections"][0] == {
        "host": "10.0.0.1", "port": 0, "reason": "private address", "kind": "address"
    }  # fmt: skip
    assert ending.usage["refused_counts"] == {"address": 70}
    assert (ending.log_key, ending.log_chunks) == ("logs/a/b.log", 3)
