"""Batches and their runs."""

from marshmallow import Schema, fields

from millrace import batches
from web.scripting import words
from web.scripting.fields import Many, Number, Object, Text, a_time, an_id, described, one_of
from web.scripting.schemas.common import PageQuery
from web.scripting.schemas.runs import MAX_DELAY_S, MAX_PRIORITY_S

STATUSES = ("running", "completed", "cancelled")


class BatchCreate(Schema):
    """One run for each item."""

    items = Many(
        Object(), 1, batches.MAX_ITEMS, required=True, metadata=described("The payloads, in order.")
    )
    concurrency = Number(
        1,
        batches.MAX_CONCURRENCY,
        metadata=described("How many of its runs may be under way at once; as many as the script may unless said."),
    )
    priority = Number(
        -MAX_PRIORITY_S,
        MAX_PRIORITY_S,
        load_default=0,
        metadata=described("Ahead of runs of the script that wait up to so many seconds longer."),
    )
    expires_after = Number(
        1, MAX_DELAY_S, metadata=described("Runs that have not started after so many seconds are given up.")
    )


class BatchAccepted(Schema):
    """The batch that was started."""

    batch_id = an_id()
    total = fields.Integer(required=True)


class BatchListed(Schema):
    """Many runs of one script."""

    id = an_id()
    script_id = fields.String(required=True)
    total = fields.Integer(required=True, metadata=described("How many items it has."))
    concurrency = fields.Integer(required=True, allow_none=True)
    created_at = a_time("When it was accepted.")
    cancelled_at = a_time("When somebody cancelled it; null if nobody did.", nullable=True)


class BatchCounts(Schema):
    """How many of its runs are in each status; without those that are gone because of their age."""

    pending = fields.Integer(required=True)
    running = fields.Integer(required=True)
    completed = fields.Integer(required=True)
    failed = fields.Integer(required=True)
    timed_out = fields.Integer(required=True)
    cancelled = fields.Integer(required=True)


class Batch(BatchListed):
    """How far many runs of one script have come."""

    status = fields.String(
        required=True,
        validate=one_of(*STATUSES),
        metadata=described("`running` until all runs are over; then `cancelled` if somebody cancelled it."),
    )
    completed_at = a_time("When the last of its runs ended; null before, and when all are gone.", nullable=True)
    counts = fields.Nested(BatchCounts, required=True)


class BatchPage(Schema):
    """Batches, newest first."""

    batches = fields.List(fields.Nested(BatchListed), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class BatchRunQuery(PageQuery):
    """Which of its runs."""

    status = Text(validate=one_of(*words.STATUSES))
