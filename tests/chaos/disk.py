"""A disk of its own for a server, small enough to be filled."""

import errno
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from millrace import processes

_JUNK = "junk"
_PIECE = b"x" * 65_536


class Disk:
    """`folder` on a file system with room for so many MB, for the processes that are started `inside` and nobody else.

    It lives in a user and mount namespace, which anybody may make who may run jails, and outlives its servers.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mount = f'mount -t tmpfs -o size={megabytes}m,mode=700 tmpfs "$0" && echo ready && exec sleep infinity'
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            # Safe beside threads: it makes two system calls and takes no lock.
            preexec_fn=processes.die_with_parent(signal.SIGKILL),  # noqa: PLW1509
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self._root = Path(f"/proc/{self._holder.pid}/root{folder}")

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that starts this one with the folder in sight."""
        enter = ("nsenter", "--target", str(self._holder.pid), "--user", "--mount", "--preserve-credentials", "--")
        return [*enter, *command]

    def fill(self) -> None:
        """Leave not a byte."""
        with (self._root / _JUNK).open("wb", buffering=0) as junk:
            try:
                while True:
                    junk.write(_PIECE)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        """Give the room back."""
        with suppress(FileNotFoundError):
            (self._root / _JUNK).unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._holder.stdout is not None
        self._holder.kill()
        self._holder.wait()
        self._holder.stdout.close()
