"""The self-test tells a host that holds from one that does not, layer by layer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import nsjail
from sandbox.selftest.finding import Finding
from tests.launcher import ROOT, start_launcher

LAYERS = [
    "jail", "user", "capabilities", "no_new_privs", "namespaces", "mounts", "descriptors", "rlimits", "network",
    "hostname", "root", "files", "processes", "tmp", "seccomp", "sockets", "forks", "syscalls",
    "memory", "swap", "pids", "cpu", "kill", "egress",
]  # fmt: skip

PROC = 'mount { dst: "/proc"'
AFTER_ROOT = "# The four devices"
NO_POLICY = ("seccomp_policy_file", "#seccomp_policy_file")
OWN_PROCESSES = ("clone_newpid: true", "clone_newpid: false")
FORK_ALLOWED = [("fork, vfork, ", "vfork, "), ("getpid, getppid", "getpid, fork, getppid")]

WEAK_CONFIGS: list[tuple[list[tuple[str, str]], str]] = [
    ([("keep_caps: false", "keep_caps: true")], "capabilities"),
    (
        [("disable_no_new_privs: false", "disable_no_new_privs: true"), NO_POLICY],
        "no_new_privs seccomp sockets forks syscalls",
    ),
    ([("clone_newnet: true", "clone_newnet: false")], "namespaces network"),
    ([("clone_newipc: true", "clone_newipc: false")], "namespaces"),
    ([("clone_newuts: true", "clone_newuts: false")], "namespaces hostname"),
    ([("clone_newcgroup: true", "clone_newcgroup: false")], "namespaces"),
    ([OWN_PROCESSES, (PROC, "#" + PROC)], "namespaces mounts processes"),
    ([('hostname: "jail"', 'hostname: "host"')], "hostname"),
    ([("iface_no_lo: true", "iface_no_lo: false")], "network"),
    ([("mode: ONCE", "mode: ONCE pass_fd: 6")], "descriptors"),
    ([("rlimit_core: 0", "rlimit_core: 1")], "rlimits"),
    ([("rlimit_fsize: 32", "rlimit_fsize: 64")], "rlimits tmp"),
    ([("rlimit_nofile: 256", "rlimit_nofile: 512")], "rlimits"),
    ([("rlimit_stack: 8", "rlimit_stack: 16")], "rlimits"),
    ([("rlimit_memlock: 64", "rlimit_memlock: 128")], "rlimits"),
    ([("rlimit_msgqueue: 0", "rlimit_msgqueue: 4096")], "rlimits"),
    ([('dst: "/" is_bind: true', 'dst: "/" is_bind: true rw: true')], "root mounts"),
    ([('dst: "/" is_bind: true nosuid: true', 'dst: "/" is_bind: true')], "mounts"),
    ([('dst: "/run" is_bind: true', 'dst: "/run" is_bind: true rw: true')], "root mounts"),
    ([('"/run" is_bind: true nosuid: true nodev: true noexec: true', '"/run" is_bind: true')], "mounts"),
    ([('rw: true nosuid: true nodev: true noexec: true', "rw: true nosuid: true nodev: true")], "tmp mounts"),
    ([("size=33554432", "size=67108864")], "tmp mounts"),
    ([("nr_inodes=4096", "nr_inodes=9000")], "tmp mounts"),
    ([("subset=pid,", "")], "files processes mounts"),
    ([(",hidepid=invisible", "")], "mounts"),
    (
        [(AFTER_ROOT, f'mount {{ src: "/etc" dst: "/etc" is_bind: true nosuid: true nodev: true }}\n{AFTER_ROOT}')],
        "files mounts",
    ),
    ([NO_POLICY], "seccomp sockets forks syscalls"),
]
WEAK_POLICIES: list[tuple[list[tuple[str, str]], str]] = [
    *(
        ([(f"{call},", "")], "seccomp")
        for call in ("ptrace", "process_vm_readv", "unshare", "bpf", "io_uring_enter", "keyctl", "perf_event_open")
    ),
    ([("    mount, umount", "    umount")], "seccomp"),
    ([("socket { family == AF_UNIX },\n    socketpair", "socket,\n    socketpair")], "sockets"),
    (FORK_ALLOWED, "forks"),
    ([("clone { (clone_flags & CLONE_THREAD) == CLONE_THREAD && ", "clone { ")], "forks"),
    ([(" && (clone_flags & NEWNS_ANY) == 0", "")], "forks"),
    ([("clone3, ", ""), ("getpid, getppid", "getpid, clone3, getppid")], "forks"),
    ([("DEFAULT ERRNO(38)", "DEFAULT ALLOW")], "syscalls"),
    ([("setuid, setgid, ", "setgid, "), ("getpid, getppid", "getpid, setuid, getppid")], "syscalls"),
    ([("prctl { option == PR_SET_NAME", "prctl { option == 4 || option == PR_SET_NAME")], "syscalls"),
    ([("ioctl { cmd != TIOCSTI && cmd != TIOCLINUX }", "ioctl")], "syscalls"),
    ([(", kill { pid == 0xffffffff }", "")], "syscalls"),
]
# An ordinary user's jails have no other id than its own, so that there is nothing to weaken.
WEAK_IDS = [0, nsjail.FIRST_OUTER_ID] if os.geteuid() == 0 else []

# One number limits memory and swap in version 1 of control groups; in version 2 each has its own.
ONE_LIMIT = Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()

Look = Callable[..., set[str]]


@pytest.fixture(scope="module")
def missing() -> Iterator[Look]:
    """Runs the self-test on weakened jails, and says which layers it finds missing."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.sandbox.weak_host"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    requests, answers = process.stdin, process.stdout

    def look(**lacking: Any) -> set[str]:
        requests.write(json.dumps(lacking) + "\n")
        requests.flush()
        findings = json.loads(answers.readline())
        assert all(bool(finding["remedy"]) != finding["holds"] for finding in findings)
        return {finding["layer"] for finding in findings if not finding["holds"]}

    yield look
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    process.stdout.close()


def python(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_layer_holds_on_this_host_and_nothing_stays_behind(tmp_path: Path) -> None:
    done = python("sandbox.selftest", COLUMNS="100", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows, last = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert head.split() == ["LAYER", "STATE", "FOUND"]
    assert [row.split()[:2] for row in rows] == [[layer, "ok"] for layer in LAYERS]
    assert last == f"All {len(LAYERS)} layers hold"
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert list(tmp_path.iterdir()) == []
    assert not list(Path("/sys/fs/cgroup").glob("**/millrace-selftest-*/s*"))


def test_machines_get_the_same_as_json() -> None:
    done = python("sandbox.selftest", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads(done.stdout)
    assert [finding["layer"] for finding in findings] == LAYERS
    assert {(finding["holds"], finding["remedy"]) for finding in findings} == {(True, "")}
    assert python("sandbox.selftest", "--loud").returncode == os.EX_USAGE


def test_a_wrong_setting_ends_the_self_test_with_a_sentence() -> None:
    done = python("sandbox.selftest", MILLRACE_SANDBOX_MODE="loose")
    assert (done.returncode, done.stdout) == (os.EX_CONFIG, "")
    assert done.stderr.startswith("sandbox.selftest: MILLRACE_SANDBOX_MODE is 'loose'")


def test_the_jail_as_it_is_has_every_layer(missing: Look) -> None:
    assert missing() == set()


@pytest.mark.parametrize(("changes", "layers"), WEAK_CONFIGS, ids=lambda value: str(value)[:60])
def test_a_layer_that_the_configuration_takes_away_is_missing(
    missing: Look, changes: list[tuple[str, str]], layers: str
) -> None:
    assert missing(config=changes) == set(layers.split())


@pytest.mark.parametrize(("changes", "layers"), WEAK_POLICIES, ids=lambda value: str(value)[:60])
def test_a_layer_that_the_policy_takes_away_is_missing(
    missing: Look, changes: list[tuple[str, str]], layers: str
) -> None:
    assert missing(policy=changes) == set(layers.split())


@pytest.mark.parametrize(
    ("limit", "layers"),
    [("memory", "memory swap" if ONE_LIMIT else "memory"), ("swap", "swap"), ("pids", "pids"), ("cpu", "cpu")],
)
def test_a_limit_that_is_not_set_is_missing(missing: Look, limit: str, layers: str) -> None:
    assert missing(without=limit) == set(layers.split())


@pytest.mark.parametrize("outer_id", WEAK_IDS)
def test_jails_that_share_a_user_or_are_the_hosts_root_are_found_out(missing: Look, outer_id: int) -> None:
    assert missing(outer_id=outer_id) == {"user"}


def test_what_outlives_its_jail_is_found_out(missing: Look) -> None:
    found = missing(config=[OWN_PROCESSES, (PROC, "#" + PROC)], policy=FORK_ALLOWED)
    assert found == {"namespaces", "mounts", "processes", "forks", "kill"}


def test_a_proxy_that_lets_a_jail_reach_this_host_is_found_out() -> None:
    lax = 'proxylink.ProxyLink = lambda loop, allow, on_exit: real(loop, ["127.0.0.0/8"], on_exit)'
    (finding,) = findings_of("egress", lax)
    assert not finding.holds
    assert finding.detail.startswith("127.0.0.1:22 is answered 'HTTP/1.1 ")
    assert "169.254.169.254" not in finding.detail


def test_what_the_operator_exempts_may_be_reached() -> None:
    (finding,) = findings_of("egress", "", "127.0.0.0/8")
    assert finding.holds


def test_a_proxy_that_is_not_there_is_found_out() -> None:
    dead = "egress.PATIENCE_S = 0.1; proxylink.ProxyLink.open = lambda *_: None"
    (finding,) = findings_of("egress", dead)
    assert (finding.holds, finding.detail) == (False, "the proxy does not answer")


def test_a_jail_has_as_long_to_boot_as_the_pool_gives_it() -> None:
    (finding,) = findings_of("jail", "from sandbox import pool; pool.BOOT_TIMEOUT_S = 0.0")
    assert (finding.holds, finding.detail) == (False, "a jail cannot be booted: it did not become ready")


def test_what_needs_its_time_to_end_does_not_end_the_self_test() -> None:
    slow = (
        "from sandbox import cgroups, slots\n"
        "give_back, asked = slots.Slots.give_back, set()\n"
        "def slowly(self, slot):\n"
        "    if slot.name not in asked:\n"
        "        asked.add(slot.name)\n"
        "        raise cgroups.CgroupsUnavailable('processes in it do not end')\n"
        "    give_back(self, slot)\n"
        "slots.Slots.give_back = slowly\n"
    )
    (finding,) = findings_of("kill", slow)
    assert finding.holds


def findings_of(layer: str, change: str, *allow: str) -> list[Finding]:
    """What a self-test finds out about `layer` in a process where `change` was made."""
    program = (
        "import json, sys, dataclasses\n"
        "from sandbox import proxylink\n"
        "from sandbox.selftest import egress, host\n"
        "real = proxylink.ProxyLink\n"
        f"{change}\n"
        "found = [each for each in host.check(sys.argv[2:]) if each.layer == sys.argv[1]]\n"
        "print(json.dumps([dataclasses.asdict(each) for each in found]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, layer, *allow], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    return [Finding(**each) for each in json.loads(done.stdout)]


def nested(setting: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run it as root of a user namespace, after `setting` was made there."""
    shell = f'{setting}; exec "$@"'
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", shell, "sh", sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_kernel_that_forbids_user_namespaces_is_named_with_its_setting() -> None:
    done = nested("echo 0 > /proc/sys/user/max_user_namespaces", "sandbox.selftest", "--json")
    jail = next(each for each in json.loads(done.stdout) if each["layer"] == "jail")
    assert (done.returncode, jail["holds"]) == (1, False)
    assert jail["remedy"].startswith("Allow user namespaces: sysctl -w user.max_user_namespaces=")


def test_a_container_without_the_ids_of_jails_is_named() -> None:
    done = nested("true", "sandbox.selftest", "--json")
    jail = next(each for each in json.loads(done.stdout) if each["layer"] == "jail")
    assert (done.returncode, jail["holds"]) == (1, False)
    assert "too few user ids" in jail["remedy"]


def test_a_host_without_cgroups_is_refused_in_strict_mode_and_named_in_permissive(tmp_path: Path) -> None:
    blind = tmp_path / "sitecustomize.py"
    blind.write_text(
        "import sandbox.cgroups as c\n"
        "def none(name): raise c.CgroupsUnavailable('no controllers here; delegate some')\n"
        "c.open_tree = none\n"
    )
    path = f"{tmp_path}:{ROOT}"
    refusal = pytest.raises(RuntimeError, match=r"cannot be limited: no controllers here; delegate some")
    with refusal, start_launcher(tmp_path / "strict", PYTHONPATH=path):
        raise AssertionError("it started")
    with start_launcher(tmp_path / "loose", PYTHONPATH=path, MILLRACE_SANDBOX_MODE="permissive"):
        log = (tmp_path / "loose" / "launcher.log").read_text()
    assert "NOT limited" in log
    assert "MISSING: memory, pids, cpu" in log


def test_strict_mode_refuses_to_start_and_names_each_missing_layer_with_its_fix(tmp_path: Path) -> None:
    weak = tmp_path / "nsjail.cfg"
    text = nsjail.CONFIG.read_text()
    weak.write_text(text.replace("keep_caps: false", "keep_caps: true").replace("iface_no_lo: true", ""))
    (tmp_path / "sitecustomize.py").write_text(
        f"import pathlib\nimport sandbox.nsjail as n\nn.CONFIG = pathlib.Path({str(weak)!r})\n"
    )
    with pytest.raises(RuntimeError) as refusal, start_launcher(tmp_path / "home", PYTHONPATH=f"{tmp_path}:{ROOT}"):
        raise AssertionError("it started")
    said = str(refusal.value).rpartition("self-test failed")[2]
    assert "capabilities: CapInh" in said and "must have keep_caps: false" in said
    assert "network: the loopback interface is up" in said and "must have iface_no_lo: true" in said
    assert "MILLRACE_SANDBOX_MODE=permissive" in said


def test_one_handler_runs_from_the_command_line(tmp_path: Path) -> None:
    script = tmp_path / "hello.js"
    script.write_text("exports.handler = (p) => { console.log('seen', p); return 'hi ' + p.name; }")
    done = python("sandbox", str(script), '{"name":"x"}')
    assert (done.returncode, done.stdout) == (0, '"hi x"\n')
    assert "INFO   seen { name: 'x' }" in done.stderr


def test_a_failing_handler_fails_the_command(tmp_path: Path) -> None:
    script = tmp_path / "bad.js"
    script.write_text("exports.handler = () => { throw new Error('boom') }")
    done = python("sandbox", str(script))
    assert (done.returncode, done.stdout) == (1, "")
    assert "exception: Error: boom\n    at exports.handler (index.js:1:33)" in done.stderr
