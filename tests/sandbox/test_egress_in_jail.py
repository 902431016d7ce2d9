"""The whole way: a handler in a real jail, its preload, the launcher's proxy, a server outside."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.client import Sandbox
from sandbox.job import Kind, Outcome, Refused
from tests.launcher import start_launcher
from tests.sandbox import egress_support
from tests.sandbox.support import Runner

WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT = 0x81


@dataclass
class Jails:
    """Jails that may reach servers on loopback, with and without TLS; handlers get the plain HTTP one as `url`."""

    runner: Runner
    port: int
    tls_port: int
    chat_port: int
    tls_chat_port: int
    ca: str

    def run(self, statements: str, **fields: Any) -> Outcome:
        url = f"http://127.0.0.1:{self.port}"
        return self.runner.body(f"const url = payload;\n{statements}\n", url, **fields).outcome


def chat(client: socket.socket) -> None:
    """A WebSocket server: greets, then answers each short text with the same text, until the client hangs up."""
    with client:
        head = egress_support.read_head(client).decode()
        key = next(line.split()[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key:"))
        accept = base64.b64encode(hashlib.sha1(f"{key}{WEBSOCKET_GUID}".encode()).digest()).decode()
        answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        client.sendall(f"{answer}Sec-WebSocket-Accept: {accept}\r\n\r\n".encode() + bytes((TEXT, 5)) + b"hello")
        with client.makefile("rb") as frames:
            while (start := frames.read(6)) and start[0] == TEXT:
                mask, size = start[2:], start[1] & 0x7F
                text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(frames.read(size)))
                client.sendall(bytes((TEXT, size)) + text)


def over_tls(context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    def serve(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            chat(context.wrap_socket(client, server_side=True))

    return serve


@pytest.fixture(scope="module")
def jails(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jails]:
    home: Path = tmp_path_factory.mktemp("egress")
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(egress_support.http_server())
        authority = egress_support.make_authority(tmp_path_factory.mktemp("ca"))
        tls_port = stack.enter_context(egress_support.http_server(authority.server))
        chat_port = stack.enter_context(egress_support.tcp_server(chat))
        tls_chat_port = stack.enter_context(egress_support.tcp_server(over_tls(authority.server)))
        ports = (port, tls_port, chat_port, tls_chat_port)
        allow = ", ".join(f"127.0.0.1:{each}" for each in ports)
        socket_path = stack.enter_context(start_launcher(home, MILLRACE_EGRESS_ALLOW=allow))
        sandbox = Sandbox(socket_path)
        yield Jails(Runner(sandbox), *ports, authority.ca_file.read_text())
        sandbox.close()


CLIENTS = {
    "fetch": "return (await (await fetch(`${url}/a`)).json()).path;",
    "axios": "return (await require('axios').get(`${url}/a`)).data.path;",
    "node-fetch": "return (await (await require('node-fetch')(`${url}/a`)).json()).path;",
    "http": """
        const chunks = [];
        const [response] = await require('events').once(require('http').get(`${url}/a`), 'response');
        for await (const chunk of response) chunks.push(chunk);
        return JSON.parse(Buffer.concat(chunks)).path;
    """,
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_handler_reaches_a_server_with_any_client_and_its_bytes_are_counted(jails: Jails, client: str) -> None:
    outcome = jails.run(CLIENTS[client])
    assert outcome.result == b'"/a"', outcome.error
    assert outcome.usage.egress_bytes_in > 100
    assert outcome.usage.egress_bytes_out > 50
    assert outcome.refused == ()


def test_tls_ends_in_the_jail_and_not_in_the_proxy(jails: Jails) -> None:
    call = f"require('https').get('https://127.0.0.1:{jails.tls_port}/', {{ ca }})"
    trusting = jails.run(
        f"""
        const ca = {json.dumps(jails.ca)};
        const [response] = await require('events').once({call}, 'response');
        return [response.statusCode, response.socket.authorized, response.socket.getProtocol()];
        """
    )
    assert trusting.result == b'[200,true,"TLSv1.3"]', trusting.error
    careful = jails.run(f"return (await fetch('https://127.0.0.1:{jails.tls_port}/')).status;")
    assert careful.error is not None
    assert careful.refused == ()


def test_a_private_address_is_refused_recorded_and_explained(jails: Jails) -> None:
    outcome = jails.run("await fetch('http://169.254.169.254/latest/meta-data/');")
    assert outcome.kind == Kind.EXCEPTION
    assert outcome.error is not None
    assert outcome.error.message == "fetch failed: egress to 169.254.169.254:80 refused: link-local address"
    assert outcome.refused == (Refused("169.254.169.254", 80, "link-local address", "address"),)


@pytest.mark.parametrize("client", ["fetch(there)", "require('axios').get(there)", "require('node-fetch')(there)"])
def test_a_redirect_to_the_inside_is_refused_as_the_inside_is(jails: Jails, client: str) -> None:
    outcome = jails.run(f"const there = `${{url}}/redirect?http://169.254.169.254/latest/`; await {client};")
    assert outcome.error is not None
    assert "egress to 169.254.169.254:80 refused: link-local address" in outcome.error.message
    assert outcome.refused == (Refused("169.254.169.254", 80, "link-local address", "address"),)


SPELLINGS = {
    "localhost": "address",
    "2130706433": "address",
    "0x7f.1": "address",
    "0177.0.0.1": "address",
    "127.1": "address",
    "１２７.0.0.1": "address",
    "127。0。0。1": "address",
    "127.0.0.1.": "address",
    "localhost.": "bad_host",
    "%31%32%37.0.0.1": "address",
    "user:secret@127.0.0.1": "address",
    "[::1]": "address",
    "[::ffff:127.0.0.1]": "address",
    "[64:ff9b::7f00:1]": "address",
    "[2002:7f00:1::]": "address",
    "[2001::1]": "address",
}


def test_no_spelling_of_a_url_leads_inside(jails: Jails) -> None:
    """Port 81 of loopback is not exempted. Node reads most spellings as the address that they stand for."""
    outcome = jails.run(
        f"""
        for (const host of {json.dumps(list(SPELLINGS))}) {{
          await new Promise((resolve) => require('http').get(`http://${{host}}:81/`, resolve).on('error', resolve));
        }}
        """
    )
    assert outcome.kind == Kind.SUCCEEDED, outcome.error
    assert [each.kind for each in outcome.refused] == list(SPELLINGS.values())


@pytest.mark.parametrize("module", ["http", "https"])
def test_a_websocket_is_opened_and_carries_messages_both_ways(jails: Jails, module: str) -> None:
    port = jails.chat_port if module == "http" else jails.tls_chat_port
    outcome = jails.run(
        f"""
        const {{ once }} = require('events');
        const {{ createHash, randomBytes }} = require('crypto');
        const key = randomBytes(16).toString('base64');
        const headers = {{
          Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Key': key, 'Sec-WebSocket-Version': '13',
        }};
        const options = {{ host: '127.0.0.1', port: {port}, headers, ca: {json.dumps(jails.ca)} }};
        const [response, socket, head] = await once(require('{module}').request(options).end(), 'upgrade');
        const accept = createHash('sha1').update(key + '{WEBSOCKET_GUID}').digest('base64');

        let received = head;
        const message = async () => {{
          while (received.length < 2 || received.length < 2 + received[1]) {{
            received = Buffer.concat([received, (await once(socket, 'data'))[0]]);
          }}
          const text = received.subarray(2, 2 + received[1]).toString();
          received = received.subarray(2 + received[1]);
          return text;
        }};
        const send = (text) => {{
          const mask = randomBytes(4);
          const masked = Buffer.from(text).map((byte, i) => byte ^ mask[i % 4]);
          socket.write(Buffer.concat([Buffer.from([{TEXT}, 0x80 | text.length]), mask, masked]));
        }};

        const messages = [await message()];
        for (const text of ['one', 'two', 'three']) {{
          send(text);
          messages.push(await message());
        }}
        socket.destroy();
        return [response.headers['sec-websocket-accept'] === accept, messages];
        """
    )
    assert outcome.result == b'[true,["hello","one","two","three"]]', outcome.error
    assert outcome.usage.egress_bytes_out > 100
    assert outcome.refused == ()


def test_a_handler_without_hosts_reaches_nothing(jails: Jails) -> None:
    outcome = jails.run("await require('axios').get(url);", egress_hosts=())
    assert outcome.error is not None
    assert "refused: the script has no network access" in outcome.error.message


def test_without_the_preload_there_is_no_network_to_be_had(jails: Jails) -> None:
    """Port 0 is left to Node itself, which then asks the kernel for a socket of its own."""
    outcome = jails.run(
        """
        const { once } = require('events');
        const [response] = await once(require('http').get(url), 'response');
        const Socket = response.socket.constructor;
        response.resume();
        const socket = new Socket().connect({ host: '127.0.0.1', port: 0 });
        return once(socket, 'connect').catch((error) => error.code);
        """
    )
    assert outcome.result == b'"EAFNOSUPPORT"', outcome.error


def test_a_jail_is_reused_after_a_run_that_used_the_network(jails: Jails) -> None:
    body = CLIENTS["fetch"].replace("return", "await require('axios').get(url); return")
    first = jails.run(body, reuse_key="net")
    second = jails.run(body, reuse_key="net")
    assert (first.result, second.result) == (b'"/a"', b'"/a"'), (first.error, second.error)
    assert second.usage.jail == "reused"
    assert second.usage.egress_bytes_in == pytest.approx(first.usage.egress_bytes_in, abs=20)


def test_the_sdk_is_there(jails: Jails) -> None:
    outcome = jails.run(
        """
        const { SmartSuite } = require('smartsuite-sdk');
        const smartsuite = new SmartSuite({ apiKey: 'k', accountId: 'a', baseUrl: url });
        return smartsuite.applications.list();
        """
    )
    assert outcome.result is not None, outcome.error
    assert b'"path":"/api/v1/applications/"' in outcome.result
