"""GET /metrics for processes that serve nothing else, asked over real connections."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from millrace import exposition, metrics
from millrace.exposition import MOST, Server
from millrace.processes import free_port
from millrace.settings import SettingError, Settings
from tests.polling import wait_until


def settings(**environ: str) -> Settings:
    return Settings.from_env(environ)


@contextlib.contextmanager
def serving(host: str = "127.0.0.1", patience_s: float = 60) -> Iterator[Server]:
    """A server of a short look."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with Server(socket.create_server((host, 0), family=family), patience_s) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: Server, method: str = "GET", path: str = "/metrics") -> tuple[int, str, str]:
    """Status, type and text of the answer."""
    host, port = server.server_address[:2]
    with contextlib.closing(http.client.HTTPConnection(str(host), port, timeout=20)) as client:
        client.request(method, path)
        answer = client.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(server.server_address[:2], timeout=20)


def is_hung_up_on(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_it_answers_with_the_numbers_of_this_host() -> None:
    metrics.repairs().labels("of the exposition").inc()
    with serving() as server:
        status, content_type, text = ask(server)
        assert (status, content_type) == (200, metrics.CONTENT_TYPE)
        assert 'millrace_repairs_total{kind="of the exposition"} 1.0' in text
        assert ask(server, path="/metrics?name[]=up")[0] == 200


@pytest.mark.parametrize("path", ["/", "/metrics/", "/health/live", "/../metrics"])
def test_nothing_else_is_there(path: str) -> None:
    with serving() as server:
        status, _, text = ask(server, path=path)
    assert status == 404 and "millrace_" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE"])
def test_it_may_only_be_read(method: str) -> None:
    with serving() as server:
        status, _, text = ask(server, method)
    assert status == 501 and "millrace_" not in text


def test_it_listens_on_an_address_of_ipv6_too() -> None:
    with serving("::1") as server:
        assert ask(server)[0] == 200


def test_so_many_connections_at_once_are_served_and_one_more_is_hung_up_on() -> None:
    with serving() as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(MOST)]
        wait_until(lambda: len(server._since) == MOST)
        with connect(server) as one_more:
            assert is_hung_up_on(one_more)
        clients.pop().close()
        wait_until(lambda: len(server._since) < MOST)
        assert ask(server)[0] == 200


def test_who_does_not_finish_the_request_loses_the_place_in_time() -> None:
    with serving(patience_s=1) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(MOST)]
        for client in clients:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: m\r\n")
        assert all(is_hung_up_on(client) for client in clients)
        wait_until(lambda: not server._since)  # which is a moment later
        assert ask(server)[0] == 200


@pytest.mark.timeout(30)
def test_of_several_who_listen_one_answers_and_the_others_go_on_at_once() -> None:
    listener = exposition.listen(settings(MILLRACE_METRICS_PORT=str(free_port())))
    assert listener is not None
    with Server(listener) as server, connect(server), server.get_request()[0], pytest.raises(BlockingIOError):
        server.get_request()  # of a client that went to another


def test_without_a_port_nothing_is_served() -> None:
    assert exposition.listen(settings(), shared=True) is None


def test_a_port_that_is_taken_is_refused_with_one_sentence() -> None:
    with serving() as server:
        port = server.server_address[1]
        with pytest.raises(exposition.PortTaken) as refused:
            exposition.listen(settings(MILLRACE_METRICS_PORT=str(port)))
    assert str(refused.value).startswith(
        f"MILLRACE_METRICS_PORT is {port} but nothing can listen there on 127.0.0.1 (MILLRACE_METRICS_HOST): "
        "Address already in use"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_host_that_is_not_ours_is_refused_by_name(host: str) -> None:
    with pytest.raises(SettingError, match=rf"on {host} \(MILLRACE_METRICS_HOST\)"):
        exposition.listen(settings(MILLRACE_METRICS_PORT=str(free_port()), MILLRACE_METRICS_HOST=host))


@pytest.mark.parametrize("folder", ["", "/nowhere/at/all"])
def test_processes_that_have_no_folder_for_their_numbers_have_nothing_to_show(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(metrics.FOLDER, folder)
    with pytest.raises(SettingError, match="MILLRACE_METRICS_PORT needs PROMETHEUS_MULTIPROC_DIR, a folder"):
        exposition.listen(settings(MILLRACE_METRICS_PORT=str(free_port())), shared=True)
