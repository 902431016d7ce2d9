"""One whole Millrace for the session, and a server outside of it that scripts may call."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.platform import ROOT, Platform, start_platform, stop_platform


class Outside(ThreadingHTTPServer):
    """Plays every service that the examples call, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _OutsideHandler)
        self.seen: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _OutsideHandler(BaseHTTPRequestHandler):
    server: Outside
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: Any) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        self.server.seen.append({"path": parts.path, "query": query, "body": body, "headers": dict(self.headers)})
        answer: Any = {"ok": True}
        if parts.path == "/v1/current.json":
            answer = {"location": {"name": query["q"][0]}, "current": {"temp_f": 61, "condition": {"text": "Sunny"}}}
        elif parts.path == "/rates":
            answer = {"currency": query["currency"][0], "rate": 1.08}
        elif parts.path == "/posts":
            answer = [{"title": f"Post {n}", "body": "text"} for n in range(60)]
        elif parts.path.endswith("/records/list/"):
            offset, limit = int(query.get("offset", ["0"])[0]), int(query.get("limit", ["10"])[0])
            items = [{"id": str(n), "status": "done" if n % 2 else "open"} for n in range(25)]
            answer = {"items": items[offset : offset + limit], "total": 25, "offset": offset, "limit": limit}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Not to the test's output."""


@pytest.fixture(scope="session")
def outside() -> Iterator[Outside]:
    server = Outside()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, outside: Outside) -> Iterator[Platform]:
    running = start_platform(
        tmp_path_factory.mktemp("home"), MILLRACE_EGRESS_ALLOW=urlsplit(outside.url).netloc, MILLRACE_WARM_JAILS="2"
    )
    # Its schedule fires a minute later; the other tests need not wait for that.
    running.command("scripts", "push", str(ROOT / "examples" / "heartbeat"))
    yield running
    stop_platform(running)
