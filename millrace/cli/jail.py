"""The sandbox's own view of this machine, asked in a process of its own: nothing of millrace imports the sandbox."""

import subprocess

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


def check_settings() -> None:
    """Raises SettingError with the launcher's own sentence when it would refuse the settings that it reads."""
    done = subprocess.run(python("-c", _READ_SETTINGS), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SettingError(f"{done.stderr.strip().splitlines()[-1].rstrip('.')}.")


def self_test() -> bool:
    """Try every layer of the jail and print what holds. Returns whether all do."""
    return subprocess.run(python("-m", "sandbox.selftest"), check=False).returncode == 0
