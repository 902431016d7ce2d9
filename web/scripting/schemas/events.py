"""Events."""

from marshmallow import Schema, fields, validate

from web.scripting import words
from web.scripting.fields import Text, a_time, an_id, described, one_of
from web.scripting.schemas.common import PageQuery


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


_OUTCOME = one_of("routed", "cut", "failed")


class EventSummary(Schema):
    """An event in a list."""

    id = an_id()
    name = fields.String(required=True)
    source = fields.String(required=True, allow_none=True)
    subject = fields.String(required=True, allow_none=True)
    time = a_time("When it was accepted.")
    outcome = fields.String(
        required=True,
        allow_none=True,
        validate=_OUTCOME,
        metadata=described(
            "null until it was routed; `cut` if too many events follow from each other, `failed` if it could not be "
            "routed for an hour."
        ),
    )
    reason = fields.String(required=True, allow_none=True, metadata=described("Why it was not routed."))


class Event(EventSummary):
    """An event, and what it started."""

    data = fields.Raw(required=True, allow_none=True)
    runs = fields.List(fields.Nested(EventRun), required=True)


class EventPage(Schema):
    """Events, newest first."""

    events = fields.List(fields.Nested(EventSummary), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class EventQuery(PageQuery):
    """Which events of the workspace."""

    name = Text(validate=validate.Length(1, 255))
    outcome = Text(validate=_OUTCOME)
