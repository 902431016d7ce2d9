"""The self-test tells a host that holds from one that does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import nsjail
from tests.launcher import ROOT, start_launcher


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_every_layer_holds_on_this_host() -> None:
    done = python("sandbox.selftest")
    assert done.returncode == 0, done.stdout
    layers = [line.split()[1] for line in done.stdout.splitlines()]
    assert layers == [
        "jail", "user", "capabilities", "no_new_privs", "namespaces", "root", "network", "seccomp", "memory", "pids",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("iface_no_lo: true", "iface_no_lo: true clone_newnet: false", {"namespaces"}),
        ("keep_caps: false", "keep_caps: true", {"capabilities"}),
        ("seccomp_policy_file:", "#", {"seccomp"}),
        ('dst: "/" is_bind: true', 'dst: "/" is_bind: true rw: true', {"root"}),
    ],
)
def test_a_weakened_jail_is_found_out(tmp_path: Path, old: str, new: str, missing: set[str]) -> None:
    weak = tmp_path / "nsjail.cfg"
    text = nsjail.CONFIG.read_text()
    assert old in text
    weak.write_text(text.replace(old, new))
    program = tmp_path / "weak.py"
    program.write_text(
        "import pathlib, sys\nfrom sandbox import nsjail, selftest\n"
        "nsjail.CONFIG = pathlib.Path(sys.argv[1])\nsys.exit(selftest.main())\n"
    )
    done = subprocess.run(
        [sys.executable, str(program), str(weak)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("MISSING")}
    assert (done.returncode, missing - found) == (1, set()), done.stdout + done.stderr


def test_a_host_without_cgroups_is_refused_in_strict_mode_and_named_in_permissive(tmp_path: Path) -> None:
    blind = tmp_path / "sitecustomize.py"
    blind.write_text(
        "import sandbox.cgroups as c\n"
        "def none(name): raise c.CgroupsUnavailable('no controllers here; delegate some')\n"
        "c.open_tree = none\n"
    )
    path = f"{tmp_path}:{ROOT}"
    refusal = pytest.raises(RuntimeError, match=r"cannot be limited: no controllers here; delegate some")
    with refusal, start_launcher(tmp_path / "strict", PYTHONPATH=path):
        raise AssertionError("it started")
    with start_launcher(tmp_path / "loose", PYTHONPATH=path, MILLRACE_SANDBOX_MODE="permissive"):
        log = (tmp_path / "loose" / "launcher.log").read_text()
    assert "NOT limited" in log
    assert "memory MISSING, pids MISSING" in log


def test_one_handler_runs_from_the_command_line(tmp_path: Path) -> None:
    script = tmp_path / "hello.js"
    script.write_text("exports.handler = (p) => { console.log('seen', p); return 'hi ' + p.name; }")
    done = python("sandbox", str(script), '{"name":"x"}')
    assert (done.returncode, done.stdout) == (0, '"hi x"\n')
    assert "INFO   seen { name: 'x' }" in done.stderr


def test_a_failing_handler_fails_the_command(tmp_path: Path) -> None:
    script = tmp_path / "bad.js"
    script.write_text("exports.handler = () => { throw new Error('boom') }")
    done = python("sandbox", str(script))
    assert (done.returncode, done.stdout) == (1, "")
    assert "exception: Error: boom\n    at exports.handler (index.js:1:33)" in done.stderr
