"""Ends conversations with servers that take too long or say too much.

A server is the tenant's own: it need not honour a time-out, and what it sends is kept in memory until a row is whole.
So the sockets are looked at from outside, and shut when they break a limit, which ends the call that waits on them.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

from worker.vital import VitalThread

_LOOK_S = 0.02
_TCP_INFO_RECEIVED = 128  # where Linux, from 4.1 on, has the number of bytes that came
_TCP_INFO_LENGTH = _TCP_INFO_RECEIVED + 8


def received(connection: socket.socket) -> int:
    """How many bytes came in over a connection; 0 where the kernel does not tell."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_LENGTH)
    except OSError:
        return 0
    if len(info) < _TCP_INFO_LENGTH:
        return 0
    (count,) = struct.unpack_from("@Q", info, _TCP_INFO_RECEIVED)
    return int(count)


def shut(connection: socket.socket) -> None:
    """End it for whoever reads from it or writes to it, in whichever thread."""
    with contextlib.suppress(OSError):  # the other side was quicker
        connection.shutdown(socket.SHUT_RDWR)


class Watch:
    """A thread that looks at the sockets in use while there are any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: dict[socket.socket, tuple[float, int]] = {}
        self._closing = False
        self._thread = VitalThread(self._work, "database-watch")
        self._thread.start()

    @contextlib.contextmanager
    def over(self, connection: socket.socket, seconds: float, most_bytes: int) -> Iterator[None]:
        """Shut the connection after so long, or when more than so many bytes came."""
        limits = (time.monotonic() + seconds, received(connection) + most_bytes)
        with self._changed:
            self._watched[connection] = limits
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._watched[connection]

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=5)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._watched or self._closing)
                if self._closing:
                    return
                now = time.monotonic()
                for connection, (deadline, most) in self._watched.items():
                    if now > deadline or received(connection) > most:
                        shut(connection)
                self._changed.wait(_LOOK_S)
