"""What the embedded servers have in common: a folder, a remembered port and secret, a start and a stop."""

import json
import secrets
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from millrace import processes
from millrace.errors import PlatformError

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
HOST = "127.0.0.1"
_POLL_S = 0.01
_STARTS = 3  # another process may take the port between our look and the server's bind


class EmbeddedError(PlatformError):
    """An embedded server is missing or did not start; the message says what its log says."""


class Server(ABC):
    """One server in one folder. Usable as a context manager; start it from a thread that outlives it."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.secret = ""
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The command line, after the port and the secret are known; may write configuration files."""

    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """The whole environment of the server: secrets go here and not on the command line."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether our server, and no stranger on its port, is ready."""

    def start(self) -> None:
        """Returns when the server answers. Raises EmbeddedError, at the latest after START_TIMEOUT_S.

        Keeps the port of the last start unless somebody else has taken it.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for attempt in range(_STARTS):
            self._choose(fresh=attempt > 0)
            self._spawn()
            if self._wait():
                return
        raise EmbeddedError(f"The embedded {self.name} ended at once: {self._last_words()}")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after STOP_TIMEOUT_S. Stopping twice is no error."""
        if self.process is not None:
            processes.stop(self.process, STOP_TIMEOUT_S)
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def recall(self) -> bool:
        """Take the port and the secret of the last start. False if there was none."""
        try:
            known = json.loads((self.folder / "server.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        self.port, self.secret = int(known["port"]), str(known["secret"])
        return True

    def _choose(self, fresh: bool) -> None:
        known = self.recall()
        if known and not fresh and not processes.port_problem(HOST, self.port):
            return
        self.port = processes.free_port(HOST)
        self.secret = self.secret or secrets.token_hex(24)
        remembered = json.dumps({"port": self.port, "secret": self.secret})
        processes.write_private(self.folder / "server.json", remembered)

    def _spawn(self) -> None:
        with (self.folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=dict(self.environment()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # Safe beside threads: it makes two system calls and takes no lock.
                preexec_fn=processes.die_with_parent(signal.SIGKILL),  # noqa: PLW1509
            )

    def _wait(self) -> bool:
        assert self.process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            if self.answers():
                return True
            time.sleep(_POLL_S)
        self.stop()
        raise EmbeddedError(
            f"The embedded {self.name} did not answer within {START_TIMEOUT_S:.0f} s: {self._last_words()}"
        )

    def _last_words(self) -> str:
        lines = (self.folder / "server.log").read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it left no message.")
