"""What scripts find in each installed runtime: its version, the libraries and the language's own modules.

The names stand in `runtime.json`, the versions in what is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from sandbox import runtimes
from sandbox.runtimes import Runtime


@dataclass(frozen=True, slots=True)
class Installed:
    """One runtime."""

    name: str
    version: str
    libraries: Mapping[str, str]
    """Name to version of the packages that a script may load."""
    modules: tuple[str, ...]
    """What else a script may load: the language's own modules, and the libraries that are loaded by another name."""


def installed() -> tuple[Installed, ...]:
    """Every runtime whose binary is here, by name. Raises OSError when a package that a descriptor names is not."""
    return tuple(_read(runtime) for _, runtime in sorted(runtimes.load_all().items()))


def _read(runtime: Runtime) -> Installed:
    return Installed(
        name=runtime.name,
        version=_version(runtime),
        libraries={name: _library_version(runtime, name) for name in runtime.libraries},
        modules=(*runtime.modules, *runtime.import_names.values()),
    )


def _version(runtime: Runtime) -> str:
    if runtime.interpreter is not None:
        return runtime.interpreter.version
    # The binary lies in a package of its own, which carries the version of what is in it.
    return _node_version(runtime, runtime.binary.relative_to(runtime.packages).parts[0])


def _library_version(runtime: Runtime, name: str) -> str:
    return _node_version(runtime, name) if runtime.language == "javascript" else _python_version(runtime, name)


def _node_version(runtime: Runtime, package: str) -> str:
    # Our own packages are no dependency of npm's, so they are not among the installed ones.
    folder = (runtime.folder if package in runtime.own_packages else runtime.packages) / package
    return str(json.loads((folder / "package.json").read_text())["version"])


def _python_version(runtime: Runtime, package: str) -> str:
    for found in metadata.distributions(name=package, path=[str(runtime.packages)]):
        return found.version
    raise FileNotFoundError(f"{package} is not installed in {runtime.packages}; install it with: make setup")
