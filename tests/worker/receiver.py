"""A server that is told things, and behaves as receivers do: well, badly, or not at all."""

import contextlib
import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Told:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What it was told, oldest first. `release` lets go of those that hang."""

    port: int = 0
    told: list[Told] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    sent: int = 0  # bytes of bodies without end
    before_answer: Callable[[Told], None] = lambda told: None

    def url(self, path: str = "/ok", host: str = "127.0.0.1", scheme: str = "http") -> str:
        """An address on it."""
        return f"{scheme}://{host}:{self.port}{path}"


def _handler(receiver: Receiver) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told = Told(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            receiver.told.append(told)
            receiver.before_answer(told)
            self.close_connection = True
            behaviour = getattr(self, "_" + self.path.strip("/").partition("/")[0].partition("?")[0], self._ok)
            with contextlib.suppress(OSError):  # who broke it off is what some tests are about
                behaviour()

        def _ok(self) -> None:
            self._answer(200, b"thanks")

        def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def _status(self) -> None:
            self._answer(int(self.path.rsplit("/", 1)[1]))

        def _redirect(self) -> None:
            self._answer(307, Location=receiver.url("/ok"))

        def _hang(self) -> None:
            receiver.release.wait(30)

        def _drip(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not receiver.release.wait(0.05):
                self.wfile.write(b"x")

        def _endless(self) -> None:
            self.send_response(200)
            self.end_headers()
            while not receiver.release.is_set():
                self.wfile.write(b"x" * 65_536)
                receiver.sent += 65_536

        def _open(self) -> None:
            """An answer without a length, whose connection stays open."""
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"and")
            receiver.release.wait(30)

        def _chunked(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3\r\nyes\r\n0\r\n\r\n")
            receiver.release.wait(30)

        def _garbage(self) -> None:
            self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

        def _half(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-")

        def _nothing(self) -> None:
            pass

        def _headers(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 40_000 + b"\r\n")

        def _interim(self) -> None:
            self.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            self._answer(204)

        def _early(self) -> None:
            while not receiver.release.is_set():
                self.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up


@contextlib.contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver on loopback."""
    receiver = Receiver()
    server = _Server(("127.0.0.1", 0), _handler(receiver))
    receiver.port = server.server_address[1]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
