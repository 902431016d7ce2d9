"""Events."""

from marshmallow import Schema, fields, validate

from web.scripting import words
from web.scripting.fields import Text, a_time, an_id, described, one_of


class Publish(Schema):
    """An event to publish."""

    name = Text(required=True, validate=validate.Length(1, 255), metadata={"example": "order.created"})
    data = fields.Raw(required=True, allow_none=True, metadata=described("Any JSON.", example={"total": 12}))
    source = Text(validate=validate.Length(max=255))
    subject = Text(validate=validate.Length(max=255))


class Published(Schema):
    """The event that was accepted."""

    event_id = an_id()


class EventRun(Schema):
    """A run that an event started."""

    run_id = an_id()
    script_id = fields.String(required=True)
    status = fields.String(required=True, validate=one_of(*words.STATUSES))


class Event(Schema):
    """An event, and what it started."""

    id = an_id()
    name = fields.String(required=True)
    source = fields.String(required=True, allow_none=True)
    subject = fields.String(required=True, allow_none=True)
    data = fields.Raw(required=True, allow_none=True)
    time = a_time("When it was accepted.")
    outcome = fields.String(
        required=True,
        allow_none=True,
        validate=one_of("routed", "cut", "failed"),
        metadata=described(
            "null until it was routed; `cut` if too many events follow from each other, `failed` if it could not be "
            "routed for an hour."
        ),
    )
    reason = fields.String(required=True, allow_none=True, metadata=described("Why it was not routed."))
    runs = fields.List(fields.Nested(EventRun), required=True)
