"""`millrace up`, as far as it goes without a whole platform: refusals, credentials, and the self-check."""

import fcntl
import io
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from millrace import roles, users, vault, workspaces
from millrace.cli import check, stores, up, welcome
from millrace.cli.client import Client
from millrace.embedded import ValkeyServer
from millrace.errors import Denied
from millrace.objects import S3Objects
from millrace.services import Services
from millrace.settings import Settings
from millrace.signinlimits import SignInLimits
from millrace.supervisor import Line
from millrace.vault import Keyring
from tests.fake_api import FakeApi

ROOT = Path(__file__).parents[2]
PREFIXES = ("MILLRACE_", "S3_", "DATABASE_", "REDIS_")
OWN_SERVERS = {"REDIS_URL": "redis://127.0.0.1:1", "S3_ENDPOINT": "http://127.0.0.1:1", "S3_ACCESS_KEY": "a",
               "S3_SECRET_KEY": "b"}


def start(home: Path, **environ: str) -> Result:
    """`millrace up` in this process, for starts that are refused before a child is started."""
    return invoke(up.up, home, **environ)


def invoke(command: click.Command, home: Path, **environ: str) -> Result:
    """A command in this process, with no other setting than these."""
    without = {name: None for name in os.environ if name.startswith(PREFIXES)}
    return CliRunner().invoke(command, env=without | {"MILLRACE_HOME": str(home)} | environ)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("environ, sentence", [
    ({"MILLRACE_PORT": "eighty"}, "MILLRACE_PORT is 'eighty'"),
    ({"MILLRACE_HOST": "no.such.host.invalid"}, "MILLRACE_HOST"),
    ({"MILLRACE_SANDBOX_MODE": "off"}, "MILLRACE_SANDBOX_MODE is 'off'"),
    ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL"),
    ({"DATABASE_URL": "postgresql://"}, "DATABASE_URL must name a database"),
    ({"DATABASE_URL": "sqlite:////proc/none/m.db"}, "DATABASE_URL names a file whose folder cannot be made"),
    ({"REDIS_URL": "amqp://x"}, "REDIS_URL"),
    ({"REDIS_URL": "redis://x/?db=two"}, "REDIS_URL has an option that cannot be read"),
    ({"MILLRACE_EGRESS_ALLOW": "10.0.0.0/99"}, "MILLRACE_EGRESS_ALLOW has a wrong part, '10.0.0.0/99'"),
    ({"MILLRACE_WARM_JAILS": "abc"}, "MILLRACE_WARM_JAILS is 'abc'"),
    (OWN_SERVERS | {"S3_ACCESS_KEY": ""}, "S3_ACCESS_KEY is not set"),
    (OWN_SERVERS | {"S3_ENDPOINT": "http://127.0.0.1:1/path"}, "S3_ENDPOINT must be"),
    (OWN_SERVERS | {"S3_BUCKET": "No Bucket"}, "S3_BUCKET is 'No Bucket'"),
    (OWN_SERVERS | {"MILLRACE_SECRET_KEYS": "short"}, "MILLRACE_SECRET_KEYS"),
])  # fmt: skip
def test_a_wrong_setting_stops_the_start_with_one_sentence_that_names_it(
    environ: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    done = start(tmp_path, **({"MILLRACE_PORT": free_port()} | environ))

    assert done.exit_code == 2, done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "credentials.json").exists()


@pytest.fixture
def own_servers(redis_url: str, objects: S3Objects) -> dict[str, str]:
    """The settings of an operator who has a Redis and an object store."""
    return {"REDIS_URL": redis_url, "S3_ENDPOINT": objects.endpoint.geturl(), "S3_BUCKET": objects.bucket,
            "S3_ACCESS_KEY": objects.access_key, "S3_SECRET_KEY": objects.secret_key}


@pytest.mark.parametrize("wrong, sentence", [
    ({"DATABASE_URL": "postgresql://me:pa55word@127.0.0.1:1/db"}, "DATABASE_URL names a database that cannot be used"),
    ({"REDIS_URL": "redis://:pa55word@127.0.0.1:1/0"}, "REDIS_URL names a server that cannot be used"),
    ({"REDIS_URL": "redis://:pa55word@127.0.0.1:1/0?colour=red"}, "REDIS_URL names a server that cannot be used"),
    ({"S3_ENDPOINT": "http://127.0.0.1:1"}, "S3_ENDPOINT is http://127.0.0.1:1, which does not answer"),
    ({"S3_SECRET_KEY": "pa55word"}, "S3_SECRET_KEY name a store that cannot be used"),
])  # fmt: skip
def test_a_server_of_the_operator_that_cannot_be_used_stops_the_start_soon_and_without_its_password(
    own_servers: dict[str, str], wrong: dict[str, str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PATIENCE_S", 1.0)
    monkeypatch.setattr(up, "watch", lambda *_: pytest.fail("the processes were started"))
    begun = time.monotonic()

    done = start(tmp_path, **(own_servers | {"MILLRACE_PORT": free_port()} | wrong))

    assert done.exit_code == 2, done.output
    assert sentence in done.stderr and "pa55word" not in done.output
    assert len(done.stderr.strip().splitlines()) == 1
    assert time.monotonic() - begun < 5
    assert not (tmp_path / "credentials.json").exists()


def test_a_server_that_says_nothing_is_not_waited_for_longer_than_the_patience(
    own_servers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PATIENCE_S", 0.5)
    begun = time.monotonic()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = start(tmp_path, **(own_servers | {"MILLRACE_PORT": free_port(), "S3_ENDPOINT": endpoint}))

    assert done.exit_code == 2
    assert done.stderr == "Error: S3_ENDPOINT names a server that did not answer within 0.5 s.\n"
    assert time.monotonic() - begun < 5


def test_a_server_that_is_still_starting_is_waited_for(
    own_servers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "watch", lambda *_: 0)
    with ValkeyServer(tmp_path / "valkey", durable=False) as late:
        pass
    over = threading.Event()

    def start_later() -> None:
        time.sleep(1.5)
        with late:  # a server ends with the thread that started it
            over.wait(60)

    thread = threading.Thread(target=start_later)
    thread.start()
    done = start(tmp_path / "home", **(own_servers | {"MILLRACE_PORT": free_port(), "REDIS_URL": late.url}))
    over.set()
    thread.join()

    assert done.exit_code == 0, done.output


def test_master_keys_that_do_not_open_what_is_stored_stop_the_start_and_fail_the_check(
    own_servers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "watch", lambda *_: 0)
    first, second = vault.new_master_key(), vault.new_master_key()
    held, lacking = Keyring.parse(second).ids[0], Keyring.parse(first).ids[0]
    environ = own_servers | {"MILLRACE_PORT": free_port()}
    assert start(tmp_path, **environ, MILLRACE_SECRET_KEYS=first).exit_code == 0

    refused = start(tmp_path, **environ, MILLRACE_SECRET_KEYS=second)
    found = invoke(check.check, tmp_path, **environ, MILLRACE_SECRET_KEYS=second)

    sentence = (f"MILLRACE_SECRET_KEYS lacks the master key {lacking}, which alone opens the secrets of workspace "
                f"'default'; it holds {held}.\n")
    assert refused.exit_code == 2
    assert refused.stderr == f"Error: {sentence}"
    assert found.exit_code == 1 and f"FAILS {sentence}" in found.stdout
    assert start(tmp_path, **environ, MILLRACE_SECRET_KEYS=f"{second},{first}").exit_code == 0


@pytest.mark.parametrize("wrong", [{"MILLRACE_EGRESS_ALLOW": "10.0.0.0/99"}, {"MILLRACE_WARM_JAILS": "abc"}])
def test_the_check_finds_the_settings_of_the_sandbox_that_stop_a_start(wrong: dict[str, str], tmp_path: Path) -> None:
    done = invoke(check.check, tmp_path, **(OWN_SERVERS | {"MILLRACE_SECRET_KEYS": vault.new_master_key()} | wrong))

    assert done.exit_code == 1
    assert done.stdout.startswith(f"settings     FAILS {next(iter(wrong))}") and done.stdout.count("\n") == 1


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = start(tmp_path, MILLRACE_PORT=port)

    assert done.exit_code == 2
    assert port in done.stderr and "MILLRACE_PORT" in done.stderr and "in use" in done.stderr


def test_the_exit_code_and_the_sentence_reach_the_shell(tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)}
    environ = inherited | {"MILLRACE_PORT": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "millrace.cli", "up"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=100)

    assert done.returncode == 2
    assert done.stderr == "Error: MILLRACE_PORT is '0' but must be a whole number from 1 to 65535.\n"


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = start(tmp_path / "file" / "home", MILLRACE_PORT=free_port())

    assert done.exit_code == 2
    assert "MILLRACE_HOME" in done.stderr and "Not a directory" in done.stderr


def test_a_second_start_on_the_same_home_says_so_and_ends(tmp_path: Path) -> None:
    with (tmp_path / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        done = start(tmp_path, MILLRACE_PORT=free_port())

    assert done.exit_code == 1
    assert f"already running in '{tmp_path}' (process 4711)" in done.stderr


def test_a_home_whose_owner_died_can_be_started_again(tmp_path: Path) -> None:
    refused = pytest.raises(click.ClickException, match=str(os.getpid()))
    with up.locked(tmp_path), refused, up.locked(tmp_path):
        pytest.fail("two at once")
    with up.locked(tmp_path):
        assert (tmp_path / "up.lock").read_text() == str(os.getpid())


def test_the_first_start_writes_credentials_that_open_the_workspace(
    services: Services, tmp_path: Path
) -> None:
    path = tmp_path / "credentials.json"

    written = up.credentials_of(services, path, first=True)

    assert json.loads(path.read_text()) == written
    assert list(written) == ["url", "workspace", "api_key", "email", "password"]
    assert written["url"] == services.settings.url
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert workspaces.authenticate(written["api_key"]).id == written["workspace"]
    user = users.authenticate(services, SignInLimits(""), written["email"], written["password"], "127.0.0.1")
    assert user.role == roles.SUPERADMIN


def test_a_later_start_keeps_the_credentials_and_corrects_the_url(
    services: Services, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    path = tmp_path / "credentials.json"
    before = up.credentials_of(services, path, first=True)
    path.write_text(json.dumps(before | {"url": "http://elsewhere:1"}))

    after = up.credentials_of(services, path, first=False)

    assert after == before
    assert json.loads(path.read_text()) == before


def test_lost_credentials_are_replaced_by_a_new_key_of_the_same_workspace(
    services: Services, tmp_path: Path
) -> None:
    path = tmp_path / "credentials.json"
    before = up.credentials_of(services, path, first=True)
    path.unlink()

    after = up.credentials_of(services, path, first=True)

    assert after["workspace"] == before["workspace"] and after["api_key"] != before["api_key"]
    assert after["password"] is None
    assert workspaces.authenticate(after["api_key"]).id == before["workspace"]
    with pytest.raises(Denied):
        workspaces.authenticate("mr_0000000000000000_" + "0" * 43)


@pytest.mark.parametrize("name", ["MILLRACE_METRICS_PORT", "MILLRACE_METRICS_PORT_FILE"])
def test_its_processes_do_not_fight_over_a_port_for_metrics_and_share_a_folder_that_is_empty(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.from_env({"MILLRACE_HOME": str(tmp_path)})
    (tmp_path / "port").write_text("9464")
    monkeypatch.setenv(name, "9464" if name.endswith("PORT") else str(tmp_path / "port"))
    code = """import os; from millrace.settings import Settings
print("port", Settings.from_env().metrics_port, os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]), flush=True)
os.kill(os.getppid(), 15)"""
    monkeypatch.setattr(welcome, "greet", lambda *_, **__: None)
    monkeypatch.setattr(welcome, "next_steps", lambda *_: "")
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    left = settings.home / "run" / "metrics" / "counter_1.db"
    left.parent.mkdir(parents=True)
    left.touch()

    assert up.watch(settings, {}, True, ROOT, [Line("web", (sys.executable, "-c", code))]) == 0

    assert "| port 0 []" in out.getvalue()


def test_the_self_check_shows_result_log_and_milliseconds(api: FakeApi) -> None:
    api.answers = {
        "POST /scripts/hello/execute": (200, {"run_id": "r1", "status": "completed", "result": ["Hi ü", "\x9b2J"]}),
        "GET /scripts/hello/runs/r1/logs": (200, {"url": f"{api.url}/the-log"}),
        "GET /the-log": (200, "one\ntwo\x1b[2J\n"),
    }

    text = welcome.self_check(Client(api.url, "w", "k"))

    assert 'result ["Hi ü", ' in text
    assert "    one\n    two" in text
    assert not set(text) & set("\x1b\x9b")  # whatever the script says, it does not steer the terminal
    assert " ms" in text


@pytest.mark.parametrize("answers, reason", [
    ({"POST /scripts/hello/execute": (200, {"run_id": "r1", "status": "failed", "error": "oh"})}, "oh"),
    ({"POST /scripts/hello/execute": (200, {"run_id": "r1", "status": "completed"}),
      "GET /scripts/hello/runs/r1/logs": (200, {"url": "http://127.0.0.1:1/log"})}, "log of 'hello'"),
])  # fmt: skip
def test_a_self_check_that_does_not_complete_is_no_success(
    api: FakeApi, answers: dict[str, Any], reason: str
) -> None:
    api.answers = answers

    with pytest.raises(welcome.NotWorking, match=reason):
        welcome.self_check(Client(api.url, "w", "k"))


def test_the_first_start_installs_examples_that_do_not_start_by_themselves(api: FakeApi) -> None:
    runtimes = [{"name": "nodejs20"}, {"name": "python3.12"}]
    api.answers = {"POST /scripts": (201, {}), "GET /scripts/report": (200, {}), "GET /runtimes": (200, runtimes)}

    created = welcome.install(Client(api.url, "w", "k"), ROOT / "examples", everything=True)

    assert {"hello", "summary"} <= set(created)
    assert "report" not in created  # it was there
    for name in created:
        description = json.loads((ROOT / "examples" / name / "script.json").read_text())
        assert "schedule" not in description and "http" not in description.get("triggers", {})
    assert api.asked.count("POST /scripts") == len(created)


def test_examples_in_a_language_that_the_host_has_not_are_left_out(api: FakeApi) -> None:
    api.answers = {"POST /scripts": (201, {}), "GET /runtimes": (200, [{"name": "nodejs20"}])}

    created = welcome.install(Client(api.url, "w", "k"), ROOT / "examples", everything=True)

    assert "hello" in created and "summary" not in created


def test_a_later_start_restores_only_what_the_self_check_needs(api: FakeApi) -> None:
    api.answers = {"POST /scripts": (201, {})}

    assert welcome.install(Client(api.url, "w", "k"), ROOT / "examples", everything=False) == ["hello"]


def test_a_platform_that_never_gets_ready_is_reported_with_its_last_answer(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(welcome, "READY_TIMEOUT_S", 0.3)
    api.answers = {"GET /health/ready": (503, {"redis": "down"})}

    with pytest.raises(welcome.NotWorking, match=r"503.*redis.*down"):
        welcome.wait_until_ready(api.url)


def test_the_examples_wait_for_the_first_worker(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    not_ready = {"error": {"code": "WORKSPACE_NOT_READY", "message": "No worker has started yet."}}
    api.answers = {"POST /scripts": (503, not_ready)}
    client = Client(api.url, "w", "k")

    def install() -> list[str]:
        if api.asked.count("POST /scripts") == 3:
            api.answers = {"POST /scripts": (201, {})}
        return welcome.install(client, ROOT / "examples", everything=False)

    assert welcome.patiently(install) == ["hello"]

    monkeypatch.setattr(welcome, "READY_TIMEOUT_S", 0.3)
    api.answers = {"POST /scripts": (503, not_ready)}
    with pytest.raises(click.ClickException, match="WORKSPACE_NOT_READY"):
        welcome.patiently(lambda: welcome.install(client, ROOT / "examples", everything=False))


def test_the_next_steps_can_be_pasted(api: FakeApi, tmp_path: Path) -> None:
    api.answers = {"POST /scripts/hello/execute": (200, {"status": "completed"})}
    credentials = {"url": api.url, "workspace": "w", "api_key": "mr_key", "email": "owner@localhost"}

    text = welcome.next_steps(credentials, tmp_path / "credentials.json")
    command = text[text.index("curl "):text.index("\n\n", text.index("curl "))]
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)

    assert json.loads(done.stdout) == {"status": "completed"}
    assert str(tmp_path / "credentials.json") in text
    assert f"{api.url}/ (sign in as owner@localhost" in text
