"""Runtimes."""

from marshmallow import Schema, fields

from web.scripting.fields import extension


class Library(Schema):
    """A library that scripts can load."""

    name = fields.String(required=True)
    version = fields.String(required=True)


class Runtime(Schema):
    """A language runtime."""

    name = fields.String(required=True)
    version = fields.String(required=True, metadata=extension("What is installed.", example="20.20.2"))
    libraries = fields.List(fields.Nested(Library), required=True)
