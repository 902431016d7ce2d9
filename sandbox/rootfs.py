"""Builds the read-only root that all jails of a runtime share: a few files, no shell, nothing of the host's
/etc."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from sandbox import runtimes
from sandbox.runtimes import Runtime
from sandbox.runtimes.interpreters import Interpreter

LAYOUT = "2"
"""Part of the root's name: raise it when what this module builds changes."""

# nsjail can't make a mount point in a read-only root, so every one of nsjail.cfg's must be here.
_FOLDERS = ("bin", "boot", "dev", "etc", "proc", "run", "tmp")
_MODE = 0o755
_DEVICES = ("null", "zero", "urandom", "random")
_LOCKS = ("package-lock.json", "requirements.lock")
_LINKER_FOLDERS = ("/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/")
"""Where the dynamic linker looks by itself; of other folders it may know from a cache, which a jail has not."""
_PROBLEM_CHARS = 2000
_PASSWD = "nobody:x:65534:65534:nobody:/tmp:/bin/false\n"
_GROUP = "nogroup:x:65534:\n"


class RootfsError(Exception):
    """The root can't be built; the message says what is missing and how to mend it."""


def build(runtime: Runtime, parent: Path) -> Path:
    """Return the root folder of `runtime` under `parent`, building it if this very content is not there yet.

    The name holds a digest of everything that goes in, so a changed bootstrap or library gets a new root.
    """
    root = place(runtime, parent)
    if root.is_dir():
        return root
    parent.mkdir(parents=True, exist_ok=True)
    parent.chmod(_MODE)
    draft = parent / f"{root.name}.{os.getpid()}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _furnish(runtime, draft)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    try:
        draft.rename(root)
    except OSError:
        # Another launcher was faster; its root is the same.
        shutil.rmtree(draft)
        if not root.is_dir():
            raise
    return root


def place(runtime: Runtime, parent: Path) -> Path:
    """Where the root of `runtime` under `parent` is, once it is built."""
    return parent / f"{runtime.name}-{_digest(runtime)}"


def main(arguments: Sequence[str]) -> int:
    """python -m sandbox.rootfs NAME FOLDER: build the root of the runtime NAME under FOLDER."""
    name, folder = arguments
    try:
        build(runtimes.named(name), Path(folder))
    except (RootfsError, OSError) as error:
        print(str(error)[:_PROBLEM_CHARS], file=sys.stderr)
        return 1
    return 0


def furnish_bare(root: Path, programs: Mapping[str, bytes]) -> None:
    """Make a root at `root` with the mount points of nsjail.cfg and `programs`, by relative path; no
    runtime."""
    _make_frame(root)
    for name, content in programs.items():
        (root / name).write_bytes(content)
        (root / name).chmod(_MODE)
    _open_to_all(root)


def remove_others(parent: Path, keep: Path) -> None:
    """Remove roots of the same runtime that are no longer the current one, and abandoned drafts."""
    runtime_name = keep.name.rpartition("-")[0]
    for other in parent.glob(f"{runtime_name}-*"):
        if other != keep:
            shutil.rmtree(other, ignore_errors=True)


def shared_libraries(*binaries: Path) -> list[Path]:
    """The dynamic linker and the libraries that these binaries need, as absolute paths of this host."""
    if not binaries:
        return []
    listing = subprocess.run(
        ["ldd", *map(str, binaries)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
    )
    if listing.returncode != 0 or "not found" in listing.stdout:
        names = " ".join(map(str, binaries))
        raise RootfsError(f"ldd {names} says: {(listing.stdout + listing.stderr).strip()}")
    return [Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listing.stdout, re.MULTILINE)]


def _digest(runtime: Runtime) -> str:
    digest = hashlib.sha256(LAYOUT.encode())
    linked = [runtime.binary, *shared_libraries(runtime.binary)]
    if runtime.interpreter is not None:
        linked += [runtime.interpreter.stdlib, runtime.interpreter.stdlib / "lib-dynload"]
    for found in (path.stat() for path in linked):
        digest.update(f"{found.st_size} {found.st_mtime_ns}\0".encode())
    for package in sorted(path.name for path in runtime.packages.glob("*.dist-info")):
        digest.update(f"{package}\0".encode())
    descriptor = [runtime.folder / "runtime.json"]
    locks = [path for name in _LOCKS if (path := runtime.folder / name).is_file()]
    for path in (*runtime.bootstrap_files(), *descriptor, *locks, *_own_files(runtime)):
        digest.update(f"{path.relative_to(runtime.folder)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _own_files(runtime: Runtime) -> Iterator[Path]:
    for name in runtime.own_packages:
        yield from sorted(path for path in (runtime.folder / name).rglob("*") if path.is_file())


def _make_frame(root: Path) -> None:
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)
    for name in _DEVICES:
        (root / "dev" / name).touch()
    (root / "etc" / "passwd").write_text(_PASSWD)
    (root / "etc" / "group").write_text(_GROUP)


def _furnish(runtime: Runtime, root: Path) -> None:
    _make_frame(root)
    _link_or_copy(runtime.binary, root / runtime.binary_in_jail.lstrip("/"))
    needed = set(shared_libraries(runtime.binary))
    if runtime.interpreter is not None:
        needed |= _furnish_library(runtime, runtime.interpreter, root)
    for library in needed:
        is_found = str(library).startswith(_LINKER_FOLDERS)
        _copy(library, root / (str(library).lstrip("/") if is_found else f"usr/lib/{library.name}"))
    for path in runtime.bootstrap_files():
        _copy(path, root / "boot" / path.name)
    packages = root / "boot" / runtime.packages.name
    if runtime.packages.is_dir():
        shutil.copytree(runtime.packages, packages, ignore=_skip(runtime.packages_skip), symlinks=True)
    for name in runtime.own_packages:
        shutil.rmtree(packages / name, ignore_errors=True)
        shutil.copytree(runtime.folder / name, packages / name, dirs_exist_ok=True)
    if runtime.interpreter is not None:
        _compile(runtime.interpreter, root)
    _open_to_all(root)


def _furnish_library(runtime: Runtime, interpreter: Interpreter, root: Path) -> set[Path]:
    """Copy the standard library to where the interpreter looks for it beside /usr/bin; returns the shared libraries
    that its extension modules need."""
    target = root / "usr" / interpreter.stdlib_folder / interpreter.name
    shutil.copytree(interpreter.stdlib, target, ignore=_skip(runtime.stdlib_skip), dirs_exist_ok=True)
    return set(shared_libraries(*sorted((target / "lib-dynload").glob("*.so"))))


def _compile(interpreter: Interpreter, root: Path) -> None:
    """Byte code for all modules, since a jail can't write its own; where the host has it, it is taken over."""
    compiled = subprocess.run(
        [interpreter.binary, "-I", "-S", "-m", "compileall", "-q", "-s", root, "-p", "/", root / "usr", root / "boot"],
        capture_output=True,
        text=True,
        check=False,
    )
    if compiled.returncode != 0:
        raise RootfsError(f"{interpreter.binary} cannot compile its modules: {compiled.stdout}{compiled.stderr}")


def _skip(patterns: Collection[str]) -> Callable[[str, list[str]], set[str]]:
    def ignore(_folder: str, names: list[str]) -> set[str]:
        return {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)}

    return ignore


def _link_or_copy(source: Path, target: Path) -> None:
    """For the binary, which is nine tenths of the root: nobody changes one in place, and jails see it read-only."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    try:
        # Both names are one file, whose mode is not ours to change.
        if stat.S_IMODE(source.stat().st_mode) == _MODE:
            os.link(source, target)
            return
    except OSError:
        pass  # another file system, or somebody else's file
    _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.resolve(), target)
    target.chmod(_MODE)


def _open_to_all(root: Path) -> None:
    """Jails run under other user ids: everything readable, nothing writable by them, whatever the umask
    was."""
    for folder, _, names in os.walk(root):
        os.chmod(folder, _MODE)
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                continue
            mode = stat.S_IMODE(os.stat(path).st_mode)
            wanted = _MODE if mode & stat.S_IXUSR else 0o644
            if mode != wanted:
                os.chmod(path, wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
