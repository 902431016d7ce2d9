"""The schema's history."""

import subprocess
import sys
from pathlib import Path

import peewee
import pytest
from playhouse.schema_diff import diff_models

import millrace.database
from millrace import migrations
from millrace.models import Model
from tests.services import PostgresServer

ROOT = Path(__file__).parents[2]
MIGRATE = """
import sys
from millrace import database, migrations
pool = database.connect(sys.argv[1])
print(",".join(migrations.migrate(pool)))
pool.close_all()
"""


@pytest.fixture
def empty_url(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a table."""
    if database_kind == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    request.addfinalizer(lambda: server.drop("empty"))
    return server.create("empty")


def test_the_migrated_tables_are_those_of_the_models(database: peewee.Database) -> None:
    difference = diff_models(database, Model.__subclasses__())
    assert not any(difference), str(difference)


def test_columns_are_null_where_the_models_say_so(database: peewee.Database) -> None:
    for model in Model.__subclasses__():
        columns = {column.name: column for column in database.get_columns(model._meta.table_name)}
        for field in model._meta.sorted_fields:
            if field.primary_key:
                continue  # SQLite says that its row id may be null, and never lets it be
            assert columns[field.column_name].null == field.null, f"{model.__name__}.{field.name}"


def test_migrating_again_changes_nothing(empty_url: str) -> None:
    database = millrace.database.connect(empty_url)
    names = [path.stem for path in sorted((ROOT / "millrace" / "migrations").glob("[0-9]*.py"))]
    assert migrations.pending(database) == names
    assert migrations.migrate(database) == names
    assert migrations.migrate(database) == [] and migrations.pending(database) == []
    database.close_all()  # type: ignore[attr-defined]


def test_two_processes_may_migrate_at_once(empty_url: str) -> None:
    command = [sys.executable, "-c", MIGRATE, empty_url]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)]  # fmt: skip
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    names = ",".join(path.stem for path in sorted((ROOT / "millrace" / "migrations").glob("[0-9]*.py")))
    assert sorted(out.strip() for out, _ in answers) == ["", names]


def test_every_migration_says_when_it_may_run() -> None:
    for path in (ROOT / "millrace" / "migrations").glob("[0-9]*.py"):
        text = path.read_text()
        assert "Before deployment." in text or "After deployment." in text, path.name
