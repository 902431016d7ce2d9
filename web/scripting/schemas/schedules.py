"""Schedules."""

from marshmallow import Schema, fields

from millrace import backfills, schedules
from web.scripting.fields import TIME, Number, Text, a_time, described, one_of
from web.scripting.schemas.common import PageQuery

_OVERLAP = (
    "A due time while an earlier scheduled run has not ended: `allow` both, `skip` it, `queue` it until the earlier "
    "ones have ended, or `cancel` those. `allow` unless said."
)
_CATCH_UP = (
    "Due times that passed while no scheduler ran: `none` is made up for, the `last` one is, or `all` within "
    "catch_up_minutes are, in order. `last` unless said."
)


class SchedulePolicy(Schema):
    """What becomes of due times that overlap or were missed. In an update what is left out stays as it is."""

    overlap = Text(validate=one_of(*schedules.OVERLAP), metadata=described(_OVERLAP))
    catch_up = Text(validate=one_of(*schedules.CATCH_UP), metadata=described(_CATCH_UP))
    catch_up_minutes = Number(
        *schedules.CATCH_UP_MINUTES, metadata=described("How far `all` goes back; 1440, a day, unless said.")
    )


class SchedulePolicyShown(Schema):
    """What becomes of due times that overlap or were missed."""

    overlap = fields.String(required=True, validate=one_of(*schedules.OVERLAP), metadata=described(_OVERLAP))
    catch_up = fields.String(required=True, validate=one_of(*schedules.CATCH_UP), metadata=described(_CATCH_UP))
    catch_up_minutes = fields.Integer(required=True, metadata=described("How far `all` goes back."))


class Firing(Schema):
    """What became of one due time."""

    due_at = a_time("When it was due.")
    outcome = fields.String(required=True, validate=one_of(schedules.RAN, schedules.SKIPPED))
    reason = fields.String(
        required=True, allow_none=True, metadata=described("Why it was skipped, or `backfilled`; null if it just ran.")
    )
    late_ms = fields.Integer(required=True, metadata=described("From when it was due until this was decided."))
    run_id = fields.String(required=True, allow_none=True)


class FiringPage(Schema):
    """What became of due times, the latest first."""

    firings = fields.List(fields.Nested(Firing), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class FiringQuery(PageQuery):
    """Which of them."""

    outcome = Text(validate=one_of(schedules.RAN, schedules.SKIPPED))


class ScheduleQuery(Schema):
    """How much to show."""

    limit = Number(
        1, 100, of_query=True, load_default=20, metadata=described("How many of the latest due times are shown.")
    )


class ScheduleShown(Schema):
    """A script's schedule, its next due times and its latest ones."""

    expression = fields.String(required=True)
    time_zone = fields.String(required=True)
    policy = fields.Nested(SchedulePolicyShown, required=True)
    paused_at = a_time("Since when it is paused; null while it is not.", nullable=True)
    next = fields.List(fields.String(metadata=TIME), required=True, metadata=described("None while it is paused."))
    firings = fields.List(fields.Nested(Firing), required=True)


class Backfill(Schema):
    """A stretch of the past."""

    since = fields.AwareDateTime(
        format="iso", data_key="from", required=True, metadata=described("The first moment, with its zone.")
    )
    until = fields.AwareDateTime(
        format="iso",
        required=True,
        metadata=described(
            f"The last moment, with its zone; not in the future, and at most {backfills.MAX_DUE_TIMES} due times later."
        ),
    )


class Backfilled(Schema):
    """The runs that were started."""

    runs = fields.List(fields.String(metadata={"format": "uuid"}), required=True, metadata=described("In order."))
    count = fields.Integer(required=True)
