"""The language runtimes: a folder for each language, with a `runtime.json` that describes what is in it.

A runtime is one binary of a language. `runtimes` in the descriptor names them: a path is a binary of our own
packages, a bare name an interpreter of this host, which is offered if it is there. Everything else in the descriptor
is the same for all runtimes of the language.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.runtimes import interpreters
from sandbox.runtimes.interpreters import Interpreter

_FOLDER = Path(__file__).parent
DEFAULT = "nodejs20"
_LOOKED_AT_BYTES = 64 * 1024


class UnknownRuntime(ValueError):
    """There is no runtime of that name."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """How to furnish a root with a language runtime, and how to start its bootstrap there."""

    name: str
    language: str
    folder: Path
    binary: Path
    binary_in_jail: str
    arguments: tuple[str, ...]
    """After the binary; ${HEAP_MB} stands for the heap's size."""
    main: str
    """The file of a script that has only one."""
    bootstrap: tuple[str, ...]
    """Patterns of the files in `folder` that become /boot."""
    packages: Path
    """Folder of third-party packages; becomes a folder of the same name in /boot."""
    packages_skip: tuple[str, ...]
    own_packages: tuple[str, ...]
    """Folders beside the bootstrap that go among the packages, over an installed copy."""
    libraries: tuple[str, ...]
    """Names of the packages that a script may load."""
    import_names: Mapping[str, str]
    """Of those that a script loads by another name."""
    preload: tuple[str, ...]
    """Those of them that take long to load; a jail may have them loaded before it gets a job."""
    preload_signs: tuple[str, ...]
    """What a source has in it that is worth such a jail."""
    modules: tuple[str, ...]
    """Names of the language's own modules that a script may load, in whichever version has them."""
    interpreter: Interpreter | None = None
    """Of a runtime that this host brings: where its standard library is."""
    stdlib_skip: tuple[str, ...] = ()
    """What of the standard library stays outside."""

    def is_preloaded_for(self, source: bytes) -> bool:
        """Whether a script of this source is worth a jail that has the large libraries loaded. A guess: both kinds of
        jail run it alike."""
        head = source[:_LOOKED_AT_BYTES]
        return any(sign.encode() in head for sign in self.preload_signs)

    def bootstrap_files(self) -> list[Path]:
        return sorted({path for pattern in self.bootstrap for path in self.folder.glob(pattern)})


def load_all() -> dict[str, Runtime]:
    """Every runtime whose binary is on this host, by name."""
    return {name: runtime for name in _descriptors() if (runtime := _load(name)) is not None}


def named(name: str) -> Runtime:
    """The runtime of this name; raises UnknownRuntime, naming those there are."""
    runtime = _load(name) if name in _descriptors() else None
    if runtime is None:
        raise UnknownRuntime(f"runtime is {name!r}, but must be one of {', '.join(load_all())}")
    return runtime


@functools.cache
def _descriptors() -> Mapping[str, Path]:
    """The file that describes each runtime, by name."""
    paths = sorted(_FOLDER.glob("*/runtime.json"))
    return {name: path for path in paths for name in json.loads(path.read_text())["runtimes"]}


@functools.cache
def _load(name: str) -> Runtime | None:
    # An interpreter is asked for what it has, which takes a process.
    path = _descriptors()[name]
    described = json.loads(path.read_text())
    where = str(described["runtimes"][name])
    if "/" in where:
        binary = path.parent / where
        return _runtime(path.parent, described, name, binary, None) if binary.is_file() else None
    # Without its libraries it would not be what it says.
    interpreter = interpreters.find(where) if (path.parent / described["packages"]).is_dir() else None
    return None if interpreter is None else _runtime(path.parent, described, name, interpreter.binary, interpreter)


def _runtime(
    folder: Path, described: Mapping[str, Any], name: str, binary: Path, interpreter: Interpreter | None
) -> Runtime:
    def strings(key: str) -> tuple[str, ...]:
        return tuple(map(str, described.get(key, ())))

    modules = strings("modules")
    if interpreter is not None:
        modules = tuple(each for each in modules if each.partition(".")[0] in interpreter.modules)
    return Runtime(
        name=name,
        language=str(described["language"]),
        folder=folder,
        binary=binary,
        binary_in_jail=str(described["binary_in_jail"]),
        arguments=strings("arguments"),
        main=str(described["main"]),
        bootstrap=strings("bootstrap"),
        packages=folder / str(described["packages"]),
        packages_skip=strings("packages_skip"),
        own_packages=strings("own_packages"),
        libraries=strings("libraries"),
        import_names=dict(described.get("import_names", {})),
        preload=strings("preload"),
        preload_signs=strings("preload_signs"),
        modules=modules,
        interpreter=interpreter,
        stdlib_skip=strings("stdlib_skip"),
    )
