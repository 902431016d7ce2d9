"""One jail: an nsjail process with a runtime in it, and the host's ends of its pipes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox import nsjail
from sandbox.cgroups import Group
from sandbox.cgroups.files import read

_BOOT_LOG_BYTES = 4096
_LOG_PIPE_BYTES = 1024 * 1024
_PLACES = (nsjail.JOB_FD, nsjail.CONTROL_FD, nsjail.LOG_FD, nsjail.BOOT_LOG_FD, 1, 2)
_SIGNALS = signal.valid_signals()
"""Python ignores some, a shell that starts this process in the background others, and so would a jail."""


@dataclass(frozen=True, slots=True)
class Pipes:
    """The host's ends. Only `job` is written to. All are non-blocking."""

    job: int
    control: int
    log: int
    stdout: int
    stderr: int

    def all(self) -> tuple[int, int, int, int, int]:
        return (self.job, self.control, self.log, self.stdout, self.stderr)


class JailProcess:
    """A started nsjail. Close it once it has ended."""

    def __init__(self, pid: int, pipes: Pipes, boot_log: int) -> None:
        self._boot_log = boot_log
        self._runtime_pidfd = -1
        self.runtime_pid = 0
        """The runtime's, as this process sees it; 0 until `find_runtime`."""
        self.pipes = pipes
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        """Readable once nsjail has ended."""

    def find_runtime(self) -> None:
        """Learn which process is the runtime's; to be called once it has booted, before `pause`."""
        with contextlib.suppress(OSError, ValueError):
            self.runtime_pid = int(read(f"/proc/{self.pid}/task/{self.pid}/children"))
            self._runtime_pidfd = os.pidfd_open(self.runtime_pid)

    def pause(self) -> bool:
        """Stop the runtime; False if it can't be. A signal costs less than a freezer, and SIGKILL still
        works."""
        return self._signal_runtime(signal.SIGSTOP)

    def resume(self) -> bool:
        return self._signal_runtime(signal.SIGCONT)

    def _signal_runtime(self, number: signal.Signals) -> bool:
        if self._runtime_pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(self._runtime_pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """End the jail at once. The runtime is pid 1 of its namespace: everything in there dies with it."""
        if not self._signal_runtime(signal.SIGKILL):
            # nsjail passes it on; a SIGKILL to nsjail itself would do too, by its own parent-death signal.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)

    def kill_hard(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> int:
        """Collect the exit code once `pidfd` is readable: the runtime's own, or 128 + the signal that ended
        it."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code if code >= 0 else 128 - code

    def boot_log(self) -> str:
        """What nsjail itself had to say, at most 4 KiB."""
        try:
            return os.read(self._boot_log, _BOOT_LOG_BYTES).decode("utf-8", "replace").strip()
        except BlockingIOError:
            return ""

    def close(self) -> None:
        for fd in (*self.pipes.all(), self._boot_log, self.pidfd, self._runtime_pidfd):
            if fd >= 0:
                os.close(fd)


def start(command: Sequence[str], group: Group) -> JailProcess:
    """Start nsjail inside `group`. It dies with this process. Raises OSError when the host is out of something."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        job_in, job_out = _pipe(theirs, ours)
        control_in, control_out = _pipe(ours, theirs)
        log_in, log_out = _pipe(ours, theirs)
        out_in, out_out = _pipe(ours, theirs)
        err_in, err_out = _pipe(ours, theirs)
        boot_in, boot_out = _pipe(ours, theirs)
        for fd in (job_out, control_in, log_in, out_in, err_in, boot_in):
            os.set_blocking(fd, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(log_in, fcntl.F_SETPIPE_SZ, _LOG_PIPE_BYTES)
        pid = _spawn(_joining(command, group.join_files), (job_in, control_out, log_out, boot_out, out_out, err_out))
        try:
            _kill_at_hang_up(boot_out, pid)
            started = JailProcess(pid, Pipes(job_out, control_in, log_in, out_in, err_in), boot_in)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        ours.pop_all()  # closed by the process's own `close`
        return started


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe whose ends are closed with these."""
    read_end, write_end = map(_out_of_the_way, os.pipe())
    reader.callback(os.close, read_end)
    writer.callback(os.close, write_end)
    return read_end, write_end


def _out_of_the_way(fd: int) -> int:
    """The same end of a pipe, by a number that none of a jail's descriptors has."""
    if fd > max(_PLACES):
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(_PLACES) + 1)
    finally:
        os.close(fd)


def _joining(command: Sequence[str], join_files: Sequence[str]) -> Sequence[str]:
    """The command, which moves itself into a control group first.

    A shell does it: a fork of this process would copy its memory's map and then, page by page, its memory, which
    took a tenth of the time of a boot; and a move waits for all processors of the host, as the launcher must not.
    """
    if not join_files:
        return command
    joins = " && ".join(f'echo 0 >"${number}"' for number in range(1, len(join_files) + 1))
    script = f'{{ {joins}; }} 2>&{nsjail.BOOT_LOG_FD} || exit; shift {len(join_files)}; exec "$@"'
    return ["/bin/sh", "-c", script, "sh", *join_files, *command]


def _spawn(command: Sequence[str], theirs: Sequence[int]) -> int:
    """Start a program with these at a jail's places, and nothing else open."""
    return os.posix_spawn(
        command[0],
        list(command),
        {},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_DUP2, source, place) for source, place in zip(theirs, _PLACES, strict=True)),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=_SIGNALS,
    )


def _kill_at_hang_up(write_end: int, pid: int) -> None:
    """Have the kernel kill `pid`, which holds this end of a pipe, once nobody holds the other end any more."""
    fcntl.fcntl(write_end, fcntl.F_SETOWN, pid)
    fcntl.fcntl(write_end, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(write_end, fcntl.F_SETFL, fcntl.fcntl(write_end, fcntl.F_GETFL) | os.O_ASYNC)
