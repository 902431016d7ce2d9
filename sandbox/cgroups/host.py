"""Where this process is in the control groups of its host, and why it may lack some."""

from __future__ import annotations

from pathlib import Path


def own_groups(proc: Path) -> dict[str, Path]:
    """This process's own group folder by controller; version 2 has the key "" (as in /proc/self/cgroup)."""
    own: dict[str, str] = {}
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update({controller: path for controller in controllers.split(",")})
    found: dict[str, Path] = {}
    for line in (proc / "self" / "mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        fstype, _, options = tail.split(" ", 2)
        root, point = fields.split()[3:5]
        names = [""] if fstype == "cgroup2" else options.split(" ")[-1].split(",") if fstype == "cgroup" else []
        for name in names:
            if name in own and name not in found:
                found[name] = _inside(Path(point), root, own[name])
    return found


def _inside(point: Path, root: str, path: str) -> Path:
    """Where group `path` appears under a mount whose root is `root`; a container often mounts only its
    part."""
    # A group outside of the cgroup namespace has "/.." in its path; what is mounted is then the nearest.
    if ".." in f"{root}/{path}".split("/") or not Path(path).is_relative_to(root):
        return point
    folder = point / Path(path).relative_to(root)
    return folder if folder.is_dir() else point


def why_missing(home: Path, missing: list[str], held: list[str], absent: list[str], proc: Path) -> str:
    if off := [controller for controller in missing if controller in _switched_off(proc)]:
        return (
            f"the kernel was started without the cgroup controllers {listed(off)}; take cgroup_disable={','.join(off)} "
            f"off its command line (some boards need cgroup_enable={','.join(off)} on it)"
        )
    if held:
        return (
            f"cgroup version 1 has the controllers {listed(held)} but not {listed(absent)}, so that neither version is "
            "complete; mount those as version 1 too, or start the host with systemd.unified_cgroup_hierarchy=1"
        )
    return (
        f"cgroup2 at {home} offers no controllers {listed(missing)}; have them handed down (systemd: Delegate=yes in "
        "the unit, or systemd-run --scope -p Delegate=yes; a container: --cgroupns=private and writable cgroups; "
        f"else {' '.join(f'+{controller}' for controller in missing)} in cgroup.subtree_control of each group above)"
    )


def _switched_off(proc: Path) -> set[str]:
    rows = [line.split() for line in (proc / "cgroups").read_text().splitlines()[1:]]
    return {row[0] for row in rows if row[3] == "0"}


def listed(controllers: list[str]) -> str:
    return ", ".join(controllers)
