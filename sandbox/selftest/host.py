"""The self-test of a host on which no launcher need run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sandbox import cgroups, nsjail, place, proxylink, rootfs, runtimes, selftest
from sandbox.loop import Loop
from sandbox.selftest.finding import Finding, found
from sandbox.slots import Slots


def check(egress_allow: Sequence[str] = ()) -> list[Finding]:
    """Try every layer in a folder of its own; `egress_allow` are the operator's exemptions.

    As root the calling process moves into a mount namespace of its own; see sandbox/place.py.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-selftest-") as folder:
        try:
            tree: cgroups.Tree = cgroups.open_tree(f"millrace-selftest-{os.getpid()}")
        except cgroups.CgroupsUnavailable as error:
            return [found("cgroups", False, str(error)), *_check_in(Path(folder), cgroups.NoTree(), egress_allow)]
        try:
            return _check_in(Path(folder), tree, egress_allow)
        finally:
            tree.remove()


def _check_in(folder: Path, tree: cgroups.Tree, egress_allow: Sequence[str]) -> list[Finding]:
    runtime = runtimes.named(runtimes.DEFAULT)
    try:
        root = rootfs.build(runtime, folder / "roots")
        nsjail.find_binary()
    except (rootfs.RootfsError, nsjail.NsjailMissing) as error:
        return [Finding("jail", False, "what a jail needs is not installed", str(error))]
    probe_root = selftest.build_probe_root(folder / "roots")
    seen = place.open_to_jails(folder)
    proxy = proxylink.ProxyLink(Loop(), egress_allow, lambda: None)
    try:
        slots = Slots(folder / "slots", seen / "slots", tree, proxy)
        roots = [seen / path.relative_to(folder) for path in (root, probe_root)]
        return selftest.quick(slots, runtime, roots[0], roots[1], tree.version, proxy, egress_allow)
    finally:
        proxy.close()
