"""The embedded servers: private, remembered, durable, and never left behind."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from millrace import vault
from millrace.embedded import EmbeddedError, S3Server, ValkeyServer, attach, home
from millrace.embedded import server as server_module
from millrace.embedded.server import Server
from millrace.errors import Unavailable
from millrace.objects import S3Objects
from millrace.settings import SettingError, Settings
from tests.polling import alive, wait_until

KINDS: list[type[Server]] = [ValkeyServer, S3Server]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def listener(port: int) -> Iterator[None]:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_keeps_its_port_and_secret_over_restarts(kind: type[Server], tmp_path: Path) -> None:
    with kind(tmp_path / "server") as first:
        before = (first.port, first.secret)
    with kind(tmp_path / "server") as second:
        assert (second.port, second.secret) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_whose_port_was_taken_moves_and_remembers(kind: type[Server], tmp_path: Path) -> None:
    with kind(tmp_path / "server") as first:
        before = first.port
    with listener(before):
        with kind(tmp_path / "server") as second:
            assert second.port != before
            assert second.answers()
        with kind(tmp_path / "server") as third:
            assert third.port == second.port


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_outlives_a_killed_starter(kind: type[Server], tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        f"from millrace.embedded import {kind.__name__} as Kind\n"
        "server = Kind(pathlib.Path(sys.argv[1])); server.start()\n"
        "print(server.process.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "server")]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    assert alive(pid)

    starter.kill()
    starter.wait()
    starter.stdout.close()

    wait_until(lambda: not alive(pid))


@pytest.mark.parametrize("kind", KINDS)
def test_stop_ends_even_a_server_that_does_not_listen_to_sigterm(
    kind: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STOP_TIMEOUT_S", 0.3)
    server = kind(tmp_path / "server")
    server.start()
    assert server.process is not None
    pid = server.process.pid
    os.kill(pid, signal.SIGSTOP)

    server.stop()
    server.stop()

    assert not alive(pid)


@pytest.mark.parametrize("kind", KINDS)
def test_secrets_stay_off_the_command_line_and_in_private_files(kind: type[Server], tmp_path: Path) -> None:
    with kind(tmp_path / "server") as server:
        assert server.process is not None
        assert server.secret.encode() not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert len(server.secret) >= 32
    assert mode(tmp_path / "server") == 0o700
    for path in (tmp_path / "server").iterdir():
        if path.is_file() and server.secret in path.read_text(errors="replace"):
            assert mode(path) == 0o600


@pytest.mark.parametrize("kind", KINDS)
def test_servers_listen_on_the_loopback_alone(kind: type[Server], tmp_path: Path) -> None:
    with kind(tmp_path / "server") as server:
        tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        listening = [line.split()[1] for table in tables for line in table if line.split()[3] == "0A"]
        ours = [address for address in listening if address.endswith(f":{server.port:04X}")]

    assert ours == [f"0100007F:{server.port:04X}"]


def test_valkey_refuses_who_has_no_password(tmp_path: Path) -> None:
    once = Retry(NoBackoff(), 0)
    with ValkeyServer(tmp_path / "valkey") as server, redis.Redis(port=server.port, retry=once) as stranger:
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with redis.Redis.from_url(server.url) as ours:
            assert ours.ping()


def test_the_s3_server_refuses_a_wrong_secret(tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server:
        server.objects().put("k", b"x")
        stranger = S3Objects(server.endpoint, server.access_key, "a wrong secret", "millrace", "us-east-1")
        with pytest.raises(Unavailable, match="403"):
            stranger.get("k")


def test_what_was_written_is_there_after_a_kill(tmp_path: Path) -> None:
    valkey, s3 = ValkeyServer(tmp_path / "valkey"), S3Server(tmp_path / "s3")
    with valkey, s3:
        with redis.Redis.from_url(valkey.url) as client:
            client.set("k", "v")
        s3.objects().put("folder/k", b"v")
        for server in (valkey, s3):
            assert server.process is not None
            server.process.kill()
            server.process.wait()

    with valkey, s3:
        with redis.Redis.from_url(valkey.url) as client:
            assert client.get("k") == b"v"
        assert s3.objects().get("folder/k") == b"v"


def test_a_home_with_spaces_quotes_and_letters_of_the_world_works(tmp_path: Path) -> None:
    odd = tmp_path / "a \"home\" 'über' %s # $HOME"
    with ValkeyServer(odd / "valkey") as valkey, S3Server(odd / "s3") as s3:
        assert valkey.answers()
        s3.objects().put("k", b"x")
        assert s3.objects().list("") == ["k"]


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    class Broken(ValkeyServer):
        def configuration(self) -> str:
            return "no-such-directive yes\n"

    with pytest.raises(EmbeddedError, match=r"Valkey ended at once: .*[Bb]ad directive"):
        Broken(tmp_path / "valkey").start()


def test_settings_are_completed_from_a_home_as_it_was_last_started(tmp_path: Path) -> None:
    bare = Settings.from_env({"MILLRACE_HOME": str(tmp_path)})
    assert attach(bare) == bare

    home.ensure_keys(bare, first_start=True)
    with ValkeyServer(tmp_path / "valkey") as valkey, S3Server(tmp_path / "s3") as s3:
        attached = attach(bare)

    assert attached.redis_url == valkey.url
    assert (attached.s3_endpoint, attached.s3_secret_key) == (s3.endpoint, s3.secret_key)
    assert vault.Keyring.parse(attached.secret_keys)
    assert Settings.from_env(home.environment(attached)) == attached


def test_what_a_setting_names_is_not_embedded(tmp_path: Path) -> None:
    environ = {"MILLRACE_HOME": str(tmp_path), "REDIS_URL": "redis://elsewhere", "S3_ENDPOINT": "http://elsewhere",
               "MILLRACE_SECRET_KEYS": vault.new_master_key()}
    settings = Settings.from_env(environ)

    home.ensure_keys(settings, first_start=True)

    assert home.needed(settings) == []
    assert attach(settings) == settings
    assert list(tmp_path.iterdir()) == []


def test_a_master_key_is_made_once_and_never_replaced(tmp_path: Path) -> None:
    settings = Settings.from_env({"MILLRACE_HOME": str(tmp_path)})
    home.ensure_keys(settings, first_start=True)
    key = (tmp_path / "secret_keys").read_text()
    assert mode(tmp_path / "secret_keys") == 0o600

    home.ensure_keys(settings, first_start=False)
    assert (tmp_path / "secret_keys").read_text() == key

    (tmp_path / "secret_keys").unlink()
    with pytest.raises(SettingError, match="MILLRACE_SECRET_KEYS"):
        home.ensure_keys(settings, first_start=False)


def test_a_remembered_file_says_port_and_secret(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path / "valkey") as server:
        known = json.loads((tmp_path / "valkey" / "server.json").read_text())
    assert known == {"port": server.port, "secret": server.secret}
