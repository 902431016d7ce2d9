"""Control groups that the platform owns: one per slot, limited before a jail starts in it and read after it
ends.

nsjail's own cgroup flags are not used, since nsjail removes its groups at exit and with them the evidence
(peak memory, cpu time, the kill counter). Version 1 needs the controllers memory, pids, cpu and cpuacct;
version 2 a subtree that this process may write, as systemd's `Delegate=yes` or a container gives. Where both
are mounted, the one that has the controllers is used.

On version 2 a group that limits others may hold no processes. The launcher's own group therefore hands its
processes, all of the service's, to a leaf beside the tree; nothing else about them changes.
"""

from __future__ import annotations

from pathlib import Path

from sandbox.cgroups.absent import NoTree
from sandbox.cgroups.contract import CgroupsUnavailable, Group, Reading, Tree
from sandbox.cgroups.files import clear, read
from sandbox.cgroups.host import listed, own_groups, why_missing
from sandbox.cgroups.version1 import CONTROLLERS as V1_CONTROLLERS
from sandbox.cgroups.version1 import TreeV1
from sandbox.cgroups.version2 import CONTROLLERS as V2_CONTROLLERS
from sandbox.cgroups.version2 import LEAF, TreeV2

__all__ = [
    "BOOT_WEIGHT", "LEAF", "REFILL_WEIGHT", "RUN_WEIGHT", "CgroupsUnavailable", "Group", "NoTree", "Reading", "Tree",
    "clear", "open_tree",
]  # fmt: skip

BOOT_WEIGHT = 1.0
"""For a jail that somebody waits for."""
RUN_WEIGHT = 0.1
"""Below that of a boot: scripts that spin must not keep others from starting."""
REFILL_WEIGHT = 0.02
"""For jails that nobody waits for: they boot on what others leave."""


def open_tree(name: str, proc: Path = Path("/proc")) -> Tree:
    """Make the tree `name` below this process's own groups; raises CgroupsUnavailable with the reason.

    The same name is the same place again, for this process and for others of its service.
    """
    groups = own_groups(proc)
    absent = [controller for controller in V1_CONTROLLERS if controller not in groups]
    if not absent:
        return TreeV1(name, {controller: groups[controller] for controller in V1_CONTROLLERS})
    if "" not in groups:
        raise CgroupsUnavailable(
            f"cgroup controllers {listed(absent)} are not mounted and there is no cgroup2 mount either; "
            "mount cgroup2 on /sys/fs/cgroup, or run the container with its cgroups writable"
        )
    home = groups[""].parent if groups[""].name == LEAF else groups[""]
    offered = read(home / "cgroup.controllers").split() if (home / "cgroup.controllers").exists() else []
    missing = [controller for controller in V2_CONTROLLERS if controller not in offered]
    if missing:
        held = [controller for controller in missing if controller in groups]
        raise CgroupsUnavailable(why_missing(home, missing, held, absent, proc))
    return TreeV2(name, home)
