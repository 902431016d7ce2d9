"""A platform on servers of the test's own, which can be killed, stopped and filled under it."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from millrace.embedded import S3Server, ValkeyServer
from tests.chaos.disk import Disk
from tests.chaos.outside import Outside
from tests.platform import Platform, start_platform, stop_platform
from tests.services import PostgresServer

WORKER_PROCESSES = 2
DISK_MB = 512  # for all objects of the longest campaign, and small enough to be filled in a moment


class DurablePostgres(PostgresServer):
    """One whose commits outlive its own sudden end, though not the machine's."""

    def command(self) -> Sequence[str]:
        """See Server. The last word counts."""
        return [*super().command(), "-csynchronous_commit=on", "-cfull_page_writes=on"]


class FillableS3(S3Server):
    """One whose objects are on a disk of their own."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        super().__init__(folder)
        self.disk = disk

    def command(self) -> Sequence[str]:
        """See Server."""
        return self.disk.inside(super().command())


class Rig:
    """All that faults are done to, and what the judge reads."""

    def __init__(
        self, home: Path, postgres: PostgresServer, valkey: ValkeyServer, s3: FillableS3, outside: Outside,
        platform: Platform, database: str,
    ) -> None:  # fmt: skip
        self.home = home
        self.postgres = postgres
        self.valkey = valkey
        self.s3 = s3
        self.outside = outside
        self.platform = platform
        self.database = database

    def rows(self, query: LiteralString, *values: Any) -> list[dict[str, Any]]:
        """What the database holds, read without any of the platform's code."""
        with psycopg.connect(self.database, row_factory=dict_row, autocommit=True) as connection:
            return connection.execute(query, values).fetchall()

    def change(self, statement: LiteralString, *values: Any) -> None:
        """Set up what no API sets."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(statement, values)

    def processes(self, *words: str) -> list[int]:
        """The ids of the platform's processes whose command line has all these words; none: every one of them."""
        mark = f"MILLRACE_HOME={self.home}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command, environ = (folder / "cmdline").read_bytes().split(b"\0"), (folder / "environ").read_bytes()
            except OSError:
                continue
            if mark in environ.split(b"\0") and all(word.encode() in command for word in words):
                found.append(int(folder.name))
        return found

    def command(self, pid: int) -> str:
        """The command line of a process; empty once it has ended."""
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            return ""

    def jails(self) -> list[int]:
        """The nsjail processes that the launcher has, warm and busy ones."""
        return [child for launcher in self.processes("sandbox.launcher") for child in children(launcher)
                if "nsjail" in _name(child)]  # fmt: skip

    def control_groups(self) -> list[str]:
        """Those that the launcher says it has made, while it runs; none where it may not limit jails."""
        noted = self.home / "sandbox" / "cgroups.json"
        paths: list[str] = json.loads(noted.read_text()) if noted.exists() else []
        return paths


def children(pid: int) -> list[int]:
    """The ids of the processes that this one started, if it still runs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def _name(pid: int) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


@contextmanager
def start(folder: Path) -> Iterator[Rig]:
    """A platform in this folder, on PostgreSQL, Valkey and S3 of its own; stopped at the end, if it still runs.

    Call it from the thread that does the faults: servers end with the thread that started them.
    """
    with ExitStack() as stack:
        outside = Outside()
        stack.callback(outside.server_close)
        stack.callback(outside.shutdown)
        threading.Thread(target=outside.serve_forever, daemon=True, name="outside").start()
        postgres = stack.enter_context(DurablePostgres(folder / "postgres"))
        valkey = stack.enter_context(ValkeyServer(folder / "valkey", durable=False))
        disk = stack.enter_context(Disk(folder / "s3" / "buckets", DISK_MB))
        s3 = stack.enter_context(FillableS3(folder / "s3", disk))
        home, database = folder / "home", postgres.create("millrace")
        platform = start_platform(
            home, DATABASE_URL=database, REDIS_URL=valkey.url, S3_ENDPOINT=s3.endpoint, S3_ACCESS_KEY=s3.access_key,
            S3_SECRET_KEY=s3.secret_key, MILLRACE_EGRESS_ALLOW=outside.address, MILLRACE_WARM_JAILS="2",
            MILLRACE_WORKER_PROCESSES=str(WORKER_PROCESSES), MILLRACE_WORKER_THREADS="6",
        )  # fmt: skip
        stack.callback(_end, platform)
        yield Rig(home, postgres, valkey, s3, outside, platform, database)


def _end(platform: Platform) -> None:
    if platform.process.poll() is None:
        stop_platform(platform)
