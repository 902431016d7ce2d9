"""The `millrace` command against a whole Millrace."""

import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

from tests.platform import Platform, wait_until

LARGE = "exports.handler = async () => ({ value: 'x'.repeat(100000) });"
LOGGING = "exports.handler = async (p) => { console.log('one'); console.warn('two'); return p.list || 7; };"
FAILING = "exports.handler = async () => { console.log('before'); throw new TypeError('no such luck'); };"
SLOW = """exports.handler = async () => {
  for (let i = 0; i < 8; i++) { console.log('tick ' + i); await new Promise((r) => setTimeout(r, 250)); }
  return 'done';
};"""


def pushed(platform: Platform, tmp_path: Path, name: str, source: str) -> str:
    path = tmp_path / f"{name}.js"
    path.write_text(source)
    done = platform.command("scripts", "push", str(path))
    assert done.returncode == 0, done.stderr
    return name


def test_run_shows_the_log_and_prints_the_result(platform: Platform, tmp_path: Path) -> None:
    name = pushed(platform, tmp_path, "cmd-logging", LOGGING)
    done = platform.command("run", name, '{"list": [1, {"a": "ü"}]}')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [1, {"a": "ü"}]
    assert re.findall(r"Z (\w+) +(\w+)\n", done.stderr) == [("INFO", "one"), ("WARN", "two")]


def test_run_prints_the_whole_of_a_large_result(platform: Platform, tmp_path: Path) -> None:
    name = pushed(platform, tmp_path, "cmd-large", LARGE)
    assert json.loads(platform.command("run", name).stdout) == {"value": "x" * 100_000}


def test_run_takes_its_payload_from_a_file_or_standard_input(platform: Platform, tmp_path: Path) -> None:
    name = pushed(platform, tmp_path, "cmd-payload", LOGGING)
    file = tmp_path / "payload.json"
    file.write_text('{"list": "from a file"}')
    assert json.loads(platform.command("run", name, f"@{file}").stdout) == "from a file"
    assert json.loads(platform.command("run", name, "-", stdin='{"list": "piped"}').stdout) == "piped"


def test_run_of_a_failing_script_says_why_and_exits_with_1(platform: Platform, tmp_path: Path) -> None:
    name = pushed(platform, tmp_path, "cmd-failing", FAILING)
    done = platform.command("run", name)
    assert done.returncode == 1
    assert "before" in done.stderr
    assert "failed: TypeError: no such luck" in done.stderr
    assert done.stdout == ""


def test_push_names_line_and_column_of_what_is_wrong(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "cmd-broken.js"
    path.write_text("exports.handler = async () => {\n  const fs = require('fs');\n};")
    done = platform.command("scripts", "push", str(path))
    assert done.returncode == 1
    assert "VALIDATION_FAILED" in done.stderr
    assert "fs" in done.stderr and "line 2" in done.stderr


def test_a_second_push_makes_a_second_version_and_the_same_content_does_not(
    platform: Platform, tmp_path: Path
) -> None:
    pushed(platform, tmp_path, "cmd-versions", LOGGING)
    path = tmp_path / "cmd-versions.js"
    assert "version 1" in platform.command("scripts", "push", str(path)).stdout
    path.write_text(LOGGING.replace("one", "three"))
    assert "version 2" in platform.command("scripts", "push", str(path)).stdout


def test_logs_prints_a_finished_log_and_follows_a_running_one(platform: Platform, tmp_path: Path) -> None:
    name = pushed(platform, tmp_path, "cmd-slow", SLOW)
    run_id = platform.command("run", name, "--async").stdout.strip()
    following: list[str] = []
    thread = threading.Thread(target=lambda: following.append(platform.command("logs", name, run_id, "-f").stdout))
    thread.start()
    thread.join(60)
    expected = [f"tick {n}" for n in range(8)]
    assert [line.split(maxsplit=2)[2] for line in following[0].splitlines()] == expected
    assert [line.split(maxsplit=2)[2] for line in platform.command("logs", name).stdout.splitlines()] == expected


def test_logs_of_a_running_script_says_that_it_runs_and_cancel_ends_it(platform: Platform, tmp_path: Path) -> None:
    endless = "exports.handler = async () => { console.log('begun'); await new Promise((r) => setTimeout(r, 25000)); };"
    name = pushed(platform, tmp_path, "cmd-endless", endless)
    run_id = platform.command("run", name, "--async").stdout.strip()
    done = platform.command("logs", name)
    assert done.returncode == 1
    assert re.search(rf"the run {run_id} is still \w+: `millrace logs -f {name} {run_id}` follows it", done.stderr)
    assert platform.command("cancel", name, run_id).stdout == f"cancelled {run_id}\n"
    followed = platform.command("logs", "-f", name, run_id)
    assert followed.returncode == 0, followed.stderr
    assert "cancelled" in platform.command("runs", name).stdout
    late = platform.command("cancel", name, run_id)
    assert late.returncode == 1 and "CONFLICT" in late.stderr


def test_a_follower_goes_on_when_web_dies_and_starts_again(platform: Platform, tmp_path: Path) -> None:
    name = pushed(platform, tmp_path, "cmd-lasting", SLOW.replace("i < 8", "i < 24"))
    following: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: following.append(platform.command("run", name)))
    thread.start()
    wait_until(lambda: "running" in platform.command("runs", name).stdout, 30)
    os.kill(web_of(platform), signal.SIGKILL)
    thread.join(60)
    done = following[0]
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == "done"
    assert re.findall(r"tick (\d+)", done.stderr) == [str(n) for n in range(24)]


def web_of(platform: Platform) -> int:
    """The process that answers people."""
    children = Path(f"/proc/{platform.process.pid}/task/{platform.process.pid}/children").read_text().split()
    return next(int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0-m\0web\0"))


def test_list_runs_and_delete_work_on_what_is_there(platform: Platform, tmp_path: Path) -> None:
    name = pushed(platform, tmp_path, "cmd-gone", LOGGING)
    assert platform.command("run", name).returncode == 0
    assert name in platform.command("scripts", "list").stdout
    row = platform.command("runs", name).stdout.splitlines()[1]
    assert re.match(rf"[0-9a-f]{{8}}-[0-9a-f-]{{27}} +{name} +completed ", row)
    assert platform.command("scripts", "delete", name, "--yes").returncode == 0
    done = platform.command("run", name)
    assert done.returncode == 1
    assert f"There is no script '{name}'" in done.stderr


def test_check_says_that_this_platform_is_whole(platform: Platform) -> None:
    done = platform.command("check")
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("database", "redis", "objects", "namespaces", "seccomp", "memory"):
        assert part in done.stdout.lower()
