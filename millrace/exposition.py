"""Serves a host's numbers where web does not run: `GET /metrics`, for processes that answer nobody else.

Meant for the network of those who watch. It is bounded all the same: so many connections at once, each for so long.
"""

import contextlib
import errno
import http.server
import logging
import os
import socket
import socketserver
import sys
import threading
import time
from http import HTTPStatus
from typing import Any

from millrace import metrics
from millrace.settings import SettingError, Settings

MOST = 8
"""Connections of a process at once; who comes when all are taken is hung up on."""
PATIENCE_S = 10.0
"""What a client may take for all of its request and for taking the answer."""
_LOOK_S = 1.0

log = logging.getLogger(__name__)


class PortTaken(SettingError):
    """Somebody else listens there now: it may be free in a moment, when processes that were here before have ended."""


def listen(settings: Settings, *, shared: bool = False) -> socket.socket | None:
    """What `serve` needs, or None without a MILLRACE_METRICS_PORT. Raises SettingError, PortTaken.

    When it is `shared` by processes of which each counts, they must leave their numbers in one folder.
    """
    if not settings.metrics_port:
        return None
    if shared and not os.path.isdir(os.environ.get(metrics.FOLDER, "")):
        raise SettingError(f"MILLRACE_METRICS_PORT needs {metrics.FOLDER}, a folder that is emptied before each start.")
    host, port = settings.metrics_host, settings.metrics_port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address, family=family, backlog=2 * MOST)
    except OSError as error:
        kind = PortTaken if error.errno == errno.EADDRINUSE else SettingError
        raise kind(
            f"MILLRACE_METRICS_PORT is {port} but nothing can listen there on {host} (MILLRACE_METRICS_HOST): "
            f"{error.strerror or error}."
        ) from None
    listener.setblocking(False)  # another process may be faster with a client that both were told of
    return listener


def serve(listener: socket.socket) -> None:
    """Answer from a thread of its own until the process ends."""
    server = Server(listener)
    threading.Thread(target=server.serve_forever, args=(_LOOK_S,), name="metrics", daemon=True).start()


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection, which is for one request."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, patience_s: float = PATIENCE_S) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()  # one that the base has made
        self.socket = listener
        self._patience_s = patience_s
        self._since: dict[socket.socket, float] = {}
        self._lock = threading.Lock()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is a place for it."""
        with self._lock:
            if len(self._since) >= MOST:
                return False
            self._since[request] = time.monotonic()
            return True

    def shutdown_request(self, request: Any) -> None:
        """Close it, and give its place back."""
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on who takes too long, which ends the thread that waits for it."""
        now = time.monotonic()
        with self._lock:
            for connection, since in self._since.items():
                if now - since > self._patience_s:
                    with contextlib.suppress(OSError):  # it may have gone meanwhile
                        connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away as they like, or are hung up on. Whatever else goes wrong is our own mistake."""
        if not isinstance(sys.exception(), OSError):
            log.exception("a request for metrics could not be answered")


class _Handler(http.server.BaseHTTPRequestHandler):
    server_version = "Millrace"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = metrics.render()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", metrics.CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
