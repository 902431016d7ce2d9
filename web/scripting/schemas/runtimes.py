"""Runtimes."""

from marshmallow import Schema, fields


class Library(Schema):
    """A library that scripts can load."""

    name = fields.String(required=True)
    version = fields.String(required=True)


class Runtime(Schema):
    """A language runtime."""

    name = fields.String(required=True)
    libraries = fields.List(fields.Nested(Library), required=True)
