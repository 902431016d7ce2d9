"""Opens connections to PostgreSQL servers that need not be honest."""

import os
import select
import socket
import time
from collections.abc import Mapping

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from worker.dblinks import SourceFailed
from worker.dbwatch import received

CONNECT_S = 5.0
_MOST_BYTES = 256 * 1024  # before it has let us in: what it says until then is kept in memory
_WAITS = {pq.PollingStatus.READING: select.POLLIN, pq.PollingStatus.WRITING: select.POLLOUT}


def dialled(params: Mapping[str, str | int]) -> "psycopg.Connection[object]":
    """A connection to one address. Raises SourceFailed: it was refused, took too long or said too much.

    psycopg would wait as long, but keep whatever comes meanwhile.
    """
    pgconn = pq.PGconn.connect_start(make_conninfo("", **params).encode())
    try:
        _carry_through(pgconn)
        pgconn.nonblocking = 1
        return psycopg.Connection(pgconn)
    except BaseException:
        pgconn.finish()
        raise


def _carry_through(pgconn: pq.abc.PGconn) -> None:
    deadline = time.monotonic() + CONNECT_S
    while (state := pgconn.connect_poll()) != pq.PollingStatus.OK:
        left = deadline - time.monotonic()
        if state not in _WAITS or left <= 0 or _said(pgconn.socket) > _MOST_BYTES:
            raise SourceFailed(f"The data source cannot be connected to: {_reason(pgconn.error_message)}.")
        waiting = select.poll()
        waiting.register(pgconn.socket, _WAITS[pq.PollingStatus(state)])
        waiting.poll(1000 * left)


def _said(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        return received(connection)


def _reason(error: bytes) -> str:
    """The server's own words if it said no, without where it is and who asked."""
    _, said, rest = error.decode("utf-8", "replace").partition("FATAL:")
    return rest.strip().partition("\n")[0].rstrip(".")[:300] if said else "it does not answer"
