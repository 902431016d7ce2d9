"""The server as it is started for people: `python -m web` on real stores."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.models import Event, Run, Script
from millrace.services import Services
from millrace.triggers import HttpTrigger, Triggers
from tests import factories
from tests.factories import Tenant
from tests.polling import wait_until
from tests.web.conftest import API
from web import bodies
from web.hooks.errors import MAX_BODY_BYTES

ROOT = Path(__file__).parents[2]
SYNC = {"mode": "sync", "trigger_type": "manual", "payload": {"n": 1}}


@dataclass
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]

    def client(self, tenant: Tenant) -> httpx.Client:
        return httpx.Client(base_url=f"{self.url}{API}", headers=tenant.headers, timeout=60)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def server(services: Services, tmp_path: Path) -> Iterator[Server]:
    """`python -m web`, answering."""
    with _serving(services, tmp_path, "-m", "web") as server:
        yield server


@pytest.fixture
def impatient(services: Services, tmp_path: Path) -> Iterator[Server]:
    """The same, but a client may stall for one second only."""
    program = "import sys; from web.__main__ import main; sys.exit(main(patience_s=1))"
    with _serving(services, tmp_path, "-c", program) as server:
        yield server


@contextmanager
def _serving(services: Services, tmp_path: Path, *command: str) -> Iterator[Server]:
    settings, port = services.settings, _free_port()
    environ = {
        **os.environ, "MILLRACE_HOME": str(settings.home), "MILLRACE_PORT": str(port), "MILLRACE_WEB_THREADS": "16",
        "DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url, "S3_ENDPOINT": settings.s3_endpoint,
        "S3_ACCESS_KEY": settings.s3_access_key, "S3_SECRET_KEY": settings.s3_secret_key,
        "S3_BUCKET": settings.s3_bucket, "MILLRACE_SECRET_KEYS": settings.secret_keys,
    }  # fmt: skip
    with (tmp_path / "web.log").open("wb") as output:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environ, stderr=output, stdout=output)
    server = Server(f"http://127.0.0.1:{port}", process)
    try:
        _await_answer(server, tmp_path / "web.log")
        yield server
    finally:
        process.kill()
        process.wait()


def _await_answer(server: Server, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{server.url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture
def script(services: Services, alice: Tenant) -> Script:
    """Alice's script."""
    factories.runtime(services)
    return factories.script(services, alice)


def test_it_creates_and_executes_over_http(server: Server, services: Services, alice: Tenant) -> None:
    factories.runtime(services)
    with server.client(alice) as client, factories.worker(services):
        assert client.post("/scripts", json=factories.body()).status_code == 201
        answer = client.post("/scripts/hello/execute", json=SYNC)
        assert answer.json()["result"] == {"n": 1}
        assert "gunicorn" in answer.headers["Server"]


def test_a_stream_comes_while_it_is_written_and_ends_when_the_server_stops(
    server: Server, services: Services, alice: Tenant, script: Script
) -> None:
    run = factories.claim(services, factories.run(services, script))
    factories.log(services, run, "first")
    with server.client(alice) as client, client.stream("GET", f"/scripts/hello/runs/{run.id}/logs/stream") as stream:
        lines = stream.iter_lines()
        assert "first" in next(line for line in lines if line.startswith("data:"))
        factories.log(services, run, "second", number=1)
        assert "second" in next(line for line in lines if line.startswith("data:"))
        server.process.terminate()
        assert "event: end" not in list(lines)
    assert server.process.wait(20) == 0


def test_a_sync_caller_gets_its_answer_although_the_server_is_told_to_stop(
    server: Server, services: Services, alice: Tenant, script: Script
) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        with server.client(alice) as client:
            answers.append(client.post("/scripts/hello/execute", json=SYNC))

    caller = threading.Thread(target=ask)
    caller.start()
    deadline = time.monotonic() + 30
    while not _has_run(services):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    with factories.worker(services):
        caller.join(60)
    assert answers[0].json()["result"] == {"n": 1}
    assert server.process.wait(40) == 0


def _has_run(services: Services) -> bool:
    with services.database.connection_context():
        return bool(Run.select().exists())


def test_a_client_that_leaves_changes_nothing_for_its_run(
    server: Server, services: Services, alice: Tenant, script: Script
) -> None:
    with server.client(alice) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/scripts/hello/execute", json=SYNC, timeout=1)
        with factories.worker(services):
            deadline = time.monotonic() + 30
            while True:
                (run,) = client.get("/scripts/hello/runs").json()["runs"]
                if run["status"] == "completed":
                    return
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_a_body_that_is_too_large_or_cut_short_is_refused_and_the_server_goes_on(
    server: Server, alice: Tenant, script: Script
) -> None:
    with server.client(alice) as client:
        assert client.post("/events", content=b"x" * (9 * 1024 * 1024), headers={"Content-Type": "application/json"}
                           ).status_code == 413  # fmt: skip
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {API}/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
            keys = "".join(f"{name}: {value}\r\n" for name, value in alice.headers.items())
            connection.sendall(f"{head}{keys}\r\n{{".encode())
            connection.shutdown(socket.SHUT_WR)
            assert b" 400 " in connection.recv(1000)
        assert client.get("/scripts").status_code == 200


def _connect(server: Server, rcvbuf: int | None = None) -> socket.socket:
    connection = socket.socket()
    if rcvbuf is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    connection.settimeout(30)
    host, port = server.url.removeprefix("http://").split(":")
    connection.connect((host, int(port)))
    return connection


def _head(method: str, path: str, tenant: Tenant, **more: str) -> bytes:
    headers = {"Host": "x", **tenant.headers, **{name.replace("_", "-"): value for name, value in more.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def test_clients_that_stall_within_a_request_do_not_keep_their_threads(
    impatient: Server, alice: Tenant, tmp_path: Path
) -> None:
    begun = _head("POST", f"{API}/events", alice, Content_Type="application/json", Content_Length="100") + b"{"
    with ExitStack() as stack:
        heads, bodies = ([stack.enter_context(_connect(impatient)) for _ in range(16)] for _ in range(2))
        for connection in heads:
            connection.sendall(begun[:50])
        for connection in bodies:
            connection.sendall(begun)
        assert httpx.get(f"{impatient.url}/health/ready", timeout=30).status_code == 200
        assert [connection.recv(100) for connection in heads] == [b""] * 16
        assert {connection.recv(100).split(b" ")[1] for connection in bodies} == {b"400"}
    assert "Traceback" not in (tmp_path / "web.log").read_text()


def test_clients_that_do_not_close_keep_nobody_else_waiting(server: Server, alice: Tenant) -> None:
    with ExitStack() as stack:
        for _ in range(14):  # each was two seconds of the loop that accepts
            stack.enter_context(_connect(server)).sendall(_head("GET", f"{API}/scripts", alice, Connection="close"))
        assert httpx.get(f"{server.url}/health/ready", timeout=10).status_code == 200


def test_a_stream_that_nobody_reads_ends(
    impatient: Server, services: Services, alice: Tenant, script: Script, tmp_path: Path
) -> None:
    run = factories.claim(services, factories.run(services, script))
    for number in range(4):
        factories.log(services, run, *["x" * 65536] * 64, number=number)  # more than the kernel keeps for a client

    def streams() -> str:
        lines = httpx.get(f"{impatient.url}/metrics").text.splitlines()
        return next(line for line in lines if line.startswith("millrace_log_streams "))

    with _connect(impatient, rcvbuf=4096) as connection:
        connection.sendall(_head("GET", f"{API}/scripts/hello/runs/{run.id}/logs/stream", alice))
        wait_until(lambda: streams() == "millrace_log_streams 1", 30)
        wait_until(lambda: streams() == "millrace_log_streams 0", 30)
    assert "Traceback" not in (tmp_path / "web.log").read_text()


def test_a_connection_may_rest_between_requests_and_while_its_run_goes_on(
    impatient: Server, services: Services, alice: Tenant, script: Script
) -> None:
    longer_than_patience_s = 1.5
    connection = http.client.HTTPConnection(impatient.url.removeprefix("http://"), timeout=60)
    headers = {**alice.headers, "Content-Type": "application/json"}
    with closing(connection):
        connection.request("GET", f"{API}/scripts", headers=headers)
        assert connection.getresponse().read()
        port = connection.sock.getsockname()[1]
        time.sleep(longer_than_patience_s)
        connection.request("POST", f"{API}/scripts/hello/execute", json.dumps(SYNC), headers)
        time.sleep(longer_than_patience_s)
        with factories.worker(services):
            assert json.loads(connection.getresponse().read())["result"] == {"n": 1}
        assert connection.sock.getsockname()[1] == port


def test_a_wrong_setting_stops_the_start_with_one_sentence_that_names_it(tmp_path: Path) -> None:
    for environ, name in (({"MILLRACE_PORT": "x"}, "MILLRACE_PORT"), ({}, "REDIS_URL")):
        done = subprocess.run(
            [sys.executable, "-m", "web"], cwd=ROOT, env={"PATH": os.environ["PATH"], **environ}, capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == os.EX_CONFIG
        assert done.stderr.count("\n") == 1
        assert name in done.stderr


def _say(server: Server, *parts: bytes) -> tuple[int, dict[str, Any]]:
    """What a raw request is answered, after its last part the client sends no more."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        for part in parts:
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        return answer.status, json.loads(answer.read())


def _post(tenant: Tenant, path: str, **more: str) -> bytes:
    return _head("POST", path, tenant, Content_Type="application/json", Connection="close", **more)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_EVENT = json.dumps({"name": "order.created", "data": 1}).encode()
_LAST = b"0\r\n\r\n"


@pytest.mark.parametrize(("path", "limit"), [
    (f"{API}/events", bodies.MAX_BYTES), ("/hooks/alice/orders", MAX_BODY_BYTES),
])  # fmt: skip
def test_a_body_that_is_too_long_broken_off_or_framed_wrongly_is_refused_whole(
    server: Server, services: Services, alice: Tenant, path: str, limit: int
) -> None:
    hook = HttpTrigger("/orders", auth="none", mode="async")
    factories.script(services, alice, triggers=Triggers(http=hook))
    chunked, spaces = {"Transfer_Encoding": "chunked"}, b" " * (limit - len(_EVENT))
    whole = _say(server, _post(alice, path, **chunked), _chunk(_EVENT), _chunk(spaces), _LAST)
    assert whole[0] == 202, whole
    accepted = Run.select().count(), Event.select().count()
    for expected, parts in (
        (413, (_post(alice, path, **chunked), _chunk(_EVENT), _chunk(spaces), _chunk(b"} and more"), _LAST)),
        (413, (_post(alice, path, Content_Length=str(limit + 1)), b"")),
        (400, (_post(alice, path, Content_Length=str(len(_EVENT) + 1)), _EVENT)),
        (400, (_post(alice, path, **chunked), _chunk(_EVENT))),
        (400, (_post(alice, path, **chunked), b"zz\r\n{}\r\n", _LAST)),
    ):
        status, body = _say(server, *parts)
        assert (status, set(body["error"]) >= {"code", "message"}) == (expected, True), (parts[0][-60:], body)
    assert (Run.select().count(), Event.select().count()) == accepted


@pytest.mark.parametrize(("expected", "raw"), [
    (400, b"POST /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n"),
    (400, b"GET /health/live HTTP/1.1\r\nHost: x\r\nbad name: y\r\n\r\n"),
    (400, b"NONSENSE\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"),
    (414, b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
    (431, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 9000 + b"\r\n\r\n"),
])  # fmt: skip
def test_what_is_no_http_is_refused_in_the_shape_of_the_api(server: Server, expected: int, raw: bytes) -> None:
    status, body = _say(server, raw)
    assert status == expected
    assert set(body["error"]) == {"code", "message", "details"}
