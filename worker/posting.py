"""Posts to addresses that tenants chose, under the rules that their scripts have for the way out.

Names are resolved here, every address that a name has is checked, and the one that passed is dialled as it is. TLS is
verified for the name. No redirect is followed, no proxy of the environment is used, and of the answer nothing counts
but its status. A receiver that fails, in whichever way, is a value.
"""

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address

import certifi

from millrace import callbacks
from millrace.settings import SettingError
from sandbox.egress import policy as rules
from sandbox.egress import resolver
from sandbox.egress.addresses import IPAddress
from sandbox.egress.policy import Policy, RefusalKind, Refused, Target
from sandbox.egress.resolver import Unreachable
from worker.vital import VitalThread

TIMEOUT_S = 10.0
"""For a whole post, from the name to the status of the answer."""
MAX_ANSWER = 64 * 1024
_REST_S = 2.0  # for what follows the status
_MOST_INTERIM = 10  # answers with 1xx before the one that counts
_HTTP, _HTTPS = 80, 443
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r|$)")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n", re.IGNORECASE)
_WITHOUT_BODY = (204, 304)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Post:
    """What to send where."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Answer:
    """The status, or why there is none. `refused`: the rules say no to the address itself, and will say so again."""

    status: int | None
    error: str | None
    duration_ms: int
    refused: bool = False


class BadAnswer(Exception):
    """What came back is not HTTP/1.1, or too much of it."""


Look = Callable[[str], Sequence[IPAddress]]
"""The addresses of a name, in a thread of its own. Raises socket.gaierror."""


def look_up(name: str) -> list[IPAddress]:
    """As the host's own resolver has them."""
    infos = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(info[4][0])) for info in infos))


def trusted() -> ssl.SSLContext:
    """Which authorities count: those of the operator's file, or the usual ones. Raises SettingError."""
    file = os.environ.get("SSL_CERT_FILE") or certifi.where()
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        raise SettingError(f"SSL_CERT_FILE names no authorities: {file}: {error.strerror or error}.") from None


class Poster:
    """Posts side by side, on a thread of its own."""

    def __init__(
        self, policy: Policy, tls: ssl.SSLContext, *, look: Look = look_up, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._policy = policy
        self._tls = tls
        self._look = look
        self._timeout_s = timeout_s
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._closing = asyncio.Event()
        self._thread = VitalThread(self._work, "callback-posts")
        self._thread.start()

    def submit(self, post: Post, answered: Callable[[Answer], None], over: Callable[[], None]) -> None:
        """Send it. `answered` is called once, unless this is closed first; `over` when nothing of it is left.

        Between the two its name may still be looked up: a thread that waits for a resolver cannot be stopped. Both are
        called on this thread and must not wait.
        """
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._carry(post, answered, over), self._loop)

    def close(self) -> None:
        """Break off what is under way, and end the thread. To do so twice is no error."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(timeout=1)

    def _work(self) -> None:
        with self._runner:  # which cancels what is left
            self._runner.run(self._until_closed())

    async def _until_closed(self) -> None:
        await self._closing.wait()

    async def _carry(self, post: Post, answered: Callable[[Answer], None], over: Callable[[], None]) -> None:
        lookups: list[asyncio.Future[Sequence[IPAddress]]] = []

        async def resolve(name: str) -> Sequence[IPAddress]:
            lookups.append(_in_thread(partial(self._look, name)))
            return await asyncio.shield(lookups[-1])

        try:
            answered(await self._post(post, resolve, lookups))
            await asyncio.gather(*lookups, return_exceptions=True)
        finally:
            over()

    async def _post(self, post: Post, resolve: resolver.Resolve, lookups: Sequence[object]) -> Answer:
        begun = self._loop.time()
        status, error, refused = None, None, False
        try:
            status = await _exchange(post, self._policy, resolve, self._tls, begun + self._timeout_s)
        except Refused as reason:
            # Of a name, the addresses may be others the next time, and right then.
            error, refused = f"refused: {reason}", reason.kind is not RefusalKind.ADDRESS or not lookups
        except Unreachable as reason:
            error = f"could not connect: {reason.code}"
        except TimeoutError:
            error = f"no answer within {self._timeout_s:g} s"
        except ssl.SSLError as reason:
            error = f"TLS failed: {_of_tls(reason)}"
        except OSError as reason:
            error = f"the connection broke: {_name_of(reason)}"
        except (EOFError, BadAnswer) as reason:
            error = str(reason) if isinstance(reason, BadAnswer) else "the connection was closed without an answer"
        except Exception:
            # Of one address: it must not end the process, which would meet it again after its start, and again.
            log.exception("a post failed because of an error of ours")
            error = "an internal error"
        if status is not None and not 200 <= status < 300:
            error = f"answered {status}"
        return Answer(status, error, round((self._loop.time() - begun) * 1000), refused)


def _in_thread(look: Callable[[], Sequence[IPAddress]]) -> "asyncio.Future[Sequence[IPAddress]]":
    """Its answer. The thread is a daemon, and none of a pool: one that hangs does not hold up the process's end."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[IPAddress]] = loop.create_future()

    def settle(found: Sequence[IPAddress] | None, error: Exception | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(found or [])

    def work() -> None:
        found, failure = None, None
        try:
            found = look()
        except Exception as error:  # for whoever awaits it
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, found, failure)

    threading.Thread(target=work, name="callback-lookup", daemon=True).start()
    return answer


async def _exchange(
    post: Post, policy: Policy, resolve: resolver.Resolve, tls: ssl.SSLContext, deadline: float
) -> int:
    """The status of the answer. Raises as `Poster._post` knows it, TimeoutError at the deadline."""
    try:
        address = callbacks.parse_url(post.url)
    except ValueError as error:  # the rules may have been others when it was stored
        raise Refused(rules.RefusalKind.BAD_HOST, f"the URL must {error}") from None
    target = rules.parse_target(address.authority, _HTTPS if address.tls else _HTTP)
    policy.check_host(target)
    async with asyncio.timeout_at(deadline):
        addresses = await resolver.checked_addresses(target, policy, resolve)
        reader, writer = await _connect(addresses, target, tls if address.tls else None, deadline)
        try:
            writer.write(_head(post, address, target) + post.body)
            await writer.drain()
            head, status = await _status(reader)
        except BaseException:
            writer.transport.abort()
            raise
    # Not under the deadline any more: whoever said 200 has it.
    try:
        await _read_rest(reader, head, status)
    finally:
        writer.transport.abort()
    return status


async def _connect(
    addresses: Sequence[IPAddress], target: Target, tls: ssl.SSLContext | None, deadline: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The first that answers. An address goes in as its text, so nothing is resolved again."""
    loop = asyncio.get_running_loop()
    failure = Unreachable("ETIMEDOUT")
    for number, address in enumerate(addresses):
        share = (deadline - loop.time()) / (len(addresses) - number)
        try:
            async with asyncio.timeout(share):
                return await asyncio.open_connection(
                    str(address), target.port, limit=MAX_ANSWER, ssl=tls,
                    server_hostname=None if tls is None else target.host,
                )  # fmt: skip
        except ssl.SSLError:
            raise
        except TimeoutError:
            failure = Unreachable("ETIMEDOUT", address)
        except OSError as error:
            failure = Unreachable(_name_of(error), address)
    raise failure


def _head(post: Post, address: callbacks.Address, target: Target) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    usual = _HTTPS if address.tls else _HTTP
    headers = {
        "Host": host if target.port == usual else f"{host}:{target.port}",
        "User-Agent": "Millrace",
        "Content-Type": "application/json",
        "Content-Length": str(len(post.body)),
        "Connection": "close",
        **post.headers,
    }
    lines = [f"POST {address.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("ascii")


async def _status(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """The head of the answer that counts, and its status."""
    for _ in range(_MOST_INTERIM + 1):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise BadAnswer(f"the head of the answer is longer than {MAX_ANSWER} bytes") from None
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise BadAnswer("the answer is not HTTP/1.1, or broke off") from None
            raise
        found = _STATUS.match(head)
        if found is None:
            raise BadAnswer("the answer is not HTTP/1.1")
        status = int(found[1])
        if status >= 200:
            return head, status
    raise BadAnswer(f"more than {_MOST_INTERIM} interim answers")


async def _read_rest(reader: asyncio.StreamReader, head: bytes, status: int) -> None:
    """Take what the receiver has to say, and drop it: who is cut off may take the delivery for failed."""
    length = _LENGTH.search(head)
    left = MAX_ANSWER - len(head)
    if status in _WITHOUT_BODY:
        left = 0
    elif length is not None:
        left = min(left, int(length[1]))
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_REST_S):
            while left > 0:
                data = await reader.read(left)
                if not data or (length is None and data.endswith(b"0\r\n\r\n")):
                    break
                left -= len(data)


def _of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    return str(error.reason or "no handshake").lower().replace("_", " ")


def _name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "ECONNRESET")
