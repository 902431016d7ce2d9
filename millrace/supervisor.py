"""Runs the Procfile's processes together: starts them in order, prints what they say, restarts what dies.

One thread does it all, since children are tied to the life of the thread that started them. Nothing outlives
the supervisor: it stops its children in order, and if it is killed itself they get SIGTERM from the kernel.
"""

import contextlib
import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from millrace import processes

# Jails must be there before workers want them, and workers before people do.
START_ORDER = ("launcher", "worker", "scheduler", "web")
STOP_TIMEOUT_S = 35.0  # handlers get 30 s of it
LAST_STOP_TIMEOUT_S = 5.0  # for the launcher, which nobody uses any more by then
WRONG_CONFIGURATION = 78  # EX_CONFIG of sysexits.h: starting again would not help
RESTARTS = 5
RESTART_WINDOW_S = 60.0
EARLY_RESTARTS = 2  # before everything was ready once, a death is rather a mistake in the set-up
FIRST_BACKOFF_S = 0.5
IDLE_S = 5.0  # signals, deaths and output end the wait
_TICK_S = 0.1
_LINE_BYTES = 64 * 1024
_COLOURS = (36, 33, 35, 32, 34, 31)
_PROCESS = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*)")


class ProcfileError(Exception):
    """The Procfile cannot be read; the message names the line."""


@dataclass(frozen=True)
class Line:
    """One process of the Procfile."""

    name: str
    command: tuple[str, ...]


def parse_procfile(text: str) -> list[Line]:
    """The processes in the order to start them. Raises ProcfileError."""
    lines: dict[str, Line] = {}
    for number, each in enumerate(text.splitlines(), start=1):
        if not each.strip() or each.lstrip().startswith("#"):
            continue
        found = _PROCESS.fullmatch(each.strip())
        try:
            command = tuple(shlex.split(found[2])) if found else ()
        except ValueError as error:
            raise ProcfileError(f"Line {number} of the Procfile: {error}.") from None
        if found is None or not command:
            raise ProcfileError(f"Line {number} of the Procfile is {each!r} but must be 'name: command'.")
        if found[1] in lines:
            raise ProcfileError(f"Line {number} of the Procfile names {found[1]!r} a second time.")
        lines[found[1]] = Line(found[1], command)
    if not lines:
        raise ProcfileError("The Procfile names no process.")
    known = [lines.pop(name) for name in START_ORDER if name in lines]
    return [*known, *lines.values()]


@dataclass
class _Child:
    line: Line
    colour: int
    process: "subprocess.Popen[bytes] | None" = None
    partial: bytes = b""
    started_at: float = 0.0
    deaths: list[float] = field(default_factory=list)
    restart_at: float | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """The processes of one Procfile. Use it from the main thread: it takes over the signals."""

    def __init__(
        self, lines: Sequence[Line], environ: Mapping[str, str], folder: Path, out: TextIO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.children = [_Child(line, _COLOURS[n % len(_COLOURS)]) for n, line in enumerate(lines)]
        self.environ = dict(environ)
        self.folder = folder
        self.out = out
        self.clock = clock
        self.coloured = out.isatty()
        self.width = max(len("millrace"), *(len(line.name) for line in lines))
        self.failure: str | None = None
        self._ready = False
        self._signals = 0
        self._selector = selectors.DefaultSelector()

    def run(self, tick: Callable[[], bool | None]) -> int:
        """Start everything and watch until a signal, or until a process cannot be kept alive.

        `tick` is called several times a second until it says, with True, that everything is up.
        Returns the exit code: 0 after a signal, 1 after a failure, whose sentence is in `failure`.
        """
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = {each: signal.signal(each, self._signalled)
                  for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)}
        before_fd = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        self._selector.register(wake, selectors.EVENT_READ)
        try:
            for child in self.children:
                if not self._ending:
                    self._start(child)
            while not self._ending:
                self._pump(IDLE_S if self._ready else _TICK_S)
                self._bury()
                if not self._ready and not self._ending and tick():
                    self._ready = True
            self._stop()
        finally:
            for child in self.children:
                if child.process is not None:
                    processes.kill_group(child.process)
            signal.set_wakeup_fd(before_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(wake)
            os.close(woken)
        return 0 if self.failure is None else 1

    def say(self, text: str) -> None:
        """Print lines of our own among those of the processes."""
        for line in text.splitlines():
            self._print("millrace", 1, line)

    def show(self, text: str) -> None:
        """Print text as it stands."""
        self._write(text)

    def fail(self, sentence: str) -> None:
        """Stop everything; `run` returns 1."""
        if self.failure is None:
            self.failure = sentence

    @property
    def _ending(self) -> bool:
        return self._signals > 0 or self.failure is not None

    def _signalled(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self._signals += 1

    def _start(self, child: _Child) -> None:
        try:
            child.process = subprocess.Popen(
                child.line.command,
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops the others in order
                # Safe beside threads: it makes two system calls and takes no lock.
                preexec_fn=processes.die_with_parent(signal.SIGTERM),  # noqa: PLW1509
            )
        except OSError as error:
            self.fail(f"{child.line.name} cannot be started: {error.strerror or error}.")
            return
        child.restart_at, child.started_at = None, self.clock()
        assert child.process.stdout is not None
        os.set_blocking(child.process.stdout.fileno(), False)
        self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def _pump(self, timeout_s: float) -> None:
        """Wait for output, a signal or a death, and print what came."""
        due = min((child.restart_at for child in self.children if child.restart_at is not None), default=None)
        if due is not None:
            timeout_s = max(0.0, min(timeout_s, due - self.clock()))
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                os.read(key.fd, 4096)
            else:
                self._read(key.data)

    def _read(self, child: _Child) -> None:
        assert child.process is not None and child.process.stdout is not None
        try:
            data = os.read(child.process.stdout.fileno(), _LINE_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._hang_up(child)
            return
        *lines, child.partial = (child.partial + data).split(b"\n")
        for line in lines:
            self._print_of(child, line)
        if len(child.partial) > _LINE_BYTES:
            self._print_of(child, child.partial)
            child.partial = b""

    def _hang_up(self, child: _Child) -> None:
        assert child.process is not None and child.process.stdout is not None
        if not child.process.stdout.closed:
            self._selector.unregister(child.process.stdout)
            child.process.stdout.close()
        if child.partial:
            self._print_of(child, child.partial)
            child.partial = b""

    def _bury(self) -> None:
        now = self.clock()
        for child in self.children:
            if child.restart_at is not None and child.restart_at <= now:
                self._start(child)
            if child.process is not None and child.restart_at is None and child.process.poll() is not None:
                self._died(child, child.process.poll() or 0, now)

    def _died(self, child: _Child, code: int, now: float) -> None:
        self._drain(child)
        assert child.process is not None
        processes.kill_group(child.process)  # what it had started
        child.process = None
        how = f"{child.line.name} ended with {processes.describe_exit(code)}"
        if code == WRONG_CONFIGURATION:
            self.fail(f"{how}: its configuration is wrong, as it says above.")
            return
        child.deaths = [*(at for at in child.deaths if at > now - RESTART_WINDOW_S), now]
        allowed = RESTARTS if self._ready else EARLY_RESTARTS
        if len(child.deaths) > allowed:
            times = f"{len(child.deaths)} times within {RESTART_WINDOW_S:.0f} s"
            self.fail(f"{how}, and did so {times}; its last lines say why.")
            return
        pause = FIRST_BACKOFF_S * 2 ** (len(child.deaths) - 1)
        child.restart_at = now + pause
        self.say(f"{how}; it starts again in {pause:g} s")

    def _drain(self, child: _Child) -> None:
        """Print what a dead process left in its pipe, which a grandchild may still hold open."""
        assert child.process is not None and child.process.stdout is not None
        while not child.process.stdout.closed:
            try:
                data = os.read(child.process.stdout.fileno(), _LINE_BYTES)
            except BlockingIOError:
                data = b""
            child.partial += data
            if not data or len(child.partial) > 16 * _LINE_BYTES:
                *lines, child.partial = child.partial.split(b"\n")
                for line in lines:
                    self._print_of(child, line)
                self._hang_up(child)

    def _stop(self) -> None:
        """Nobody brings new work, then workers finish, then the jails go. A second signal kills at once."""
        self.say(f"stopping: {self.failure}" if self.failure else "stopping")
        last = [child for child in self.children if child.line.name == START_ORDER[0]]
        first = [child for child in reversed(self.children) if child not in last]
        impatient = self._signals + 1
        for group, patience in ((first, STOP_TIMEOUT_S), (last, LAST_STOP_TIMEOUT_S)):
            for child in group:
                if child.running and child.process is not None:
                    child.process.terminate()
            deadline = self.clock() + patience
            while any(child.running for child in group) and self._signals < impatient:
                if self.clock() >= deadline:
                    break
                self._pump(min(0.1, deadline - self.clock()))
            for child in group:
                self._finish(child)

    def _finish(self, child: _Child) -> None:
        if child.process is None:
            return
        if child.running:
            self.say(f"{child.line.name} did not stop in time and was killed")
        processes.kill_group(child.process)
        child.process.wait()
        self._drain(child)

    def _print_of(self, child: _Child, line: bytes) -> None:
        self._print(child.line.name, child.colour, line.decode("utf-8", "backslashreplace").rstrip("\r"))

    def _print(self, name: str, colour: int, line: str) -> None:
        label = f"{name:<{self.width}} |"
        if self.coloured:
            label = f"\x1b[{colour}m{label}\x1b[0m"
        self._write(f"{label} {line}\n")

    def _write(self, text: str) -> None:
        try:
            self.out.write(text)
            self.out.flush()
        except OSError as error:
            # Nobody reads us any more, as after `| head`; stop, and stop printing.
            # What is still in the buffer must not fail once more when the process ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with contextlib.suppress(OSError):
                os.dup2(nowhere, self.out.fileno())
            self.out = os.fdopen(nowhere, "w", encoding="utf-8")
            self.fail(f"the output cannot be written: {error.strerror or error}")
