"""The roots of all runtimes: the default one is built before the launcher serves, the others when they are asked for.

Building one copies some thousand files, which the launcher's one thread must not wait for: a process of its own
does it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sandbox import rootfs
from sandbox.loop import Loop
from sandbox.runtimes import Runtime

AGAIN_AFTER_S = 30.0
"""How long the answer to whoever asks for a root that could not be built is the same, before it is tried again."""
_log = logging.getLogger("millrace.launcher")


class Roots:
    def __init__(self, loop: Loop, offered: Mapping[str, Runtime], folder: Path, seen_from_jail: Path) -> None:
        """`folder` holds the roots, `seen_from_jail` is the same by a path that jails may walk.

        Builds the first of them; roots of runtimes that were changed since are removed. Raises rootfs.RootfsError.
        """
        self._loop = loop
        self._offered = dict(offered)
        self._folder = folder
        self._seen_from_jail = seen_from_jail
        self._places = {name: rootfs.place(runtime, folder) for name, runtime in offered.items()}
        first = next(iter(offered))
        self._places[first] = rootfs.build(offered[first], folder)
        self.prepared = (offered[first], seen_from_jail / self._places[first].name)
        """The first runtime, with its root as jails see it."""
        self._builders: dict[str, subprocess.Popen[str]] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self.on_built: Callable[[str, str], None] = lambda name, problem: None
        """Called with the runtime's name when its root is there, or with the problem too when it can't be built."""
        for place in self._places.values():
            rootfs.remove_others(folder, place)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._offered)

    def ready(self, name: str) -> tuple[Runtime, Path] | None:
        """The runtime and its root as jails see it; None while it is not built."""
        place = self._places[name]
        if name in self._builders or not place.is_dir():
            return None
        return self._offered[name], self._seen_from_jail / place.name

    def build(self, name: str) -> None:
        """See to it that the root is built; `on_built` follows. Raises OSError if no process can be started."""
        if name in self._builders:
            return
        failed_at, problem = self._failed.get(name, (-AGAIN_AFTER_S, ""))
        if time.monotonic() < failed_at + AGAIN_AFTER_S:
            self.on_built(name, problem)
            return
        builder = subprocess.Popen(
            [sys.executable, "-m", "sandbox.rootfs", name, str(self._folder)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        end = os.pidfd_open(builder.pid)
        self._builders[name] = builder
        self._loop.watch(end, lambda: self._on_end(name, end))

    def close(self) -> None:
        """End what is still being built; a draft is left for the next start to remove."""
        for builder in self._builders.values():
            builder.kill()
            builder.communicate()

    def _on_end(self, name: str, end: int) -> None:
        self._loop.unwatch(end)
        os.close(end)
        builder = self._builders.pop(name)
        _, said = builder.communicate()
        problem = "" if builder.returncode == 0 else said.strip() or f"its builder ended with code {builder.returncode}"
        if not problem and not self._places[name].is_dir():
            problem = "its files have changed since the launcher started, which must be started again"
        if problem:
            self._failed[name] = (time.monotonic(), problem)
            _log.error("the root of %s cannot be built: %s", name, problem)
        self.on_built(name, problem)
