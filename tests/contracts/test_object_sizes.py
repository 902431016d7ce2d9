"""Listing objects with their lengths: the real store and the one in memory keep the same promises."""

import itertools

import pytest

from millrace.errors import Unavailable
from millrace.objects import MemoryObjects, ObjectStore, S3Objects


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param == "memory":
        return MemoryObjects()
    objects: S3Objects = request.getfixturevalue("objects")
    return objects


def test_sizes_are_of_every_object_under_the_prefix_and_of_no_other(store: ObjectStore) -> None:
    assert list(store.sizes("logs/a/")) == []
    stored = {"logs/a/1.log": b"", "logs/a/1/0.log": b"xyz", "logs/a/2/deep/er.log": b"x" * 70_000}
    for key, data in {**stored, "logs/ab/1.log": b"other", "results/a/1.log": b"other"}.items():
        store.put(key, data)
    assert dict(store.sizes("logs/a/")) == {key: len(data) for key, data in stored.items()}


def test_more_than_one_answer_of_the_store_is_read_and_what_goes_meanwhile_is_no_error(store: ObjectStore) -> None:
    keys = {f"logs/a/{number:04d}.log" for number in range(1100)}
    for key in keys:
        store.put(key, b"x")
    found = store.sizes("logs/a/")
    first = list(itertools.islice(found, 10))
    store.delete([key for key, _ in first])
    assert {key for key, _ in (*first, *found)} == keys


def test_a_store_that_is_away_is_unavailable() -> None:
    away = S3Objects("http://127.0.0.1:1", "key", "secret", "bucket", "us-east-1")
    with pytest.raises(Unavailable):
        list(away.sizes("logs/"))
