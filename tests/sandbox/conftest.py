from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.client import Sandbox
from tests.launcher import start_launcher
from tests.sandbox import egress_support
from tests.sandbox.egress_support import Authority
from tests.sandbox.support import Runner


@pytest.fixture(scope="session")
def launcher_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture(scope="session")
def launcher_socket(launcher_home: Path) -> Iterator[Path]:
    """The socket of a launcher that serves the whole session."""
    with start_launcher(launcher_home) as socket_path:
        yield socket_path


@pytest.fixture(scope="session")
def run(launcher_socket: Path) -> Iterator[Runner]:
    sandbox = Sandbox(launcher_socket)
    yield Runner(sandbox)
    sandbox.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who vouches for the HTTPS server."""
    return egress_support.make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def http_port() -> Iterator[int]:
    """Of a server on loopback."""
    with egress_support.http_server() as port:
        yield port


@pytest.fixture(scope="module")
def https_port(authority: Authority) -> Iterator[int]:
    """Of the same with TLS."""
    with egress_support.http_server(authority.server) as port:
        yield port
