"""The worker's side of the sandbox: asks the launcher for a jail and carries one job through it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sandbox import protocol, verdict
from sandbox.conversation import Conversation, Ending
from sandbox.jail import Pipes
from sandbox.job import Abandoned, Job, Kind, Outcome, Refused, SandboxUnavailable, Sink, Usage

_BOOT_WAIT_S = 60.0
_ACCOUNT_WAIT_S = 10.0
_TICK_MS = 100
_IDLE_LINES = 64
_KEY_CHARS = 64
_BROKEN_JAILS = 2


class Sandbox:
    """Runs jobs in the jails of one launcher. Thread-safe: `run` may be called from many threads at once."""

    def __init__(self, socket_path: Path) -> None:
        """`socket_path` is the launcher's socket; it is looked up anew whenever a connection is needed."""
        self._socket_path = socket_path
        self._idle: list[_Line] = []
        self._guard = threading.Lock()

    def run(self, job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
        """Carry `job` to its end and say how it ended. Blocks; a set `cancel` ends it within a second.

        Raises SandboxUnavailable when the platform failed, never because of what a script did; and
        Abandoned when the sink's `on_assigned` said no, which costs the jail: that is too rare to keep it
        for.
        """
        line, granted = self._acquire(job, cancel)
        try:
            if granted is not None:
                _offer(granted, sink)
            outcome = _carry_through(line, granted, job, sink, cancel)
        except BaseException:
            # Closing the line has the launcher kill the jail.
            line.close()
            raise
        self._put_back(line)
        return outcome

    def figures(self) -> Mapping[str, Any]:
        """What the pool of jails did since anybody last asked, and how it stands; see `sandbox.figures.Figures.take`.

        Raises SandboxUnavailable.
        """
        line = _connect(self._socket_path)
        try:
            return line.figures()
        except (_LineClosed, ValueError) as error:
            raise SandboxUnavailable(f"the launcher gave no figures: {error}") from error
        finally:
            line.close()

    def close(self) -> None:
        """Close idle connections. Runs under way go on."""
        with self._guard:
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def _acquire(self, job: Job, cancel: threading.Event) -> tuple[_Line, _Granted | None]:
        """A line and a jail; no jail if the run was cancelled while waiting for one."""
        while True:
            with self._guard:
                line = self._idle.pop() if self._idle else None
            fresh = line is None
            if line is None:
                line = _connect(self._socket_path)
            try:
                return line, line.acquire(job, cancel)
            except _LineClosed as error:
                line.close()
                # An idle line may be of a launcher that was restarted; a new one has no such excuse.
                if fresh:
                    raise SandboxUnavailable(f"the launcher closed the connection: {error}") from error
            except BaseException:
                line.close()
                raise

    def _put_back(self, line: _Line) -> None:
        with self._guard:
            if len(self._idle) < _IDLE_LINES and not line.closed:
                self._idle.append(line)
                return
        line.close()


class _LineClosed(Exception):
    """The launcher is gone."""


class _JailBroken(Exception):
    """A reused jail did not get as far as the handler: what an earlier run left in it broke it."""


class _Granted:
    """A jail's pipes, ours until closed."""

    def __init__(self, origin: str, descriptors: list[int]) -> None:
        self.origin = origin
        self.pipes = Pipes(*descriptors)

    def close(self) -> None:
        for fd in self.pipes.all():
            os.close(fd)


class _Line:
    """A connection to the launcher, used by one thread at a time for one jail at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.closed = False

    def close(self) -> None:
        self.closed = True
        self._socket.close()

    def acquire(self, job: Job, cancel: threading.Event) -> _Granted | None:
        """Wait for a jail; None when `cancel` was set first. Raises SandboxUnavailable if there is none to
        be had."""
        limits = job.limits
        key = None if job.reuse_key is None else hashlib.sha256(job.reuse_key.encode()).hexdigest()[:_KEY_CHARS]
        self._send(
            {
                "op": "acquire",
                "runtime": job.runtime,
                "memory_mb": limits.memory_mb,
                "pids": limits.pids,
                "cpus": limits.cpus,
                "timeout_ms": limits.timeout_ms,
                "reuse_key": key,
                "hosts": job.egress_hosts,
                "egress_group": job.egress_group,
                "preloaded": job.preloaded,
            }
        )
        if not self._wait(_BOOT_WAIT_S, cancel):
            if cancel.is_set():
                return None
            raise SandboxUnavailable(f"the launcher gave no jail within {_BOOT_WAIT_S:g} s")
        answer, descriptors = self._receive()
        if "error" in answer:
            self.close()
            raise SandboxUnavailable(str(answer["error"]))
        return _Granted(str(answer["origin"]), descriptors)

    def figures(self) -> Mapping[str, Any]:
        """What the pool counted; raises _LineClosed when the launcher is gone."""
        self._send({"op": "figures"})
        return self._answer()

    def finish(self, state: str, *, ended: bool) -> Mapping[str, Any]:
        """Give the jail back and get the account of the job; raises _LineClosed when the launcher is gone."""
        self._send({"op": "finish", "state": state, "ended": ended})
        return self._answer()

    def _answer(self) -> Mapping[str, Any]:
        if not self._wait(_ACCOUNT_WAIT_S, None):
            raise _LineClosed("it does not answer")
        return self._receive()[0]

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._socket.sendall(protocol.encode_message(message))
        except OSError as error:
            raise _LineClosed(str(error)) from error

    def _wait(self, seconds: float, cancel: threading.Event | None) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        deadline = time.monotonic() + seconds
        while not poll.poll(_TICK_MS):
            if time.monotonic() >= deadline or (cancel is not None and cancel.is_set()):
                return False
        return True

    def _receive(self) -> tuple[Mapping[str, Any], list[int]]:
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._socket, protocol.MESSAGE_BYTES, 8)
        except OSError as error:
            raise _LineClosed(str(error)) from error
        if not packet:
            raise _LineClosed("it ended")
        return protocol.decode_message(packet), descriptors


def _connect(path: Path) -> _Line:
    """Connect through the folder's descriptor: a unix address holds 108 bytes, a home may be longer."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connected.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
    except OSError as error:
        connected.close()
        raise SandboxUnavailable(f"no launcher listens on {path}: {error.strerror}") from error
    return _Line(connected)


def _offer(granted: _Granted, sink: Sink) -> None:
    """Ask the sink whether the job is still to be done. Raises Abandoned, and what the sink raises."""
    try:
        if sink.on_assigned():
            return
    except BaseException:
        granted.close()
        raise
    granted.close()
    raise Abandoned("the run was abandoned before its job was sent")


def _carry_through(
    line: _Line, granted: _Granted | None, job: Job, sink: Sink, cancel: threading.Event
) -> Outcome:
    """Carry the job in the jail at hand; one that breaks before the handler is entered is replaced.

    After the second it is by one that nobody has used, which can't break that way.
    """
    broken = 0
    while granted is not None:
        try:
            with contextlib.closing(granted):
                return _carry(line, granted, job, sink, cancel)
        except _JailBroken:
            broken += 1
        try:
            granted = line.acquire(job if broken < _BROKEN_JAILS else replace(job, reuse_key=None), cancel)
        except _LineClosed as error:
            raise SandboxUnavailable(f"the launcher is gone: {error}") from error
    # The launcher is still about to answer.
    line.close()
    return Outcome(Kind.CANCELLED, error=verdict.cancelled())


def _carry(line: _Line, granted: _Granted, job: Job, sink: Sink, cancel: threading.Event) -> Outcome:
    started = time.monotonic()
    talk = Conversation(job, sink, cancel, granted.pipes, has_script=granted.origin == "reused")
    ending = talk.run()
    duration_ms = 1000 * (time.monotonic() - started)
    answered = ending.kind not in (None, Kind.TIMEOUT, Kind.CANCELLED)
    account: Mapping[str, Any] = {}
    if granted.origin == "reused" and not talk.reached_handler and ending.kind is not Kind.CANCELLED:
        account = _end_broken(line, talk, ending)
    elif answered:
        # What was written before the answer is in the pipes; once given back, they are the next job's.
        talk.drain()
        # The answer stands even if the launcher is gone by now; only its account is lost.
        with contextlib.suppress(_LineClosed):
            account = line.finish(_state(ending), ended=False)
        if not account:
            line.close()
    else:
        try:
            account = line.finish("failed", ended=True)
        except _LineClosed as error:
            # We stopped listening to a jail that was still alive: it may have entered the handler since.
            reached = talk.reached_handler or ending.kind is not None
            raise SandboxUnavailable(f"the launcher is gone: {error}", reached_handler=reached) from error
        talk.drain()
    return _outcome(ending, talk, account, job, granted.origin, duration_ms)


def _end_broken(line: _Line, talk: Conversation, ending: Ending) -> Mapping[str, Any]:
    """End a reused jail that has not said that it enters the handler. Raises _JailBroken if indeed it has not; if it
    has, only too late for us to hear, that was this run: then its account is returned."""
    try:
        account = line.finish("broken", ended=True)
    except _LineClosed as error:
        # We stopped listening to a jail that was still alive: it may have entered the handler since.
        raise SandboxUnavailable(f"the launcher is gone: {error}", reached_handler=ending.kind is not None) from error
    if not talk.entered_unheard():
        raise _JailBroken
    talk.drain()
    return account


def _state(ending: Ending) -> str:
    """What the launcher is told of a jail that has answered."""
    if ending.clean:
        return "clean"
    return "leftovers" if ending.kind is Kind.SUCCEEDED else "failed"


def _outcome(
    ending: Ending, talk: Conversation, account: Mapping[str, Any], job: Job, origin: str, duration_ms: float
) -> Outcome:
    kind, error = ending.kind, ending.error
    if kind is None:
        kind, error = verdict.judge(int(account["exit_code"]), int(account["oom_kills"]), talk.stderr_tail, job.limits)
    usage = Usage(
        cpu_ms=float(account.get("cpu_ms", 0.0)),
        peak_memory_bytes=int(account.get("peak_memory_bytes", 0)),
        log_bytes=talk.log.kept_bytes,
        log_truncated=talk.log.is_full,
        egress_bytes_in=int(account.get("bytes_in", 0)),
        egress_bytes_out=int(account.get("bytes_out", 0)),
        sdk_calls=talk.sdk_calls,
        jail="reused" if origin == "reused" else "warm" if origin == "warm" else "cold",
    )
    refused = tuple(
        Refused(str(item["host"]), int(item["port"]), str(item["reason"]), str(item["kind"]))
        for item in account.get("refused", ())
    )
    counts = account.get("refused_counts", {})
    return Outcome(kind, ending.result, error, talk.reached_handler, duration_ms, usage, refused, counts)
