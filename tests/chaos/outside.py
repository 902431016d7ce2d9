"""The outside world: every handler tells it that it began, and that it ended."""

import json
import threading
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BEGIN, END = "begin", "end"


@dataclass(frozen=True)
class Word:
    """What a handler said: its run, the attempt, and `begin` or `end`."""

    run: str
    attempt: int
    what: str


class Outside(ThreadingHTTPServer):
    """Counts. It never fails and outlives every fault, so its books are right."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._lock = threading.Lock()
        self._heard: Counter[Word] = Counter()

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def heard(self) -> Counter[Word]:
        """How often each word was said, until now."""
        with self._lock:
            return Counter(self._heard)

    def hear(self, word: Word) -> None:
        """Count it."""
        with self._lock:
            self._heard[word] += 1


class _Handler(BaseHTTPRequestHandler):
    server: Outside
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.hear(Word(said["run"], said["attempt"], said["what"]))
        self.send_response(204)
        self.end_headers()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the jail was killed while it spoke
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Not to the test's output."""
