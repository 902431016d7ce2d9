"""Descriptors of the language runtimes: a folder each, with a `runtime.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent


class UnknownRuntime(ValueError):
    """There is no runtime of that name."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """How to furnish a root with a language runtime, and how to start its bootstrap there."""

    name: str
    folder: Path
    binary: Path
    binary_in_jail: str
    arguments: tuple[str, ...]
    """After the binary; ${HEAP_MB} stands for the heap's size."""
    bootstrap: tuple[str, ...]
    """Patterns of the files in `folder` that become /boot."""
    packages: Path
    """Folder of third-party packages; becomes a folder of the same name in /boot."""
    packages_skip: tuple[str, ...]
    own_packages: tuple[str, ...]
    """Folders beside the bootstrap that go among the packages, over an installed copy."""

    def bootstrap_files(self) -> list[Path]:
        return sorted({path for pattern in self.bootstrap for path in self.folder.glob(pattern)})


def load_all() -> dict[str, Runtime]:
    """Every runtime that has a descriptor, by name."""
    return {runtime.name: runtime for runtime in map(_load, sorted(_FOLDER.glob("*/runtime.json")))}


def named(name: str) -> Runtime:
    runtimes = load_all()
    if name not in runtimes:
        raise UnknownRuntime(f"runtime is {name!r}, but must be one of {', '.join(runtimes)}")
    return runtimes[name]


def _load(path: Path) -> Runtime:
    data = json.loads(path.read_text())
    folder = path.parent

    def strings(key: str) -> Sequence[str]:
        return tuple(str(item) for item in data[key])

    return Runtime(
        name=str(data["name"]),
        folder=folder,
        binary=folder / str(data["binary"]),
        binary_in_jail=str(data["binary_in_jail"]),
        arguments=tuple(strings("arguments")),
        bootstrap=tuple(strings("bootstrap")),
        packages=folder / str(data["packages"]),
        packages_skip=tuple(strings("packages_skip")),
        own_packages=tuple(strings("own_packages")),
    )
