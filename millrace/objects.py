"""Objects: the bytes of sources, logs, results and artifacts, in any S3 store or in memory.

Nothing here depends on more than puts, gets, lists and deletes: content types and metadata are not read back,
no put is conditional and nothing is composed on the server, since not every S3 server does those truthfully.
"""

import hashlib
import hmac
import io
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit
from xml.etree.ElementTree import ParseError

import certifi
import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from millrace import ids
from millrace.errors import Denied, Invalid, Unavailable
from millrace.settings import SettingError, Settings

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BINARY = "application/octet-stream"
MAX_EXPIRY_S = 7 * 24 * 3600  # AWS Signature Version 4 signs no URL for longer
PART_BYTES = 8 * 1024 * 1024  # what a put of unknown size holds in memory; S3's least is 5 MiB
CHUNK_BYTES = 256 * 1024
CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 30
CONNECTIONS = 32
_SEGMENT_BYTES = 200  # an embedded store keeps each segment as a file name, which has at most 255 bytes
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

log = logging.getLogger(__name__)


class ObjectStore(Protocol):
    """Promises: a put is whole or did not happen; a get after a put sees it; what is missing is None.

    A key belongs to one content: put the same again at any time, but do not change it while it may be read.
    The embedded server takes the length of the old content and the bytes of the new, and so a reader in just
    that moment gets Unavailable or, without a sign, only a part.

    Safe to share among threads. A key is text in segments between slashes (see `check_key`); no key may be
    the folder of another ("a" beside "a/b"). Every method raises `Unavailable` when the store fails.
    """

    def put(self, key: str, data: bytes | Iterable[bytes], *, content_type: str = BINARY) -> None:
        """Store, replacing what was there. Chunks of any size and number need `PART_BYTES` of memory.

        If the iterable raises, so does this, and what was stored before stays.
        """

    def get(self, key: str) -> bytes | None:
        """The whole object, or None."""

    def stream(self, key: str) -> Iterator[bytes] | None:
        """The object in chunks of at most `CHUNK_BYTES`, or None. Read to the end or close the iterator."""

    def size(self, key: str) -> int | None:
        """Its length in bytes, or None."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    def list(self, prefix: str) -> list[str]:
        """Every key that starts with this text, sorted."""

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The same with each object's length in bytes, in any order and as they come: there may be millions."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove these; a missing one is no error."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove every key that starts with this text, which must not be empty."""

    def presign(
        self, key: str, *, expires_s: int, filename: str | None = None, content_type: str | None = None
    ) -> str:
        """A URL that anyone can GET for this many seconds (1 to `MAX_EXPIRY_S`).

        With `filename` a browser saves it under that name; `content_type` is what the answer says it is.
        """


def discard(store: ObjectStore, keys: Iterable[str]) -> None:
    """Delete what nobody will ever name. A store that fails keeps it, which costs its space and nothing else."""
    try:
        store.delete(keys)
    except Unavailable as error:
        log.warning("an object that nobody needs stays: %s", error)


def check_key(key: str) -> str:
    """The key itself. Raises Invalid unless every store can hold it and list it again."""
    segments = key.split("/")
    try:
        longest, total = max(len(each.encode()) for each in segments), len(key.encode())
    except UnicodeEncodeError:
        raise Invalid("An object's key must be valid Unicode.", field="key", value=key) from None
    if _CONTROL.search(key) or any(each in ("", ".", "..") for each in segments):
        raise Invalid("An object's key has no control characters, and no part that is empty, '.' or '..'.",
                      field="key", value=key)
    if longest > _SEGMENT_BYTES or total > 1000:
        raise Invalid(f"An object's key has at most 1000 bytes, {_SEGMENT_BYTES} between two slashes.",
                      field="key", value=key)
    return key


def _check_prefix(prefix: str) -> str:
    if not prefix:
        raise ValueError("an empty prefix would remove every object")
    return prefix


def _check_expiry(expires_s: int) -> int:
    if not 1 <= expires_s <= MAX_EXPIRY_S:
        raise ValueError(f"expires_s is {expires_s} but must be from 1 to {MAX_EXPIRY_S}")
    return expires_s


class S3Objects:
    """One bucket of an S3 server; makes it if missing. Connects when first used, and again after a fork."""

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        bucket: str,
        region: str,
        clock: Callable[[], int] = ids.now_ms,
        public_endpoint: str = "",
    ) -> None:
        """`endpoint` is http(s)://host[:port]; `clock` gives epoch milliseconds.

        Signed URLs name `public_endpoint`, for people who reach the same store under another name.
        """
        self.endpoint = urlsplit(endpoint)
        self.public_endpoint = urlsplit(public_endpoint or endpoint)
        self.access_key = access_key
        self.secret_key = secret_key
        self.bucket = bucket
        self.region = region
        self.clock = clock
        self._lock = threading.Lock()
        self._connected: tuple[int, Minio] | None = None
        self._bucket_seen = False

    @classmethod
    def from_settings(cls, settings: Settings) -> "S3Objects":
        """The store that the settings name. Raises SettingError."""
        endpoint = urlsplit(settings.s3_endpoint)
        if not endpoint.hostname or endpoint.path.strip("/") or endpoint.query or endpoint.username:
            raise SettingError("S3_ENDPOINT must be http(s)://host[:port] and no more.")
        keys = {"S3_ACCESS_KEY": settings.s3_access_key, "S3_SECRET_KEY": settings.s3_secret_key}
        for name in (name for name, value in keys.items() if not value):
            raise SettingError(f"{name} is not set, but S3_ENDPOINT names a server.")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", settings.s3_bucket):
            raise SettingError(
                f"S3_BUCKET is {settings.s3_bucket!r} but must have 3 to 63 of a-z, 0-9, '.' and '-'."
            )
        return cls(settings.s3_endpoint, settings.s3_access_key, settings.s3_secret_key, settings.s3_bucket,
                   settings.s3_region, public_endpoint=settings.s3_public_endpoint)

    @property
    def _client(self) -> Minio:
        # A forked child must not talk on its parent's sockets.
        with self._lock:
            if self._connected is None or self._connected[0] != os.getpid():
                self._connected = (os.getpid(), self._connect())
            return self._connected[1]

    def _connect(self) -> Minio:
        pool = urllib3.PoolManager(
            maxsize=CONNECTIONS,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
            # Every request that is made here may be repeated, so all methods are.
            retries=urllib3.Retry(total=2, backoff_factor=0.1, status_forcelist=(500, 502, 503, 504),
                                  allowed_methods=None, raise_on_status=False),
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )
        # A named region saves the client from asking where the bucket is.
        return Minio(self.endpoint.netloc, self.access_key, self.secret_key,
                     secure=self.endpoint.scheme == "https", region=self.region, http_client=pool)

    def ensure_bucket(self) -> None:
        """Make the bucket unless it is there; any number of processes may do so at once."""
        with _translated("find or make the bucket"):
            if not self._client.bucket_exists(self.bucket):
                try:
                    self._client.make_bucket(self.bucket)
                except MinioException as error:
                    if _status(error) != 409:  # another process was faster
                        raise
        self._bucket_seen = True

    def put(self, key: str, data: bytes | Iterable[bytes], *, content_type: str = BINARY) -> None:
        """See ObjectStore."""
        check_key(key)
        if not self._bucket_seen:
            self.ensure_bucket()
        source: BinaryIO
        if isinstance(data, bytes):
            source, length = io.BytesIO(data), len(data)
        else:
            # Buffered: the client joins short reads by copying all that it has, so each must fill its part.
            source, length = io.BufferedReader(_Reader(data), CHUNK_BYTES), -1
        try:
            with _translated("store an object"):
                self._client.put_object(self.bucket, key, source, length, content_type=content_type,
                                        part_size=PART_BYTES, num_parallel_uploads=1)
        except _SourceFailed as failed:
            raise failed.error from None
        except _Missing as error:
            self._bucket_seen = False
            raise Unavailable("The object store lost its bucket; the next put makes it again.") from error

    def get(self, key: str) -> bytes | None:
        """See ObjectStore."""
        chunks = self.stream(key)
        return None if chunks is None else b"".join(chunks)

    def stream(self, key: str) -> Iterator[bytes] | None:
        """See ObjectStore."""
        check_key(key)
        try:
            with _translated("read an object"):
                response = self._client.get_object(self.bucket, key)
        except _Missing:
            return None
        return _chunks(response)

    def size(self, key: str) -> int | None:
        """See ObjectStore."""
        check_key(key)
        try:
            with _translated("look up an object"):
                return self._client.stat_object(self.bucket, key).size
        except _Missing:
            return None

    def exists(self, key: str) -> bool:
        """See ObjectStore."""
        return self.size(key) is not None

    def list(self, prefix: str) -> list[str]:
        """See ObjectStore."""
        try:
            with _translated("list objects"):
                found = self._client.list_objects(self.bucket, prefix, recursive=True)
                return sorted(each.object_name for each in found if each.object_name and not each.is_dir)
        except _Missing:
            return []

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See ObjectStore."""
        try:
            with _translated("list objects"):
                for each in self._client.list_objects(self.bucket, prefix, recursive=True):
                    if each.object_name and not each.is_dir:
                        yield each.object_name, each.size or 0
        except _Missing:
            return

    def delete(self, keys: Iterable[str]) -> None:
        """See ObjectStore."""
        doomed = [DeleteObject(check_key(key)) for key in keys]
        try:
            with _translated("delete objects"):
                failed = next(iter(self._client.remove_objects(self.bucket, doomed)), None)
        except _Missing:
            return
        if failed is not None:
            raise Unavailable(f"The object store did not delete an object: {failed.code}.")

    def delete_prefix(self, prefix: str) -> None:
        """See ObjectStore."""
        self.delete(self.list(_check_prefix(prefix)))

    def presign(
        self, key: str, *, expires_s: int, filename: str | None = None, content_type: str | None = None
    ) -> str:
        """See ObjectStore. Made here: the server is not asked, so the object need not exist."""
        answer: dict[str, str | list[str] | tuple[str]] = {}
        if content_type is not None:
            answer["response-content-type"] = content_type
        if filename is not None:
            answer["response-content-disposition"] = _disposition(filename)
        # A region that is given is not asked for, so that this client never connects.
        signer = Minio(
            self.public_endpoint.netloc, access_key=self.access_key, secret_key=self.secret_key, region=self.region,
            secure=self.public_endpoint.scheme == "https",
        )
        return signer.presigned_get_object(
            self.bucket, check_key(key), expires=timedelta(seconds=_check_expiry(expires_s)),
            response_headers=answer or None, request_date=datetime.fromtimestamp(self.clock() / 1000, UTC),
        )


class _SourceFailed(Exception):
    """What was to be put could not be read; carries the reader's own error past the client's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Missing(Exception):
    """The server answered 404: the object, or the whole bucket."""


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """The one place where the client's many errors become two: missing, and unavailable."""
    try:
        yield
    except (MinioException, urllib3.exceptions.HTTPError, ParseError, ValueError) as error:
        # ValueError: what the client makes of answers that it did not expect.
        status = _status(error)
        if status == 404 and _is_missing(error):
            raise _Missing from error
        reason = f"it answered {status}" if status else type(error).__name__
        raise Unavailable(f"The object store did not {what}: {reason}.") from error


def _status(error: Exception) -> int | None:
    if isinstance(error, S3Error):
        return int(error.response.status)
    if isinstance(error, ServerError):
        return error.status_code
    if isinstance(error, InvalidResponseError):
        # Servers that label their errors text/xml end up here; only the message tells the status.
        found = re.search(r"Response code: (\d{3})", str(error))
        return int(found[1]) if found else None
    return None


def _is_missing(error: Exception) -> bool:
    """Whether it is the store that says so, and not a proxy on the way, for whom nothing is behind the address."""
    if isinstance(error, S3Error):
        return error.code in ("NoSuchKey", "NoSuchBucket")
    return re.search("<Code>NoSuch(Key|Bucket)</Code>", str(error)) is not None


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        with _translated("read an object"):
            yield from response.stream(CHUNK_BYTES)
    finally:
        response.close()
        response.release_conn()


def _disposition(filename: str) -> str:
    """RFC 6266: a plain name for old readers, and the true one percent-encoded."""
    plain = re.sub(r'[^\x20-\x7e]|["\\%]', "_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='', errors='replace')}"


class _Reader(io.RawIOBase):
    """Chunks as the file that the client wants to read from."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        while not self._rest:
            try:
                chunk = next(self._chunks, None)
            except Exception as error:
                raise _SourceFailed(error) from error
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        target = memoryview(buffer)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class MemoryObjects:
    """The same promises in a dictionary, for tests; its URLs are read with `open_url`."""

    def __init__(self, clock: Callable[[], int] = ids.now_ms) -> None:
        self.clock = clock
        self._stored: dict[str, bytes] = {}
        self._secret = secrets.token_bytes(32)

    def put(self, key: str, data: bytes | Iterable[bytes], *, content_type: str = BINARY) -> None:
        """See ObjectStore."""
        self._stored[check_key(key)] = data if isinstance(data, bytes) else b"".join(data)

    def get(self, key: str) -> bytes | None:
        """See ObjectStore."""
        return self._stored.get(check_key(key))

    def stream(self, key: str) -> Iterator[bytes] | None:
        """See ObjectStore."""
        data = self.get(key)
        if data is None:
            return None
        return (data[start:start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))

    def size(self, key: str) -> int | None:
        """See ObjectStore."""
        data = self.get(key)
        return None if data is None else len(data)

    def exists(self, key: str) -> bool:
        """See ObjectStore."""
        return self.get(key) is not None

    def list(self, prefix: str) -> list[str]:
        """See ObjectStore."""
        return sorted(key for key in tuple(self._stored) if key.startswith(prefix))

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See ObjectStore."""
        return ((key, len(data)) for key, data in tuple(self._stored.items()) if key.startswith(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        """See ObjectStore."""
        for key in keys:
            self._stored.pop(check_key(key), None)

    def delete_prefix(self, prefix: str) -> None:
        """See ObjectStore."""
        self.delete(self.list(_check_prefix(prefix)))

    def presign(
        self, key: str, *, expires_s: int, filename: str | None = None, content_type: str | None = None
    ) -> str:
        """See ObjectStore."""
        until = str(self.clock() + _check_expiry(expires_s) * 1000)
        query = urlencode({"until": until, "signature": self._sign(check_key(key), until)})
        return f"memory:///{quote(key)}?{query}"

    def open_url(self, url: str) -> bytes | None:
        """What a GET of a presigned URL answers. Raises Denied when it is changed or too old."""
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        key, until = unquote(parts.path[1:]), query["until"][0]
        genuine = hmac.compare_digest(query["signature"][0], self._sign(key, until))
        if not genuine or self.clock() > int(until):
            raise Denied("This address is not valid, or not any more.")
        return self.get(key)

    def _sign(self, key: str, until: str) -> str:
        return hmac.new(self._secret, f"{until}/{key}".encode(), hashlib.sha256).hexdigest()
