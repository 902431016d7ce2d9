"""The README's commands, run one after the other as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.platform import ROOT, Platform, wait_until


def blocks() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_readme_begins_with_its_two_commands() -> None:
    assert blocks()[:2] == ["make up\n", "make test\n"]


def test_a_stranger_can_follow_the_readme(platform: Platform, tmp_path: Path) -> None:
    folder = tmp_path / "millrace"
    folder.mkdir()
    (folder / "var").symlink_to(platform.home)
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / ".venv" / "bin").mkdir(parents=True)
    # The interpreter that runs the tests stands in for the one that `make up` makes.
    for name in ("python", "millrace"):
        (folder / ".venv" / "bin" / name).symlink_to(Path(sys.executable).parent / name)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    marked = [f"printf '\\n--- {number}\\n'\n{block}" for number, block in enumerate(blocks()[2:])]
    script = "\n".join(["set -euo pipefail", *marked])

    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )

    parts = re.split(r"^--- \d+\n", done.stdout.replace('": ', '":'), flags=re.MULTILINE)[1:]
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    created, executed, polled, triggered, commanded = parts[1:]
    assert '"script_version":1' in created and '"status":"active"' in created
    assert '"status":"completed"' in executed and '"sum":5' in executed
    assert '"status":"completed"' in polled and '"sum":23' in polled and "INFO   adding" in polled
    assert '"event_id"' in triggered and '"rate(1 minute)"' in triggered
    assert "created report, version 1" in commanded or "updated report" in commanded
    assert '"kinds":1' in commanded

    with platform.client() as client:
        def kinds() -> set[str]:
            return {each["trigger_type"] for each in client.get("/scripts/adder/runs").json()["runs"]}

        # Its schedule, an event, a webhook and the two calls have all started the script.
        wait_until(lambda: {"manual", "http", "event", "scheduled"} <= kinds(), 90)
