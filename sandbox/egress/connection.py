"""One connection of a jail: a head that says where to, a dial, then bytes both ways."""

import asyncio

from sandbox.egress import request as requests
from sandbox.egress import resolver
from sandbox.egress.policy import Refused
from sandbox.egress.request import BadRequest, Request
from sandbox.egress.slot import Slot

HEAD_TIMEOUT = 10.0
"""Seconds that a jail has to say where it wants to go."""
MAX_SOCKETS = 512
"""Connections of one slot that are looked at; a jail's descriptor limit is lower than this."""
_SIDES = 2
_TOO_LONG = f"the request's head is longer than {requests.MAX_HEAD} bytes"


class Connection(asyncio.Protocol):
    """The jail's side."""

    def __init__(self, slot: Slot) -> None:
        self.counts = False  # as one of the connections that the run may have at once
        self._slot = slot
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._request: Request | None = None
        self._client: asyncio.Transport | None = None
        self._upstream: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._answered = False
        self._ended = 0  # sides that have sent their last byte
        self._patience = self._active_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._client = transport
        if len(self._slot.connections) >= MAX_SOCKETS:
            transport.abort()
            return
        self._slot.connections.add(self)
        self._slot.touched()
        self._expect_activity_within(HEAD_TIMEOUT)

    def data_received(self, data: bytes) -> None:
        self._active_at = self._loop.time()
        if self._upstream is not None:
            self._forward(data)
            return
        start = max(0, len(self._received) - len(requests.END))
        self._received += data
        end = self._received.find(requests.END, start)
        if end >= 0 and self._client is not None:
            self._begin(self._client, end + len(requests.END))
        elif len(self._received) > requests.MAX_HEAD:
            self._answer(431, "EGRESS_BAD_REQUEST", _TOO_LONG)

    def eof_received(self) -> bool:
        if self._upstream is not None and self._upstream.can_write_eof():
            self._upstream.write_eof()
            return self._half_closed()
        return False

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client = None
        if self._opening is not None:
            self._opening.cancel()
        if self._upstream is not None:
            self._upstream.close()
        self._forget_when_done()

    def _begin(self, client: asyncio.Transport, head_size: int) -> None:
        if client.is_closing():
            return
        client.pause_reading()
        head = bytes(self._received[:head_size])
        del self._received[:head_size]
        if len(head) > requests.MAX_HEAD:
            self._answer(431, "EGRESS_BAD_REQUEST", _TOO_LONG)
            return
        try:
            self._request = requests.parse(head)
        except BadRequest as error:
            self._answer(400, "EGRESS_BAD_REQUEST", str(error))
        except Refused as error:
            self._refuse(*requests.claimed_target(head), str(error))
        else:
            self._opening = self._loop.create_task(self._open(self._request))

    async def _open(self, request: Request) -> None:
        target = request.target
        try:
            policy = self._slot.admit()
            self.counts = True
            self._expect_activity_within(2 * policy.connect_timeout + HEAD_TIMEOUT)
            addresses = await resolver.checked_addresses(target, policy, self._slot.lookup)
            await resolver.dial(addresses, target.port, policy.connect_timeout, lambda: Upstream(self))
            self._expect_activity_within(policy.idle_timeout)
        except Refused as error:
            self._refuse(target.host, target.port, str(error))
        except resolver.Unreachable as error:
            self._answer(502, error.code, "could not connect", str(error.address or ""))

    def _refuse(self, host: str, port: int, reason: str) -> None:
        self._slot.refuse(host, port, reason)
        self._answer(403, "EGRESS_REFUSED", reason)

    def _answer(self, status: int, code: str, reason: str, address: str = "") -> None:
        """Says why there is no connection: in headers for the preload, in a body for everybody else."""
        self.counts = False
        if self._client is None or self._answered:
            return
        self._answered = True
        body = f"{code}: {reason}\n".encode()
        head = (
            f"HTTP/1.1 {status} {code}\r\nX-Egress-Code: {code}\r\nX-Egress-Reason: {reason}\r\n"
            f"X-Egress-Address: {address}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._client.write(head.encode() + body)
        self._client.close()

    def upstream_made(self, transport: asyncio.Transport) -> None:
        """The far side is there: the jail is told, and what it has sent since goes on its way."""
        if self._client is None or self._client.is_closing() or self._answered or self._request is None:
            transport.abort()
            return
        self._upstream = transport
        self._answered = True
        if self._request.is_connect:
            address = transport.get_extra_info("peername")[0]
            self._client.write(f"HTTP/1.1 200 OK\r\nX-Egress-Address: {address}\r\n\r\n".encode())
        pending = self._request.head + bytes(self._received)
        self._received.clear()
        self._client.resume_reading()
        if pending:
            self._forward(pending)

    def upstream_received(self, data: bytes) -> None:
        self._active_at = self._loop.time()
        self._slot.report.bytes_in += len(data)
        if self._client is not None:
            self._client.write(data)
        self._check_budget()

    def upstream_ended(self) -> bool:
        if self._client is not None and not self._client.is_closing():
            self._client.write_eof()
        return self._half_closed()

    def upstream_paused(self, paused: bool) -> None:
        if self._client is None:
            return
        if paused:
            self._client.pause_reading()
        else:
            self._client.resume_reading()

    def upstream_lost(self) -> None:
        self._upstream = None
        if self._client is not None:
            self._client.close()
        self._forget_when_done()

    def _forward(self, data: bytes) -> None:
        assert self._upstream is not None
        self._slot.report.bytes_out += len(data)
        self._upstream.write(data)
        self._check_budget()

    def _check_budget(self) -> None:
        policy = self._slot.policy
        if policy is not None and self._request is not None and self._slot.spent:
            target = self._request.target
            self._slot.refuse(target.host, target.port, f"byte limit of {policy.max_bytes} reached")
            self._slot.abort()

    def _half_closed(self) -> bool:
        """Whether the other direction still has something to say."""
        self._ended += 1
        return self._ended < _SIDES

    def abort(self) -> None:
        """Closes both sides now, unsent bytes and all."""
        if self._opening is not None:
            self._opening.cancel()
        for transport in (self._upstream, self._client):
            if transport is not None:
                transport.abort()

    def _expect_activity_within(self, seconds: float) -> None:
        self._patience = seconds
        self._active_at = self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
        self._watch()

    def _watch(self) -> None:
        """Ends the connection when nothing has moved for too long, also one that closes but never drains."""
        left = self._active_at + self._patience - self._loop.time()
        if left <= 0:
            self.abort()
        else:
            self._timer = self._loop.call_later(left, self._watch)

    def _forget_when_done(self) -> None:
        if self._client is None and self._upstream is None:
            self._slot.connections.discard(self)
            if self._timer is not None:
                self._timer.cancel()


class Upstream(asyncio.Protocol):
    """The far side."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._connection.upstream_made(transport)

    def data_received(self, data: bytes) -> None:
        self._connection.upstream_received(data)

    def eof_received(self) -> bool:
        return self._connection.upstream_ended()

    def pause_writing(self) -> None:
        self._connection.upstream_paused(True)

    def resume_writing(self) -> None:
        self._connection.upstream_paused(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.upstream_lost()
