"""Builds the read-only root that all jails of a runtime share: a few files, no shell, nothing of the host's
/etc."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sandbox.runtimes import Runtime

LAYOUT = "1"
"""Part of the root's name: raise it when what this module builds changes."""

# nsjail can't make a mount point in a read-only root, so every one of nsjail.cfg's must be here.
_FOLDERS = ("bin", "boot", "dev", "etc", "proc", "run", "tmp")
_DEVICES = ("null", "zero", "urandom", "random")
_PASSWD = "nobody:x:65534:65534:nobody:/tmp:/bin/false\n"
_GROUP = "nogroup:x:65534:\n"


class RootfsError(Exception):
    """The root can't be built; the message says what is missing and how to mend it."""


def build(runtime: Runtime, parent: Path) -> Path:
    """Return the root folder of `runtime` under `parent`, building it if this very content is not there yet.

    The name holds a digest of everything that goes in, so a changed bootstrap or library gets a new root.
    """
    if not runtime.binary.is_file():
        raise RootfsError(
            f"{runtime.name} has no binary at {runtime.binary}; install it with: npm ci --prefix {runtime.folder}"
        )
    root = parent / f"{runtime.name}-{_digest(runtime)}"
    if root.is_dir():
        return root
    parent.mkdir(parents=True, exist_ok=True)
    parent.chmod(0o755)
    draft = parent / f"{root.name}.{os.getpid()}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    _furnish(runtime, draft)
    try:
        draft.rename(root)
    except OSError:
        # Another launcher was faster; its root is the same.
        shutil.rmtree(draft)
        if not root.is_dir():
            raise
    return root


def furnish_bare(root: Path, programs: Mapping[str, bytes]) -> None:
    """Make a root at `root` with the mount points of nsjail.cfg and `programs`, by relative path; no
    runtime."""
    _make_frame(root)
    for name, content in programs.items():
        (root / name).write_bytes(content)
        (root / name).chmod(0o755)
    _open_to_all(root)


def remove_others(parent: Path, keep: Path) -> None:
    """Remove roots of the same runtime that are no longer the current one, and abandoned drafts."""
    runtime_name = keep.name.rpartition("-")[0]
    for other in parent.glob(f"{runtime_name}-*"):
        if other != keep:
            shutil.rmtree(other, ignore_errors=True)


def shared_libraries(binary: Path) -> list[Path]:
    """The dynamic linker and the libraries that `binary` needs, as absolute paths of this host."""
    listing = subprocess.run(
        ["ldd", str(binary)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
    )
    if listing.returncode != 0 or "not found" in listing.stdout:
        raise RootfsError(f"ldd {binary} says: {(listing.stdout + listing.stderr).strip()}")
    return [Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listing.stdout, re.MULTILINE)]


def _digest(runtime: Runtime) -> str:
    digest = hashlib.sha256(LAYOUT.encode())
    binary = runtime.binary.stat()
    digest.update(f"{binary.st_size} {binary.st_mtime_ns}".encode())
    lock = runtime.folder / "package-lock.json"
    for path in (*runtime.bootstrap_files(), *([lock] if lock.is_file() else []), *_own_files(runtime)):
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
    for library in shared_libraries(runtime.binary):
        _copy(library, root / str(library).lstrip("/"))
    for path in runtime.bootstrap_files():
        _copy(path, root / "boot" / path.name)
    packages = root / "boot" / runtime.packages.name
    if runtime.packages.is_dir():
        shutil.copytree(runtime.packages, packages, ignore=_skip(runtime), symlinks=True)
    for name in runtime.own_packages:
        shutil.rmtree(packages / name, ignore_errors=True)
        shutil.copytree(runtime.folder / name, packages / name, dirs_exist_ok=True)
    _open_to_all(root)


def _skip(runtime: Runtime) -> Callable[[str, list[str]], set[str]]:
    def ignore(_folder: str, names: list[str]) -> set[str]:
        return {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in runtime.packages_skip)}

    return ignore


def _link_or_copy(source: Path, target: Path) -> None:
    """For the binary, which is nine tenths of the root: nobody changes one in place, and jails see it read-only."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.resolve(), target)
    target.chmod(0o755)


def _open_to_all(root: Path) -> None:
    """Jails run under other user ids: everything readable, nothing writable by them, whatever the umask
    was."""
    for folder, _, names in os.walk(root):
        os.chmod(folder, 0o755)
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.access(path, os.X_OK) else 0o644)
