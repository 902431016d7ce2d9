"""Serves the application: `python -m web`. One process; requests that wait hold a thread and nothing else."""

import contextlib
import errno
import json
import logging
import os
import socket
import struct
import sys
import threading
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING, Any

from flask import Flask
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.http.errors import (
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.workers.gthread import TConn, ThreadWorker

from millrace import observability, wiring
from millrace.services import Services
from millrace.settings import SettingError, Settings
from web.app import create_app

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

GRACE_S = 30
PATIENCE_S = 20  # how long a client may leave a thread waiting for its next bytes, or for taking ours
_stopping = threading.Event()

log = logging.getLogger("web.server")


class Connection(socket.socket):
    """A client's socket. When nothing moves for `patience_s`, the client is taken to have gone.

    The kernel keeps the time, as Python's own time limit is for the whole of an answer, however large. Between
    requests nobody reads, so that limit is the server's `keepalive` as before.
    """

    def __init__(self, accepted: socket.socket, patience_s: int) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", patience_s, 0))

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """See the base. Raises ConnectionResetError for the time limit."""
        try:
            return super().recv(size, flags)
        except BlockingIOError:
            raise _gone() from None

    def sendall(self, data: "ReadableBuffer", flags: int = 0, /) -> None:
        """See the base. Raises ConnectionResetError for the time limit."""
        try:
            super().sendall(data, flags)
        except BlockingIOError:
            raise _gone() from None

    def setblocking(self, flag: bool, /) -> None:
        """See the base. Nothing for a closed one, which gunicorn closes again."""
        if self.fileno() >= 0:
            super().setblocking(flag)


def _gone() -> ConnectionResetError:
    # The one error that gunicorn does not log with a traceback: clients can cause it as often as they like.
    return ConnectionResetError(errno.ECONNRESET, "the client neither sends nor takes anything")


class Worker(ThreadWorker):
    """Gives up clients that stall, and tells open streams of the end at once: each would hold up the stop."""

    def handle(self, conn: TConn) -> Any:
        if not isinstance(conn.sock, Connection):
            conn.sock = Connection(conn.sock, self.app.patience_s)
        kept = super().handle(conn)
        if not kept:
            # Takes two seconds when the client does not close, which gunicorn would let everybody wait for.
            util.close_graceful(conn.sock)
        return kept

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Refuse what is no HTTP in the shape of the APIs; an error of ours is for the base, which logs it."""
        refused = _refusal(exc)
        if refused is None:
            super().handle_error(req, client, addr, exc)
            return
        log.warning("a client sent what is no HTTP: %s", exc)
        with contextlib.suppress(OSError):  # it may have gone meanwhile
            client.sendall(_answer(*refused))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        _stopping.set()
        super().handle_exit(sig, frame)


def _refusal(error: BaseException) -> tuple[HTTPStatus, str] | None:
    if isinstance(error, LimitRequestLine):
        return HTTPStatus.REQUEST_URI_TOO_LONG, "The address is too long."
    if isinstance(error, LimitRequestHeaders):
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "There are too many headers, or one is too long."
    if isinstance(error, (InvalidResponseHeader, InvalidResponseHeaderName)) or not isinstance(error, ParseException):
        return None
    return HTTPStatus.BAD_REQUEST, f"The request is not as HTTP wants it: {error}."


def _answer(status: HTTPStatus, message: str) -> bytes:
    body = json.dumps({"error": {"code": "VALIDATION_FAILED", "message": message[:300], "details": []}}).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Server(BaseApplication):
    """Gunicorn, told everything from here: no file and no argument of its own."""

    def __init__(self, services: Services, patience_s: int) -> None:
        self.services = services
        self.patience_s = patience_s
        super().__init__()

    def load_config(self) -> None:
        for name, value in _options(self.services.settings).items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return create_app(self.services, _stopping)


def _options(settings: Settings) -> dict[str, Any]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": [f"{host}:{settings.port}"],
        "workers": 1,
        "worker_class": Worker,
        "threads": settings.web_threads,
        "worker_connections": settings.web_threads * 4,
        "keepalive": 30,
        "graceful_timeout": GRACE_S,
        "control_socket_disable": True,
        "sendfile": False,  # waits without a limit for clients that do not read
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,
        "proc_name": "millrace-web",
        # Its lines become records of ours; the requests are logged by `web.access_log`.
        "logconfig_dict": {
            "root": {},
            "handlers": {},
            "formatters": {},
            "loggers": {
                "gunicorn.error": {"level": "INFO", "handlers": [], "propagate": True},
                "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
            },
        },
    }


def main(patience_s: int = PATIENCE_S) -> int:
    """Serve until SIGTERM. Returns 78 for a wrong setting, which no new start would mend."""
    try:
        settings = Settings.from_env()
        # Connects nowhere yet, so a child of this process may use it.
        wired = wiring.build(settings)
    except SettingError as error:
        print(error, file=sys.stderr)
        return os.EX_CONFIG
    observability.set_up_logging("web", settings.log_level)
    Server(wired.services, patience_s).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
