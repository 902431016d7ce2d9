"""Connections and transactions."""

import threading
from pathlib import Path

import peewee
import pytest

import millrace.database
from millrace import history, runs
from millrace.database import transaction
from millrace.models import Run, Workspace
from millrace.services import Services
from tests import world
from tests.world import at_once


def make(name: str) -> None:
    Workspace.create(id=name, name=name, data_key="", created_at=0)


def test_a_transaction_is_whole_or_did_not_happen(database: peewee.Database) -> None:
    with pytest.raises(LookupError), transaction():
        make("a")
        raise LookupError
    assert Workspace.select().count() == 0
    with transaction():
        make("a")
    assert Workspace.select().count() == 1


def test_an_inner_transaction_can_fail_alone(database: peewee.Database) -> None:
    with transaction():
        make("a")
        with pytest.raises(peewee.IntegrityError), transaction():
            make("a")
        make("b")
    assert Workspace.select().count() == 2


def test_reading_and_then_writing_never_meets_a_locked_database(memory: Services) -> None:
    make("counter")

    def count() -> None:
        for _ in range(10):
            with transaction():
                query = Workspace.select().where(Workspace.id == "counter")
                if not millrace.database.is_sqlite(memory.database):
                    query = query.for_update()
                row = query.get()
                Workspace.update(created_at=row.created_at + 1).where(Workspace.id == "counter").execute()

    assert at_once(memory.database, *[count] * 6) == [None] * 6
    assert Workspace.get_by_id("counter").created_at == 60


def test_more_threads_than_connections_wait_for_one(database_url: str) -> None:
    pool = millrace.database.connect(database_url, max_connections=2)
    done: list[int] = []

    def work() -> None:
        with pool.connection_context():
            done.append(Workspace.select().count())

    threads = [threading.Thread(target=work) for _ in range(10)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    assert done == [0] * 10
    pool.close_all()  # type: ignore[attr-defined]


def _shown(url: str) -> list[str]:
    pool = millrace.database.connect(url)
    with pool.connection_context():
        names = ("lock_timeout", "idle_in_transaction_session_timeout")
        shown = [pool.execute_sql(f"SHOW {name}").fetchone()[0] for name in names]
    pool.close_all()  # type: ignore[attr-defined]
    return shown


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_postgresql_waits_for_nobody_for_ever_unless_the_url_says_so(database_url: str) -> None:
    assert _shown(database_url) == ["10s", "15s"]
    assert _shown(f"{database_url}?options=-c%20lock_timeout%3D3s") == ["3s", "15s"]


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_lock_that_is_held_too_long_is_a_database_that_does_not_answer(database_url: str) -> None:
    pool = millrace.database.connect(f"{database_url}?options=-c%20lock_timeout%3D200ms")
    memory = world.in_memory(pool, world.Clock())
    locked, done = threading.Event(), threading.Event()

    def hold(uuid: str) -> None:
        with pool.connection_context(), transaction():
            runs.lock_script(uuid)
            locked.set()
            done.wait(20)

    with pool.connection_context():
        script = world.script(memory)
        holder = threading.Thread(target=hold, args=(script.uuid,))
        holder.start()
        assert locked.wait(10)
        with pytest.raises(peewee.OperationalError, match="lock timeout") as raised:
            world.start(memory, script)
        assert isinstance(raised.value, millrace.database.UNREACHABLE)
        assert millrace.database.is_contended(raised.value)
        done.set()
        holder.join(10)
        assert world.start(memory, script).status == "queued"
    pool.close_all()  # type: ignore[attr-defined]


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_process_that_freezes_in_a_transaction_loses_its_locks(database_url: str) -> None:
    pool = millrace.database.connect(
        f"{database_url}?options=-c%20idle_in_transaction_session_timeout%3D300ms"
    )
    memory = world.in_memory(pool, world.Clock())
    locked, done = threading.Event(), threading.Event()
    thawed: list[BaseException] = []

    def freeze(uuid: str) -> None:
        pool.connect()
        try:
            with transaction():
                runs.lock_script(uuid)
                locked.set()
                done.wait(20)
        except millrace.database.UNREACHABLE as error:
            thawed.append(error)
        millrace.database.revive(pool)

    with pool.connection_context():
        script = world.script(memory)
        frozen = threading.Thread(target=freeze, args=(script.uuid,))
        frozen.start()
        assert locked.wait(10)
        assert world.start(memory, script).status == "queued"
        done.set()
        frozen.join(10)
    assert len(thawed) == 1
    pool.close_all()  # type: ignore[attr-defined]


@pytest.mark.parametrize("url", ["sqlite:///{}/deep/er/x.db"])
def test_sqlite_makes_its_folder_and_is_durable_and_strict(tmp_path: Path, url: str) -> None:
    pool = millrace.database.connect(url.format(tmp_path))
    with pool.connection_context():
        pragmas = {name: pool.execute_sql(f"PRAGMA {name}").fetchone()[0]
                   for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")}  # fmt: skip
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 10_000, "synchronous": 2}
    pool.close_all()  # type: ignore[attr-defined]


def test_what_belongs_to_a_workspace_goes_with_it(memory: Services) -> None:
    world.start(memory, world.script(memory))
    Workspace.delete().execute()
    assert Run.select().count() == 0


@pytest.mark.parametrize(
    "index", ["run_waiting", "run_holding", "run_sent", "run_leased", "run_log_in_chunks", "run_script_open"]
)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_questions_about_the_few_open_runs_use_their_index(memory: Services, index: str) -> None:
    from millrace import admission, removal

    questions = {
        "run_waiting": Run.select().where(Run.script == "x", admission.WAITING, Run.available_at <= 1),
        "run_holding": Run.select(peewee.fn.COUNT(Run.id)).where(Run.script == "x", admission.HOLDING),
        "run_sent": Run.select().where(admission.HOLDING, Run.started_at.is_null(), Run.sent_at <= 1),
        "run_script_open": Run.update(cancel_requested_at=1).where(removal.running("x")),
        "run_leased": Run.select(Run.id).where(Run.lease_until.is_null(False)),
        "run_log_in_chunks": Run.select().where(
            Run.log_key.is_null(), Run.completed_at.is_null(False), peewee.SQL("log_chunks > 0")
        ),
    }
    sql, parameters = questions[index].sql()
    plan = memory.database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
    assert index in str(plan), plan


@pytest.mark.parametrize(("wanted", "index"), [
    (history.Filter(statuses=["failed"]), "run_workspace_wrong"),
    (history.Filter(statuses=["timed_out"], since=1), "run_workspace_wrong"),
    (history.Filter(statuses=["running"]), "run_workspace_open"),
    (history.Filter(triggers=["event"]), "run_workspace_id_trigger"),
    (history.Filter(script="x", statuses=["cancelled"]), "run_script_wrong"),
    (history.Filter(script="x", statuses=["queued"]), "run_script_open"),
    (history.Filter(script="x"), "run_script_id_created_at"),
    (history.Filter(), "run_workspace_id_created_at"),
])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_questions_about_a_long_history_use_an_index_of_their_own(
    memory: Services, wanted: history.Filter, index: str
) -> None:
    status, trigger = next(iter(wanted.statuses), None), next(iter(wanted.triggers), None)
    sql, parameters = history._query("acme", wanted, status, trigger, (5, "id")).limit(21).sql()
    plan = str(memory.database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall())
    assert f"USING INDEX {index}" in plan and "TEMP B-TREE" not in plan, plan
