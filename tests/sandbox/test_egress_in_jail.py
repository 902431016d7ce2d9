"""The whole way: a handler in a real jail, its preload, the launcher's proxy, a server outside."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.client import Sandbox
from sandbox.job import Kind, Outcome, Refused
from tests.launcher import start_launcher
from tests.sandbox import egress_support
from tests.sandbox.support import Runner


@dataclass
class Jails:
    """Jails that may reach an HTTP and an HTTPS server on loopback; handlers get the first as `url`."""

    runner: Runner
    port: int
    tls_port: int
    ca: str

    def run(self, statements: str, **fields: Any) -> Outcome:
        url = f"http://127.0.0.1:{self.port}"
        return self.runner.body(f"const url = payload;\n{statements}\n", url, **fields).outcome


@pytest.fixture(scope="module")
def jails(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jails]:
    home: Path = tmp_path_factory.mktemp("egress")
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(egress_support.http_server())
        authority = egress_support.make_authority(tmp_path_factory.mktemp("ca"))
        tls_port = stack.enter_context(egress_support.http_server(authority.server))
        allow = f"127.0.0.1:{port}, 127.0.0.1:{tls_port}"
        socket_path = stack.enter_context(start_launcher(home, MILLRACE_EGRESS_ALLOW=allow))
        sandbox = Sandbox(socket_path)
        yield Jails(Runner(sandbox), port, tls_port, authority.ca_file.read_text())
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
    assert outcome.refused == (Refused("169.254.169.254", 80, "link-local address"),)


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
