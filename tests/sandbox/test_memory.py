"""What counts as all memory, and when it is scarce, on hosts and in containers of either version of control groups."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from sandbox.memory import AMPLE, Memory

MB = 1024 * 1024
HOST_MB = 1000
NO_LIMIT_V1 = 9223372036854771712
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


class Host:
    """A /proc, and control groups of one version: this process is in /service/unit."""

    def __init__(self, folder: Path, files: tuple[str, str, str]) -> None:
        self.proc, self._mount, self._files = folder / "proc", folder / "cgroup", files
        (self.proc / "self").mkdir(parents=True)
        controllers, kind = ("memory", "cgroup") if files == V1 else ("", "cgroup2")
        (self.proc / "self" / "cgroup").write_text(f"4:{controllers}:/service/unit\n")
        mount = f"36 31 0:33 / {self._mount} rw,relatime - {kind} {kind} rw,{controllers}\n"
        (self.proc / "self" / "mountinfo").write_text(mount)
        for group in (".", "service", "service/unit"):
            (self._mount / group).mkdir(exist_ok=True)
            (self._mount / group / "cgroup.procs").touch()
        self.has(available_mb=HOST_MB)

    def has(self, available_mb: int) -> None:
        text = f"MemTotal: {HOST_MB * 1024} kB\nMemFree: 1 kB\nMemAvailable: {available_mb * 1024} kB\nHugePages: 0\n"
        (self.proc / "meminfo").write_text(text)

    def limit(self, group: str, limit: object, used_mb: int = 0, cached_mb: int = 0) -> None:
        limit_file, usage_file, cached = self._files
        texts: Mapping[str, object] = {
            limit_file: limit, usage_file: used_mb * MB, "memory.stat": f"anon 5\n{cached} {cached_mb * MB}",
        }  # fmt: skip
        for name, text in texts.items():
            (self._mount / group / name).write_text(f"{text}\n")


@pytest.fixture(params=[V1, V2], ids=["version 1", "version 2"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return Host(tmp_path, request.param)


@pytest.mark.parametrize(("left", "scarce", "ample"), [(99, True, False), (100, False, False), (200, False, True)])
def test_a_host_with_less_than_a_tenth_left_is_short_of_memory(
    host: Host, left: int, scarce: bool, ample: bool
) -> None:
    host.has(available_mb=left)
    memory = Memory(host.proc)
    assert (memory.is_scarce(), not memory.is_scarce(AMPLE)) == (scarce, ample)
    assert memory.for_idle_jails == HOST_MB * MB // 4


@pytest.mark.parametrize("group", ["service", "service/unit"])
def test_a_container_near_its_own_limit_is_short_of_memory(host: Host, group: str) -> None:
    host.limit(group, 100 * MB, used_mb=91)
    memory = Memory(host.proc)
    assert memory.is_scarce()
    assert memory.for_idle_jails == 25 * MB
    host.limit(group, 100 * MB, used_mb=90)
    assert not memory.is_scarce()


def test_what_is_cached_of_files_is_not_in_use(host: Host) -> None:
    host.limit("service", 100 * MB, used_mb=99, cached_mb=50)
    assert not Memory(host.proc).is_scarce()


@pytest.mark.parametrize(("files", "no_limit"), [(V1, NO_LIMIT_V1), (V2, "max")])
def test_a_group_without_a_limit_limits_nothing(tmp_path: Path, files: tuple[str, str, str], no_limit: object) -> None:
    host = Host(tmp_path, files)
    host.limit("service", no_limit, used_mb=10**6)
    memory = Memory(host.proc)
    assert (memory.is_scarce(), memory.for_idle_jails) == (False, HOST_MB * MB // 4)


def test_this_host_has_memory() -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < Memory().for_idle_jails <= physical // 4
