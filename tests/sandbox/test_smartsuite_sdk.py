"""The SDK against a small stand-in for SmartSuite's records API."""

import http.server
import json
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from tests.sandbox import egress_support as support

SDK = support.NODE_RUNTIME / "smartsuite-sdk"
KEY = "k-123"
ACCOUNT = "sabc1234"


class FakeSmartSuite(http.server.ThreadingHTTPServer):
    """One application with records, as the public API documentation describes it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.records: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.refusals: list[tuple[int, dict[str, str], bytes]] = []
        """Answers to give before any other."""
        self.largest_page = 1000

    def add(self, record: dict[str, Any]) -> dict[str, Any]:
        record = {**record, "id": f"r{len(self.records)}"}
        self.records[record["id"]] = record
        return record


class Handler(http.server.BaseHTTPRequestHandler):
    server: FakeSmartSuite
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(text) if text else None
        url = urllib.parse.urlsplit(self.path)
        self.server.requests.append((self.command, self.path, body))
        if self.server.refusals:
            status, headers, answer = self.server.refusals.pop(0)
            self._respond(status, answer, headers)
        elif (self.headers["Authorization"], self.headers["Account-Id"]) != (f"Token {KEY}", ACCOUNT):
            self._respond(401, b'{"detail": "wrong token"}')
        else:
            self._serve(url.path, dict(urllib.parse.parse_qsl(url.query)), body)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _serve(self, path: str, query: dict[str, str], body: Any) -> None:
        records = self.server.records
        match self.command, path.removeprefix("/api/v1").strip("/").split("/"):
            case "GET", ["applications"]:
                self._json([{"id": "app", "name": "Orders", "solution": query.get("solution", "sol")}])
            case "GET", ["applications", "app"]:
                self._json({"id": "app", "structure": []})
            case "GET", ["solutions"]:
                self._json([{"id": "sol"}])
            case "GET", ["solutions", "sol"]:
                self._json({"id": "sol"})
            case "POST", ["applications", "app", "records", "list"]:
                offset = int(query["offset"])
                limit = min(int(query["limit"]), self.server.largest_page)
                items = list(records.values())[offset : offset + limit]
                self._json({"items": items, "total": len(records), "offset": offset, "limit": limit})
            case "POST", ["applications", "app", "records"]:
                self._json(self.server.add(body), 201)
            case (("POST" | "PATCH"), ["applications", "app", "records", "bulk"]):
                self._bulk(body["items"])
            case "PATCH", ["applications", "app", "records", "bulk_delete"]:
                self._json([{"id": records.pop(record)["id"]} for record in body["items"]])
            case "GET", ["applications", "app", "records", record] if record in records:
                self._json(records[record])
            case "PUT", ["applications", "app", "records", record] if record in records:
                records[record] = {**body, "id": record}
                self._json(records[record])
            case "PATCH", ["applications", "app", "records", record] if record in records:
                records[record] |= body
                self._json(records[record])
            case "DELETE", ["applications", "app", "records", record] if record in records:
                del records[record]
                self._respond(204, b"")
            case _:
                self._respond(404, b'{"detail": "Not found."}')

    def _bulk(self, items: list[dict[str, Any]]) -> None:
        if len(items) > 25:
            self._respond(422, b'{"items": ["at most 25"]}')
        elif self.command == "POST":
            self._json([self.server.add(item) for item in items])
        else:
            for item in items:
                self.server.records[item["id"]] |= item
            self._json([self.server.records[item["id"]] for item in items])

    def _json(self, value: object, status: int = 200) -> None:
        self._respond(status, json.dumps(value).encode())

    def _respond(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def smartsuite() -> Iterator[FakeSmartSuite]:
    server = FakeSmartSuite()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def run(server: FakeSmartSuite, body: str, **options: object) -> Any:
    """What `body`, with a client as `smartsuite`, returned, or the error it threw."""
    settings = {
        "apiKey": KEY,
        "accountId": ACCOUNT,
        "baseUrl": f"http://127.0.0.1:{server.server_address[1]}",
        **options,
    }
    code = f"""
    const {{ SmartSuite, SmartSuiteError }} = require({json.dumps(str(SDK))});
    const print = (value) => require('fs').writeSync(1, JSON.stringify(value ?? null));
    (async () => {{
      const smartsuite = new SmartSuite({json.dumps(settings)});
      {body}
    }})().then(print, (error) => {{
      print({{ ...error, name: error.name, message: error.message, ours: error instanceof SmartSuiteError }});
    }});
    """
    done = subprocess.run(
        [support.NODE, "-e", code], env={}, capture_output=True, timeout=support.DEADLINE, check=False
    )
    assert done.stderr == b"", done.stderr.decode()
    return json.loads(done.stdout)


def test_a_record_is_created_read_changed_replaced_and_deleted(smartsuite: FakeSmartSuite) -> None:
    created, got, patched, updated, deleted = run(
        smartsuite,
        """
        const { records } = smartsuite;
        const created = await records.create('app', { title: 'One', note: 'x' });
        return [
          created,
          await records.get('app', created.id),
          { ...(await records.patch('app', created.id, { title: 'Two' })) },
          await records.update('app', created.id, { title: 'Three' }),
          await records.delete('app', created.id),
        ];
        """,
    )
    assert created == got == {"id": "r0", "title": "One", "note": "x"}
    assert patched == {"id": "r0", "title": "Two", "note": "x"}
    assert updated == {"id": "r0", "title": "Three"}
    assert deleted is None
    assert smartsuite.records == {}
    assert [method for method, _, _ in smartsuite.requests] == ["POST", "GET", "PATCH", "PUT", "DELETE"]
    assert all(path.endswith("/") for _, path, _ in smartsuite.requests)


def test_a_page_is_asked_for_with_sort_filter_and_labels(smartsuite: FakeSmartSuite) -> None:
    smartsuite.add({"title": "One"})
    page = run(
        smartsuite,
        """
        const sort = { field: 'title', direction: 'asc' };
        const filter = { operator: 'and', fields: [{ field: 'title', comparison: 'is', value: 'One' }] };
        const page = { limit: 7, offset: 0, all: true };
        return smartsuite.records.list('app', { sort, filter, hydrated: true, ...page });
        """,
    )
    assert page == {"items": [{"id": "r0", "title": "One"}], "total": 1, "offset": 0, "limit": 7}
    ((method, path, body),) = smartsuite.requests
    assert (method, path) == ("POST", "/api/v1/applications/app/records/list/?offset=0&limit=7&all=true")
    assert body["sort"] == [{"field": "title", "direction": "asc"}]
    assert body["filter"]["fields"][0]["comparison"] == "is"
    assert body["hydrated"] is True


@pytest.mark.parametrize(
    ("count", "largest_page", "requests"),
    [(0, 1000, 1), (9, 1000, 1), (10, 1000, 2), (25, 1000, 3), (25, 4, 7)],
)
def test_iterating_gives_every_record_once_page_by_page(
    smartsuite: FakeSmartSuite, count: int, largest_page: int, requests: int
) -> None:
    smartsuite.largest_page = largest_page
    for i in range(count):
        smartsuite.add({"title": str(i)})
    ids = run(
        smartsuite,
        """
        const ids = [];
        for await (const record of smartsuite.records.iterate('app', { pageSize: 10 })) ids.push(record.id);
        return ids;
        """,
    )
    assert ids == [f"r{i}" for i in range(count)]
    assert len(smartsuite.requests) == requests


def test_iterating_asks_for_no_page_that_is_not_wanted(smartsuite: FakeSmartSuite) -> None:
    for i in range(30):
        smartsuite.add({"title": str(i)})
    run(smartsuite, "for await (const r of smartsuite.records.iterate('app', { pageSize: 10 })) return r.id;")
    assert len(smartsuite.requests) == 1


def test_bulk_operations_send_25_at_a_time_and_keep_the_order(smartsuite: FakeSmartSuite) -> None:
    created, updated, deleted = run(
        smartsuite,
        """
        const { records } = smartsuite;
        const created = await records.bulkCreate('app', Array.from({ length: 60 }, (_, i) => ({ n: i })));
        const updated = await records.bulkUpdate('app', created.map(({ id }) => ({ id, done: true })));
        return [created.map((r) => r.n), updated.filter((r) => r.done).length,
                (await records.bulkDelete('app', created.map((r) => r.id))).length];
        """,
    )
    assert created == list(range(60))
    assert (updated, deleted) == (60, 60)
    assert smartsuite.records == {}
    assert [len(body["items"]) for _, _, body in smartsuite.requests] == [25, 25, 10] * 3
    assert smartsuite.requests[-1][1] == "/api/v1/applications/app/records/bulk_delete/?fields=id"


def test_a_bulk_operation_that_fails_half_way_says_what_was_done(smartsuite: FakeSmartSuite) -> None:
    error = run(
        smartsuite,
        """
        const items = Array.from({ length: 30 }, (_, i) => ({ n: i }));
        const list = smartsuite.records.bulkCreate('app', items.slice(0, 25)).then(() => items);
        return smartsuite.records.bulkUpdate('app', (await list).map((_, i) => ({ id: `r${i}`, n: -1 })));
        """,
    )
    assert error["name"] == "TypeError"  # the stand-in hangs up on an id that it does not have
    assert [record["n"] for record in error["completed"]] == [-1] * 25


def test_applications_and_solutions_are_listed_and_read(smartsuite: FakeSmartSuite) -> None:
    answers = run(
        smartsuite,
        """
        const { applications, solutions } = smartsuite;
        return [
          await applications.list(),
          await applications.list({ solution: 'other', fields: ['name', 'slug'] }),
          await applications.get('app'),
          await solutions.list(),
          await solutions.get('sol'),
        ];
        """,
    )
    assert answers[0] == [{"id": "app", "name": "Orders", "solution": "sol"}]
    assert answers[1][0]["solution"] == "other"
    assert answers[2:] == [{"id": "app", "structure": []}, [{"id": "sol"}], {"id": "sol"}]
    assert smartsuite.requests[1][1] == "/api/v1/applications/?solution=other&fields=name&fields=slug"


def test_a_refusal_carries_status_body_and_request_but_no_credentials(smartsuite: FakeSmartSuite) -> None:
    error = run(smartsuite, "return smartsuite.records.get('app', 'r404');")
    assert error == {
        "ours": True,
        "name": "SmartSuiteError",
        "message": 'SmartSuite answered 404 to GET /applications/app/records/r404/: {"detail":"Not found."}',
        "status": 404,
        "body": {"detail": "Not found."},
        "method": "GET",
        "path": "/applications/app/records/r404/",
    }
    assert len(smartsuite.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (500, b"<h1>oops</h1>", "<h1>oops</h1>"),
        (502, b"", "no details"),
        (200, b"<h1>login</h1>", "not JSON"),
        (302, b"", "no details"),
        (422, b'{"title": ["required"]}', '{"title":["required"]}'),
        (400, b"x" * 5000, "x" * 500 + "..."),
    ],
)
def test_any_answer_that_is_no_success_is_an_error_and_not_sent_again(
    smartsuite: FakeSmartSuite, status: int, body: bytes, message: str
) -> None:
    smartsuite.refusals = [(status, {"Location": "/elsewhere"}, body)]
    error = run(smartsuite, "return smartsuite.applications.list();")
    assert (error["ours"], error["status"]) == (True, status)
    assert error["message"].endswith(f": {message}")
    assert len(smartsuite.requests) == 1


@pytest.mark.parametrize("wait", ["0", "0.01", formatdate(0, usegmt=True)])
def test_a_request_that_came_too_soon_is_sent_again_after_the_wait(smartsuite: FakeSmartSuite, wait: str) -> None:
    smartsuite.refusals = [(429, {"Retry-After": wait}, b"{}")] * 3
    assert run(smartsuite, "return smartsuite.solutions.list();") == [{"id": "sol"}]
    assert len(smartsuite.requests) == 4


def test_a_wait_that_is_not_named_is_bounded_by_the_option(smartsuite: FakeSmartSuite) -> None:
    smartsuite.refusals = [(429, {}, b"{}"), (429, {"Retry-After": "soon"}, b"{}")]
    assert run(smartsuite, "return smartsuite.solutions.list();", maxRetryDelay=10) == [{"id": "sol"}]


def test_retries_end(smartsuite: FakeSmartSuite) -> None:
    smartsuite.refusals = [(429, {"Retry-After": "0"}, b"{}")] * 10
    error = run(smartsuite, "return smartsuite.solutions.list();", maxRetries=2)
    assert (error["status"], error["retryAfter"]) == (429, 0)
    assert len(smartsuite.requests) == 3


def test_a_wait_longer_than_allowed_fails_at_once_and_says_how_long(smartsuite: FakeSmartSuite) -> None:
    smartsuite.refusals = [(429, {"Retry-After": "60"}, b"{}")]
    error = run(smartsuite, "return smartsuite.solutions.list();")
    assert (error["status"], error["retryAfter"]) == (429, 60_000)
    assert len(smartsuite.requests) == 1


def test_a_request_that_takes_too_long_is_given_up(smartsuite: FakeSmartSuite) -> None:
    def never(client: Any) -> None:
        with client:
            client.recv(1 << 20)
            client.recv(1)

    with support.tcp_server(never) as port:
        error = run(smartsuite, "return smartsuite.solutions.list();", baseUrl=f"http://127.0.0.1:{port}", timeout=100)
    assert error["name"] == "TimeoutError"


def test_ids_cannot_leave_their_place_in_the_path(smartsuite: FakeSmartSuite) -> None:
    error = run(smartsuite, "return smartsuite.records.get('app', '../../solutions?x=#');")
    assert error["status"] == 404
    assert smartsuite.requests[0][1] == "/api/v1/applications/app/records/..%2F..%2Fsolutions%3Fx%3D%23/"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("records.get('app', '..')", 'recordId must be an id, not ".."'),
        ("records.get('app', '')", 'recordId must be an id, not ""'),
        ("records.get('app')", "recordId must be an id, not undefined"),
        ("records.list(7)", "applicationId must be an id, not 7"),
        ("records.list('app', { limit: 1001 })", "limit must be from 1 to 1000, not 1001"),
        ("records.list('app', { limit: 0 })", "limit must be from 1 to 1000, not 0"),
        ("records.iterate('app', { pageSize: 1.5 }).next()", "pageSize must be from 1 to 1000, not 1.5"),
        ("records.bulkCreate('app', {})", "a bulk operation takes an array"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_sent(smartsuite: FakeSmartSuite, call: str, message: str) -> None:
    error = run(smartsuite, f"return smartsuite.{call};")
    assert error["message"] == f"SmartSuite: {message}"
    assert smartsuite.requests == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"apiKey": None}, "apiKey must be a string of visible characters"),
        ({"apiKey": "a\nb"}, "apiKey must be a string of visible characters"),
        ({"accountId": ""}, "accountId must be a string of visible characters"),
        ({"baseUrl": "ftp://x"}, "baseUrl must be an http or https URL, not ftp://x"),
        ({"baseUrl": "nowhere"}, "baseUrl must be an http or https URL, not nowhere"),
        ({"maxRetries": -1}, "maxRetries must be a whole number, not -1"),
        ({"timeout": "1"}, "timeout must be a whole number, not 1"),
        ({"maxRetry": 1}, 'unknown option "maxRetry"'),
    ],
)
def test_a_wrong_option_is_named(smartsuite: FakeSmartSuite, options: dict[str, object], message: str) -> None:
    assert run(smartsuite, "return 1;", **options)["message"] == f"SmartSuite: {message}"


def test_printing_a_client_shows_no_credentials(smartsuite: FakeSmartSuite) -> None:
    shown = run(smartsuite, "return require('util').inspect(smartsuite, { depth: 9, showHidden: true });")
    assert "records" in shown
    assert KEY not in shown
    assert ACCOUNT not in shown


def test_the_version_is_that_of_the_package(smartsuite: FakeSmartSuite) -> None:
    version = json.loads((SDK / "package.json").read_text())["version"]
    assert run(smartsuite, f"return require({json.dumps(str(SDK))}).version;") == version
