"""The memory of source code."""

import pytest

from millrace.errors import Missing
from tests.worker.support import FlakyObjects
from worker.sources import Sources


def test_the_least_recently_used_source_makes_room() -> None:
    objects = FlakyObjects()
    for name in "abc":
        objects.put(name, name.encode() * 40)
    sources = Sources(objects, max_bytes=100)
    for name in ("a", "b", "a", "c", "a", "b"):
        assert sources.get(name, "python3.11") == name.encode() * 40
    assert objects.reads == ["a", "b", "c", "b"]


def test_a_source_larger_than_the_memory_is_read_and_not_kept() -> None:
    objects = FlakyObjects()
    objects.put("large", b"x" * 101)
    objects.put("small", b"x")
    sources = Sources(objects, max_bytes=100)
    for name in ("small", "large", "large", "small"):
        sources.get(name, "python3.11")
    assert objects.reads == ["small", "large", "large"]


def test_a_lost_source_is_named() -> None:
    with pytest.raises(Missing, match="'scripts/x' is missing"):
        Sources(FlakyObjects()).get("scripts/x", "nodejs20")


def test_a_body_becomes_a_handler_and_its_lines_keep_their_numbers() -> None:
    objects = FlakyObjects()
    objects.put("body", b"const a = 1;\nreturn a; // done")
    objects.put("handler", b"exports.handler = async () => 1;\n")
    sources = Sources(objects)
    assert sources.get("body", "nodejs20").splitlines()[1:] == [b"return a; // done", b"};"]
    assert sources.get("handler", "nodejs20") == b"exports.handler = async () => 1;\n"
    assert Sources(objects).get("body", "python3.12") == b"const a = 1;\nreturn a; // done"
