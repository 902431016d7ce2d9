"""Control groups: what is promised of them whatever the version, on the kernel of this machine.

Few machines have both versions. What only version 2 promises is tested where the kernel has it; what is decided
before a kernel is asked (which version, what is missing, and the words for it) is tested on a folder that looks
like one.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox import cgroups
from sandbox.cgroups import LEAF, CgroupsUnavailable, Group, Tree
from tests.launcher import ROOT

MB = 1024 * 1024
NOBODY = 65534
VERSION = 1 if Path("/sys/fs/cgroup/memory").exists() else 2
KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2])
PEAK_RESETS = VERSION == 1 or KERNEL >= (6, 12)
MEMBER = """
import os, sys, threading, time

for file in sys.argv[1:]:
    with open(file, "w") as procs:
        procs.write("0")
held = b""
print("ready", flush=True)
for line in sys.stdin:
    word, _, number = line.partition(" ")
    amount = int(number)
    if word == "hold":
        held = b""
        held = b"x" * amount
    elif word == "burn":
        end = time.process_time() + amount / 1000
        while time.process_time() < end:
            pass
    elif word == "threads":
        never, started = threading.Event(), 0
        try:
            for _ in range(amount):
                threading.Thread(target=never.wait, daemon=True).start()
                started += 1
        except RuntimeError:
            pass
        print(started, flush=True)
        continue
    print("done", flush=True)
"""
USE_AS = """
import os, sys
from sandbox import cgroups
for file in sys.argv[2:]:
    with open(file, "w") as procs:
        procs.write("0")
user = int(sys.argv[1])
os.setgroups([]); os.setgid(user); os.setuid(user)
try:
    tree = cgroups.open_tree("mine")
except cgroups.CgroupsUnavailable as error:
    sys.exit(str(error))
group = tree.create("s0")
group.limit(64 << 20, 20, 1.0)
group.weigh(0.1)
if os.fork() == 0:
    for file in group.join_files:
        with open(file, "w") as procs:
            procs.write("0")
    hog = b"x" * (128 << 20)
    os._exit(0)
_, status = os.wait()
print(tree.version, os.waitstatus_to_exitcode(status), group.oom_kills() > 0)
tree.remove()
print(*[path for path in tree.paths() if os.path.exists(path)])
"""
OPEN = "from sandbox import cgroups\ntree = cgroups.open_tree({!r})\nprint(*tree.paths())\n"

only_version_2 = pytest.mark.skipif(VERSION != 2, reason="the kernel's control groups here are version 1")
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
names = (f"test-{os.getpid()}-{number}" for number in itertools.count())


class Member:
    """A process in a group, that does what it is told."""

    def __init__(self, group: Group) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", MEMBER, *group.join_files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._answer() == "ready"

    def tell(self, word: str, amount: int) -> str:
        """Its answer, or "" if it died of that."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word} {amount}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def exit_code(self) -> int:
        return self.process.wait(timeout=60)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def tree() -> Iterator[Tree]:
    opened = cgroups.open_tree(next(names))
    yield opened
    opened.remove()


@pytest.fixture
def group(tree: Tree) -> Iterator[Group]:
    made = tree.create("s0")
    made.limit(128 * MB, 50, 1.0)
    yield made
    made.remove()


@pytest.fixture
def join() -> Iterator[Callable[[Group], Member]]:
    members: list[Member] = []

    def start(group: Group) -> Member:
        members.append(Member(group))
        return members[-1]

    yield start
    for member in members:
        member.end()


Join = Callable[[Group], Member]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def python(program: str, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def own_folders() -> set[Path]:
    """The groups above a tree of this process, as the kernel calls them."""
    opened = cgroups.open_tree(next(names))
    try:
        return {Path(path).parent for path in opened.paths()}
    finally:
        opened.remove()


# Limits


def test_the_version_with_the_controllers_is_chosen(tree: Tree) -> None:
    assert tree.version == VERSION


def test_who_needs_more_memory_than_the_limit_is_killed_and_counted(group: Group, join: Join) -> None:
    member = join(group)
    assert group.oom_kills() == 0
    assert member.tell("hold", 256 * MB) == ""
    assert member.exit_code() == -signal.SIGKILL
    assert group.oom_kills() > 0
    assert 96 * MB < group.read().peak_memory_bytes <= 128 * MB


def test_who_stays_below_the_limit_is_not_killed(group: Group, join: Join) -> None:
    assert join(group).tell("hold", 64 * MB) == "done"
    assert group.oom_kills() == 0


def test_memory_that_is_in_use_cannot_be_taken_by_a_lower_limit(group: Group, join: Join) -> None:
    member = join(group)
    member.tell("hold", 64 * MB)
    with pytest.raises(OSError, match=r".") as refused:
        group.limit(32 * MB, 50, 1.0)
    assert refused.value.errno == errno.EBUSY
    member.tell("hold", 1)
    group.limit(96 * MB, 50, 1.0)
    assert member.tell("hold", 64 * MB) == "done"


def test_a_raised_limit_serves_at_once(group: Group, join: Join) -> None:
    member = join(group)
    group.limit(256 * MB, 50, 1.0)
    assert member.tell("hold", 192 * MB) == "done"


def test_no_more_threads_start_than_the_limit_has_room_for(group: Group, join: Join) -> None:
    group.limit(128 * MB, 10, 1.0)
    assert join(group).tell("threads", 40) == "9"


def test_cpu_beyond_the_share_has_to_wait_for_the_next_tenth_of_a_second(group: Group, join: Join) -> None:
    member = join(group)
    group.limit(128 * MB, 50, 0.25)
    begin = time.monotonic()
    member.tell("burn", 200)
    # Eight periods of 25 ms each, of which the first and the last need not be whole.
    assert time.monotonic() - begin >= 0.6


def test_the_lighter_group_gets_what_the_heavier_leaves(tree: Tree, join: Join) -> None:
    heavy, light = tree.create("heavy"), tree.create("light")
    members = []
    for group, weight in ((heavy, cgroups.BOOT_WEIGHT), (light, cgroups.REFILL_WEIGHT)):
        group.limit(128 * MB, 50, 2.0)
        group.weigh(weight)
        members.append(join(group))
        os.sched_setaffinity(members[-1].process.pid, {min(os.sched_getaffinity(0))})
    before = light.read().cpu_ms
    assert members[1].process.stdin is not None
    members[1].process.stdin.write("burn 60000\n")
    members[1].process.stdin.flush()
    members[0].tell("burn", 1000)
    assert light.read().cpu_ms - before < 500


# Account


def test_cpu_is_counted_in_milliseconds(group: Group, join: Join) -> None:
    member = join(group)
    before = group.read().cpu_ms
    member.tell("burn", 300)
    assert 290 <= group.read().cpu_ms - before < 600


def test_the_counters_outlive_the_last_process(group: Group, join: Join) -> None:
    member = join(group)
    member.tell("burn", 50)
    member.tell("hold", 64 * MB)
    member.end()
    assert group.read().cpu_ms >= 50
    assert group.read().peak_memory_bytes >= 64 * MB


def test_the_peak_is_that_of_the_run_where_the_kernel_can_and_else_of_the_jail(group: Group, join: Join) -> None:
    member = join(group)
    member.tell("hold", 96 * MB)
    member.tell("hold", 1)
    assert group.read().peak_memory_bytes >= 96 * MB
    group.reset_peak()
    member.tell("hold", 32 * MB)
    member.tell("hold", 1)
    peak = group.read().peak_memory_bytes
    assert 32 * MB <= peak < 96 * MB if PEAK_RESETS else peak >= 96 * MB
    group.reset_peak()
    again = group.read().peak_memory_bytes
    assert again < 32 * MB if PEAK_RESETS else again >= 96 * MB


def test_a_new_group_of_the_same_name_starts_from_zero(tree: Tree, join: Join) -> None:
    first = tree.create("s0")
    first.limit(64 * MB, 50, 1.0)
    join(first).tell("hold", 128 * MB)
    first.remove()
    second = tree.create("s0")
    assert (second.oom_kills(), second.read().cpu_ms < 50) == (0, True)
    assert second.read().peak_memory_bytes < 8 * MB


# Ending


def test_removal_kills_whatever_is_in_the_group_even_if_it_is_stopped(tree: Tree, join: Join) -> None:
    group = tree.create("s0")
    members = [join(group) for _ in range(3)]
    os.kill(members[0].process.pid, signal.SIGSTOP)
    group.remove()
    assert [member.exit_code() for member in members] == [-signal.SIGKILL] * 3
    group.remove()


def test_groups_leave_no_descriptor_and_no_folder_behind(tree: Tree) -> None:
    before = descriptors()
    for number in range(30):
        group = tree.create(f"s{number}")
        group.limit(64 * MB, 50, 1.0)
        for _ in range(3):
            group.reset_peak()
            group.read()
        group.remove()
    assert descriptors() == before
    assert not [path for path in tree.paths() for entry in Path(path).iterdir() if entry.is_dir()]


def test_a_used_group_costs_at_most_one_descriptor(group: Group) -> None:
    before = descriptors()
    for _ in range(100):
        group.reset_peak()
        group.read()
    assert descriptors() <= before + 1


def test_what_a_crashed_launcher_left_is_cleared_by_its_paths_alone(tree: Tree, join: Join) -> None:
    member = join(tree.create("s0"))
    cgroups.clear(tree.paths())
    assert member.exit_code() == -signal.SIGKILL
    assert not [path for path in tree.paths() if os.path.exists(path)]
    cgroups.clear(tree.paths())


def test_the_same_name_is_the_same_place_for_every_process_of_the_service(tree: Tree) -> None:
    name = Path(tree.paths()[0]).name
    again = cgroups.open_tree(name)
    other = python(OPEN.format(name))
    assert other.stderr == ""
    assert tree.paths() == again.paths() == other.stdout.split()


# Whoever may


@only_root
def test_an_ordinary_user_limits_within_what_was_delegated_and_is_told_how_to_get_it(tmp_path: Path) -> None:
    delegated = [folder / next(names) for folder in own_folders()]
    try:
        for folder in delegated:
            folder.mkdir()
        files = [str(folder / "cgroup.procs") for folder in delegated]
        refused = python(USE_AS, str(NOBODY), *files)
        assert refused.returncode == 1
        assert "Permission denied" in refused.stderr
        assert "systemd: Delegate=yes" in refused.stderr
        for folder in delegated:
            for path in (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control"):
                if path.exists():
                    os.chown(path, NOBODY, NOBODY)
        served = python(USE_AS, str(NOBODY), *files)
        assert (served.stdout.split(), served.stderr) == ([str(VERSION), "-9", "True"], "")
    finally:
        cgroups.clear([str(folder) for folder in delegated])


@only_version_2
@only_root
def test_a_service_whose_group_holds_its_processes_moves_them_all_to_a_leaf() -> None:
    (above,) = own_folders()
    unit = above / next(names)
    unit.mkdir()
    join_unit = f"import sys\nopen('{unit}/cgroup.procs', 'w').write('0')\n"
    sibling = subprocess.Popen(
        [sys.executable, "-c", f"{join_unit}print('in', flush=True)\nsys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert sibling.stdout is not None
        assert sibling.stdout.readline() == b"in\n"
        twice = "print(*cgroups.open_tree('t').paths(), open('/proc/self/cgroup').read().split('/')[-1].strip())\n"
        done = python(f"{join_unit}from sandbox import cgroups\n{twice}{twice}")
        assert (done.stdout, done.stderr) == (f"{unit}/t {LEAF}\n" * 2, "")
        assert (unit / LEAF / "cgroup.procs").read_text().split() == [str(sibling.pid)]
        assert (unit / "cgroup.procs").read_text() == ""
    finally:
        sibling.kill()
        sibling.communicate()
        cgroups.clear([str(unit)])


@only_version_2
@only_root
@pytest.mark.parametrize("option", ["rw", "nsdelegate"])
def test_a_container_with_a_cgroup_namespace_of_its_own_is_served_below_its_own_group(option: str) -> None:
    (above,) = own_folders()
    container = above / next(names)
    container.mkdir()
    script = (
        f"echo 0 > {container}/cgroup.procs && exec unshare --cgroup --mount sh -c "
        f"'umount -l /sys/fs/cgroup && mount -t cgroup2 -o {option} none /sys/fs/cgroup && exec \"$@\"' sh \"$@\""
    )
    try:
        done = python(USE_AS, "0", before=("sh", "-c", script, "sh"))
        assert (done.stdout.split(), done.stderr) == (["2", "-9", "True"], "")
    finally:
        cgroups.clear([str(container)])


@only_version_2
def test_all_of_a_jail_dies_when_memory_is_short(group: Group, join: Join) -> None:
    bystander, hog = join(group), join(group)
    hog.tell("hold", 256 * MB)
    assert (hog.exit_code(), bystander.exit_code()) == (-signal.SIGKILL, -signal.SIGKILL)


@only_version_2
def test_a_run_cannot_swap_and_its_share_is_cut_into_tenths_of_a_second(tree: Tree) -> None:
    group = tree.create("s0")
    group.limit(64 * MB, 50, 0.5)
    group.weigh(0.1)
    folder = Path(group.join_files[0]).parent
    expected = {"memory.max": str(64 * MB), "pids.max": "50", "cpu.max": "50000 100000", "cpu.weight": "10"}
    if (folder / "memory.swap.max").exists():
        expected["memory.swap.max"] = "0"
    assert {name: (folder / name).read_text().strip() for name in expected} == expected


# A folder that looks like a host: what is decided before the kernel is asked


class Host:
    """Folders that look like /proc and the mounts of a host; no kernel limits anything in them."""

    def __init__(self, folder: Path) -> None:
        self.proc, self._folder = folder / "proc", folder
        (self.proc / "self").mkdir(parents=True)
        self._own: list[str] = []
        self._mounts: list[str] = []
        self.switched_off: set[str] = set()

    def v1(self, *controllers: str) -> None:
        for controller in controllers:
            (self._folder / controller).mkdir()
            self._own.append(f"4:{controller}:/")
            self._mount("/", self._folder / controller, "cgroup", controller)

    def v2(self, offers: str, path: str = "/", root: str = "/", holds: str = ".") -> Path:
        """cgroup2, mounted from its group `root`; this process is in `path`, which is the folder `holds` there."""
        mount = self._folder / "unified"
        home = mount / holds
        home.mkdir(parents=True)
        self._own.append(f"0::{path}")
        self._mount(root, mount, "cgroup2", "")
        home = home.parent if home.name == LEAF else home
        (home / "t").mkdir()
        for file in ("cgroup.procs", "cgroup.subtree_control", "t/cgroup.subtree_control"):
            (home / file).touch()
        (home / "cgroup.controllers").write_text(offers + "\n")
        return home

    def _mount(self, root: str, point: Path, fstype: str, options: str) -> None:
        self._mounts.append(f"36 31 0:33 {root} {point} rw,relatime - {fstype} {fstype} rw,{options}")

    def open(self) -> Tree:
        rows = [f"{name}\t0\t1\t{int(name not in self.switched_off)}" for name in ("cpu", "memory", "pids")]
        (self.proc / "cgroups").write_text("\n".join(["#subsys_name\thierarchy\tnum_cgroups\tenabled", *rows, ""]))
        (self.proc / "self" / "cgroup").write_text("\n".join([*self._own, ""]))
        (self.proc / "self" / "mountinfo").write_text("\n".join([*self._mounts, ""]))
        return cgroups.open_tree("t", self.proc)

    def refusal(self) -> str:
        with pytest.raises(CgroupsUnavailable) as refused:
            self.open()
        return str(refused.value)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_hybrid_host_is_served_by_version_1(host: Host) -> None:
    host.v2(offers="")
    host.v1("memory", "pids", "cpu", "cpuacct")
    assert host.open().version == 1


def test_version_2_alone_is_served_below_the_groups_own_folder(host: Host) -> None:
    home = host.v2("cpu memory pids", path="/system.slice/millrace.service", holds="system.slice/millrace.service")
    opened = host.open()
    assert (opened.version, opened.paths()) == (2, [str(home / "t")])


def test_a_container_that_sees_only_its_part_of_the_tree_is_served_there(host: Host) -> None:
    home = host.v2("cpu memory pids", path="/docker/c1", root="/docker/c1")
    assert host.open().paths() == [str(home / "t")]


def test_a_group_outside_of_the_namespace_is_not_looked_for_above_the_mount(host: Host) -> None:
    home = host.v2("cpu memory pids", path="/../c2")
    (home / "c2").mkdir()
    assert host.open().paths() == [str(home / "t")]


def test_a_service_started_in_the_leaf_has_its_tree_beside_it(host: Host) -> None:
    unit = host.v2("cpu memory pids", path=f"/m.service/{LEAF}", holds=f"m.service/{LEAF}")
    assert host.open().paths() == [str(unit / "t")]


def test_a_controller_that_is_not_handed_down_is_named_with_the_way_to_get_it(host: Host) -> None:
    host.v2(offers="memory io")
    assert "offers no controllers pids, cpu; have them handed down (systemd: Delegate=yes" in host.refusal()
    assert "+pids +cpu in cgroup.subtree_control" in host.refusal()


def test_a_controller_that_the_kernel_lacks_is_named_with_its_boot_parameter(host: Host) -> None:
    host.v2(offers="pids cpu")
    host.switched_off.add("memory")
    assert "without the cgroup controllers memory; take cgroup_disable=memory off" in host.refusal()


def test_controllers_split_between_the_versions_are_named(host: Host) -> None:
    host.v2(offers="cpu")
    host.v1("memory", "pids")
    assert "version 1 has the controllers memory, pids but not cpu, cpuacct" in host.refusal()
    assert "systemd.unified_cgroup_hierarchy=1" in host.refusal()


def test_a_host_without_any_is_told_what_to_mount(host: Host) -> None:
    host.v1("memory")
    assert "pids, cpu, cpuacct are not mounted and there is no cgroup2 mount" in host.refusal()
