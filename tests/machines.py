"""Machines made of network namespaces: each has an address of its own, a home of its own, and a cable to pull.

The namespace of the tests is the machine with PostgreSQL, Valkey and the object store; the others reach it through a
bridge. Needs root.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from millrace.embedded import S3Server, ValkeyServer
from tests.platform import ROOT
from tests.services import PostgresServer

# Of each process of tests its own, since two bridges with the same addresses would answer for each other.
SUBNET = f"10.{200 + os.getpid() // 256 % 50}.{os.getpid() % 256}"
BRIDGE_ADDRESS = f"{SUBNET}.1"  # the tests' own, from which they call web
STORES_ADDRESS = f"{SUBNET}.254"
REDIS_ADDRESS = f"{SUBNET}.253"  # of its own, to be lost alone
_EVERYWHERE = "0.0.0.0"  # also the loopback, over which the servers look whether they answer


class OpenPostgres(PostgresServer):
    """Listens on all addresses."""

    def command(self) -> Sequence[str]:
        """See Server."""
        command = super().command()
        rules = self.folder / "data" / "pg_hba.conf"
        rule = f"host all all {SUBNET}.0/24 md5\n"
        if rule not in rules.read_text():
            rules.write_text(rules.read_text() + rule)
        return [_EVERYWHERE if part == "127.0.0.1" else part for part in command]


class OpenValkey(ValkeyServer):
    """Listens on all addresses."""

    def configuration(self) -> str:
        """See ValkeyServer."""
        return super().configuration().replace("bind 127.0.0.1", f"bind {_EVERYWHERE}")


class OpenS3(S3Server):
    """Listens on all addresses."""

    def command(self) -> Sequence[str]:
        """See Server."""
        return [part.replace("127.0.0.1:", f"{_EVERYWHERE}:") for part in super().command()]


class Machine:
    """A network namespace on the bridge, and the processes that run in it."""

    def __init__(self, bridge: str, number: int, home: Path, settings: Mapping[str, str]) -> None:
        self.name = f"{bridge}-{number}"
        self.address = f"{SUBNET}.{number}"
        self.home = home
        self.output = home.parent / f"{home.name}.out"
        self._cable = f"{bridge}v{number}"  # its end on the bridge
        self._environ = {**_clean_environ(), **settings, "MILLRACE_HOME": str(home), "MILLRACE_HOST": self.address}
        self._processes: list[subprocess.Popen[bytes]] = []
        home.mkdir(mode=0o711)
        ip("netns", "add", self.name)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self._cable, "master", bridge, "up")
        ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.name, "link", "set", device, "up")

    def start(self, module: str) -> subprocess.Popen[bytes]:
        """Run a line of the Procfile on this machine."""
        # Not `ip netns exec`: it mounts another /sys, without control groups.
        with self.output.open("ab") as sink:
            process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.name}", sys.executable, "-m", module],
                env=self._environ, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True,
            )
        self._processes.append(process)
        return process

    def lose(self, address: str) -> None:
        """Reach one address no more."""
        ip("-n", self.name, "route", "add", "blackhole", f"{address}/32")

    def find(self, address: str) -> None:
        """Reach it again."""
        ip("-n", self.name, "route", "del", "blackhole", f"{address}/32")

    def command(self, *arguments: str) -> str:
        """What the `millrace` command prints there."""
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.name}", sys.executable, "-m", "millrace.cli", *arguments],
            env=self._environ, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            check=True,
        ).stdout

    def start_worker(self) -> None:
        """A launcher and, once it listens, the workers on top."""
        self.start("sandbox.launcher")
        deadline = time.monotonic() + 60
        while "listening on" not in self.said():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)
        self.start("worker")

    def cut_off(self) -> None:
        """Pull the cable: nothing arrives and nobody is told."""
        ip("link", "set", self._cable, "down")

    def heal(self) -> None:
        """Put it back."""
        ip("link", "set", self._cable, "up")

    def has(self, worker: str | None) -> bool:
        """Whether the worker that claimed a run under this name (host:pid) runs here."""
        pid = (worker or "").rpartition(":")[2]
        return bool(pid) and ip("netns", "identify", pid).split() == [self.name]

    def said(self) -> str:
        """What its processes printed."""
        return self.output.read_text(errors="replace")

    def remove(self) -> None:
        """End its processes, the launcher last, and the machine."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for arguments in (("netns", "del", self.name), ("link", "del", self._cable)):
            with contextlib.suppress(subprocess.CalledProcessError):  # the cable may go with the namespace
                ip(*arguments)


class Network:
    """A bridge, and the machines on it."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.bridge = f"mr{secrets.token_hex(2)}"
        self.folder = folder
        self.settings = settings
        self.machines: list[Machine] = []
        ip("link", "add", self.bridge, "type", "bridge")
        for address in (BRIDGE_ADDRESS, STORES_ADDRESS, REDIS_ADDRESS):
            ip("address", "add", f"{address}/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")

    def add(self, name: str, **settings: str) -> Machine:
        """One more machine, with nothing running."""
        machine = Machine(self.bridge, len(self.machines) + 2, self.folder / name, {**self.settings, **settings})
        self.machines.append(machine)
        return machine

    def remove(self) -> None:
        """Everything that was added."""
        for machine in reversed(self.machines):
            machine.remove()
        ip("link", "del", self.bridge)


@contextlib.contextmanager
def network(folder: Path, settings: Mapping[str, str]) -> Iterator[Network]:
    """A network that is gone afterwards."""
    made = Network(folder, settings)
    try:
        yield made
    finally:
        made.remove()


def ip(*arguments: str) -> str:
    """What it prints. Raises CalledProcessError."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _clean_environ() -> dict[str, str]:
    ours = ("MILLRACE_", "S3_", "DATABASE_URL", "REDIS_URL", "PROMETHEUS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {"PYTHONUNBUFFERED": "1"}


def are_possible() -> bool:
    """Whether this user and this kernel can make bridges and cables; tried where nothing of it stays."""
    for kind in (["b0", "type", "bridge"], ["v0", "type", "veth", "peer", "name", "v1"]):
        try:
            tried = subprocess.run(["unshare", "--net", "ip", "link", "add", *kind], capture_output=True, check=False)
        except FileNotFoundError:
            return False
        if tried.returncode != 0:
            return False
    return True
