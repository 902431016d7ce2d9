"""One jail: an nsjail process with a runtime in it, and the host's ends of its pipes."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox import nsjail
from sandbox.cgroups import Group

_PR_SET_PDEATHSIG = 1
_BOOT_LOG_BYTES = 4096
_LOG_PIPE_BYTES = 1024 * 1024
_HANDLED = (signal.SIGTERM, signal.SIGINT)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_libc = ctypes.CDLL(None, use_errno=True)


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
        with (
            contextlib.suppress(OSError, ValueError),
            open(f"/proc/{self.pid}/task/{self.pid}/children") as children,
        ):
            self.runtime_pid = int(children.read())
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
    """Start nsjail inside `group`.

    It dies with the calling thread, so call it from one that lives on. Raises OSError when the host is out
    of something.
    """
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
        pid = _spawn(command, group, (job_in, control_out, log_out, boot_out, out_out, err_out))
        try:
            started = JailProcess(pid, Pipes(job_out, control_in, log_in, out_in, err_in), boot_in)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        ours.pop_all()  # closed by the process's own `close`
        return started


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe whose ends are closed with these."""
    read_end, write_end = os.pipe()
    reader.callback(os.close, read_end)
    writer.callback(os.close, write_end)
    return read_end, write_end


def _spawn(command: Sequence[str], group: Group, theirs: Sequence[int]) -> int:
    """Fork and execute; the launcher is single-threaded, so that Python may run in between."""
    parent = os.getpid()
    join_files = group.join_files
    # Until it is another program, the child shares this one's handlers and the descriptor that they wake: a signal
    # meant for it would be heard here.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
    if pid:
        return pid
    try:
        for number in (*_HANDLED, *_IGNORED_BY_PYTHON):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        _become(command, join_files, theirs, parent)
    except BaseException as error:
        # Nobody else hears it: this process has no way back into Python.
        os.write(nsjail.BOOT_LOG_FD, f"cannot start nsjail: {error}".encode())
    finally:
        os._exit(255)


def _become(command: Sequence[str], join_files: tuple[str, ...], theirs: Sequence[int], parent: int) -> None:
    # Move out of the way first: a source may sit on another's place. All else is closed by execve.
    sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in theirs]
    places = (nsjail.JOB_FD, nsjail.CONTROL_FD, nsjail.LOG_FD, nsjail.BOOT_LOG_FD, 1, 2)
    for source, place in zip(sources, places, strict=True):
        os.dup2(source, place)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for file in join_files:
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, b"0")
        os.close(fd)
    os.setsid()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(255)
    os.execve(command[0], list(command), {})
