"""A jail's way out, through the launcher's egress process, and the account of it."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.client import Sandbox
from sandbox.job import Refused
from tests.launcher import start_launcher
from tests.sandbox.support import Runner

GET = """
    const axios = require('axios');
    exports.handler = async (p) => {
      if (p === null) return 'quiet';
      const viaFetch = await (await fetch(p)).text();
      const viaAxios = (await axios.get(p)).data;
      return [viaFetch, viaAxios];
    };
"""


class _Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to say."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, upstream: str) -> Iterator[Runner]:
    home: Path = tmp_path_factory.mktemp("way-out")
    with start_launcher(home, MILLRACE_EGRESS_ALLOW=upstream) as socket_path:
        yield Runner(Sandbox(socket_path))


def test_each_run_of_a_reused_jail_is_charged_for_its_own_traffic(run: Runner, upstream: str) -> None:
    url = f"http://{upstream}/"
    ran = [run(GET, payload, reuse_key="charged") for payload in (url, None, url, None, url)]
    assert [one.result for one in ran] == [["hello", "hello"], "quiet"] * 2 + [["hello", "hello"]]
    assert [one.outcome.usage.jail for one in ran][1:] == ["reused"] * 4
    assert [one.outcome.usage.egress_bytes_in > 0 for one in ran] == [True, False, True, False, True]
    assert [one.outcome.usage.egress_bytes_out > 0 for one in ran] == [True, False, True, False, True]


def test_a_refused_connection_is_in_the_outcome(run: Runner) -> None:
    source = "exports.handler = () => fetch('http://169.254.169.254/').then(() => 1, (e) => e.message)"
    for key in (None, "refused", "refused"):
        ran = run(source, reuse_key=key)
        assert "169.254.169.254" in ran.result
        assert ran.outcome.refused == (Refused("169.254.169.254", 80, "link-local address", "address"),)


def test_a_script_without_hosts_reaches_nothing(run: Runner, upstream: str) -> None:
    source = f"exports.handler = () => fetch('http://{upstream}/').then(() => 'reached', () => 'refused')"
    ran = run(source, egress_hosts=())
    assert ran.result == "refused"
    assert len(ran.outcome.refused) == 1


@pytest.fixture(scope="module")
def rationed(tmp_path_factory: pytest.TempPathFactory, upstream: str) -> Iterator[Runner]:
    """Jails whose groups may open three connections a minute."""
    home: Path = tmp_path_factory.mktemp("rationed")
    with start_launcher(home, MILLRACE_EGRESS_ALLOW=upstream, MILLRACE_EGRESS_RATE="3") as socket_path:
        yield Runner(Sandbox(socket_path))


def test_the_jails_of_a_group_share_its_limits_and_other_groups_have_their_own(rationed: Runner, upstream: str) -> None:
    url = f"http://{upstream}/"
    assert rationed(GET, url, egress_group="acme").result == ["hello", "hello"]
    over = rationed(GET, url, egress_group="acme", reuse_key="another script")
    assert over.kind == "exception"
    assert [(each.kind, each.host) for each in over.outcome.refused] == [("group_rate", "127.0.0.1")]
    assert "a minute" in over.outcome.refused[0].reason
    assert over.outcome.refused_counts == {"group_rate": 1}
    assert rationed(GET, url, egress_group="rival").result == ["hello", "hello"]
    assert rationed(GET, url).result == ["hello", "hello"]
