"""Slots: numbered places for jails, each with its own user id, control group and socket folder.

A slot belongs to one jail at a time and is reused by later ones. Its name says nothing of whose code runs
in it, since a jail can read the host path of its mounts.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sandbox import cgroups, nsjail, proxylink

MAX_SLOTS = 512


class NoFreeSlot(Exception):
    """As many jails as the launcher may have are there already."""


@dataclass(slots=True)
class Slot:
    name: str
    number: int
    group: cgroups.Group
    folder: Path
    """Holds `run`, with the socket to the egress proxy, and the slot's nsjail.cfg."""
    seen_from_jail: Path
    """The same folder by a path that the jail's user id may walk; see sandbox/place.py."""
    _root: Path | None = None

    def config_for(self, root: Path) -> Path:
        """The slot's nsjail.cfg, with `root` as the root."""
        path = self.folder / "nsjail.cfg"
        if self._root != root:
            path.write_text(nsjail.render_config(root, self.seen_from_jail / "run"))
            self._root = root
        return path

    @property
    def outer_id(self) -> int:
        return nsjail.FIRST_OUTER_ID + self.number


class Slots:
    def __init__(
        self, parent: Path, seen_from_jail: Path, tree: cgroups.Tree, proxy: proxylink.ProxyLink | None
    ) -> None:
        """`parent` must not hold anything of use: it is emptied."""
        self._parent = parent
        self._seen_from_jail = seen_from_jail
        self._tree = tree
        self._proxy = proxy
        self._free: list[Slot] = []
        self._made = 0
        shutil.rmtree(parent, ignore_errors=True)
        parent.mkdir(parents=True)
        parent.chmod(0o755)

    def take(self) -> Slot:
        """A free slot, else a new one; raises NoFreeSlot, and CgroupsUnavailable or OSError if none can be made."""
        if self._free:
            return self._free.pop()
        if self._made >= MAX_SLOTS:
            raise NoFreeSlot(f"{MAX_SLOTS} jails are in use")
        number = self._made
        name = f"s{number}"
        slot = Slot(name, number, self._tree.create(name), self._parent / name, self._seen_from_jail / name)
        slot.folder.mkdir(exist_ok=True)
        slot.folder.chmod(0o755)
        _make_run(slot)
        self._made += 1
        if self._proxy is not None:
            self._proxy.open(name, slot.folder / "run" / "egress.sock")
        return slot

    def give_back(self, slot: Slot) -> None:
        """The slot's jail is gone. Its group is made as good as new, so that no counter and no process outlives a
        jail; raises CgroupsUnavailable or OSError if that fails, and may then be called again."""
        if not _is_reset(slot.group):
            slot.group.remove()
            slot.group = self._tree.create(slot.name)
        self._free.append(slot)

    def remove(self) -> None:
        shutil.rmtree(self._parent, ignore_errors=True)


def _is_reset(group: cgroups.Group) -> bool:
    try:
        return group.reset()
    except (OSError, ValueError):
        return False  # it is half gone already


def _make_run(slot: Slot) -> None:
    """The socket inside is open to whoever gets there, so the folder lets in the slot's own ids alone. The jail
    comes by its group: the owner could change the mode."""
    run = slot.folder / "run"
    run.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(run, 0, slot.outer_id)
        run.chmod(0o750)
