"""Unchanged HTTP clients in Node, through the preload and the real proxy."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox import egress_support as support
from tests.sandbox.egress_support import Authority, LocalDoor, Names


@dataclass
class Rig:
    """Node with the preload, a slot, and an HTTP and an HTTPS server known as api.test."""

    door: LocalDoor
    names: Names
    environ: dict[str, str]

    def run(self, body: str, **environ: str) -> Any:
        return support.run_node(body, self.door.path, {**self.environ, **environ})


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
            "NODE_EXTRA_CA_CERTS": str(authority.ca_file),
        }
        yield Rig(door, names, environ)


CLIENTS = """
const { once } = require('events');
const request = (module) => async (url, { method = 'GET', body, ...options } = {}) => {
  const sent = require(module).request(url, { method, ...options }).end(body);
  const [response] = await once(sent, 'response');
  const chunks = [];
  for await (const chunk of response) chunks.push(chunk);
  return { status: response.statusCode, text: Buffer.concat(chunks).toString() };
};
const whatwg = (fetch) => async (url, options) => {
  const response = await fetch(url, options);
  return { status: response.status, text: await response.text() };
};
const clients = {
  http: (url, options) => request(url.startsWith('https') ? 'https' : 'http')(url, options),
  fetch: (url, options) => whatwg(fetch)(url, options),
  axios: async (url, { method = 'GET', body } = {}) => {
    const asText = { responseType: 'text', transformResponse: (text) => text };
    const response = await require('axios').request({ url, method, data: body, ...asText });
    return { status: response.status, text: response.data };
  },
  'node-fetch': (url, options) => whatwg(require('node-fetch'))(url, options),
};
const client = clients[env.CLIENT];
"""

EVERY_CLIENT = pytest.mark.parametrize("client", ["http", "fetch", "axios", "node-fetch"])
FOLLOWS_REDIRECTS = pytest.mark.parametrize("client", ["fetch", "axios", "node-fetch"])
EVERY_SCHEME = pytest.mark.parametrize("scheme", ["HTTP", "HTTPS"])


@EVERY_SCHEME
@EVERY_CLIENT
def test_every_client_gets_posts_and_moves_a_megabyte_each_way(rig: Rig, client: str, scheme: str) -> None:
    got, posted, large, sent = rig.run(
        CLIENTS
        + """
        const base = env[env.SCHEME];
        const got = JSON.parse((await client(`${base}/a?b=c`)).text);
        const posted = JSON.parse((await client(base, { method: 'POST', body: 'hello' })).text);
        const large = (await client(`${base}/bytes/1048576`)).text.length;
        const sent = JSON.parse((await client(base, { method: 'POST', body: 'x'.repeat(1048576) })).text);
        print([got, posted, large, sent.body_length]);
        """,
        CLIENT=client,
        SCHEME=scheme,
    )
    assert (got["method"], got["path"]) == ("GET", "/a?b=c")
    assert got["headers"]["host"] == rig.environ[scheme].partition("://")[2]
    assert (posted["method"], posted["body"]) == ("POST", "hello")
    assert large == 1048576
    assert sent == 1048576
    assert rig.door.release()["refused"] == []


@EVERY_SCHEME
@EVERY_CLIENT
def test_twenty_requests_run_at_once(rig: Rig, client: str, scheme: str) -> None:
    paths = rig.run(
        CLIENTS
        + """
        const all = Array.from({ length: 20 }, (_, i) => client(`${env[env.SCHEME]}/${i}`));
        print((await Promise.all(all)).map((answer) => JSON.parse(answer.text).path));
        """,
        CLIENT=client,
        SCHEME=scheme,
    )
    assert paths == [f"/{i}" for i in range(20)]


@EVERY_SCHEME
@FOLLOWS_REDIRECTS
def test_a_redirect_is_followed_and_a_redirect_to_the_inside_refused(rig: Rig, client: str, scheme: str) -> None:
    path, error = rig.run(
        CLIENTS
        + """
        const base = env[env.SCHEME];
        const followed = await client(`${base}/redirect?${env.HTTP.replace('api', 'other')}/there`);
        const error = await client(`${base}/redirect?http://169.254.169.254/latest/`).catch(about);
        print([JSON.parse(followed.text).path, error]);
        """,
        CLIENT=client,
        SCHEME=scheme,
    )
    assert path == "/there"
    assert "egress to 169.254.169.254:80 refused: link-local address" in error["message"]
    refused = {"host": "169.254.169.254", "port": 80, "reason": "link-local address", "kind": "address"}
    assert rig.door.release()["refused"] == [refused]


@EVERY_CLIENT
def test_a_refusal_tells_the_author_what_and_why(rig: Rig, client: str) -> None:
    error = rig.run(CLIENTS + "print(await client('https://inside.test/').catch(about));", CLIENT=client)
    message = "egress to inside.test:443 refused: private address"
    if client == "fetch":
        assert error["name"] == "TypeError"
        assert error["message"] == f"fetch failed: {message}"
        assert error["cause"]["code"] == "EGRESS_REFUSED"
        assert error["cause"]["message"] == message
    else:
        assert error["code"] == "EGRESS_REFUSED"
        assert message in error["message"]


@EVERY_CLIENT
def test_a_name_that_does_not_exist_is_reported_as_node_reports_it(rig: Rig, client: str) -> None:
    error = rig.run(CLIENTS + "print(await client('http://gone.test/').catch(about));", CLIENT=client)
    cause = error["cause"] if client == "fetch" else error
    assert cause["code"] == "ENOTFOUND"
    assert "getaddrinfo ENOTFOUND gone.test" in cause["message"]


@EVERY_CLIENT
def test_a_refused_connection_is_reported_as_node_reports_it(rig: Rig, client: str) -> None:
    port = support.free_port()
    rig.door.assign(allow=["127.0.0.1"])
    error = rig.run(
        CLIENTS + "print(await client(`http://127.0.0.1:${env.PORT}/`).catch(about));",
        CLIENT=client,
        PORT=str(port),
    )
    cause = error["cause"] if client == "fetch" else error
    assert cause["code"] == "ECONNREFUSED"
    assert f"connect ECONNREFUSED 127.0.0.1:{port}" in cause["message"]


@EVERY_CLIENT
def test_an_untrusted_certificate_is_refused_in_the_jail(rig: Rig, client: str) -> None:
    error = rig.run(
        CLIENTS + "print(await client(env.HTTPS).catch(about));",
        CLIENT=client,
        NODE_EXTRA_CA_CERTS="/dev/null",
    )
    cause = error["cause"] if client == "fetch" else error
    assert cause["code"] == "UNABLE_TO_VERIFY_LEAF_SIGNATURE"


@EVERY_CLIENT
def test_a_certificate_for_another_host_is_refused_in_the_jail(rig: Rig, client: str) -> None:
    error = rig.run(CLIENTS + "print(await client(env.HTTPS.replace('api', 'other')).catch(about));", CLIENT=client)
    cause = error["cause"] if client == "fetch" else error
    assert cause["code"] == "ERR_TLS_CERT_ALTNAME_INVALID"


def test_a_certificate_authority_given_as_an_option_is_enough(rig: Rig) -> None:
    answer = rig.run(
        CLIENTS
        + """
        const ca = require('fs').readFileSync(env.CA_FILE);
        print(await request('https')(env.HTTPS, { ca }));
        """,
        NODE_EXTRA_CA_CERTS="/dev/null",
    )
    assert answer["status"] == 200


def test_a_keep_alive_agent_uses_one_connection_and_resumes_tls(rig: Rig) -> None:
    ports, https_ports, reused = rig.run(
        CLIENTS
        + """
        const result = [];
        for (const [module, base] of [['http', env.HTTP], ['https', env.HTTPS]]) {
          const agent = new (require(module).Agent)({ keepAlive: true, maxSockets: 1 });
          const ports = [];
          for (let i = 0; i < 5; i += 1) {
            ports.push(JSON.parse((await request(module)(base, { agent })).text).port);
          }
          result.push(ports);
          agent.destroy();
        }
        const tls = require('tls');
        const at = { host: 'api.test', port: +env.HTTPS_PORT, servername: 'api.test' };
        const session = await new Promise((resolve) => {
          const socket = tls.connect(at).once('session', (s) => { resolve(s); socket.destroy(); });
          socket.write('GET / HTTP/1.1\\r\\n\\r\\n');
        });
        const again = tls.connect({ ...at, session });
        await new Promise((resolve) => again.once('secureConnect', resolve));
        result.push(again.isSessionReused());
        again.destroy();
        print(result);
        """
    )
    assert len(ports) == len(https_ports) == 5
    assert len(set(ports)) == len(set(https_ports)) == 1
    assert reused is True


def test_an_upgraded_connection_carries_bytes_both_ways_from_the_first_on(rig: Rig) -> None:
    texts = rig.run(
        """
        const texts = [];
        for (const [module, base] of [['http', env.HTTP], ['https', env.HTTPS]]) {
          const headers = { Connection: 'Upgrade', Upgrade: 'echo' };
          const [socket, head] = await new Promise((resolve, reject) => {
            const sent = require(module).request(base, { headers }).on('error', reject).end();
            sent.on('upgrade', (_, ...rest) => resolve(rest));
          });
          let text = head.toString();
          socket.setEncoding('utf8').on('data', (chunk) => {
            text += chunk;
            if (text.endsWith('world')) socket.end();
          });
          socket.write('world');
          await new Promise((resolve) => socket.on('close', resolve));
          texts.push(text);
        }
        print(texts);
        """
    )
    assert texts == ["hello world", "hello world"]


def test_an_abort_and_a_timeout_end_a_request_at_once(rig: Rig) -> None:
    aborted, timed_out, axios, http = rig.run(
        """
        const controller = new AbortController();
        setTimeout(() => controller.abort(), 50);
        const aborted = await fetch(`${env.HTTP}/never`, { signal: controller.signal }).catch(about);
        const timedOut = await fetch(`${env.HTTPS}/never`, { signal: AbortSignal.timeout(50) }).catch(about);
        const axios = await require('axios').get(`${env.HTTP}/never`, { timeout: 50 }).catch(about);
        const http = await new Promise((resolve) => {
          const request = require('http').get(`${env.HTTP}/never`, { timeout: 50 });
          request.on('timeout', () => request.destroy(new Error('too slow')));
          request.on('error', (error) => resolve(about(error)));
        });
        print([aborted, timedOut, axios, http]);
        """
    )
    assert aborted["name"] == "AbortError"
    assert timed_out["name"] == "TimeoutError"
    assert axios["code"] == "ECONNABORTED"
    assert http["message"] == "too slow"


def test_an_abort_during_the_dial_closes_the_way_to_the_proxy(tmp_path: Path) -> None:
    async def never(name: str) -> list[Any]:
        await asyncio.sleep(support.DEADLINE * 2)
        return []

    with support.local_door(tmp_path, never) as door:
        door.assign()
        error = support.run_node(
            """
            const options = { signal: AbortSignal.timeout(100) };
            require('http').get('http://slow.test/', options).on('error', (error) => print(about(error)));
            """,
            door.path,
        )
        assert error["name"] == "AbortError"  # and Node ended by itself, so nothing was left open


def test_plain_tcp_goes_through_the_proxy_too(rig: Rig) -> None:
    def greet(client: socket.socket) -> None:
        with client:
            client.sendall(b"220 hello\r\n")
            client.sendall(support.read_all(client).upper())

    with support.tcp_server(greet) as port:
        rig.door.assign(allow=["127.0.0.1"])
        seen = rig.run(
            """
            const net = require('net');
            const talk = (...args) => new Promise((resolve, reject) => {
              let text = '';
              const socket = net.connect(...args).setEncoding('utf8');
              socket.on('data', (chunk) => { text += chunk; }).on('error', reject);
              socket.on('connect', () => { text += `${socket.remoteAddress}:${socket.remotePort} `; });
              socket.on('close', () => resolve(text));
              socket.end('quit');
            });
            print([await talk(+env.PORT, 'api.test'), await talk({ port: env.PORT, host: '127.0.0.1' })]);
            """,
            PORT=str(port),
        )
    assert seen == [f"127.0.0.1:{port} 220 hello\r\nQUIT"] * 2


def test_a_tls_socket_may_be_laid_over_a_socket_that_still_connects(rig: Rig) -> None:
    authorized = rig.run(
        """
        const socket = require('net').connect(+env.HTTPS_PORT, 'api.test');
        const over = require('tls').connect({ socket, servername: 'api.test' });
        await new Promise((resolve, reject) => over.on('secureConnect', resolve).on('error', reject));
        print(over.authorized);
        over.destroy();
        """
    )
    assert authorized is True


def test_an_error_reaches_the_socket_as_an_event_and_then_close(rig: Rig) -> None:
    events = rig.run(
        """
        const events = [];
        const socket = require('net').connect(80, '10.0.0.1');
        for (const name of ['connect', 'ready', 'error', 'close']) {
          socket.on(name, (error) => events.push([name, error?.code]));
        }
        await new Promise((resolve) => socket.once('close', () => setImmediate(resolve)));
        print([events, socket.connecting, socket.destroyed]);
        """
    )
    assert events == [[["error", "EGRESS_REFUSED"], ["close", None]], False, True]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("{ port: 99999 }", "ERR_SOCKET_BAD_PORT"),
        ("{ port: true }", "ERR_INVALID_ARG_TYPE"),
        ("{}", "ERR_MISSING_ARGS"),
        ("'x', 'api.test'", "ENOENT"),
    ],
)
def test_what_node_does_not_accept_fails_as_it_does_in_node(rig: Rig, arguments: str, code: str) -> None:
    error = rig.run(
        f"""
        try {{
          require('net').connect({arguments}).on('error', (error) => print(about(error)));
        }} catch (error) {{
          print(about(error));
        }}
        """
    )
    assert error["code"] == code


@pytest.mark.parametrize("host", ["a\\r\\nX: y", "a b", "b\\u00fccher..de", "\\ud800"])
def test_a_host_that_cannot_be_a_name_is_not_found(rig: Rig, host: str) -> None:
    error = rig.run(f"require('net').connect(80, '{host}').on('error', (error) => print(about(error)));")
    assert error["code"] in ("ENOTFOUND", "EGRESS_REFUSED")
    assert rig.names.asked == []


def test_an_international_name_is_asked_for_in_ascii(rig: Rig) -> None:
    rig.run("require('net').connect(80, 'b\\u00fccher.test').on('error', (error) => print(about(error)));")
    assert rig.names.asked == ["xn--bcher-kva.test"]


def test_names_have_no_addresses_inside_but_literals_do(rig: Rig) -> None:
    results = rig.run(
        """
        const dns = require('dns');
        const { promisify } = require('util');
        const byCallback = (...args) => new Promise((resolve) => {
          dns.lookup(...args, (error, ...rest) => resolve(error ? about(error) : rest));
        });
        print([
          await byCallback('api.test'),
          await byCallback('127.0.0.1'),
          await byCallback('::1', { all: true }),
          await dns.promises.lookup('api.test').catch(about),
          await require('dns/promises').lookup('::1'),
          await promisify(dns.lookup)('127.0.0.1', 4),
        ]);
        """
    )
    assert results[0]["message"] == "getaddrinfo ENOTFOUND api.test"
    assert results[0]["hostname"] == "api.test"
    assert results[1] == ["127.0.0.1", 4]
    assert results[2] == [[{"address": "::1", "family": 6}]]
    assert results[3]["code"] == "ENOTFOUND"
    assert results[4] == {"address": "::1", "family": 6}
    assert results[5] == {"address": "127.0.0.1", "family": 4}
    assert rig.names.asked == []


def test_unix_sockets_within_the_jail_stay_within_it(rig: Rig, tmp_path: Path) -> None:
    text = rig.run(
        """
        const net = require('net');
        const server = net.createServer((socket) => socket.end('inside')).listen(env.UNIX);
        await new Promise((resolve) => server.once('listening', resolve));
        let text = '';
        const socket = net.connect(env.UNIX).on('data', (chunk) => { text += chunk; });
        await new Promise((resolve) => socket.on('close', resolve));
        server.close();
        print(text);
        """,
        UNIX=str(tmp_path / "own.sock"),
    )
    assert text == "inside"


def test_clients_connect_anew_after_the_end_of_a_run_closed_what_they_kept_open(rig: Rig) -> None:
    """A jail that is kept for the next run finds its old connections closed."""
    process = subprocess.Popen(
        [support.NODE, "-e", support.PRELUDE % _TWO_RUNS],
        cwd=support.NODE_RUNTIME,
        env={
            "EGRESS_JS": str(support.NODE_RUNTIME / "egress.js"),
            "EGRESS_SOCKET": str(rig.door.path),
            **rig.environ,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"200 200\n"
    rig.door.assign(allow=["127.0.0.0/8"])
    process.stdin.write(b"go\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"200 200\n"
    process.stdin.close()
    assert process.wait(support.DEADLINE) == 0
    process.stdout.close()


_TWO_RUNS = """
const say = (text) => require('fs').writeSync(1, `${text}\\n`);
const both = async () => {
  const answers = await Promise.all([fetch(env.HTTP), require('axios').get(env.HTTPS)]);
  return answers.map((answer) => answer.status).join(' ');
};
say(await both());
await new Promise((resolve) => process.stdin.once('data', resolve));
say(await both());
process.stdin.destroy();
"""


def test_a_proxy_that_is_gone_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    error = support.run_node("print(await fetch('http://api.test/').catch(about));", tmp_path / "nothing.sock")
    assert error["cause"]["code"] == "ECONNRESET"
    assert "the egress proxy closed the connection" in error["cause"]["message"]


def test_installing_loads_nothing_that_costs(rig: Rig) -> None:
    loaded = rig.run(
        """
        const costly = /^NativeModule (net|tls|http|https|dns|_http.*|.*undici)$/;
        print(process.moduleLoadList.filter((name) => costly.test(name)));
        """
    )
    assert loaded == []
