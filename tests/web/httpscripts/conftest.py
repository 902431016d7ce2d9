"""The same application on the in-memory bus, queue and objects, as for hooks."""

from collections.abc import Iterator

import pytest

import millrace.database
from millrace import ids
from millrace.services import Services
from tests import world


@pytest.fixture
def services(database_url: str) -> Iterator[Services]:
    """As the one that it overrides, but for what an HTTP script only passes things to."""
    database = millrace.database.connect(database_url)
    yield world.in_memory(database, ids.now_ms)
    database.close_all()  # type: ignore[attr-defined]  # a pool's method
