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

    def told(*chosen: str) -> list[str]:
        """What each of these blocks prints, run one after the other in one shell."""
        script = "\n".join(["set -euo pipefail", *(f"printf '\\n--- block\\n'\n{each}" for each in chosen)])
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return re.split(r"^--- block\n", done.stdout.replace('": ', '":'), flags=re.MULTILINE)[1:]

    names, *steps, removal, commands = blocks()[2:]
    _, created, executed, polled, many, triggered, commanded = told(names, *steps, commands)
    assert '"script_version":1' in created and '"status":"active"' in created
    assert '"status":"completed"' in executed and '"sum":5' in executed
    assert '"status":"completed"' in polled and '"sum":23' in polled and "INFO   adding" in polled
    assert '"total":3' in many and '"concurrency":2' in many
    assert '"event_id"' in triggered and '"rate(1 minute)"' in triggered and '"sum":2' in triggered
    assert "created report, version 1" in commanded or "updated report" in commanded
    assert '"kinds":1' in commanded

    with platform.client() as client:
        def sums() -> set[tuple[str, int | None]]:
            """How each run of the script was started, and what it added up."""
            runs = client.get("/scripts/adder/runs").json()["runs"]
            found = [client.get(f"/scripts/adder/runs/{each['id']}").json() for each in runs]
            return {(each["trigger_type"], (each["result_summary"] or {}).get("sum")) for each in found}

        # The two calls, the items of the batch, the webhook, the event of each client, and the schedule, which gives
        # no numbers.
        expected = {("manual", 5), ("manual", 23), ("http", 2), ("event", 7), ("event", 9), ("scheduled", 0),
                    ("batch", 1), ("batch", 2), ("batch", 3)}  # fmt: skip
        wait_until(lambda: expected <= sums(), 90)
        assert sums() == expected
        told(names, removal)
        assert client.get("/scripts/adder").json()["schedule"] is None
