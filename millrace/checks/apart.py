"""Checks of large sources in child processes, so that a hostile one holds neither the caller nor its memory.

A dense source of the greatest size takes a check up to 18 seconds and 2 GB, all the while with Python's global
lock. An ordinary bundle of that size takes 8 seconds and 350 MB at the most.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from millrace import errors, processes
from millrace.checks.__main__ import OUT_OF_MEMORY
from millrace.checks.check import check_source
from millrace.checks.findings import Finding
from millrace.checks.source import entry_name
from millrace.languages import LanguageName

# 50 findings are a tenth of it, even when each names every module.
MAX_OUTPUT_BYTES = 1024 * 1024

_MIB = 1024 * 1024
# How the kernel, the parser without memory, and this module end a child that is over its limits.
_OVER = {signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS}
# A child needs to find its modules; the rest, as the master keys, is not for what reads a stranger's source.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True)
class Limits:
    """What checks may take.

    The worst source of 32 KiB takes 0.7 s in process; a child's start takes 0.1 s.
    """

    in_process_bytes: int = 32 * 1024  # larger sources are checked in a child
    memory_bytes: int = 1024 * _MIB  # of address space, for a child
    cpu_s: int = 15
    wall_s: int = 30  # twice that, for a busy machine
    at_once: int = 2  # children
    waiting: int = 16  # callers that wait for a child to end
    wait_s: float = 5


class Checker:
    """Checks with bounds. One for a process, which counts its children; for any number of threads."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._children = threading.BoundedSemaphore(self.limits.at_once)
        self._callers = threading.BoundedSemaphore(self.limits.at_once + self.limits.waiting)

    def check(
        self,
        source: bytes,
        *,
        runtime: str,
        entry_point: str,
        modules: frozenset[str],
        language: LanguageName = "javascript",
    ) -> list[Finding]:
        """The findings of `check_source` for a script of a single file.

        Raises `errors.Invalid` when `entry_point` cannot name one, or when the check of a large source is
        over its limits; `errors.TooMany` when too many large sources are being checked.
        """
        if len(source) <= self.limits.in_process_bytes:
            return check_source(
                source, runtime=runtime, entry_point=entry_point, modules=modules, language=language
            )
        entry_name(entry_point, language)
        header = {
            "runtime": runtime,
            "entry_point": entry_point,
            "modules": sorted(modules),
            "language": language,
            "limits": {name: getattr(self.limits, name) for name in ("memory_bytes", "cpu_s", "wall_s")},
        }
        with self._seat(), _sheet(json.dumps(header).encode() + b"\n", source) as sheet:
            code, output = _run(sheet, self.limits.wall_s)
        if code == 0:
            return [Finding(**each) for each in json.loads(output)]
        if code == OUT_OF_MEMORY or -code in _OVER:
            raise self._too_complex(len(source))
        problem = f"The check of a source ended with {processes.describe_exit(code)}: {_tail(output)}"
        raise errors.PlatformError(problem) if code > 0 else errors.Unavailable(problem)

    @contextlib.contextmanager
    def _seat(self) -> Iterator[None]:
        """A child's place, when one becomes free in time."""
        if not self._callers.acquire(blocking=False):
            raise self._too_many()
        try:
            if not self._children.acquire(timeout=self.limits.wait_s):
                raise self._too_many()
            try:
                yield
            finally:
                self._children.release()
        finally:
            self._callers.release()

    def _too_many(self) -> errors.TooMany:
        return errors.TooMany(
            f"Too many large sources are being checked: {self.limits.at_once} of more than "
            f"{self.limits.in_process_bytes} bytes at once, which is the most.",
            retry_after=max(1, round(self.limits.wait_s)),
        )

    def _too_complex(self, size: int) -> errors.Invalid:
        limits = self.limits
        return errors.Invalid(
            f"script_content, {size} bytes of source, is too large or too complex to be checked: a check may take "
            f"{limits.cpu_s} s of CPU time, {limits.wall_s} s in all, and {limits.memory_bytes // _MIB} MiB of memory.",
            field="script_content",
            value=f"{size} bytes",
        )


@contextlib.contextmanager
def _sheet(*parts: bytes) -> Iterator[IO[bytes]]:
    """A file in memory with these parts: unlike a pipe, nobody waits for the child to read it."""
    with open(os.memfd_create("millrace-check"), "w+b") as sheet:
        sheet.writelines(parts)
        sheet.seek(0)
        yield sheet


def _run(sheet: IO[bytes], wall_s: float) -> tuple[int, bytes]:
    """How the child ended, and what it wrote; one that takes longer or writes more is killed."""
    deadline = time.monotonic() + wall_s
    try:
        child = subprocess.Popen(
            processes.python("-m", "millrace.checks"),
            stdin=sheet,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,  # Ctrl-C is for the one who waits, who then still gets the findings
        )
    except OSError as error:
        raise errors.Unavailable(f"A check cannot start: {error}") from error
    with child:
        try:
            output = _read(child, deadline)
            with contextlib.suppress(subprocess.TimeoutExpired):
                if len(output) <= MAX_OUTPUT_BYTES:
                    child.wait(max(0, deadline - time.monotonic()))
        finally:
            child.kill()
    return child.returncode, output


def _read(child: "subprocess.Popen[bytes]", deadline: float) -> bytes:
    """What the child writes until it ends, or until the deadline, or until it is more than it may write."""
    assert child.stdout is not None
    pipe, output = child.stdout.fileno(), bytearray()
    readable = select.poll()
    readable.register(pipe, select.POLLIN)
    while len(output) <= MAX_OUTPUT_BYTES:
        if not readable.poll(max(0, deadline - time.monotonic()) * 1000):
            break
        chunk = os.read(pipe, 65536)
        if not chunk:
            break
        output += chunk
    return bytes(output)


def _tail(output: bytes) -> str:
    return output.decode("utf-8", "replace")[-_SHOWN_CHARACTERS:]
