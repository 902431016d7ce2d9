"""What every operation shares: the error envelope, and where in a list."""

from marshmallow import Schema, fields, validate

from web.scripting import errors
from web.scripting.fields import Number, Text, described, extension

PAGE_SIZE = 20
MAX_PAGE_SIZE = 100


class ErrorDetail(Schema):
    """One thing that is wrong."""

    field = fields.String(required=True, metadata=described("Path of the field in the request."))
    message = fields.String(required=True)
    value = fields.Raw(allow_none=True, metadata=described("What was sent, shortened; null for secrets."))
    rule = fields.String(metadata=extension("Which check of the source refused it."))
    line = fields.Integer(metadata=extension("Line in the script's source, from 1."))
    column = fields.Integer(metadata=extension("Column in that line, from 1."))


class ErrorBody(Schema):
    """What went wrong."""

    code = fields.String(required=True, metadata={"enum": errors.CODES})
    message = fields.String(required=True, metadata=described("A sentence for a person."))
    details = fields.List(fields.Nested(ErrorDetail), required=True)


class ErrorEnvelope(Schema):
    """Every error has this shape."""

    error = fields.Nested(ErrorBody, required=True)


class PageQuery(Schema):
    """Where in a list, and how much of it."""

    cursor = Text(validate=validate.Length(1, 200), metadata=described("The next_cursor of the page before."))
    page_size = Number(1, MAX_PAGE_SIZE, of_query=True, load_default=PAGE_SIZE)
