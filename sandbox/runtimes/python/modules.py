"""What a script's import statement gives: its own files, from memory; the installed libraries; and modules of the
standard library that neither start processes, nor reach raw memory, nor load native code.

This is for good messages; the jail holds without it. Libraries import what they like.
"""

from __future__ import annotations

import builtins
import os
import sys
from _frozen_importlib import ModuleSpec, module_from_spec
from _frozen_importlib_external import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import CodeType, ModuleType
    from typing import Any

LIBRARIES = ("certifi", "dateutil", "httpx", "requests", "urllib3")
STANDARD = frozenset(
    {
        "__future__", "abc", "argparse", "array", "ast", "asyncio", "base64", "binascii", "bisect", "builtins", "bz2",
        "calendar", "cmath", "codecs", "collections", "colorsys", "concurrent", "configparser", "contextlib",
        "contextvars", "copy", "copyreg", "csv", "dataclasses", "datetime", "decimal", "difflib", "dis", "email",
        "encodings", "enum", "errno", "faulthandler", "filecmp", "fileinput", "fnmatch", "fractions", "ftplib",
        "functools", "gc", "getopt", "gettext", "glob", "graphlib", "gzip", "hashlib", "heapq", "hmac", "html",
        "http", "imaplib", "importlib", "inspect", "io", "ipaddress", "itertools", "json", "keyword", "linecache",
        "locale", "logging", "lzma", "math", "mimetypes", "numbers", "operator", "os", "pathlib", "pickle",
        "pickletools", "pkgutil", "platform", "plistlib", "poplib", "posixpath", "pprint", "queue", "quopri",
        "random", "re", "reprlib", "resource", "sched", "secrets", "select", "selectors", "shelve", "shlex", "shutil",
        "signal", "smtplib", "socket", "sqlite3", "ssl", "stat", "statistics", "string", "stringprep", "struct",
        "sys", "tarfile", "tempfile", "textwrap", "threading", "time", "timeit", "token", "tokenize", "tomllib",
        "traceback", "tracemalloc", "types", "typing", "unicodedata", "unittest", "urllib", "uuid", "warnings",
        "wave", "weakref", "xml", "xmlrpc", "zipfile", "zlib", "zoneinfo",
    }
)  # fmt: skip
HOME = "/script/"
_OFFER = (
    f"Scripts can import their own files, {', '.join(LIBRARIES)}, and the standard library without what starts "
    "processes, reaches raw memory, loads native code, serves a network or needs a terminal"
)

_native_import = builtins.__import__
_standard_names = sys.stdlib_module_names
_installed: set[str] = set()
_own: set[str] = set()
_approved: set[str] = set()


class Loader:
    """Loads one file of the script from memory. Its code has the name that the script knows."""

    def __init__(self, script: Script, path: str) -> None:
        self._script = script
        self._path = path

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.get_code(), module.__dict__)

    def get_code(self, name: str = "") -> CodeType:
        return compile(self._script.files[self._path], self._path, "exec", dont_inherit=True)

    def get_source(self, name: str) -> str:
        """For tracebacks, and for `inspect`."""
        return self._script.files[self._path].decode("utf-8-sig", "replace")

    def get_data(self, path: str) -> bytes:
        """For `pkgutil.get_data`."""
        try:
            return self._script.files[path.removeprefix(HOME)]
        except KeyError:
            raise FileNotFoundError(f"the script has no file {path!r}") from None

    def is_package(self, name: str) -> bool:
        return self._path.endswith("/__init__.py")


class Script:
    """The files of one version of a script, and a finder of its modules."""

    def __init__(self, files: Mapping[str, bytes], main: str) -> None:
        self.files = files
        self._main = main
        self._folders = {
            path[:at]
            for path in files
            if path.endswith(".py")
            for at, letter in enumerate(path)
            if letter == "/"
        }
        # As for any script that Python starts, modules beside the main file come first.
        beside = main.rpartition("/")[0]
        self._roots = (f"{beside}/", "") if beside else ("",)

    def top_level(self) -> set[str]:
        """The names under which an import statement finds something of the script's."""
        names = set()
        for root in self._roots:
            for path in self.files:
                if path.startswith(root) and path.endswith(".py"):
                    names.add(path[len(root) :].partition("/")[0].removesuffix(".py"))
        return names

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if path is None:
            if name in _standard_names:
                return None
            bases = [root + name for root in self._roots]
        else:
            last = name.rpartition(".")[2]
            bases = [f"{folder.removeprefix(HOME)}/{last}" for folder in path if folder.startswith(HOME)]
        for base in bases:
            for file in (f"{base}/__init__.py", f"{base}.py"):
                if file in self.files:
                    return self._spec(name, file)
        for base in bases:
            if base in self._folders:
                spec = ModuleSpec(name, None, is_package=True)
                spec.submodule_search_locations = [HOME + base]
                return spec
        return None

    def _spec(self, name: str, file: str) -> ModuleSpec:
        loader = Loader(self, file)
        is_package = loader.is_package(name)
        spec = ModuleSpec(name, loader, origin=HOME + file, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [HOME + file.rpartition("/")[0]]
        return spec

    def load(self) -> ModuleType:
        """Run the main file. Raises whatever it raises."""
        _own.clear()
        _own.update(self.top_level())
        _approved.clear()
        sys.meta_path.insert(-1, self)  # before the finder of files
        name = self.stem
        module = module_from_spec(self._spec(name, self._main))
        if name in _standard_names:
            # Libraries expect another one of that name.
            Loader(self, self._main).exec_module(module)
            return module
        sys.modules[name] = module
        try:
            Loader(self, self._main).exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        return module

    @property
    def stem(self) -> str:
        """The name of the main file's module."""
        return self._main.rpartition("/")[2].removesuffix(".py")

    def forget(self) -> None:
        """Undo `load`, as far as a rehearsal needs it."""
        sys.meta_path.remove(self)
        sys.modules.pop(self.stem, None)


def _check(name: str) -> None:
    """Raise ImportError for what scripts are not offered."""
    top = name.partition(".")[0]
    if top in _own:
        if top in _standard_names:
            raise ImportError(
                f"The script's own {top} has the name of a module of the standard library; give it another one",
                name=name,
            )
    elif top not in STANDARD and top not in _installed:
        if top in _standard_names:
            raise ImportError(f"Module '{name}' is not available to scripts. {_OFFER}", name=name)
        raise ModuleNotFoundError(f"No module named '{name}'. {_OFFER}", name=name)
    _approved.add(name)


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    if level == 0 and name not in _approved:
        importer = sys._getframe(1).f_globals if globals is None else globals
        if type(importer.get("__loader__")) is Loader:
            _check(name)
    return _native_import(name, globals, locals, fromlist or (), level)


class _Patches:
    """A finder that changes a module once it has been loaded, so that nothing is loaded for the change's sake."""

    def __init__(self) -> None:
        self._waiting: dict[str, Callable[[ModuleType], None]] = {}

    def after(self, name: str, patch: Callable[[ModuleType], None]) -> None:
        if name in sys.modules:
            patch(sys.modules[name])
        else:
            self._waiting[name] = patch

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        patch = self._waiting.pop(name, None)
        if patch is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                patch(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_patches = _Patches()


def after(name: str, patch: Callable[[ModuleType], None]) -> None:
    """Call `patch` with the module of this name as soon as something has imported it."""
    _patches.after(name, patch)


def _patch_importlib(importlib: ModuleType) -> None:
    native = importlib.import_module

    def import_module(name: str, package: str | None = None) -> ModuleType:
        if not name.startswith(".") and type(sys._getframe(1).f_globals.get("__loader__")) is Loader:
            _check(name)
        return native(name, package)  # type: ignore[no-any-return]

    importlib.import_module = import_module  # type: ignore[attr-defined]


def install(packages: str) -> None:
    """Let scripts import what is on offer. `packages` is the folder of the libraries and of what these need, which a
    script is not offered: another version of a library may do without it."""
    _installed.update(name for name in LIBRARIES if os.path.isdir(f"{packages}/{name}"))
    builtins.__import__ = _import
    sys.meta_path.insert(0, _patches)
    after("importlib", _patch_importlib)
