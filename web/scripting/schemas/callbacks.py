"""Callbacks: the end of a run, told to an address."""

from marshmallow import Schema, fields

from millrace import callbacks
from web.scripting.fields import a_time, described, one_of


class Delivery(Schema):
    """One try to tell it."""

    at = a_time("When it began.")
    status = fields.Integer(
        required=True, allow_none=True, metadata=described("The status of the answer; null for none.")
    )
    error = fields.String(required=True, allow_none=True, metadata=described("Why it failed; null if it did not."))
    duration_ms = fields.Integer(required=True)


class Callback(Schema):
    """Who is told of the end of a run, and how far that is."""

    url = fields.String(required=True)
    status = fields.String(required=True, validate=one_of(*callbacks.STATUSES))
    deliveries = fields.List(
        fields.Nested(Delivery), required=True, metadata=described("The latest tries, the last at the end.")
    )
    next_at = a_time("When it is tried next; null when it is delivered or given up.", nullable=True)
