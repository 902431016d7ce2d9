"""One jail of the self-test, with a probe or a runtime in it."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from sandbox import cgroups, jail, nsjail, pool
from sandbox.slots import Slots

DEADLINE_S = 10.0
_ATTEMPTS = 5
_OUTPUT_BYTES = 65_536


class Trial:
    """Starts `command` in a slot of its own; at the end the jail is gone and the slot is free again."""

    def __init__(
        self, slots: Slots, root: Path, command: Sequence[str], *, memory_mb: int = 64, pids: int = 64
    ) -> None:
        self._slots = slots
        self._code: int | None = None
        self.pids = pids
        self.memory_bytes = nsjail.memory_limit_bytes(memory_mb)
        self.slot = slots.take()
        try:
            self.slot.group.limit(self.memory_bytes, pids, 1.0)
            config = self.slot.config_for(root)
            arguments = nsjail.arguments(nsjail.find_binary(), config, command, self.slot.outer_id)
            self.process = jail.start(arguments, self.slot.group)
        except BaseException:
            slots.give_back(self.slot)
            raise

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._code is None:
            self.process.kill_hard()
            self.code()
        self.process.close()
        self._give_back()

    def _give_back(self) -> None:
        """A busy host needs seconds to end what was killed, and each attempt waits for two."""
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(cgroups.CgroupsUnavailable):
                return self._slots.give_back(self.slot)
        return self._slots.give_back(self.slot)

    def wait_for_output(self, descriptor: int) -> bool:
        """Whether it wrote there before it ended, and before a pool would give it up."""
        ready = _poll(descriptor, self.process.pidfd).poll(pool.BOOT_TIMEOUT_S * 1000)
        return any(fd == descriptor and event & select.POLLIN for fd, event in ready)

    def proc(self) -> Path:
        """The folder in /proc of its first process, which must have started."""
        self.process.find_runtime()
        return Path(f"/proc/{self.process.runtime_pid}")

    def output(self) -> bytes:
        """What it wrote to its standard output so far."""
        try:
            return os.read(self.process.pipes.stdout, _OUTPUT_BYTES)
        except BlockingIOError:
            return b""

    def code(self) -> int:
        """Its exit code, once it has ended; see `JailProcess.reap`. One that does not end in time is killed."""
        if self._code is None:
            if not wait_for(self.process.pidfd):
                self.process.kill_hard()
            self._code = self.process.reap()
        return self._code

    def processes(self) -> list[int]:
        """What runs in its control group; empty without one."""
        files = self.slot.group.join_files
        return [int(pid) for pid in Path(files[0]).with_name("cgroup.procs").read_text().split()] if files else []

    def counter(self, file: str) -> str | None:
        """What stands in this file of its control group; None if there is no such file."""
        for folder in {Path(joined).parent for joined in self.slot.group.join_files}:
            if (folder / file).is_file():
                return (folder / file).read_text()
        return None


def wait_for(*descriptors: int, seconds: float = DEADLINE_S) -> bool:
    """Whether one of them has something to read, or has ended, in time."""
    return bool(_poll(*descriptors).poll(seconds * 1000))


def _poll(*descriptors: int) -> select.poll:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return poll
