"""One connection of a jail: a head that says where to, a dial, then bytes both ways."""

import asyncio
import select

from sandbox.egress import request as requests
from sandbox.egress import resolver
from sandbox.egress.policy import Refused
from sandbox.egress.request import BadRequest, Request
from sandbox.egress.slot import Slot

HEAD_TIMEOUT = 10.0
"""Seconds that a jail has to say where it wants to go."""
MAX_SOCKETS = 512
"""Connections of one slot that are looked at; a jail's descriptor limit is lower than this."""
_MAX_HELD = 65_536
"""Bytes that wait for a connection to be made."""
REFUSAL_DELAY_S = 1.0
"""How long a run waits for each refusal once it has had a hundred."""
_SIDES = 2
_TOO_LONG = f"the request's head is longer than {requests.MAX_HEAD} bytes"


class Connection(asyncio.Protocol):
    """The jail's side."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._request: Request | None = None
        self._client: asyncio.Transport | None = None
        self._upstream: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._answered = False
        self._client_ended = False
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
        if self._upstream is not None:
            self._active_at = self._loop.time()
            self._forward(data)
            return
        if self._request is not None:
            self._received += data
            self._hold_back()
            return
        start = max(0, len(self._received) - len(requests.END))
        self._received += data
        end = self._received.find(requests.END, start)
        if end >= 0 and self._client is not None:
            self._begin(self._client, end + len(requests.END))
        elif len(self._received) > requests.MAX_HEAD:
            self._answer(431, "EGRESS_BAD_REQUEST", _TOO_LONG)

    def eof_received(self) -> bool:
        if self._client is None or self._request is None or _is_gone(self._client):
            return False
        self._client_ended = True
        if self._upstream is None:
            return True
        self._upstream.write_eof()
        return self._half_closed()

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
            self._refuse(*requests.claimed_target(head), error)
        else:
            self._opening = self._loop.create_task(self._open(self._request))
            self._hold_back()

    def _hold_back(self) -> None:
        """Reads on while there is no connection yet, to hear the jail hang up, but only so much."""
        if self._client is not None and len(self._received) >= _MAX_HELD:
            self._client.pause_reading()

    async def _open(self, request: Request) -> None:
        target = request.target
        try:
            policy = self._slot.admit(self, target)
            self._expect_activity_within(2 * policy.connect_timeout + HEAD_TIMEOUT)
            addresses = await resolver.checked_addresses(target, policy, self._slot.lookup)
            await resolver.dial(addresses, target.port, policy.connect_timeout, lambda: Upstream(self))
            self._expect_activity_within(policy.idle_timeout)
        except Refused as error:
            self._refuse(target.host, target.port, error)
        except resolver.Unreachable as error:
            self._answer(502, error.code, "could not connect", str(error.address or ""))

    def _refuse(self, host: str, port: int, refused: Refused) -> None:
        self._slot.refuse(host, port, refused)
        if not self._slot.is_refused_often:
            self._answer(403, "EGRESS_REFUSED", str(refused), kind=refused.kind)
        elif self._client is not None:
            # Whoever asks on and on takes this process's time from the other slots.
            self._client.pause_reading()
            self._loop.call_later(
                REFUSAL_DELAY_S, self._answer, 403, "EGRESS_REFUSED", str(refused), "", refused.kind
            )

    def _answer(self, status: int, code: str, reason: str, address: str = "", kind: str = "") -> None:
        """Says why there is no connection: in headers for the preload, in a body for everybody else."""
        if self._client is None or self._answered:
            return
        self._answered = True
        body = f"{code}: {reason}\n".encode()
        head = (
            f"HTTP/1.1 {status} {code}\r\nX-Egress-Code: {code}\r\nX-Egress-Reason: {reason}\r\n"
            f"X-Egress-Kind: {kind}\r\nX-Egress-Address: {address}\r\nContent-Type: text/plain\r\n"
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
        if self._client_ended and self._upstream is not None:
            self._upstream.write_eof()
            self._half_closed()

    def upstream_received(self, data: bytes) -> None:
        self._active_at = self._loop.time()
        if self._client is not None:
            self._client.write(data)
        self._count(bytes_in=len(data))

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
        self._upstream.write(data)
        self._count(bytes_out=len(data))

    def _count(self, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Counts bytes, and ends all that the run has under way with the last ones that may move."""
        assert self._request is not None
        try:
            self._slot.moved(bytes_in, bytes_out)
        except Refused as refused:
            self._slot.refuse(self._request.target.host, self._request.target.port, refused)
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
            self._slot.dismiss(self)
            if self._timer is not None:
                self._timer.cancel()


def _is_gone(client: asyncio.Transport) -> bool:
    """Whether the jail has closed its end altogether, and not for sending alone.

    Of a unix socket the kernel tells the two apart; of one that is closed nothing more would be heard.
    """
    poll = select.poll()
    poll.register(client.get_extra_info("socket"), 0)
    return bool(poll.poll(0))


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
