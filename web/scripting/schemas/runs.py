"""Executions, runs, their logs and artifacts."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from millrace import callbacks
from web.scripting import words
from web.scripting.fields import (
    Number,
    Object,
    Text,
    a_time,
    an_id,
    described,
    extension,
    is_address,
    one_of,
)
from web.scripting.schemas.common import PageQuery

MAX_DELAY_S = 366 * 24 * 3600
MAX_PRIORITY_S = 24 * 3600
_ASYNC_ONLY = ("delay_seconds", "run_at", "priority", "expires_after", "debounce", "callback_url")


class Debounce(Schema):
    """A call with the same key takes the place of one that still waits, and starts the wait anew."""

    key = Text(required=True, validate=validate.Length(1, 255))
    seconds = Number(1, 3600, required=True, metadata=described("How long to wait for another call."))


class Execute(Schema):
    """How to run a script now."""

    mode = Text(required=True, validate=one_of("sync", "async"))
    trigger_type = Text(required=True, validate=one_of(*words.CALLER_TRIGGERS))
    payload = Object(load_default=dict, metadata=described("Any JSON object; the handler's first argument."))
    caller_ip = Text(
        validate=[validate.Length(max=64), is_address],
        metadata=described("Recorded with the run; the connection's address unless said.", example="127.0.0.1"),
    )
    delay_seconds = Number(0, MAX_DELAY_S, metadata=extension("Async only: start after this long."))
    run_at = fields.AwareDateTime(
        format="iso", metadata=extension("Async only, instead of delay_seconds: start at this time, with its zone.")
    )

    priority = Number(
        -MAX_PRIORITY_S,
        MAX_PRIORITY_S,
        metadata=extension("Async only: ahead of runs of the script that wait up to so many seconds longer."),
    )
    expires_after = Number(
        1, MAX_DELAY_S, metadata=extension("Async only: given up when it has not started so many seconds after due.")
    )
    debounce = fields.Nested(Debounce, metadata=extension("Async only: one run for a burst of calls."))
    callback_url = Text(
        validate=validate.Length(1, callbacks.MAX_URL),
        metadata=extension(
            "Async only: who is told when the run is over, instead of the script's own callback_url. The script must "
            "have a callback_secret.",
            example="https://example.com/millrace",
        ),
    )

    @validates_schema
    def _only_async(self, data: Mapping[str, Any], **_: Any) -> None:
        given = [name for name in _ASYNC_ONLY if name in data]
        if given and data.get("mode") == "sync":
            raise ValidationError("Only an async execution can have it.", given[0])
        starts = [name for name in ("delay_seconds", "run_at", "debounce") if name in data]
        if len(starts) > 1:
            raise ValidationError(f"Can't be given together with {starts[0]}.", starts[1])


class ExecuteHeaders(Schema):
    """Headers of an execution."""

    idempotency_key = Text(
        data_key="Idempotency-Key",
        validate=validate.Regexp("^[!-~]{1,255}$", error="Must be 1 to 255 visible ASCII characters."),
        metadata=extension("The same key with the same body starts one run, however often it is sent."),
    )


class Execution(Schema):
    """A run that was started; with the outcome when it was awaited."""

    run_id = an_id()
    status = fields.String(required=True, validate=one_of(*words.STATUSES))
    result = fields.Raw(allow_none=True, metadata=described("What the handler returned; completed sync runs only."))
    duration = fields.Integer(metadata=described("Milliseconds; sync runs only."))
    error = fields.String(metadata=described("Why the run did not complete; sync runs only."))


class Run(Schema):
    """One execution of a script."""

    id = an_id()
    script_id = fields.String(required=True)
    script_uuid = an_id()
    workspace_id = fields.String(required=True)
    trigger_type = fields.String(
        required=True, validate=one_of(*words.TRIGGERS), metadata=described("`event` and `batch` are extensions.")
    )
    execution_mode = fields.String(required=True, validate=one_of("sync", "async"))
    status = fields.String(
        required=True, validate=one_of(*words.STATUSES), metadata=described("`cancelled` is an extension.")
    )
    script_version = fields.Integer(required=True)
    caller_ip = fields.String(required=True)
    created_at = a_time("When it was accepted.")
    started_at = a_time("When its handler was entered; the same as `created_at` before.")
    completed_at = a_time("When it ended; null before.", nullable=True)
    duration_ms = fields.Integer(required=True, allow_none=True)
    error = fields.String(required=True, allow_none=True)
    result_summary = fields.Dict(required=True, allow_none=True)
    logs_s3_key = fields.String(required=True, allow_none=True)
    output_s3_key = fields.String(
        required=True, allow_none=True, metadata=described("Where a large result is; null for one in the database.")
    )
    error_code = fields.String(required=True, allow_none=True, metadata=extension("The kind of failure."))
    error_stack = fields.String(
        required=True, allow_none=True, metadata=extension("Where in the script it failed, a line for each call.")
    )
    waiting_reason = fields.String(
        required=True, allow_none=True, metadata=extension("Why a pending run is not on its way, for a person.")
    )
    waiting_place = fields.Integer(
        required=True,
        allow_none=True,
        metadata=extension("Its place in the line of its script, from 1, if it waits there; not in lists."),
    )
    attempt = fields.Integer(required=True, metadata=extension("The latest attempt, from 1; 0 before the first."))
    replay_of = fields.String(required=True, allow_none=True, metadata=extension("The run whose input it has."))
    batch_id = fields.String(required=True, allow_none=True, metadata=extension("The batch that it belongs to."))
    batch_index = fields.Integer(
        required=True, allow_none=True, metadata=extension("Which item of its batch it has, from 0.")
    )
    usage = fields.Dict(
        required=True, allow_none=True, metadata=extension("What the run used: memory, cpu time, and so on.")
    )


class RunPage(Schema):
    """Runs, newest first."""

    runs = fields.List(fields.Nested(Run), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class RunQuery(PageQuery):
    """Which runs of the workspace."""

    script_id = Text(validate=validate.Length(1, 63))
    status = Text(validate=one_of(*words.STATUSES))
    trigger_type = Text(validate=one_of(*words.TRIGGERS))
    since = fields.AwareDateTime(format="iso", metadata=described("Created at this time or later."))
    until = fields.AwareDateTime(format="iso", metadata=described("Created before this time."))


class Logs(Schema):
    """Where a run's log can be downloaded."""

    url = fields.String(required=True, metadata=described("Good for 15 minutes, without a key.", format="uri"))


class Artifact(Schema):
    """A file that a run wrote."""

    name = fields.String(required=True)
    size = fields.Integer(required=True)
    content_type = fields.String(required=True)
    url = fields.String(required=True, metadata=described("Good for 15 minutes, without a key.", format="uri"))


class Artifacts(Schema):
    """The files that a run wrote, by name."""

    artifacts = fields.List(fields.Nested(Artifact), required=True)


class TailHeaders(Schema):
    """Headers of a log stream."""

    last_event_id = Number(
        0,
        2**62,
        of_query=True,
        data_key="Last-Event-ID",
        metadata=described("The seq that was seen last; the stream goes on after it."),
    )
