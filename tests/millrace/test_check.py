"""`millrace check` says what is wrong with a machine, to people and to machines."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.launcher import ROOT


def check(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MILLRACE_", "REDIS_", "S3_"))}
    return subprocess.run(
        [sys.executable, "-m", "millrace.cli", "check", *arguments],
        cwd=ROOT,
        env={**kept, "MILLRACE_HOME": str(home), **environ},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_layers_of_the_jail_are_shown_before_any_service_runs(tmp_path: Path) -> None:
    done = check(tmp_path)
    first, head, *rows = done.stdout.splitlines()
    assert done.returncode == 1
    assert first.startswith("settings     FAILS REDIS_URL is not set")
    assert head.split() == ["LAYER", "STATE", "FOUND"]
    assert {"seccomp", "memory", "egress"} <= {row.split()[0] for row in rows if not row.startswith(" ")}


def test_machines_get_one_object_with_checks_and_layers(tmp_path: Path) -> None:
    done = check(tmp_path, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert not found["well"]
    (settings,) = found["checks"]
    assert settings["subject"] == "settings" and "REDIS_URL" in settings["problem"]
    assert {tuple(layer) for layer in found["layers"]} == {("layer", "holds", "detail", "remedy")}
    assert {"jail", "seccomp", "memory", "egress"} <= {layer["layer"] for layer in found["layers"]}


def test_settings_that_the_jail_would_refuse_are_named_once(tmp_path: Path) -> None:
    done = check(tmp_path, MILLRACE_SANDBOX_MODE="loose")
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith("settings     FAILS MILLRACE_SANDBOX_MODE is 'loose'")
    assert json.loads(check(tmp_path, "--json", MILLRACE_SANDBOX_MODE="loose").stdout)["layers"] == []
