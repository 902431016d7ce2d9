"""Makes a folder reachable for jails, whatever the folders above it allow.

As root every jail has a user id of its own, and its mounts are made under that id: it must be able to walk
to their sources, but MILLRACE_HOME is usually closed to others. So the launcher takes a mount namespace of
its own and binds the folder to a place whose parents are open. Nobody outside the launcher and its children
sees that mount.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SLAVE = 0x80000
_PLACES = ("/mnt", "/media", "/srv", "/opt")
_log = logging.getLogger("millrace.launcher")


def open_to_jails(folder: Path) -> Path:
    """A path to `folder` that jails may walk. Call it once, before any other process is started.

    As an ordinary user that is `folder` itself, since jails then run under the user's own id. So it is
    where the kernel permits no mounts; if jails can't reach their root there, the self-test says so.
    """
    folder.chmod(0o755)
    if os.geteuid() != 0:
        return folder
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        _log.warning("no mount namespace for the launcher: %s", os.strerror(ctypes.get_errno()))
        return folder
    target = _unused_place(folder)
    # Slave: mounts that the host makes later still arrive, ours never leave.
    for source, point, flags in (
        (b"none", b"/", _MS_REC | _MS_SLAVE),
        (os.fsencode(folder), os.fsencode(target), _MS_BIND),
    ):
        if libc.mount(source, point, None, flags, None) != 0:
            _log.warning("cannot bind %s to %s: %s", folder, target, os.strerror(ctypes.get_errno()))
            return folder
    return target


def _unused_place(folder: Path) -> Path:
    """A folder of every system, under which nothing lies that this process needs."""
    needed = (folder, Path(sys.prefix), Path(sys.base_prefix), Path(__file__))
    for place in map(Path, _PLACES):
        if place.is_dir() and not any(path.is_relative_to(place) for path in needed):
            return place
    return folder
