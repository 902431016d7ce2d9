"""A server that answers the command as it is told, well or badly."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeApi(ThreadingHTTPServer):
    """Answers with (status, JSON) by "METHOD path"; a list of answers is given one by one, the last one for ever.

    Bytes are sent as they stand, and then the connection is cut.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.last_event_ids: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeApi

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        asked = f"{self.command} {self.path.partition('?')[0].removeprefix('/v1/scripting')}"
        self.server.asked.append(asked)
        self.server.last_event_ids.append(self.headers.get("Last-Event-ID"))
        answer = self.server.answers.get(asked, (404, {"error": {"code": "NOT_FOUND", "message": f"no {asked}"}}))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, bytes):
            self.wfile.write(answer)
            return
        status, body = answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode() if isinstance(body, str) else json.dumps(body).encode())

    do_POST = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        """Not to the test's output."""
