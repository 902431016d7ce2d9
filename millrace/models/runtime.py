"""The language runtimes that workers offer."""

import peewee

from millrace.models.base import Json, Millis, Model


class Runtime(Model):
    """A runtime, written by each worker that starts: its libraries, and the modules that a script may load.

    `libraries` is a list of {"name", "version"}; `modules` a list of names that belong to the language itself.
    """

    name = peewee.CharField(max_length=30, primary_key=True)
    version = peewee.CharField(max_length=40)
    libraries = Json()
    modules = Json()
    updated_at = Millis()
