"""The sandbox's own view of this machine, asked in a process of its own: nothing of millrace imports the sandbox."""

import json
import subprocess
from typing import Any

from millrace.processes import python
from millrace.settings import SettingError

_READ_SETTINGS = """
import os, sys
from sandbox.config import ConfigError, SandboxConfig
try:
    SandboxConfig.from_env(os.environ)
except ConfigError as error:
    sys.exit(str(error))
"""

_SELF_TEST = ("-m", "sandbox.selftest")


def check_settings() -> None:
    """Raises SettingError with the launcher's own sentence when it would refuse the settings that it reads."""
    done = subprocess.run(python("-c", _READ_SETTINGS), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SettingError(f"{done.stderr.strip().splitlines()[-1].rstrip('.')}.")


def self_test() -> bool:
    """Try every layer of the jail and print a table of what holds. Returns whether all do."""
    return subprocess.run(python(*_SELF_TEST), check=False).returncode == 0


def layers() -> list[dict[str, Any]]:
    """Try every layer of the jail: of each `layer`, `holds`, `detail` and `remedy`."""
    done = subprocess.run(python(*_SELF_TEST, "--json"), stdout=subprocess.PIPE, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)
    except json.JSONDecodeError:
        detail = f"the self-test gave no answer (exit code {done.returncode})"
        return [{"layer": "jail", "holds": False, "detail": detail, "remedy": "What it wrote above says why."}]
    return found
