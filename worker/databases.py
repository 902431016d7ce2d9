"""`sdk.db`: what runs ask of their workspace's data sources.

A pool of threads does the asking, so that a run's own thread never waits. Every statement is proven first, see
`millrace.sql`, and sent within a transaction of its own, or of one that the script began.
"""

import contextlib
import functools
import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from millrace import datasources, metrics, vault
from millrace.database import revive
from millrace.errors import DomainError
from millrace.models import DataSource
from millrace.services import Services
from millrace.sql import prover, reading, refusal
from millrace.sql.prover import Proved
from sandbox.egress.policy import Policy
from sandbox.job import CallRefused, Pending
from worker import dbaddress, posting
from worker.dbaddress import Look
from worker.dblanes import Lanes
from worker.dblinks import Link, Pool, SourceFailed
from worker.dbvalues import MAX_ROWS, TooMuch
from worker.dbwatch import Watch
from worker.postgres import Place, PostgresLink
from worker.sqlite import SqliteLink
from worker.vital import DATABASE_AWAY

MAX_WAITING = 64
"""Calls of one run that have no answer yet."""
MAX_TRANSACTIONS = 4
"""Open in one run at a time: each holds a connection."""
THREADS = 16
_EACH = 4  # of them for one workspace: its databases may be as slow as it likes
_MOST_CONNECTIONS = 12  # of a process to one source: its threads, and some for transactions that wait for their script
_CODES = {
    refusal.UNAUTHORIZED: "UNAUTHORIZED_OPERATION", refusal.INJECTION: "SQL_INJECTION",
    refusal.PARAMETERS: "INVALID_PARAMETERS",
}  # fmt: skip
_KINDS = {"db.query": reading.READ, "db.queryOne": reading.READ, "db.execute": reading.WRITE}

log = logging.getLogger(__name__)


class Databases:
    """The data sources that this process is connected to."""

    def __init__(
        self, services: Services, policy: Policy, threads: int = THREADS, *, look: Look = posting.look_up
    ) -> None:
        self._services = services
        self._policy = policy
        self._look = look
        self._watch = Watch()
        self._lanes = Lanes(threads, _EACH)
        self._guard = threading.Lock()
        self._looking = threading.Lock()  # one connection to our own database is enough
        self._pools: dict[str, tuple[tuple[object, ...], Pool]] = {}
        self._sessions: set[DatabaseSession] = set()

    def session(self, workspace_id: str) -> "DatabaseSession":
        """For one run, until it ends."""
        session = DatabaseSession(self, workspace_id)
        with self._guard:
            self._sessions.add(session)
        return session

    def tidy(self) -> None:
        """Close connections that have waited for long, and forget how to make those that nobody has. To be called
        every so often."""
        with self._guard:
            known = list(self._pools.items())
        for source_id, (stamp, pool) in known:
            if not pool.tidy():
                continue
            with self._guard:
                if self._pools.get(source_id) == (stamp, pool):
                    del self._pools[source_id]
            pool.close()  # whoever has just found it gives the connection back to be closed

    def close(self) -> None:
        """End what runs, and every connection."""
        with self._guard:
            sessions = list(self._sessions)
        for session in sessions:
            session.close()
        self._lanes.close()
        for pool in self._every_pool():
            pool.close()
        self._watch.close()

    def submit(self, workspace_id: str, work: Callable[[], None]) -> None:
        """Have a thread do it. Raises RuntimeError once this is closed."""
        self._lanes.submit(workspace_id, work)

    def over(self, session: "DatabaseSession") -> None:
        """The session has ended."""
        with self._guard:
            self._sessions.discard(session)

    def pool_of(self, workspace_id: str, name: str | None) -> tuple[str, Pool]:
        """The id of the source that is meant, and its connections. Raises as `datasources.chosen`."""
        with self._looking, self._services.database.connection_context():
            source = datasources.chosen(workspace_id, name)
            stamp = (
                source.kind, repr(source.place), source.sealed, source.tenant_column, source.tenant_setting
            )  # fmt: skip
            with self._guard:
                known = self._pools.get(source.id)
                if known is not None and known[0] == stamp:
                    return source.id, known[1]
            pool = Pool(self._opener(source), _MOST_CONNECTIONS)
        with self._guard:
            outdated = self._pools.get(source.id)
            self._pools[source.id] = (stamp, pool)
        if outdated is not None:
            outdated[1].close()
        return source.id, pool

    def lost_database(self) -> None:
        """Our own database did not answer: have the next one ask over another connection."""
        revive(self._services.database)

    def _opener(self, source: DataSource) -> Callable[[bool], Link]:
        if source.kind == datasources.SQLITE:
            return functools.partial(self._open_sqlite, source)
        password = datasources.password_of(self._services, source)
        place = Place(
            **source.place, tenant_column=source.tenant_column, tenant_setting=source.tenant_setting or "",
            password=password,
        )
        return functools.partial(self._open_postgres, place)

    def _open_sqlite(self, source: DataSource, write: bool) -> Link:
        return SqliteLink(datasources.sqlite_file(self._services, source), source.tenant_column, write)

    def _open_postgres(self, place: Place, write: bool) -> Link:
        addresses = dbaddress.checked(place.host, place.port, self._policy, self._look)
        return PostgresLink(place, addresses, write, self._watch)

    def _every_pool(self) -> list[Pool]:
        with self._guard:
            return [pool for _, pool in self._pools.values()]


class _Transaction:
    """One that a script began: its statements are sent one after the other."""

    def __init__(self, source_id: str, pool: Pool, link: Link) -> None:
        self.id = uuid.uuid4().hex
        self.source_id = source_id
        self.pool = pool
        self.link = link
        self.waiting: deque[Callable[[], None]] = deque()
        self.busy = False


class DatabaseSession:
    """What one run asks. Its methods may be called from any thread and do not wait."""

    def __init__(self, databases: Databases, workspace_id: str) -> None:
        self._databases = databases
        self._workspace_id = workspace_id
        self._guard = threading.Lock()
        self._transactions: dict[str, _Transaction] = {}
        self._beginning: set[str] = set()  # sources
        self._active: set[Link] = set()
        self._waiting = 0
        self._closed = False

    def call(self, method: str, params: dict[str, Any]) -> Pending:
        """The answer to `db.query`, `db.queryOne`, `db.execute`, `db.begin`, `db.commit` or `db.rollback`."""
        pending = Pending()
        try:
            if self._closed:
                raise _over()
            work, transaction = self._work_for(method, params)
            with self._guard:
                if self._waiting >= MAX_WAITING:
                    raise CallRefused(f"A run can have {MAX_WAITING} calls of sdk.db waiting at once.", code="TOO_MANY")
                self._waiting += 1
        except CallRefused as refused:
            pending.refuse(refused)
            return pending
        job = functools.partial(self._answer, pending, work)
        if transaction is None:
            self._databases.submit(self._workspace_id, job)
        else:
            self._queue(transaction, job)
        return pending

    def close(self) -> None:
        """The run is over: end what runs, undo what is open. Does not wait. To do so twice is no error."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            for link in self._active:
                link.abort()
            left = list(self._transactions.values())
        for transaction in left:
            self._queue(transaction, functools.partial(self._end, transaction, False))
        self._databases.over(self)

    def _work_for(self, method: str, params: dict[str, Any]) -> tuple[Callable[[], Any], _Transaction | None]:
        source, tx = params.get("source"), params.get("tx")
        if not isinstance(source, str | None) or not isinstance(tx, str | None):
            raise CallRefused("A data source and a transaction are named by text.", code="INVALID_PARAMETERS")
        if method == "db.begin":
            return functools.partial(self._begin, source), None
        transaction = None if tx is None else self._find(tx)
        if method in _KINDS:
            return functools.partial(self._ask, method, params, source, transaction), transaction
        if method in ("db.commit", "db.rollback") and transaction is not None:
            return functools.partial(self._settle, transaction, method == "db.commit"), transaction
        raise CallRefused(f"There is no method '{method[:100]}' for these parameters.")

    def _find(self, tx: str) -> _Transaction:
        with self._guard:
            found = self._transactions.get(tx)
        if found is None:
            raise CallRefused("This transaction is not open.", code="NO_TRANSACTION")
        return found

    def _queue(self, transaction: _Transaction, job: Callable[[], None]) -> None:
        with self._guard:
            transaction.waiting.append(job)
            if transaction.busy:
                return
            transaction.busy = True
        self._databases.submit(self._workspace_id, functools.partial(self._work_off, transaction))

    def _work_off(self, transaction: _Transaction) -> None:
        while True:
            with self._guard:
                transaction.busy = bool(transaction.waiting)
                if not transaction.busy:
                    return
                job = transaction.waiting.popleft()
            job()

    def _answer(self, pending: Pending, work: Callable[[], Any]) -> None:
        try:
            pending.resolve(self._carried_out(work))
        except CallRefused as refused:
            pending.refuse(refused)
        finally:
            with self._guard:
                self._waiting -= 1

    def _carried_out(self, work: Callable[[], Any]) -> Any:
        if self._closed:
            raise _over()
        try:
            return work()
        except CallRefused:
            raise
        except refusal.Refused as refused:
            raise CallRefused(str(refused), code=_CODES[refused.reason]) from None
        except TooMuch as much:
            raise CallRefused(str(much), code="TOO_MUCH") from None
        except DomainError as error:
            raise CallRefused(error.message, code="NO_DATA_SOURCE") from None
        except SourceFailed as failed:
            if self._closed:
                raise _over() from None
            code = _code_of(failed)
            if code == "SSRF_PROTECTION":
                log.warning("a data source of the workspace '%s' was not connected to: %s", self._workspace_id, failed)
            raise CallRefused(str(failed), code=code) from None
        except DATABASE_AWAY as error:
            self._databases.lost_database()
            raise _ours(error) from None
        except Exception as error:
            # Of one statement: it is answered, so that the script does not wait for ever, and the thread goes on.
            raise _ours(error) from None

    def _begin(self, source: str | None) -> dict[str, str]:
        source_id, pool = self._databases.pool_of(self._workspace_id, source)
        with self._guard:
            open_now = self._beginning | {each.source_id for each in self._transactions.values()}
            if source_id in open_now:
                raise CallRefused("A run can have one transaction open at a data source.", code="IN_TRANSACTION")
            if len(open_now) >= MAX_TRANSACTIONS:
                raise CallRefused(
                    f"A run can have {MAX_TRANSACTIONS} transactions open at a time.", code="IN_TRANSACTION"
                )
            self._beginning.add(source_id)
        try:
            link = pool.take(True)
            try:
                with self._using(link):
                    link.begin(self._workspace_id)
                transaction = _Transaction(source_id, pool, link)
                with self._guard:
                    if self._closed:
                        raise _over()
                    self._transactions[transaction.id] = transaction
            except BaseException:
                link.rollback()
                pool.give(link, True)
                raise
        finally:
            with self._guard:
                self._beginning.discard(source_id)
        return {"tx": transaction.id}

    def _settle(self, transaction: _Transaction, keep: bool) -> None:
        if transaction.id not in self._transactions:
            raise CallRefused("This transaction is not open.", code="NO_TRANSACTION")
        self._end(transaction, keep)

    def _end(self, transaction: _Transaction, keep: bool) -> None:
        with self._guard:
            if self._transactions.pop(transaction.id, None) is None:
                return
        kept = False
        try:
            if keep:
                with self._using(transaction.link):
                    transaction.link.commit()
                kept = True
        finally:
            if not kept:
                transaction.link.rollback()
            transaction.pool.give(transaction.link, True)

    def _ask(self, method: str, params: dict[str, Any], source: str | None, transaction: _Transaction | None) -> Any:
        if transaction is not None:
            if transaction.id not in self._transactions:
                raise CallRefused("This transaction is not open.", code="NO_TRANSACTION")
            with self._using(transaction.link):
                return self._send(transaction.link, method, params)
        _, pool = self._databases.pool_of(self._workspace_id, source)
        write = method == "db.execute"
        link = pool.take(write)
        try:
            with self._using(link):
                link.begin(self._workspace_id)
                try:
                    answer = self._send(link, method, params)
                    link.commit()
                except BaseException:
                    link.rollback()
                    raise
            return answer
        finally:
            pool.give(link, write)

    def _send(self, link: Link, method: str, params: dict[str, Any]) -> Any:
        proved = self._proved(link, method, params)
        if method == "db.execute":
            return link.change(proved)
        return link.rows(proved, MAX_ROWS) if method == "db.query" else link.first(proved)

    def _proved(self, link: Link, method: str, params: dict[str, Any]) -> Proved:
        def prove(fresh: bool) -> Proved:
            catalog = link.catalog(fresh)
            return prover.prove(
                params.get("sql"), params.get("params") or [], catalog, self._workspace_id, _KINDS[method]
            )

        proved = prove(False)
        # What is left to policies is sent only if they hold in this very transaction.
        return prove(True) if proved.protected else proved

    @contextlib.contextmanager
    def _using(self, link: Link) -> Iterator[None]:
        """Within, the run's end aborts the link, which is another's as soon as it was given back."""
        with self._guard:
            if self._closed:
                raise _over()
            self._active.add(link)
        try:
            yield
        finally:
            with self._guard:
                self._active.discard(link)


def _over() -> CallRefused:
    return CallRefused("The run is over.", code="RUN_OVER")


def _code_of(failed: SourceFailed) -> str:
    return "SSRF_PROTECTION" if str(failed).startswith("SSRF") else "DATABASE_ERROR"


def _ours(error: Exception) -> CallRefused:
    what = "open the data source's password" if isinstance(error, vault.VaultError) else "ask the data source"
    log.error("could not %s: %s", what, error, exc_info=error)
    metrics.platform_failures().labels(kind="call").inc()
    return CallRefused(f"The platform could not {what} now.", code="UNAVAILABLE")
