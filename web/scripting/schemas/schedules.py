"""Schedules."""

from marshmallow import Schema, fields

from web.scripting.fields import TIME, a_time, described, one_of


class Firing(Schema):
    """What became of one due time."""

    due_at = a_time("When it was due.")
    outcome = fields.String(required=True, validate=one_of("ran", "skipped"))
    reason = fields.String(required=True, allow_none=True, metadata=described("Why it was skipped."))
    late_ms = fields.Integer(required=True)
    run_id = fields.String(required=True, allow_none=True)


class ScheduleShown(Schema):
    """A script's schedule, its next due times and its latest ones."""

    expression = fields.String(required=True)
    time_zone = fields.String(required=True)
    next = fields.List(fields.String(metadata=TIME), required=True)
    firings = fields.List(fields.Nested(Firing), required=True)
