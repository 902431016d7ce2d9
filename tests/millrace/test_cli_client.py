"""The client's commands against a server that misbehaves, and what reaches a terminal."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from millrace.cli import client, main, scripts, terminal
from tests.fake_api import FakeApi

RUN = "01998f2e-7c1d-7d30-9a55-3f1f6f0f3a10"
BRACKETS = "[/bold] oops [red]x"
STEERING = "\x1b[2Jgone\x9b1m\u202e\r\nnext"
HINT = f"The run {RUN} goes on: `millrace logs -f s {RUN}` follows it, `millrace cancel s {RUN}` ends it."


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RECONNECT_PAUSE_S", 0.01)


def settings(url: str) -> dict[str, str]:
    return {"MILLRACE_URL": url, "MILLRACE_WORKSPACE": "w", "MILLRACE_API_KEY": "mr_key"}


def command(api: FakeApi, *arguments: str, stdin: bytes = b"", **environ: str) -> Result:
    done = CliRunner().invoke(main, arguments, input=stdin, env=settings(api.url) | environ)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def sentence(api: FakeApi, *arguments: str, stdin: bytes = b"", **environ: str) -> str:
    """What a command says that fails, which is one line."""
    done = command(api, *arguments, stdin=stdin, **environ)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("Error: ").strip()


def run_of(**more: Any) -> dict[str, Any]:
    return {"id": RUN, "script_id": "s", "status": "failed", "trigger_type": "manual", "duration_ms": 7,
            "started_at": "2026-11-22T13:05:09.123Z", "error": None, **more}


def cut(*events: tuple[str, dict[str, Any]]) -> bytes:
    """A chunked stream that breaks off in the midst of a chunk, as when the server dies."""
    text = "".join(f"event: {name}\nid: {data.get('seq', '')}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return f"{head}{len(text):x}\r\n{text}\r\nff\r\n: still".encode()


def line(seq: int, text: str) -> tuple[str, dict[str, Any]]:
    return "log", {"seq": seq, "time": "2026-11-22T13:05:09.123Z", "level": "INFO", "text": text}


STREAM = f"GET /scripts/s/runs/{RUN}/logs/stream"


def test_brackets_of_an_error_are_shown_as_they_are(api: FakeApi) -> None:
    api.answers["GET /runs"] = (200, {"runs": [run_of(error=BRACKETS)], "next_cursor": None})

    assert BRACKETS in command(api, "runs").stdout


def test_no_text_of_the_api_can_steer_the_terminal(api: FakeApi) -> None:
    steered = run_of(error=STEERING, script_id=STEERING, trigger_type=STEERING)
    script = {"id": STEERING, "script_version": 1, "status": "active", "schedule": STEERING, "updated_at": "now"}
    api.answers = {
        "GET /runs": (200, {"runs": [steered], "next_cursor": None}),
        "GET /scripts": (200, {"scripts": [script], "next_cursor": None}),
        "POST /scripts/s/execute": (202, {"run_id": RUN}),
        f"GET /scripts/s/runs/{RUN}": (200, steered),
        f"GET /scripts/s/runs/{RUN}/logs": (200, {"url": f"{api.url}/log"}),
        "GET /log": (200, STEERING),
        STREAM: cut(line(1, STEERING), ("end", {"status": "failed"})),
        "DELETE /scripts/s": (400, {"error": {"code": "BAD", "message": STEERING}}),
    }
    for arguments in (["runs"], ["scripts", "list"], ["run", "s"], ["logs", "s", RUN], ["logs", "-f", "s", RUN],
                      ["scripts", "delete", "s", "--yes"]):  # fmt: skip
        # With colours, as on a terminal: else the command would drop what begins with ESC.
        done = CliRunner().invoke(main, arguments, env=settings(api.url), color=True)
        said = done.output.replace("\x1b[31m", "").replace("\x1b[0m", "")
        assert not set(said) & set("\x1b\x9b\u202e\r"), arguments
        assert "gone" in said, arguments


def test_a_result_with_control_characters_is_printed_as_the_same_json(api: FakeApi) -> None:
    api.answers = {
        "POST /scripts/s/execute": (202, {"run_id": RUN}),
        STREAM: cut(("end", {"status": "completed"})),
        f"GET /scripts/s/runs/{RUN}": (200, run_of(status="completed")),
        f"GET /scripts/s/runs/{RUN}/result": (200, json.dumps({"text": STEERING, "half": "\ud800", "ü": "ü"})),
    }

    done = command(api, "run", "s")

    assert json.loads(done.stdout) == {"text": STEERING, "half": "\ud800", "ü": "ü"}
    assert "ü" in done.stdout and not set(done.stdout) & set("\x1b\x9b\u202e")


def test_ids_are_whole_in_a_pipe_and_on_a_narrow_terminal_where_the_error_gives_way(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, error = "a-script-with-a-long-name", "no such luck " * 20
    api.answers["GET /runs"] = (200, {"runs": [run_of(error=error, script_id=name)], "next_cursor": None})
    piped = command(api, "runs").stdout.splitlines()[1]
    assert RUN in piped and name in piped and error.strip() in piped

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    terminal.print_table(("run", "script", "error"), [(RUN, name, error), ("short", "s", "")])
    head, row, other = capsys.readouterr().out.splitlines()
    assert RUN in row and name in row and row.endswith("…")
    assert head.index("script") == row.index(name) == other.rindex("s")


def test_a_log_whose_connection_breaks_goes_on_after_the_last_line_that_came(api: FakeApi) -> None:
    api.answers[STREAM] = [
        cut(line(1, "one"), line(2, "two")), b"", (503, "no healthy upstream"),
        cut(line(3, "three"), ("end", {"status": "completed"})),
    ]  # fmt: skip

    done = command(api, "logs", "-f", "s", RUN)

    assert done.exit_code == 0, done.output
    assert [text.split()[-1] for text in done.stdout.splitlines()] == ["one", "two", "three"]
    assert api.asked == [STREAM] * 4
    assert api.last_event_ids == [None, "2", "2", "2"]


@pytest.mark.parametrize("arguments", [("run", "s"), ("logs", "-f", "s", RUN)])
def test_a_connection_that_stays_lost_is_said_in_one_sentence_with_how_to_go_on(
    api: FakeApi, arguments: tuple[str, ...]
) -> None:
    api.answers = {"POST /scripts/s/execute": (202, {"run_id": RUN}), STREAM: [cut(line(1, "one")), b""]}

    done = command(api, *arguments)

    assert done.exit_code == 1
    said = done.stderr.splitlines()[-1]
    assert "was lost" in said and said.endswith(HINT)
    assert api.asked.count(STREAM) == client.RECONNECTS + 1


def test_a_server_that_is_gone_when_the_run_is_over_does_not_hide_the_runs_id(api: FakeApi) -> None:
    api.answers = {
        "POST /scripts/s/execute": (202, {"run_id": RUN}),
        STREAM: cut(("end", {"status": "completed"})),
        f"GET /scripts/s/runs/{RUN}": b"",
    }

    assert sentence(api, "run", "s").endswith(HINT)


def test_an_interrupted_run_says_that_it_goes_on_and_how_to_follow_or_cancel_it(api: FakeApi) -> None:
    open_ended = cut(line(1, "one"))
    api.answers = {"POST /scripts/s/execute": (202, {"run_id": RUN}), STREAM: open_ended}
    environ = os.environ | settings(api.url)
    process = subprocess.Popen([sys.executable, "-m", "millrace.cli", "run", "s"], env=environ, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stderr is not None and "one" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)

    assert said.strip().endswith(HINT) and "Traceback" not in said
    assert process.returncode == 130


def test_cancel_asks_the_server_to_cancel_the_run(api: FakeApi) -> None:
    api.answers[f"POST /scripts/s/runs/{RUN}/cancel"] = (202, {"run_id": RUN, "status": "cancelled"})

    assert command(api, "cancel", "s", RUN).stdout == f"cancelled {RUN}\n"


@pytest.mark.parametrize("status", ["pending", "running"])
def test_logs_of_a_run_that_is_not_over_says_so_and_how_to_follow_it(api: FakeApi, status: str) -> None:
    api.answers = {
        "GET /scripts/s/runs": (200, {"runs": [run_of(status=status)], "next_cursor": None}),
        f"GET /scripts/s/runs/{RUN}": (200, run_of(status=status)),
    }

    assert sentence(api, "logs", "s") == f"the run {RUN} is still {status}: `millrace logs -f s {RUN}` follows it."


@pytest.mark.parametrize("answer, reason", [((403, "<Error>signature</Error>"), "answered 403"), (b"", "disconnected")])
def test_a_log_that_cannot_be_downloaded_is_said_in_one_sentence(api: FakeApi, answer: Any, reason: str) -> None:
    api.answers = {
        f"GET /scripts/s/runs/{RUN}": (200, run_of()),
        f"GET /scripts/s/runs/{RUN}/logs": (200, {"url": f"{api.url}/log?X-Amz-Signature=abc"}),
        "GET /log": answer,
    }

    said = sentence(api, "logs", "s", RUN)

    assert f"the log of {RUN} cannot be downloaded" in said and reason in said and "abc" not in said


@pytest.mark.parametrize("payload, stdin, reason", [
    ("@{binary}", b"", "is not UTF-8 text"), ("-", b"\xff\xfe", "the payload is not UTF-8 text"),
    ("@{none}", b"", "cannot be read: No such file"), ("{", b"", "the payload is not JSON"),
    ('{"a": NaN}', b"", "NaN is no number"), ("[" * 100_000, b"", "nested too deeply"),
])  # fmt: skip
def test_a_payload_that_cannot_be_read_is_said_in_one_sentence(
    api: FakeApi, tmp_path: Path, payload: str, stdin: bytes, reason: str
) -> None:
    (tmp_path / "binary").write_bytes(b"\x7fELF\x80")
    payload = payload.replace("{binary}", str(tmp_path / "binary")).replace("{none}", str(tmp_path / "none"))

    assert reason in sentence(api, "run", "s", payload, stdin=stdin)
    assert api.asked == []


def test_halves_of_characters_in_a_payload_are_sent(api: FakeApi) -> None:
    api.answers["POST /scripts/s/execute"] = (202, {"run_id": RUN})

    assert command(api, "run", "--async", "s", '{"a": "\\ud800"}').stdout == f"{RUN}\n"


@pytest.mark.parametrize("environ, named", [
    ({"MILLRACE_URL": "http://[::1"}, "MILLRACE_URL is 'http://[::1'"),
    ({"MILLRACE_URL": "http://host:port"}, "MILLRACE_URL is 'http://host:port'"),
    ({"MILLRACE_API_KEY": "schlüssel"}, "MILLRACE_API_KEY must be of printable ASCII characters"),
    ({"MILLRACE_WORKSPACE": "grün"}, "MILLRACE_WORKSPACE must be of printable ASCII characters"),
    ({"MILLRACE_URL": "localhost:8080"}, "localhost:8080"),
    ({"MILLRACE_URL": "http://127.0.0.1:1"}, "http://127.0.0.1:1/v1/scripting/ does not answer"),
])  # fmt: skip
def test_a_wrong_setting_of_the_client_is_named_in_one_sentence(
    api: FakeApi, environ: dict[str, str], named: str
) -> None:
    said = sentence(api, "runs", **environ)

    assert named in said and "schlüssel" not in said


@pytest.mark.parametrize("stored", ["", "[]", '{"url": 5, "workspace": "w", "api_key": "k"}', '{"url": "http://h"}'])
def test_damaged_credentials_are_named(api: FakeApi, stored: str, tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text(stored)

    said = sentence(api, "runs", MILLRACE_HOME=str(tmp_path), MILLRACE_API_KEY="")

    assert str(tmp_path / "credentials.json") in said and "damaged" in said


@pytest.mark.parametrize("answer", [(200, "<html>"), (302, "")])
def test_a_server_that_is_not_millrace_is_said_in_one_sentence(api: FakeApi, answer: Any) -> None:
    api.answers["GET /runs"] = answer

    assert api.url in sentence(api, "runs")


def test_the_id_of_a_script_stays_one_part_of_the_path(api: FakeApi) -> None:
    assert "no POST /scripts/a%2Fb%3Fc%01/execute" in sentence(api, "run", "a/b?c\x01")


def test_a_secrets_file_is_read_as_dotenv_reads_it() -> None:
    text = "\ufeff# all of them\r\nA=1\nB=2222 # comment\nexport C=3#3\nexport\tD = 4 \nE='5 # 5' # comment\n" \
           "F=\"it's\"\n\nG=\nH= # nothing\nI=a=b==\nJ='it's'\nK=a\u2028b"  # fmt: skip

    assert scripts.read_env(text) == {
        "A": "1", "B": "2222", "C": "3#3", "D": "4", "E": "5 # 5", "F": "it's", "G": "", "H": "", "I": "a=b==",
        "J": "it's", "K": "a\u2028b",
    }  # fmt: skip


@pytest.mark.parametrize("refused", ["s3cr3t", "=s3cr3t", "A B=s3cr3t", "9=s3cr3t", "A='s3cr3t", "A=\"s3cr3t\" more"])
def test_a_line_of_a_secrets_file_that_is_refused_is_named_by_its_number_and_not_shown(refused: str) -> None:
    with pytest.raises(click.ClickException, match=r"^line 3 of the secrets file") as caught:
        scripts.read_env(f"A=1\n\n{refused}\nB=2\n")

    assert "s3cr3t" not in caught.value.message
