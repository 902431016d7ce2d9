"""What scripts find in each installed runtime: its version, the libraries and the language's own modules.

The names stand in `runtime.json`, the versions in what is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox import runtimes


@dataclass(frozen=True, slots=True)
class Installed:
    """One runtime."""

    name: str
    version: str
    libraries: Mapping[str, str]
    """Name to version of the packages that a script may load."""
    modules: tuple[str, ...]
    """Names of the language's own modules that a script may load."""


def installed() -> tuple[Installed, ...]:
    """Every runtime, by name. Raises OSError when a package that a descriptor names is not installed."""
    return tuple(_read(runtime) for runtime in runtimes.load_all().values())


def _read(runtime: runtimes.Runtime) -> Installed:
    descriptor = json.loads((runtime.folder / "runtime.json").read_text())
    libraries = {str(name): _version(_folder(runtime, str(name))) for name in descriptor["libraries"]}
    # The binary lies in a package of its own, which carries the version of what is in it.
    binary = runtime.packages / runtime.binary.relative_to(runtime.packages).parts[0]
    return Installed(runtime.name, _version(binary), libraries, tuple(map(str, descriptor["modules"])))


def _folder(runtime: runtimes.Runtime, library: str) -> Path:
    # Our own packages are no dependency of npm's, so they are not among the installed ones.
    return (runtime.folder if library in runtime.own_packages else runtime.packages) / library


def _version(package: Path) -> str:
    return str(json.loads((package / "package.json").read_text())["version"])
