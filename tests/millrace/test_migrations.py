"""The schema's history."""

import subprocess
import sys
from pathlib import Path

import peewee
import pytest
from argon2 import PasswordHasher
from playhouse.migrations import Runner
from playhouse.schema_diff import diff_models

import millrace.database
from millrace import migrations, passwords, roles, users
from millrace.models import Member, Model, User
from millrace.signinlimits import SignInLimits
from tests import world
from tests.services import PostgresServer
from tests.world import Clock

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


def test_people_of_before_can_sign_in_afterwards_with_one_of_their_passwords(empty_url: str) -> None:
    """What 0004 makes of members, who had a password and an email in each workspace."""
    database = millrace.database.connect(empty_url)
    with database.connection_context():
        Runner(database, directory=str(ROOT / "millrace" / "migrations")).up("0003_batches_and_callbacks")
        for name in ("acme", "other"):
            database.execute_sql(
                "INSERT INTO workspace (id, name, status, data_key, created_at) "
                f"VALUES ('{name}', '{name}', 'ready', 'k', 1)"
            )
        old = PasswordHasher().hash("from before")
        for number, (name, email) in enumerate((("acme", "Ann@x"), ("other", "ann@x"), ("other", "bob@x"))):
            database.execute_sql(
                "INSERT INTO member (id, workspace_id, email, password_hash, role, created_at) "
                f"VALUES ('{number}', '{name}', '{email}', '{old}', 'owner', {number})"
            )
    assert migrations.migrate(database)[0] == "0004_console_and_sdk"
    with database.connection_context():
        found = {user.email: [place.workspace_id for place in user.members] for user in User.select()}
        assert {email: sorted(places) for email, places in found.items()} == {
            "ann@x": ["acme", "other"], "bob@x": ["other"],
        }  # fmt: skip
        assert {place.role for place in Member.select()} == {"org_admin"}
        services = world.in_memory(database, Clock())
        ann = users.authenticate(services, SignInLimits(""), "ANN@x", "from before", "192.0.2.1")
        assert roles.permissions(ann, "acme") == set(roles.OF_WORKSPACE)
        assert not passwords.is_outdated(User.get_by_id(ann.id).password_hash)
    database.close_all()  # type: ignore[attr-defined]


def test_every_migration_says_when_it_may_run() -> None:
    for path in (ROOT / "millrace" / "migrations").glob("[0-9]*.py"):
        text = path.read_text()
        assert "Before deployment." in text or "After deployment." in text, path.name
