"""The web application behind a real socket, with a worker that needs no jail, and a line that loses answers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

import millrace.database
from millrace import ids
from millrace.services import Services
from tests import factories, world
from tests.factories import Tenant
from web.app import create_app


@pytest.fixture
def database_kind() -> str:
    """A client knows no database."""
    return "sqlite"


@pytest.fixture
def services(database_url: str) -> Iterator[Services]:
    """As for the tests of hooks."""
    database = millrace.database.connect(database_url)
    yield world.in_memory(database, ids.now_ms)
    database.close_all()  # type: ignore[attr-defined]  # a pool's method


@pytest.fixture
def alice(services: Services) -> Tenant:
    """Whose scripts are called."""
    factories.runtime(services)
    return factories.tenant(services, "alice")


@pytest.fixture
def app(services: Services) -> Flask:
    """The application."""
    return create_app(services)


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: object) -> None:
        """Nothing: the application has a log of its own."""


@pytest.fixture
def port(app: Flask) -> Iterator[int]:
    """Where the application answers."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True  # type: ignore[attr-defined]  # a client may keep its connection open
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


class Line:
    """A way to the server that takes requests there and loses the next so many answers."""

    def __init__(self, port: int) -> None:
        self.lose = 0
        self.requests = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []

    def serve(self) -> None:
        """Until `close`."""
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._carry, args=(near,))
            thread.start()
            self._threads.append(thread)

    def _carry(self, near: socket.socket) -> None:
        """One request to a connection, so that it is plain which answer is lost."""
        with near, socket.create_connection(("127.0.0.1", self._target)) as far, suppress(ConnectionError):
            head = b""
            while b"\r\n\r\n" not in head:
                part = near.recv(65536)
                if not part:
                    return
                head += part
            self.requests += 1
            lost, self.lose = self.lose > 0, max(0, self.lose - 1)
            top, _, body = head.partition(b"\r\n\r\n")
            length = next((int(line.split(b":")[1]) for line in top.split(b"\r\n") if line.lower().startswith(
                b"content-length:")), 0)  # fmt: skip
            while len(body) < length:
                body += near.recv(65536)
            lines = [line for line in top.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            far.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body)
            while part := far.recv(65536):
                if not lost:
                    near.sendall(part)

    def close(self) -> None:
        """Take no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._threads:
            each.join(10)


@pytest.fixture
def line(port: int) -> Iterator[Line]:
    """The line, up."""
    line = Line(port)
    thread = threading.Thread(target=line.serve)
    thread.start()
    yield line
    line.close()
    thread.join()


@contextmanager
def refusing() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    yield f"http://127.0.0.1:{port}"
