"""Unchanged network clients in Python, through the preload and the real proxy."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.client import Sandbox
from sandbox.egress.addresses import IPAddress
from sandbox.job import Kind
from tests.launcher import start_launcher
from tests.sandbox import egress_support as support
from tests.sandbox.egress_support import Authority, LocalDoor, Names
from tests.sandbox.python_support import Python, run_python
from tests.sandbox.support import Ran, Runner


@dataclass
class Rig:
    """Python with the way out, a slot, and an HTTP and an HTTPS server known as api.test."""

    door: LocalDoor
    names: Names
    environ: dict[str, str]

    def run(self, body: str, **environ: str) -> Any:
        return run_python(body, self.door.path, {**self.environ, **environ})


@pytest.fixture
def rig(tmp_path: Path, http_port: int, https_port: int, authority: Authority) -> Iterator[Rig]:
    names = Names(api__test=["127.0.0.1"], other__test=["127.0.0.1"], inside__test=["10.0.0.1"])
    with support.local_door(tmp_path, names.resolve) as door:
        door.assign(allow=[f"127.0.0.1:{http_port}", f"127.0.0.1:{https_port}"])
        environ = {
            "HTTP": f"http://api.test:{http_port}",
            "HTTPS": f"https://api.test:{https_port}",
            "HTTP_PORT": str(http_port),
            "HTTPS_PORT": str(https_port),
            "CA_FILE": str(authority.ca_file),
            "SSL_CERT_FILE": str(authority.ca_file),
            "REQUESTS_CA_BUNDLE": str(authority.ca_file),
        }
        yield Rig(door, names, environ)


CLIENTS = """
async def by_urllib(url, body=None):
    import urllib.request
    with urllib.request.urlopen(urllib.request.Request(url, body)) as response:
        return response.status, response.read()

async def by_http_client(url, body=None):
    import http.client, urllib.parse
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc)
    connection.request("POST" if body else "GET", url.partition(parts.netloc)[2] or "/", body)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer

async def by_requests(url, body=None):
    import requests
    response = requests.request("POST" if body else "GET", url, data=body)
    return response.status_code, response.content

async def by_httpx(url, body=None):
    import httpx
    response = httpx.request("POST" if body else "GET", url, content=body, follow_redirects=True)
    return response.status_code, response.content

async def by_httpx_async(url, body=None):
    import httpx
    async with httpx.AsyncClient(follow_redirects=True) as session:
        response = await session.request("POST" if body else "GET", url, content=body)
    return response.status_code, response.content

async def by_asyncio(url, body=None):
    import ssl, urllib.parse
    parts = urllib.parse.urlsplit(url)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or (443 if tls else 80), ssl=tls)
    path = url.partition(parts.netloc)[2] or "/"
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\\r\\nHost: {parts.netloc}\\r\\nConnection: close\\r\\n"
    writer.write(f"{head}Content-Length: {len(body or b'')}\\r\\n\\r\\n".encode() + (body or b""))
    answer = await reader.read()
    writer.close()
    head, _, text = answer.partition(b"\\r\\n\\r\\n")
    return int(head.split()[1]), text

client = globals().get(f"by_{env['CLIENT']}") or locals()[f"by_{env['CLIENT']}"]

async def failure(call):
    try:
        return await call
    except Exception as error:
        return about(error)

def flat(error):
    return "" if error is None else f"{error['name']}: {error['message']} / {flat(error['cause'])}"
"""

ALL = ["urllib", "http_client", "requests", "httpx", "httpx_async", "asyncio"]
EVERY_CLIENT = pytest.mark.parametrize("client", ALL)
FOLLOWS_REDIRECTS = pytest.mark.parametrize("client", ["urllib", "requests", "httpx", "httpx_async"])
EVERY_SCHEME = pytest.mark.parametrize("scheme", ["HTTP", "HTTPS"])


@EVERY_SCHEME
@EVERY_CLIENT
def test_every_client_gets_posts_and_moves_a_megabyte_each_way(rig: Rig, client: str, scheme: str) -> None:
    got, posted, large, sent = rig.run(
        CLIENTS
        + """
base = env[env["SCHEME"]]
got = json.loads((await client(f"{base}/a?b=c"))[1])
posted = json.loads((await client(base, b"hello"))[1])
large = len((await client(f"{base}/bytes/1048576"))[1])
sent = json.loads((await client(base, b"x" * 1048576))[1])
return [got, posted, large, sent]
""",
        CLIENT=client,
        SCHEME=scheme,
    )
    assert (got["method"], got["path"]) == ("GET", "/a?b=c")
    assert got["headers"]["host"] == rig.environ[scheme].partition("://")[2]
    assert (posted["method"], posted["body"]) == ("POST", "hello")
    assert large == 1048576
    assert sent["body_length"] == 1048576
    assert rig.door.release()["refused"] == []


@EVERY_SCHEME
@pytest.mark.parametrize("client", ["httpx_async", "asyncio"])
def test_twenty_requests_run_at_once(rig: Rig, client: str, scheme: str) -> None:
    paths = rig.run(
        CLIENTS
        + """
answers = await asyncio.gather(*(client(f"{env[env['SCHEME']]}/{i}") for i in range(20)))
return [json.loads(text)["path"] for _, text in answers]
""",
        CLIENT=client,
        SCHEME=scheme,
    )
    assert paths == [f"/{i}" for i in range(20)]


def test_twenty_threads_request_at_once(rig: Rig) -> None:
    paths = rig.run(
        """
        import requests
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(20) as threads:
            return list(threads.map(lambda i: requests.get(f"{env['HTTPS']}/{i}").json()["path"], range(20)))
        """
    )
    assert paths == [f"/{i}" for i in range(20)]


@EVERY_SCHEME
@FOLLOWS_REDIRECTS
def test_a_redirect_is_followed_and_a_redirect_to_the_inside_refused(rig: Rig, client: str, scheme: str) -> None:
    path, error = rig.run(
        CLIENTS
        + """
base = env[env["SCHEME"]]
followed = await client(f"{base}/redirect?{env['HTTP'].replace('api', 'other')}/there")
error = await failure(client(f"{base}/redirect?http://169.254.169.254/latest/"))
return [json.loads(followed[1])["path"], flat(error)]
""",
        CLIENT=client,
        SCHEME=scheme,
    )
    assert path == "/there"
    assert "egress to 169.254.169.254:80 refused: link-local address" in error
    refused = [(each["host"], each["port"], each["reason"]) for each in rig.door.release()["refused"]]
    assert refused == [("169.254.169.254", 80, "link-local address")]


@EVERY_CLIENT
def test_a_refusal_tells_the_author_what_and_why(rig: Rig, client: str) -> None:
    error = rig.run(CLIENTS + "return flat(await failure(client('https://inside.test/')))", CLIENT=client)
    assert "PermissionError: [Errno 13] egress to inside.test:443 refused: private address" in error


@EVERY_CLIENT
def test_a_name_that_does_not_exist_is_reported_as_python_reports_it(rig: Rig, client: str) -> None:
    error = rig.run(CLIENTS + "return flat(await failure(client('http://gone.test/')))", CLIENT=client)
    assert "gaierror: [Errno -2] Name or service not known" in error
    assert rig.names.asked == ["gone.test"]


@EVERY_CLIENT
def test_a_refused_connection_is_reported_as_python_reports_it(rig: Rig, client: str) -> None:
    rig.door.assign(allow=["127.0.0.1"])
    body = CLIENTS + "return flat(await failure(client(f'http://127.0.0.1:{env[\"PORT\"]}/')))"
    error = rig.run(body, CLIENT=client, PORT=str(support.free_port()))
    assert "ConnectionRefusedError: [Errno 111] Connection refused" in error


@EVERY_CLIENT
def test_an_untrusted_certificate_is_refused_in_the_jail(rig: Rig, client: str) -> None:
    # Without a file of their own clients trust certifi's authorities, and the test's is none of those.
    named = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    environ = {name: value for name, value in rig.environ.items() if name not in named}
    body = CLIENTS + "return flat(await failure(client(env['HTTPS'])))"
    error = run_python(body, rig.door.path, {**environ, "CLIENT": client})
    assert "CERTIFICATE_VERIFY_FAILED" in error


@EVERY_CLIENT
def test_a_certificate_for_another_host_is_refused_in_the_jail(rig: Rig, client: str) -> None:
    body = CLIENTS + "return flat(await failure(client(env['HTTPS'].replace('api', 'other'))))"
    error = rig.run(body, CLIENT=client)
    assert "Hostname mismatch" in error


def test_kept_connections_are_used_again(rig: Rig) -> None:
    ports = rig.run(
        """
        import httpx, requests
        seen = []
        with requests.Session() as session:
            seen.append([session.get(env["HTTPS"]).json()["port"] for _ in range(3)])
        with httpx.Client() as session:
            seen.append([session.get(env["HTTPS"]).json()["port"] for _ in range(3)])
        async with httpx.AsyncClient() as session:
            seen.append([(await session.get(env["HTTPS"])).json()["port"] for _ in range(3)])
        return seen
        """
    )
    assert [len(set(each)) for each in ports] == [1, 1, 1]


def test_plain_tcp_goes_through_the_proxy_too(rig: Rig) -> None:
    def greet(client: socket.socket) -> None:
        with client:
            client.sendall(b"220 hello\r\n")
            client.sendall(support.read_all(client).upper())

    with support.tcp_server(greet) as port:
        rig.door.assign(allow=["127.0.0.1"])
        seen = rig.run(
            """
            import socket
            port = int(env["PORT"])
            texts = []
            for host in ("api.test", "127.0.0.1"):
                with socket.create_connection((host, port), timeout=20) as client:
                    client.sendall(b"quit")
                    client.shutdown(socket.SHUT_WR)
                    text = b"".join(iter(lambda: client.recv(100), b""))
                    texts.append([text.decode(), client.getpeername(), client.family.name, client.gettimeout()])
            reader, writer = await asyncio.open_connection("api.test", port)
            writer.write(b"quit")
            writer.write_eof()
            texts.append([(await reader.read()).decode(), writer.get_extra_info("peername"), "AF_INET", 20])
            writer.close()
            return texts
            """,
            PORT=str(port),
        )
    assert seen == [["220 hello\r\nQUIT", ["127.0.0.1", port], "AF_INET", 20]] * 3


def test_a_timeout_ends_a_request_at_once(rig: Rig) -> None:
    names = rig.run(
        """
        import httpx, requests
        names = []
        try:
            requests.get(f"{env['HTTP']}/never", timeout=0.1)
        except requests.ReadTimeout as error:
            names.append(type(error).__name__)
        try:
            async with httpx.AsyncClient(timeout=0.1) as session:
                await session.get(f"{env['HTTP']}/never")
        except httpx.ReadTimeout as error:
            names.append(type(error).__name__)
        return names
        """
    )
    assert names == ["ReadTimeout", "ReadTimeout"]


def test_a_dial_that_takes_too_long_is_given_up_and_does_not_stop_the_event_loop(tmp_path: Path) -> None:
    async def never(name: str) -> list[IPAddress]:
        await asyncio.sleep(3600)
        return []

    with support.local_door(tmp_path, never) as door:
        door.assign()
        seen = run_python(
            """
            import socket
            try:
                socket.create_connection(("slow.test", 80), timeout=0.1)
            except TimeoutError:
                seen = ["blocking"]
            dial = asyncio.create_task(asyncio.open_connection("slow.test", 80))
            await asyncio.sleep(0.05)
            seen.append("turning")
            dial.cancel()
            return [*seen, [type(each).__name__ for each in await asyncio.gather(dial, return_exceptions=True)]]
            """,
            door.path,
        )
    assert seen == ["blocking", "turning", ["CancelledError"]]


@pytest.mark.parametrize("host", ["a\\r\\nX: y", "a b", "b\\u00fccher..de", "\\ud800"])
def test_a_host_that_cannot_be_a_name_is_an_error_and_nobody_is_asked(rig: Rig, host: str) -> None:
    dial = f"import socket\ntry:\n    socket.create_connection(('{host}', 80))\n"
    assert rig.run(f"{dial}except (OSError, UnicodeError):\n    return 1") == 1
    assert rig.names.asked == []


def test_an_international_name_is_asked_for_in_ascii(rig: Rig) -> None:
    body = "import socket\ntry:\n    socket.create_connection(('b\\u00fccher.test', 80))\nexcept OSError:\n    return 1"
    assert rig.run(body) == 1
    assert rig.names.asked == ["xn--bcher-kva.test"]


def test_names_have_no_addresses_inside_but_literals_do(rig: Rig) -> None:
    literal, six, name = rig.run(
        """
        import socket
        try:
            name = socket.gethostbyname("api.test")
        except socket.gaierror as error:
            name = str(error)
        return [socket.gethostbyname("127.0.0.1"), socket.getaddrinfo("::1", 80)[0][4], name]
        """
    )
    assert (literal, six) == ("127.0.0.1", ["::1", 80, 0, 0])
    assert "api.test has no address in here" in name
    assert rig.names.asked == []


def test_a_script_cannot_listen_for_connections(rig: Rig) -> None:
    body = """
    import socket
    try:
        socket.create_server(("127.0.0.1", 0))
    except OSError as error:
        return str(error)
    """
    assert "scripts have no address of their own" in rig.run(body)


def test_unix_sockets_within_the_jail_stay_within_it(rig: Rig, tmp_path: Path) -> None:
    body = """
    import socket
    def answer(reader, writer):
        writer.write(b"inside")
        writer.close()
    server = await asyncio.start_unix_server(answer, env["UNIX"])
    reader, writer = await asyncio.open_unix_connection(env["UNIX"])
    text = (await reader.read()).decode()
    writer.close()
    server.close()
    one, other = socket.socketpair()
    one.sendall(b" pair")
    text += other.recv(9).decode()
    one.close(), other.close()
    return text
    """
    assert rig.run(body, UNIX=str(tmp_path / "own.sock")) == "inside pair"


def test_a_proxy_that_is_gone_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    for client in ALL:
        body = CLIENTS + "return flat(await failure(client('http://api.test/')))"
        error = run_python(body, tmp_path / "nothing.sock", {"CLIENT": client})
        assert "the egress proxy closed the connection" in error


# The whole way: a handler in a real jail, the launcher's proxy, a server outside.


@dataclass
class Jails:
    """Jails that may reach an HTTP and an HTTPS server on loopback; handlers get the first as `payload`."""

    python: Python
    url: str
    tls_url: str
    ca: str

    def body(self, statements: str, **fields: Any) -> Ran:
        return self.python.body(statements, self.url, **fields)


@pytest.fixture(scope="module")
def jails(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, http_port: int, https_port: int
) -> Iterator[Jails]:
    with contextlib.ExitStack() as stack:
        allow = f"127.0.0.1:{http_port}, 127.0.0.1:{https_port}"
        home = tmp_path_factory.mktemp("python-egress")
        sandbox = Sandbox(stack.enter_context(start_launcher(home, MILLRACE_EGRESS_ALLOW=allow)))
        stack.callback(sandbox.close)
        url, tls_url = f"http://127.0.0.1:{http_port}", f"https://127.0.0.1:{https_port}"
        yield Jails(Python(Runner(sandbox)), url, tls_url, authority.ca_file.read_text())


IN_JAIL = {
    "urllib": "import json, urllib.request\nreturn json.load(urllib.request.urlopen(f'{payload}/a'))['path']",
    "requests": "import requests\nreturn requests.get(f'{payload}/a').json()['path']",
    "httpx": "import httpx\nreturn httpx.get(f'{payload}/a').json()['path']",
}


@pytest.mark.parametrize("client", IN_JAIL)
def test_a_handler_reaches_a_server_with_any_client_and_its_bytes_are_counted(jails: Jails, client: str) -> None:
    ran = jails.body(IN_JAIL[client])
    assert ran.result == "/a"
    assert ran.outcome.usage.egress_bytes_in > 100
    assert ran.outcome.usage.egress_bytes_out > 50
    assert ran.outcome.refused == ()


def test_a_run_that_does_not_need_the_network_loads_nothing_of_it(jails: Jails) -> None:
    costly = "('socket', 'ssl', 'asyncio', 'http.client', '<boot>.tunnel', '<boot>.coroutines')"
    assert jails.body(f"import sys\nreturn [name for name in {costly} if name in sys.modules]").result == []


def test_a_coroutine_reaches_a_server(jails: Jails) -> None:
    source = """
    import asyncio, httpx
    async def handler(url, context):
        async with httpx.AsyncClient() as client:
            answers = await asyncio.gather(*(client.get(f"{url}/{i}") for i in range(5)))
        return [answer.json()["path"] for answer in answers]
    """
    assert jails.python(source, jails.url).result == ["/0", "/1", "/2", "/3", "/4"]


def test_tls_ends_in_the_jail_and_not_in_the_proxy(jails: Jails) -> None:
    trusting = jails.body(
        f"""
        import http.client, ssl
        trust = ssl.create_default_context(cadata={jails.ca!r})
        connection = http.client.HTTPSConnection({jails.tls_url[8:]!r}, context=trust)
        connection.request("GET", "/")
        return [connection.getresponse().status, connection.sock.version()]
        """
    )
    assert trusting.result == [200, "TLSv1.3"]
    careful = jails.body(f"import urllib.request\nurllib.request.urlopen({jails.tls_url!r})")
    assert "CERTIFICATE_VERIFY_FAILED" in careful.message
    assert careful.outcome.refused == ()


def test_the_authorities_of_certifi_are_trusted_unless_the_environment_says_otherwise(jails: Jails) -> None:
    count = "import ssl\nreturn len(ssl.create_default_context().get_ca_certs())"
    assert jails.body(count).result > 100
    assert jails.body(count, env={"SSL_CERT_FILE": "/dev/null"}).result == 0


def test_a_private_address_is_refused_recorded_and_explained(jails: Jails) -> None:
    ran = jails.body("import urllib.request\nurllib.request.urlopen('http://169.254.169.254/latest/meta-data/')")
    assert ran.kind == Kind.EXCEPTION
    assert "egress to 169.254.169.254:80 refused: link-local address" in ran.message
    refused = [(each.host, each.port, each.reason) for each in ran.outcome.refused]
    assert refused == [("169.254.169.254", 80, "link-local address")]


def test_a_handler_without_hosts_reaches_nothing(jails: Jails) -> None:
    ran = jails.body("import requests\nrequests.get(payload)", egress_hosts=())
    assert "refused: the script has no network access" in ran.message


def test_around_the_way_out_there_is_no_network_to_be_had(jails: Jails) -> None:
    statements = """
    import json, socket
    native = socket.socket.__mro__[1]
    found = []
    for family, kind in ((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_STREAM),
                         (socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_NETLINK, socket.SOCK_RAW)):
        try:
            native(family, kind)
        except OSError as error:
            found.append(error.errno)
    return found
    """
    assert jails.body(statements).result == [97, 97, 97, 97]


@pytest.mark.parametrize("library", ["requests.Session()", "httpx.Client()"])
def test_a_client_that_a_module_keeps_serves_the_next_run_of_its_jail(jails: Jails, library: str) -> None:
    source = f"""
    import requests, httpx
    client = {library}
    def handler(url, context):
        return client.get(f"{{url}}/a").json()["path"]
    """
    runs = [jails.python(source, jails.url, reuse_key=f"kept {library}") for _ in range(3)]
    assert [ran.result for ran in runs] == ["/a"] * 3
    assert [ran.outcome.usage.jail for ran in runs][1:] == ["reused"] * 2


def test_a_client_of_coroutines_that_a_module_keeps_serves_the_next_run_too(jails: Jails) -> None:
    source = """
    import httpx
    client = httpx.AsyncClient()
    async def handler(url, context):
        return (await client.get(f"{url}/a")).json()["path"]
    """
    runs = [jails.python(source, jails.url, reuse_key="kept async") for _ in range(3)]
    assert [ran.result for ran in runs] == ["/a"] * 3
    assert [ran.outcome.usage.jail for ran in runs][1:] == ["reused"] * 2


def test_the_addresses_that_a_client_asks_are_not_in_the_log_unless_the_script_wants_them(jails: Jails) -> None:
    source = """
    import httpx, logging
    def handler(url, context):
        httpx.get(f"{url}/a?key=k")
        logging.getLogger("httpx").setLevel(logging.INFO)
        httpx.get(f"{url}/b?key=k")
    """
    ran = jails.python(source, jails.url)
    assert ran.kind == "succeeded"
    assert len(ran.texts) == 1
    assert "/b?key=k" in ran.texts[0]


def test_json_of_a_megabyte_comes_back_from_a_server(jails: Jails) -> None:
    ran = jails.body("import requests\nreturn len(requests.get(f'{payload}/bytes/1048576').content)")
    assert json.loads(ran.outcome.result or b"0") == 1048576
