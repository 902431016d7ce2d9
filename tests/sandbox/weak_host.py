"""python -m tests.sandbox.weak_host: runs the self-test on jails that lack something.

Reads one JSON object a line: `config` and `policy` are texts to replace in nsjail.cfg and seccomp.policy, `without`
names a limit that is not set, `outer_id` a user id for all jails; and answers each with the findings.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from sandbox import cgroups, nsjail, rootfs, runtimes, selftest
from sandbox.slots import Slot, Slots

UNLIMITED = {"memory": 1 << 40, "pids": 10_000, "cpu": 64.0}
SWAP_LIMITS = {"memory.memsw.limit_in_bytes": "-1", "memory.swap.max": "max"}


class LaxTree:
    """Control groups without one of their limits."""

    def __init__(self, tree: cgroups.Tree, without: str) -> None:
        self.version = tree.version
        self._tree = tree
        self._without = without

    def create(self, name: str) -> cgroups.Group:
        # One of an earlier look has that one's limits and counters.
        self._tree.create(name).remove()
        group = self._tree.create(name)
        limit = group.limit

        def lax(memory_bytes: int, pids: int, cpus: float) -> None:
            wanted = {"memory": memory_bytes, "pids": pids, "cpu": cpus}
            if self._without in UNLIMITED:
                wanted[self._without] = UNLIMITED[self._without]
            limit(int(wanted["memory"]), int(wanted["pids"]), wanted["cpu"])
            if self._without == "swap":
                self._allow_swap(group)

        group.limit = lax  # type: ignore[method-assign]
        return group

    @staticmethod
    def _allow_swap(group: cgroups.Group) -> None:
        for folder in {Path(file).parent for file in group.join_files}:
            for name, value in SWAP_LIMITS.items():
                if (folder / name).exists():
                    (folder / name).write_text(value)

    def paths(self) -> list[str]:
        return self._tree.paths()

    def remove(self) -> None:
        self._tree.remove()


def weakened(original: Path, changes: list[list[str]], folder: Path) -> Path:
    text = original.read_text()
    for old, new in changes:
        assert old in text, f"{original.name} has no {old!r}"
        text = text.replace(old, new)
    changed = folder / original.name
    changed.write_text(text)
    return changed


def always(value: int) -> property:
    return property(lambda _slot: value)


def main() -> None:
    slot_class: Any = Slot
    config, policy, outer_id = nsjail.CONFIG, nsjail.POLICY, slot_class.outer_id
    with tempfile.TemporaryDirectory(prefix="millrace-weak-") as name:
        # Jails run under other ids: they must be able to walk to their root.
        folder = Path(name)
        folder.chmod(0o755)
        runtime = runtimes.named(runtimes.DEFAULT)
        root, probe_root = rootfs.build(runtime, folder / "roots"), selftest.build_probe_root(folder / "roots")
        tree = cgroups.open_tree(f"millrace-weak-{os.getpid()}")
        try:
            for line in sys.stdin:
                lacking: dict[str, Any] = json.loads(line)
                nsjail.CONFIG = weakened(config, lacking.get("config", []), folder)
                nsjail.POLICY = weakened(policy, lacking.get("policy", []), folder)
                slot_class.outer_id = always(lacking["outer_id"]) if "outer_id" in lacking else outer_id
                slots = Slots(folder / "slots", folder / "slots", LaxTree(tree, lacking.get("without", "")), None)
                findings = selftest.quick(slots, runtime, root, probe_root, tree.version)
                print(json.dumps([dataclasses.asdict(finding) for finding in findings]), flush=True)
        finally:
            tree.remove()


if __name__ == "__main__":
    main()
