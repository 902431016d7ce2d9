"""What every object store promises, on a real S3 server and in memory."""

import contextlib
import os
import shutil
import threading
import tracemalloc
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from millrace.embedded import S3Server
from millrace.errors import Denied, Invalid, Unavailable
from millrace.objects import (
    CHUNK_BYTES,
    MAX_EXPIRY_S,
    PART_BYTES,
    MemoryObjects,
    ObjectStore,
    S3Objects,
    check_key,
)

HOUR_MS = 3600 * 1000

ODD_KEYS = [
    "a",
    "logs/w/0001.log",
    "ünï/日本語/🚀.txt",
    "space and +plus &amp; #hash %41?query=1",
    "quote\"'<>|*\\",
    ".hidden",
    "-dash",
    "trailing. ",
    "CON:aux",
    "a" * 200,
    "/".join(["b" * 200] * 4),
]

REFUSED_KEYS = [
    "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "tab\t", "new\nline", "nul\0", "\x7f",
    "lone \ud800", "c" * 201, "é" * 101, "/".join(["d" * 199] * 6),
]  # fmt: skip


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param == "memory":
        return MemoryObjects()
    objects: S3Objects = request.getfixturevalue("objects")
    return objects


@pytest.fixture
def read_url(store: ObjectStore) -> Callable[[str], bytes | None]:
    """What a stranger gets with nothing but the URL; Denied when refused, None when missing."""

    def read(url: str) -> bytes | None:
        if isinstance(store, MemoryObjects):
            return store.open_url(url)
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            assert error.code in (400, 403)
            raise Denied(str(error.code)) from error

    return read


@pytest.mark.parametrize("key", ODD_KEYS)
def test_what_was_put_is_got_listed_and_deleted_under_any_allowed_key(store: ObjectStore, key: str) -> None:
    store.put(key, b"content")

    assert store.get(key) == b"content"
    assert store.size(key) == 7
    assert store.list(key) == [key]
    store.delete([key])
    assert store.get(key) is None


@pytest.mark.parametrize("key", REFUSED_KEYS)
def test_a_key_that_some_store_could_not_hold_is_refused_everywhere(store: ObjectStore, key: str) -> None:
    with pytest.raises(Invalid):
        check_key(key)
    actions: list[Callable[[], object]] = [
        lambda: store.put(key, b""),
        lambda: store.get(key),
        lambda: store.stream(key),
        lambda: store.size(key),
        lambda: store.delete([key]),
        lambda: store.presign(key, expires_s=1),
    ]
    for act in actions:
        with pytest.raises(Invalid):
            act()


def test_what_is_missing_is_none_and_no_error(store: ObjectStore) -> None:
    assert store.get("nothing") is None
    assert store.stream("nothing") is None
    assert store.size("nothing") is None
    assert not store.exists("nothing")
    assert store.list("nothing/") == []
    store.delete(["nothing", "nothing/else"])
    store.delete(["nothing"])
    store.delete([])
    store.delete_prefix("nothing/")


def test_a_folder_is_not_an_object(store: ObjectStore) -> None:
    store.put("folder/leaf", b"x")

    assert store.get("folder") is None
    assert not store.exists("folder")


@pytest.mark.parametrize("content", [b"", b"\0", b"\r\n\xff\xfe", bytes(CHUNK_BYTES), bytes(CHUNK_BYTES + 1)])
def test_bytes_come_back_as_they_were(store: ObjectStore, content: bytes) -> None:
    store.put("k", content)

    assert store.get("k") == content
    assert store.size("k") == len(content)
    assert store.exists("k")
    assert b"".join(store.stream("k") or ()) == content


def test_a_second_put_replaces_the_first(store: ObjectStore) -> None:
    store.put("k", b"a long first one")
    store.put("k", b"second")

    assert store.get("k") == b"second"
    assert store.list("") == ["k"]


@pytest.mark.parametrize("chunks", [
    [], [b""], [b"", b"a", b"", b"b"],
    [b"x" * PART_BYTES], [b"y" * PART_BYTES, b"z"], [b"w" * (PART_BYTES * 2 + 3)],
])  # fmt: skip
def test_an_object_can_be_put_in_chunks_of_any_size(store: ObjectStore, chunks: list[bytes]) -> None:
    store.put("k", iter(chunks))

    assert store.get("k") == b"".join(chunks)


def test_a_put_whose_source_fails_leaves_what_was_there(store: ObjectStore) -> None:
    def broken(size: int) -> Iterator[bytes]:
        yield b"x" * size
        raise ValueError("the source broke")

    store.put("kept", b"before")
    for key in ("kept", "new"):
        for size in (10, PART_BYTES + 10):
            with pytest.raises(ValueError, match="the source broke"):
                store.put(key, broken(size))

    assert store.get("kept") == b"before"
    assert store.get("new") is None
    assert store.list("") == ["kept"]


def test_a_stream_comes_in_bounded_chunks(store: ObjectStore) -> None:
    store.put("k", b"0123456789" * 100_000)

    sizes = [len(chunk) for chunk in store.stream("k") or ()]

    assert sum(sizes) == 1_000_000
    assert max(sizes) <= CHUNK_BYTES


def test_a_list_is_sorted_complete_and_bound_by_its_prefix(store: ObjectStore) -> None:
    keys = [f"logs/w/{number:08d}.log" for number in range(1100)]  # more than one page of S3
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: store.put(key, b"x"), reversed(keys)))
    store.put("logs/w2/other", b"x")

    assert store.list("logs/w/") == keys
    assert store.list("logs/w/0000000") == keys[:10]
    assert store.list("logs/w") == [*keys, "logs/w2/other"]
    store.delete_prefix("logs/w/")
    assert store.list("") == ["logs/w2/other"]


def test_delete_removes_what_was_named_and_nothing_else(store: ObjectStore) -> None:
    for key in ("a/1", "a/2", "a/3", "b"):
        store.put(key, b"x")

    store.delete(iter(["a/1", "a/3", "missing"]))

    assert store.list("") == ["a/2", "b"]


def test_an_empty_prefix_never_deletes_everything(store: ObjectStore) -> None:
    store.put("k", b"x")

    with pytest.raises(ValueError, match="every object"):
        store.delete_prefix("")

    assert store.exists("k")


def test_puts_and_deletes_in_one_folder_do_not_disturb_each_other(store: ObjectStore) -> None:
    def churn(worker: int) -> None:
        for number in range(25):
            key = f"folder/{worker}-{number}"
            store.put(key, b"x")
            assert store.get(key) == b"x"
            store.delete([key])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(churn, range(8)))

    assert store.list("") == []


def test_of_two_puts_at_once_one_wins_whole(store: ObjectStore) -> None:
    contents = [bytes([65 + number]) * 300_000 for number in range(6)]

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda content: store.put("k", content), contents))

    assert store.get("k") in contents


def test_a_presigned_url_reads_one_object_without_credentials(
    store: ObjectStore, read_url: Callable[[str], bytes | None]
) -> None:
    store.put("logs/ü 1.log", b"the log")
    store.put("logs/other", b"secret")

    url = store.presign("logs/ü 1.log", expires_s=900, filename="ü \"x\"\r\n.log", content_type="text/plain")

    assert read_url(url) == b"the log"
    assert read_url(store.presign("logs/missing", expires_s=900)) is None
    with pytest.raises(Denied):
        read_url(url.replace("logs/%C3%BC%201.log", "logs/other"))


def test_a_presigned_url_ends_when_it_says(
    store: ObjectStore, read_url: Callable[[str], bytes | None]
) -> None:
    store.put("k", b"x")
    assert isinstance(store, S3Objects | MemoryObjects)
    now = store.clock()
    store.clock = lambda: now - HOUR_MS
    url = store.presign("k", expires_s=3590)
    store.clock = lambda: now

    with pytest.raises(Denied):
        read_url(url)


@pytest.mark.parametrize("expires_s", [0, -1, MAX_EXPIRY_S + 1])
def test_a_url_without_an_end_is_not_signed(store: ObjectStore, expires_s: int) -> None:
    with pytest.raises(ValueError, match="expires_s"):
        store.presign("k", expires_s=expires_s)


def test_a_signed_expiry_cannot_be_prolonged_nor_a_signature_left_out(
    store: ObjectStore, read_url: Callable[[str], bytes | None]
) -> None:
    store.put("k", b"x")
    assert isinstance(store, S3Objects | MemoryObjects)
    url = store.presign("k", expires_s=60)
    changed = url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000").replace("until=1", "until=2")
    assert changed != url

    with pytest.raises(Denied):
        read_url(changed)


def test_a_large_put_in_small_chunks_needs_a_few_parts_of_memory(objects: S3Objects) -> None:
    chunk = bytes(64 * 1024)
    objects.ensure_bucket()

    tracemalloc.start()
    objects.put("big", (chunk for _ in range(1024)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert objects.size("big") == 64 * 1024 * 1024
    assert peak < 4 * PART_BYTES


def test_a_browser_is_told_the_name_and_the_type(objects: S3Objects) -> None:
    objects.put("k", b"x")

    url = objects.presign("k", expires_s=60, filename="rün \"1\"\r\nX: y.log", content_type="text/plain")
    with urllib.request.urlopen(url, timeout=10) as answer:
        headers = answer.headers

    assert headers["Content-Type"] == "text/plain"
    assert headers["Content-Disposition"] == (
        "attachment; filename=\"r_n _1___X: y.log\"; filename*=UTF-8''r%C3%BCn%20%221%22%0D%0AX%3A%20y.log"
    )
    assert headers["X"] is None


def test_readers_see_a_whole_object_while_the_same_is_put_again(store: ObjectStore) -> None:
    content = bytes(range(256)) * 400
    store.put("k", content)
    done, seen = threading.Event(), set[bytes | None]()

    def read() -> None:
        while not done.is_set():
            seen.add(store.get("k"))

    with ThreadPoolExecutor(2) as threads:
        reading = threads.submit(read)
        for _ in range(100):
            store.put("k", content)
        done.set()
        reading.result()

    assert seen == {content}


class _Refusing(BaseHTTPRequestHandler):
    """An S3 server in trouble, in the way that the test says."""

    answer: ClassVar[tuple[int, str, bytes]]
    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.asked.append(self.command)
        status, content_type, body = self.answer
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Not to the test's output."""


XML_ERROR = b"<Error><Code>InternalError</Code><Message>no</Message></Error>"


@pytest.mark.parametrize("answer", [
    (503, "application/xml", XML_ERROR), (403, "application/xml", XML_ERROR), (403, "text/xml", XML_ERROR),
    (500, "text/html", b"<html>busy</html>"), (502, "text/html", b"\xff\xfe"), (409, "application/json", b"{}"),
    (500, "application/xml", b""), (400, "application/xml", b"no xml at all"),
    # Not the store's own words for what is missing; only of a HEAD, which has no words, can it not be told.
    (404, "text/html", b"<html>no backend</html>"), (404, "application/xml", b"<Error><Code>Lost</Code></Error>"),
])  # fmt: skip
def test_whatever_a_store_in_trouble_answers_is_unavailable(answer: tuple[int, str, bytes]) -> None:
    handler = type("Handler", (_Refusing,), {"answer": answer, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        store = S3Objects(url, "key", "secret", "bucket", "us-east-1")
        actions: list[Callable[[], object]] = [
            lambda: store.put("k", b"x"),
            lambda: store.put("k", iter([b"x"])),
            lambda: store.get("k"),
            *([lambda: store.size("k")] if answer[0] != 404 else []),
            lambda: store.list("k"),
            lambda: store.delete(["k"]),
            store.ensure_bucket,
        ]
        for act in actions:
            handler.asked.clear()
            with pytest.raises(Unavailable):
                act()
            assert 1 <= len(handler.asked) <= 3  # retries are bounded
        server.shutdown()
        thread.join()


def test_a_store_that_nobody_runs_is_unavailable() -> None:
    store = S3Objects("http://127.0.0.1:1", "key", "secret", "bucket", "us-east-1")

    with pytest.raises(Unavailable):
        store.get("k")


def test_a_bucket_that_went_away_is_made_again(objects: S3Objects, s3_server: S3Server) -> None:
    objects.put("k", b"x")
    objects.delete(["k"])
    shutil.rmtree(s3_server.folder / "buckets" / objects.bucket, ignore_errors=True)

    assert objects.get("k") is None
    assert objects.list("") == []
    with contextlib.suppress(Unavailable):
        objects.put("k", b"x")
    objects.put("k", b"y")

    assert objects.get("k") == b"y"


def test_a_forked_child_does_not_use_its_parents_sockets(objects: S3Objects) -> None:
    objects.put("k", b"x")
    before = objects._client

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"own" if objects._client is not before and objects.get("k") == b"x" else b"shared")
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)

    assert os.read(reader, 100) == b"own"
    os.close(reader)
    assert objects._client is before
