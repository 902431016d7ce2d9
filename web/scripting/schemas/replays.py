"""Attempts, replays and dead letters."""

from marshmallow import Schema, fields, validate

from millrace import replays
from web.scripting import words
from web.scripting.fields import Number, Text, a_time, an_id, described, one_of
from web.scripting.schemas.common import PageQuery


class Attempt(Schema):
    """One try of a run: each that its script's retry policy asked for, and the latest."""

    number = fields.Integer(required=True, metadata=described("The attempt; attempts that never began have none here."))
    status = fields.String(required=True, validate=one_of(*words.STATUSES))
    worker = fields.String(required=True, allow_none=True)
    started_at = a_time("When it began.", nullable=True)
    completed_at = a_time("When it ended.", nullable=True)
    duration_ms = fields.Integer(required=True, allow_none=True)
    error = fields.String(required=True, allow_none=True)
    error_code = fields.String(required=True, allow_none=True)
    error_stack = fields.String(required=True, allow_none=True)
    log_url = fields.String(
        required=True, allow_none=True, metadata=described("Its log; good for 15 minutes, without a key.")
    )
    usage = fields.Dict(required=True, allow_none=True)


class Attempts(Schema):
    """All tries of a run, in order."""

    attempts = fields.List(fields.Nested(Attempt), required=True)


class ReplayQuery(Schema):
    """On which version."""

    version = Text(
        load_default="current",
        validate=one_of("current", "same"),
        metadata=described("`current`: as the script is now; `same`: as it was for the run."),
    )


class ReplayMany(ReplayQuery):
    """Which runs to replay; those that go on are left out."""

    script_id = Text(validate=validate.Length(1, 63))
    status = Text(validate=one_of("completed", "failed", "timed_out", "cancelled"))
    trigger_type = Text(validate=one_of(*words.TRIGGERS))
    since = fields.AwareDateTime(format="iso", metadata=described("Created at this time or later."))
    until = fields.AwareDateTime(format="iso", metadata=described("Created before this time."))
    limit = Number(1, replays.MOST, load_default=100, metadata=described("The oldest so many."))


class Replayed(Schema):
    """The new run."""

    run_id = an_id()


class ReplayedMany(Schema):
    """The new runs, in the order of the old ones."""

    run_ids = fields.List(an_id(), required=True)
    stopped = fields.String(required=True, allow_none=True, metadata=described("Why it stopped after these, if so."))


class DeadLetter(Schema):
    """A run that was given up."""

    id = an_id()
    run_id = an_id()
    script_id = fields.String(required=True)
    reason = fields.String(required=True)
    error = fields.String(required=True, allow_none=True)
    error_code = fields.String(required=True, allow_none=True)
    created_at = a_time("When it was given up.")
    redriven_at = a_time("When it was sent again; null if it was not.", nullable=True)
    redriven_run_id = fields.String(required=True, allow_none=True)


class DeadLetterPage(Schema):
    """Dead letters, newest first."""

    dead_letters = fields.List(fields.Nested(DeadLetter), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class DeadLetterQuery(PageQuery):
    """Which dead letters."""

    state = Text(validate=one_of("open", "redriven"), metadata=described("All unless said."))
