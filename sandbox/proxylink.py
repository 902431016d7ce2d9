"""The launcher's line to the egress process: JSON objects, one a line, over a socket pair."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sandbox import environment
from sandbox.egress.group import NO_LIMITS, Limits
from sandbox.loop import Loop, Timer

RELEASE_TIMEOUT_S = 1.0
_LINE_BYTES = 1024 * 1024
_log = logging.getLogger("millrace.launcher")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a slot's jail sent and received while it was assigned."""

    bytes_in: int = 0
    bytes_out: int = 0
    refused: Sequence[Mapping[str, Any]] = field(default=())
    """The first of its attempts that were refused: host, port, reason, kind."""
    refused_counts: Mapping[str, int] = field(default_factory=dict)
    """All of them, by kind."""


class ProxyLink:
    """Starts the egress process and keeps it for the launcher's life; `on_exit` is called if it ends by
    itself. `limits` hold for each group over all of its slots."""

    def __init__(
        self, loop: Loop, allow: Sequence[str], on_exit: Callable[[], None], limits: Limits = NO_LIMITS
    ) -> None:
        self._loop = loop
        self._allow = list(allow)
        self._on_exit = on_exit
        self._waiting: dict[str, deque[_Release]] = {}
        self._received = bytearray()
        self._used: set[str] = set()
        self._closed = False
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sandbox.egress", str(theirs.fileno()), json.dumps(limits.as_json())],
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=environment.needed(os.environ),
                stdin=subprocess.DEVNULL,
            )
        # A process that reads nothing must not stop the launcher's loop for long.
        self._socket.settimeout(RELEASE_TIMEOUT_S)
        loop.watch(self._socket.fileno(), self._on_readable)

    def open(self, slot: str, path: Path) -> None:
        self._send({"op": "open", "slot": slot, "path": str(path)})

    def assign(self, slot: str, hosts: Sequence[str] | None, group: str | None = None) -> None:
        """From now on the slot may reach `hosts` (None: every public host), within the limits of `group` (None:
        those of a run alone)."""
        self._used.discard(slot)
        policy = {"hosts": hosts, "allow": self._allow}
        self._send({"op": "assign", "slot": slot, "policy": policy, "group": group, "notify": True})

    def was_used(self, slot: str) -> bool:
        """Whether the jail has connected since `assign`.

        Exact for whatever got an answer: the process says "used" before it answers, and all that it has said is
        read here.
        """
        while slot not in self._used and not self._closed and self._has_news():
            self._on_readable()
        return slot in self._used

    def release(self, slot: str, done: Callable[[Traffic], None]) -> None:
        """Close the slot's connections; `done` gets its traffic, or zeros if the process does not answer in
        time."""

        release = _Release(done)
        release.timer = self._loop.later(RELEASE_TIMEOUT_S, lambda: release.finish(Traffic()))
        self._waiting.setdefault(slot, deque()).append(release)
        self._send({"op": "release", "slot": slot})

    def close(self) -> None:
        """End the process; it ends by itself when its line closes, and is killed if it does not within a
        second."""
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except TimeoutError:
            self._on_exit()
        except (BrokenPipeError, ConnectionResetError):
            # Its end is seen, and acted upon, by the next read.
            return

    def _has_news(self) -> bool:
        return bool(select.select([self._socket], [], [], 0)[0])

    def _on_readable(self) -> None:
        # `was_used` may have read what the loop was woken for.
        if self._closed or not self._has_news():
            return
        try:
            chunk = self._socket.recv(65536)
        except ConnectionResetError:
            chunk = b""
        if not chunk or len(self._received) > _LINE_BYTES:
            self._closed = True
            self._loop.unwatch(self._socket.fileno())
            self._on_exit()
            return
        self._received += chunk
        *lines, rest = self._received.split(b"\n")
        self._received = bytearray(rest)
        for line in lines:
            self._on_message(json.loads(line))

    def _on_message(self, message: Mapping[str, Any]) -> None:
        if "error" in message:
            _log.error("egress: %s of %s failed: %s", message["op"], message["slot"], message["error"])
            if message["op"] != "release":
                return
            message = {"slot": message["slot"], **asdict(Traffic())}
        if message.get("used"):
            self._used.add(str(message["slot"]))
            return
        waiting = self._waiting.get(str(message["slot"]))
        if waiting:
            # Answers come in the order of the questions, the late ones included.
            traffic = {each.name: message[each.name] for each in fields(Traffic)}
            waiting.popleft().finish(Traffic(**traffic))


class _Release:
    """One question whose answer counts once: the process's, or the timer's."""

    def __init__(self, done: Callable[[Traffic], None]) -> None:
        self._done: Callable[[Traffic], None] | None = done
        self.timer: Timer | None = None

    def finish(self, traffic: Traffic) -> None:
        done, self._done = self._done, None
        if self.timer is not None:
            self.timer.cancel()
        if done is not None:
            done(traffic)


def is_installed() -> bool:
    return importlib.util.find_spec("sandbox.egress") is not None
