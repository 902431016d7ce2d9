"""Limits, usage and the audit trail."""

from marshmallow import Schema, fields

from web.scripting.fields import a_time, described


def _count(description: str) -> fields.Integer:
    return fields.Integer(required=True, allow_none=True, metadata=described(description))


class RetentionDays(Schema):
    """How many days each kind is kept after its end; null is for ever, though nothing outlives its run."""

    runs = _count("Runs, with their input and result.")
    logs = _count("Their logs.")
    events = _count("Events that were routed.")
    artifacts = _count("Files that runs wrote.")
    dead_letters = _count("Runs that were given up.")


class Limits(Schema):
    """What the workspace may use."""

    max_concurrent_runs = _count("Runs at once; null is no limit.")
    runs_per_day = _count("Runs that are started in a day of UTC; null is no limit.")
    stored_mb = _count("Stored bytes, in MiB; null is no limit.")
    retention_days = fields.Nested(RetentionDays, required=True)


class Usage(Schema):
    """What the workspace uses."""

    runs_today = fields.Integer(required=True)
    running = fields.Integer(required=True)
    stored_bytes = _count("As it was last measured, at most some minutes ago; null until then.")
    measured_at = a_time("When that was.", nullable=True)


class LimitsAndUsage(Schema):
    """Both."""

    limits = fields.Nested(Limits, required=True)
    usage = fields.Nested(Usage, required=True)


class Deed(Schema):
    """Something that was done."""

    time = a_time("When.")
    actor = fields.String(required=True, metadata=described("A person, or the process that did it."))
    action = fields.String(required=True, metadata={"example": "run.worker_lost"})
    subject = fields.String(required=True, metadata=described("What it was done to: a run's id, for instance."))
    details = fields.Dict(required=True)


class AuditPage(Schema):
    """Deeds, newest first."""

    audit = fields.List(fields.Nested(Deed), required=True)
    next_cursor = fields.String(required=True, allow_none=True)
