"""Finds the Python interpreters of this host, and asks them where they keep what a jail needs of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FOLDERS = ("/usr/local/bin", "/usr/bin")
_ANSWER_S = 10
_QUESTION = """
import importlib.util, json, os, platform, sys, sysconfig
print(json.dumps({
    "binary": os.readlink("/proc/self/exe"),
    "version": platform.python_version(),
    "name": "python%d.%d" % sys.version_info[:2],
    "stdlib": sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}),
    "stdlib_folder": sys.platlibdir,
    "modules": [name for name in sys.stdlib_module_names if name[0] != "_" or name == "__future__"],
    "missing": [name for name in ("bz2", "lzma", "sqlite3", "ssl", "zlib") if not importlib.util.find_spec(
        {"lzma": "_lzma", "sqlite3": "_sqlite3", "bz2": "_bz2", "ssl": "_ssl"}.get(name, name))],
}))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """An interpreter as it is installed, outside of any virtual environment."""

    name: str
    """Such as python3.11."""
    version: str
    """Such as 3.11.7."""
    binary: Path
    stdlib: Path
    """Folder of the standard library, with its extension modules in lib-dynload."""
    stdlib_folder: str
    """Where it looks for that below its prefix: lib, or lib64."""
    modules: frozenset[str]
    """Top-level names of the standard library, without those that it was built without."""


def find(name: str) -> Interpreter | None:
    """The interpreter of this name, such as "python3.12": our own if it is of that version, else the host's."""
    for candidate in _candidates(name):
        found = _ask(candidate)
        if found is not None and found.name == name:
            return found
    return None


def _candidates(name: str) -> Iterator[Path]:
    yield Path(sys.base_prefix) / "bin" / name
    for folder in (*os.environ.get("PATH", "").split(os.pathsep), *_FOLDERS):
        path = shutil.which(name, path=folder) if folder else None
        if path is not None:
            yield Path(path)


def _ask(path: Path) -> Interpreter | None:
    """None for what does not answer as one does, and for scripts such as a version manager's shims."""
    try:
        with path.open("rb") as file:
            is_program = file.read(4) == b"\x7fELF"
    except OSError:
        return None
    if not is_program:
        return None
    try:
        asked = subprocess.run(
            [path, "-I", "-S", "-c", _QUESTION], capture_output=True, timeout=_ANSWER_S, check=True
        )
        answer = json.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    stdlib = Path(answer["stdlib"])
    if not (stdlib / "lib-dynload").is_dir():
        return None
    return Interpreter(
        name=answer["name"],
        version=answer["version"],
        binary=Path(answer["binary"]).resolve(),
        stdlib=stdlib,
        stdlib_folder=answer["stdlib_folder"],
        modules=frozenset(answer["modules"]) - frozenset(answer["missing"]),
    )
